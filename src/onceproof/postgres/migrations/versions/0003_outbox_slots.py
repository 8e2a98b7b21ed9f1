"""What is known of replication slots through which change data capture reads the outbox."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# One row per slot, so that nothing is written per event: rows with from_seq < seq <= confirmed_seq were
# sent by whoever reads the slot. See `onceproof.outbox.slot`.
#
# `require_slot` is for the initial statements of a reader that would make a slot that is not there anew,
# as Debezium does: without a word, and without what was committed in between.
STATEMENTS = (
    """
    CREATE TABLE onceproof.outbox_slots (
        slot          text COLLATE "C" PRIMARY KEY,
        destination   text,
        from_seq      bigint NOT NULL,
        confirmed_seq bigint NOT NULL,
        created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
        confirmed_at  timestamptz
    ) WITH (fillfactor = 50)
    """,
    """
    CREATE FUNCTION onceproof.require_slot(name text) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
    BEGIN
        IF NOT EXISTS (
            SELECT FROM pg_replication_slots
            WHERE slot_name = name AND database = current_database()
              AND wal_status IS DISTINCT FROM 'lost'
        ) THEN
            RAISE EXCEPTION 'onceproof: replication slot % is lost', name
                USING HINT = 'what was not sent is found by: onceproof outbox reconcile';
        END IF;
    END $$
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP FUNCTION onceproof.require_slot(text)")
    op.execute("DROP TABLE onceproof.outbox_slots")
