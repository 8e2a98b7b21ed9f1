"""The SQL of `onceproof.outbox.slot` and of what reconciles after one was lost."""

from __future__ import annotations

from typing import Final

HAS_PUBLICATION: Final = "SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = $1)"


def publication(name: str, destination: str | None) -> str:
    """The publication: inserts of the outbox, and nothing else.

    Args:
        name: letters, digits and underscores.
        destination: a quoted literal; None publishes all rows.
    """
    rows = "" if destination is None else f" WHERE (destination = {destination})"
    return (
        f"CREATE PUBLICATION \"{name}\" FOR TABLE onceproof.outbox{rows} WITH (publish = 'insert')"
    )


def grants(role: str) -> str:
    """What a role that reads the slot needs besides REPLICATION, and no more.

    Args:
        role: a quoted identifier.
    """
    return f"GRANT USAGE ON SCHEMA onceproof TO {role}; GRANT SELECT ON onceproof.outbox TO {role}"


CREATE: Final = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')"
DROP: Final = """
    SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
    WHERE slot_name = $1 AND database = current_database()
"""
UNREGISTER: Final = "DELETE FROM onceproof.outbox_slots WHERE slot = $1"
DROP_INVALID: Final = """
    SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
    WHERE slot_name = $1 AND database = current_database() AND wal_status = 'lost'
"""

NOWHERE: Final = 2**63 - 1
"""`from_seq` of a slot whose place is not known: it is being made. Nothing counts as sent by it."""
# $1 slot. Before a lost slot is made anew: the next one's progress must not be read as this one's.
UNPLACE: Final = f"""
    UPDATE onceproof.outbox_slots SET from_seq = {NOWHERE}, confirmed_seq = {NOWHERE}
    WHERE slot = $1
"""  # noqa: S608 - a constant of ours
# $1 slot, $2 destination.
REGISTER: Final = f"""
    INSERT INTO onceproof.outbox_slots (slot, destination, from_seq, confirmed_seq)
    SELECT $1, $2, last.seq, last.seq FROM (
        SELECT coalesce(pg_sequence_last_value(
            pg_get_serial_sequence('onceproof.outbox', 'seq')::regclass), 0) AS seq) AS last
    ON CONFLICT (slot) DO UPDATE
    SET from_seq = excluded.from_seq, confirmed_seq = excluded.confirmed_seq,
        created_at = excluded.created_at, confirmed_at = NULL
    WHERE outbox_slots.from_seq = {NOWHERE}
"""  # noqa: S608

# $1 slot, $2 NOWHERE. No row: neither registered nor there.
STATUS: Final = """
    SELECT coalesce(o.from_seq <> $2, false) AS registered, o.destination,
           coalesce(o.from_seq, 0) AS from_seq, coalesce(o.confirmed_seq, 0) AS confirmed_seq,
           s.slot_name IS NOT NULL AS there, coalesce(s.wal_status = 'lost', false) AS lost,
           coalesce(s.active, false) AS active,
           coalesce(pg_current_wal_insert_lsn() - s.confirmed_flush_lsn, 0)::bigint AS lag_bytes,
           coalesce(pg_current_wal_insert_lsn() - s.restart_lsn, 0)::bigint AS retained_bytes,
           s.safe_wal_size AS safe_bytes,
           CASE WHEN s.slot_name IS NULL THEN 'it was dropped' ELSE
               'the server removed WAL that it needed (max_slot_wal_keep_size)' END AS why
    FROM (SELECT * FROM onceproof.outbox_slots WHERE slot = $1) AS o
    FULL JOIN (SELECT * FROM pg_replication_slots
               WHERE slot_name = $1 AND database = current_database()) AS s ON s.slot_name = o.slot
"""

# As a number, because asyncpg knows no LSN.
WAL_END: Final = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint"

# $1 slot, $2 seq, $3 end of the WAL when that was complete.
CONFIRM: Final = """
    UPDATE onceproof.outbox_slots AS o
    SET confirmed_seq = greatest(o.confirmed_seq, $2), confirmed_at = clock_timestamp()
    FROM pg_replication_slots AS s
    WHERE o.slot = $1 AND s.slot_name = $1 AND s.database = current_database()
      AND s.wal_status IS DISTINCT FROM 'lost' AND s.confirmed_flush_lsn - '0/0'::pg_lsn >= $3::bigint
    RETURNING o.confirmed_seq
"""

# Rows of the slot's destination without a relay's mark. $1 slot.
_UNMARKED: Final = """
    onceproof.outbox AS row JOIN onceproof.outbox_slots AS o ON o.slot = $1
    WHERE row.published_at IS NULL AND (o.destination IS NULL OR o.destination = row.destination)
"""
_SENT: Final = f"{_UNMARKED} AND row.seq > o.from_seq AND row.seq <= o.confirmed_seq"

# Marked like those of a relay: $1 slot, $2 batch size.
SETTLE: Final = f"""
    WITH sent AS MATERIALIZED (
        SELECT row.ctid FROM {_SENT}
        ORDER BY row.seq LIMIT $2
        FOR UPDATE OF row SKIP LOCKED
    ), settled AS (
        UPDATE onceproof.outbox SET published_at = clock_timestamp()
        WHERE ctid = ANY (ARRAY(SELECT ctid FROM sent)) RETURNING 1
    )
    SELECT count(*) FROM settled
"""  # noqa: S608 - all of it is ours

# $1 slot, $2 age in seconds, $3 from behind this seq, $4 batch size. Each batch goes on where the one
# before ended, for the entries of deleted rows stay at the head of the index until vacuum.
DELETE_SENT: Final = f"""
    WITH old AS MATERIALIZED (
        SELECT row.ctid FROM {_SENT}
          AND row.seq > $3 AND row.created_at < clock_timestamp() - make_interval(secs => $2)
        ORDER BY row.seq LIMIT $4
        FOR UPDATE OF row SKIP LOCKED
    ), deleted AS (
        DELETE FROM onceproof.outbox WHERE ctid = ANY (ARRAY(SELECT ctid FROM old)) RETURNING seq
    )
    SELECT count(*) AS rows, max(seq) AS last_seq FROM deleted
"""  # noqa: S608

# Rows that nobody is known to have sent; without $2 only those that nobody will, whose slot is there.
_UNSENT: Final = f"{_UNMARKED} AND (row.seq <= o.from_seq OR ($2 AND row.seq > o.confirmed_seq))"
UNSENT: Final = f"""
    SELECT count(*) AS rows, min(row.created_at) AS oldest,
           coalesce(extract(epoch FROM clock_timestamp() - min(row.created_at)), 0)::float8
               AS oldest_age_s
    FROM {_UNSENT}
"""  # noqa: S608

# $3 from behind this seq, $4 batch size.
NEXT_UNSENT: Final = f"""
    SELECT row.seq FROM {_UNSENT} AND row.seq > $3 AND row.available_at <= clock_timestamp()
    ORDER BY row.seq LIMIT $4
"""  # noqa: S608
