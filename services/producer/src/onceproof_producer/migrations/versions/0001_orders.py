"""Orders."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE orders (
        order_id   text COLLATE "C" PRIMARY KEY,
        amount     bigint NOT NULL CHECK (amount > 0),
        currency   text NOT NULL,
        event_id   text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE orders")
