"""Charges."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = (
    # order_id is not unique on purpose: the inbox is the guard, and a pipeline without it must be
    # able to show the double charge.
    """
    CREATE TABLE charges (
        id                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        order_id           text COLLATE "C" NOT NULL,
        event_id           text NOT NULL,
        amount             bigint NOT NULL,
        currency           text NOT NULL,
        provider_charge_id text NOT NULL,
        delivery_attempt   integer NOT NULL,
        created_at         timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    "CREATE INDEX charges_order_id ON charges (order_id)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE charges")
