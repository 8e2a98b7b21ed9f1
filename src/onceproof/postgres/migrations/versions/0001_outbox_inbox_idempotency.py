"""Outbox, inbox and idempotency keys."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = (
    "CREATE SCHEMA IF NOT EXISTS onceproof",
    # seq gives the order within a key. It is assigned before the commit, so nobody may read past a
    # cursor on it; the relay claims by predicate on the partial index.
    """
    CREATE TABLE onceproof.outbox (
        id           text COLLATE "C" PRIMARY KEY,
        seq          bigint GENERATED ALWAYS AS IDENTITY,
        destination  text NOT NULL,
        key          text COLLATE "C",
        type         text NOT NULL,
        payload      text NOT NULL,
        traceparent  text,
        created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
        available_at timestamptz NOT NULL DEFAULT '-infinity',
        attempts     integer NOT NULL DEFAULT 0,
        claimed_by   text,
        last_error   text,
        published_at timestamptz,
        message_id   text
    ) WITH (
        fillfactor = 70,
        autovacuum_vacuum_scale_factor = 0.02,
        autovacuum_vacuum_insert_scale_factor = 0.05,
        autovacuum_analyze_scale_factor = 0.05
    )
    """,
    "CREATE INDEX outbox_pending ON onceproof.outbox (seq) WHERE published_at IS NULL",
    """
    CREATE INDEX outbox_pending_key ON onceproof.outbox (key, seq)
        WHERE published_at IS NULL AND key IS NOT NULL
    """,
    """
    CREATE INDEX outbox_published ON onceproof.outbox (published_at)
        WHERE published_at IS NOT NULL
    """,
    """
    CREATE TABLE onceproof.inbox (
        consumer     text COLLATE "C" NOT NULL,
        event_id     text COLLATE "C" NOT NULL,
        processed_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (consumer, event_id)
    ) WITH (autovacuum_vacuum_scale_factor = 0.05)
    """,
    "CREATE INDEX inbox_processed_at ON onceproof.inbox (processed_at)",
    """
    CREATE TABLE onceproof.idempotency_keys (
        scope       text COLLATE "C" NOT NULL,
        key         text COLLATE "C" NOT NULL,
        fingerprint bytea NOT NULL,
        status      smallint NOT NULL,
        headers     jsonb NOT NULL,
        body        bytea NOT NULL,
        created_at  timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (scope, key)
    ) WITH (autovacuum_vacuum_scale_factor = 0.05)
    """,
    "CREATE INDEX idempotency_keys_created_at ON onceproof.idempotency_keys (created_at)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE onceproof.idempotency_keys, onceproof.inbox, onceproof.outbox")
