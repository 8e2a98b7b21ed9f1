"""The relay's SQL in one place. Parameters are positional: the statements go to asyncpg itself."""

from __future__ import annotations

from typing import Final

# Every statement that the relay repeats wants its one index scan, whatever the statistics say: nothing
# is pending one minute and ten million rows are the next, and a plan that was right for the one is a
# disaster for the other. So the plan is made once, and the statements leave no other:
#
# - to the next row of a key leads an order by key and seq, with a range of keys instead of an equality;
#   for the planner would take the order out of an equality, and then walk the pending rows of all keys;
# - a join with the table is bounded from both sides, and hashed; a nested loop is what is left for a
#   LATERAL, which has no other way.
SESSION: Final = (
    "SET plan_cache_mode = force_generic_plan",
    "SET enable_seqscan = off",
    "SET enable_bitmapscan = off",
    "SET enable_sort = off",
    "SET enable_mergejoin = off",
    "SET enable_nestloop = off",
)

# A row with a key is claimed only as the head of its key: nothing older with that key is unpublished,
# claimed by somebody else or not. So order per key holds across relays and across failures. Between
# destinations there is no order to keep, and one that is broken must not hold up the others.
#
# The floor bounds the walk over index entries of rows that are published already and that vacuum may
# not remove yet; see `onceproof.outbox.floor`.
_IS_FREE: Final = """
    o.published_at IS NULL
    AND o.available_at <= clock_timestamp()
    AND (o.key IS NULL OR o.seq = (
        SELECT head.seq FROM onceproof.outbox AS head
        WHERE (head.key, head.seq) >= (o.key, $3) AND head.key <= o.key
          AND head.destination = o.destination AND head.published_at IS NULL
        ORDER BY head.key, head.seq LIMIT 1))
"""

# A claim is a promise among relays about the next seconds. When the server crashes before it reached
# the disk, the rows are pending as before, and what was sent meanwhile is sent again, as after any lease
# that ended. So its commit does not wait for the disk; the one that says "published" does.
_CLAIM: Final = """
    WITH setting AS MATERIALIZED (
        SELECT set_config('synchronous_commit', 'off', true) AS synchronous_commit
    ), picked AS MATERIALIZED (
        {picked}
    ), claimed AS (
        UPDATE onceproof.outbox
        SET available_at = clock_timestamp() + make_interval(secs => $1),
            attempts = attempts + 1,
            claimed_by = $2
        WHERE ctid = ANY (ARRAY(SELECT ctid FROM picked))
        RETURNING id, seq, destination, key, payload, traceparent, attempts, created_at
    )
    SELECT claimed.*, NULL::bigint AS next_seq FROM claimed
    UNION ALL
    SELECT NULL, NULL, NULL, NULL, setting.synchronous_commit, NULL, NULL, NULL, {next_seq}
    FROM setting
"""

_PICK_FROM: Final = """
        SELECT ctid FROM onceproof.outbox AS o
        WHERE seq >= $4 AND seq < $5 AND {is_free}
        ORDER BY seq
        LIMIT $6
        FOR UPDATE SKIP LOCKED
"""
_PICK_THESE: Final = """
        SELECT ctid FROM onceproof.outbox AS o
        WHERE seq = ANY ($4::bigint[]) AND {is_free}
        ORDER BY seq
        FOR UPDATE SKIP LOCKED
"""
# Where to go on when there were fewer rows than wanted; a full batch goes on behind its last row.
_NEXT_SEQ: Final = """
        CASE WHEN (SELECT count(*) FROM claimed) < $6 THEN (
            SELECT seq FROM onceproof.outbox WHERE published_at IS NULL AND seq >= $5
            ORDER BY seq LIMIT 1) END
"""

# $1 lease_s, $2 relay, $3 floor, $4 from_seq, $5 until_seq, $6 batch_size.
CLAIM: Final = _CLAIM.format(picked=_PICK_FROM.format(is_free=_IS_FREE), next_seq=_NEXT_SEQ)

# $1 lease_s, $2 relay, $3 floor, $4 seqs.
CLAIM_THESE: Final = _CLAIM.format(
    picked=_PICK_THESE.format(is_free=_IS_FREE), next_seq="NULL::bigint"
)

# The first unpublished row behind each of some rows of a key, which is at its head when these were sent.
_BEHIND: Final = """
    SELECT behind.seq FROM {sent} AS sent CROSS JOIN LATERAL (
        SELECT o.seq FROM onceproof.outbox AS o
        WHERE (o.key, o.seq) > (sent.key, sent.seq) AND o.key <= sent.key
          AND o.destination = sent.destination AND o.published_at IS NULL
        ORDER BY o.key, o.seq LIMIT 1) AS behind
"""

# One statement for the whole batch. The last error stays when the row is sent at last: it explains the
# attempts. `published` is true whoever marks it: it was sent. A failure is only recorded by the claim
# that made it, lest a late loser take a row back from a newer claim.
#
# Returned are the rows that became the head of their key by this: they were passed over meanwhile. What
# is committed while this runs is not among them; see `BEHIND`.
_MARK: Final = """
    WITH marked AS (
        UPDATE onceproof.outbox AS o
        SET published_at = CASE WHEN r.error IS NULL THEN clock_timestamp() END,
            message_id = r.message_id,
            last_error = coalesce(r.error, o.last_error),
            available_at = clock_timestamp() + make_interval(secs => r.delay_s)
        FROM unnest($1::text[], $2::bigint[], $3::int[], $4::text[], $5::text[], $6::float8[])
            AS r (id, seq, attempts, message_id, error, delay_s)
        WHERE o.seq = ANY ($2) AND o.seq = r.seq AND o.id = r.id AND o.published_at IS NULL
          AND (r.error IS NULL OR o.attempts = r.attempts)
        RETURNING o.key, o.destination, o.seq, o.published_at
    )
    {behind}
"""
MARK: Final = _MARK.format(
    behind=_BEHIND.format(sent="(SELECT * FROM marked WHERE published_at IS NOT NULL)")
)

# For rows that were marked by a statement before. $1 keys, $2 destinations, $3 seqs.
BEHIND: Final = _BEHIND.format(
    sent="(SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[]) AS s (key, destination, seq))"
)

# $1 cap. Not from the floor on: whoever watches must not share the error of what is watched.
PENDING: Final = """
    SELECT count(*) AS pending,
           coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 AS oldest_age_s
    FROM (SELECT created_at FROM onceproof.outbox
          WHERE published_at IS NULL ORDER BY seq LIMIT $1) AS rows
"""

# Null where nothing was given out yet; where this role may not know, which Postgres before 18 makes an
# error; and where sessions take several numbers at a time, and use them long after.
LAST_SEQ: Final = """
    SELECT CASE WHEN has_sequence_privilege(seqrelid, 'USAGE, SELECT')
           THEN pg_sequence_last_value(seqrelid) END
    FROM pg_sequence
    WHERE seqrelid = pg_get_serial_sequence('onceproof.outbox', 'seq')::regclass AND seqcache = 1
"""

# Whoever inserts holds this lock from before it gets a `seq` until after its commit or rollback. A
# prepared transaction has no process, and another name for itself than before.
WRITERS: Final = """
    SELECT virtualtransaction, pid IS NULL AS prepared FROM pg_locks
    WHERE locktype = 'relation' AND relation = 'onceproof.outbox'::regclass
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND mode = 'RowExclusiveLock' AND pid IS DISTINCT FROM pg_backend_pid()
"""

# $1 from_seq, $2 until_seq.
FIRST_PENDING: Final = """
    SELECT seq FROM onceproof.outbox
    WHERE published_at IS NULL AND seq >= $1 AND seq < $2 ORDER BY seq LIMIT 1
"""
