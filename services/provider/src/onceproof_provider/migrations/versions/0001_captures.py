"""Captures."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = (
    # Postgres lets any number of NULLs into a UNIQUE column: requests without a key all capture.
    """
    CREATE TABLE captures (
        id              text COLLATE "C" PRIMARY KEY,
        order_id        text COLLATE "C" NOT NULL,
        amount          bigint NOT NULL CHECK (amount > 0),
        currency        text NOT NULL,
        idempotency_key text COLLATE "C" UNIQUE,
        fingerprint     bytea,
        created_at      timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    "CREATE INDEX captures_order_id ON captures (order_id)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE captures")
