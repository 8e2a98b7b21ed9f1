"""Outbox rows are updated where they are; an inbox's retention walks only its consumer's rows."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# A claim rewrites each row of a page, so a page needs as much room as its rows take: with less, the
# claim moves half of them to other pages, with an entry in each index. Rows that are there already keep
# their pages until they are deleted; it takes one retention until all have the room.
#
# Published rows are dead weight for whoever looks for pending ones, so vacuum comes after so many rows,
# not after a share of a table that holds a day of them. It may work faster than the default allows.
#
# Building the index holds up the inbox's writers. Where that matters, create it CONCURRENTLY before.
STATEMENTS = (
    """
    ALTER TABLE onceproof.outbox SET (
        fillfactor = 50,
        autovacuum_vacuum_scale_factor = 0,
        autovacuum_vacuum_threshold = 50000,
        autovacuum_vacuum_insert_scale_factor = 0,
        autovacuum_vacuum_insert_threshold = 200000,
        autovacuum_analyze_scale_factor = 0.05,
        autovacuum_vacuum_cost_delay = 1
    )
    """,
    # With the time alone, a consumer that forgets early walks over all rows of one that remembers long.
    """
    CREATE INDEX IF NOT EXISTS inbox_consumer_processed_at
        ON onceproof.inbox (consumer, processed_at)
    """,
    "DROP INDEX onceproof.inbox_processed_at",
    """
    ALTER TABLE onceproof.inbox SET (
        autovacuum_vacuum_scale_factor = 0,
        autovacuum_vacuum_threshold = 200000,
        autovacuum_vacuum_insert_scale_factor = 0,
        autovacuum_vacuum_insert_threshold = 500000,
        autovacuum_vacuum_cost_delay = 1
    )
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    op.execute("CREATE INDEX inbox_processed_at ON onceproof.inbox (processed_at)")
    op.execute("DROP INDEX onceproof.inbox_consumer_processed_at")
    op.execute(
        "ALTER TABLE onceproof.inbox RESET (autovacuum_vacuum_threshold, "
        "autovacuum_vacuum_insert_scale_factor, autovacuum_vacuum_insert_threshold, "
        "autovacuum_vacuum_cost_delay)"
    )
    op.execute("ALTER TABLE onceproof.inbox SET (autovacuum_vacuum_scale_factor = 0.05)")
    op.execute(
        "ALTER TABLE onceproof.outbox RESET (autovacuum_vacuum_threshold, "
        "autovacuum_vacuum_insert_threshold, autovacuum_vacuum_cost_delay)"
    )
    op.execute(
        "ALTER TABLE onceproof.outbox SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, "
        "autovacuum_vacuum_insert_scale_factor = 0.05)"
    )
