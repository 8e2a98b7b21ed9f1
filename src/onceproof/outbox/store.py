"""The outbox table as the relay sees it: claim a batch under a lease, then mark each row's result.

The claim is by predicate on the partial index of unpublished rows. A cursor on `seq` would skip rows:
`seq` is assigned before the commit, so a slow transaction's row appears behind the cursor. The lease
is `available_at`: a row that is being sent is simply not available until the lease ends, and a relay
that died needs no clean-up. `FOR UPDATE SKIP LOCKED` lets several relays claim side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from onceproof.postgres import translated

# A row with a key is claimed only as the head of its key: nothing older with that key is unpublished,
# claimed by somebody else or not. So order per key holds across relays and across failures. Between
# destinations there is no order to keep, and one that is broken must not hold up the others.
_CLAIM: Final = text("""
    WITH picked AS (
        SELECT id FROM onceproof.outbox AS o
        WHERE published_at IS NULL
          AND available_at <= clock_timestamp()
          AND (key IS NULL OR NOT EXISTS (
                SELECT FROM onceproof.outbox AS older
                WHERE older.key = o.key AND older.destination = o.destination
                  AND older.seq < o.seq AND older.published_at IS NULL))
        ORDER BY seq
        LIMIT :batch_size
        FOR UPDATE SKIP LOCKED
    )
    UPDATE onceproof.outbox AS o
    SET available_at = clock_timestamp() + make_interval(secs => :lease_s),
        attempts = attempts + 1,
        claimed_by = :relay
    FROM picked
    WHERE o.id = picked.id
    RETURNING o.id, o.seq, o.destination, o.key, o.payload, o.traceparent, o.attempts, o.created_at
""")

# One statement for the whole batch. The last error stays when the row is sent at last: it explains the
# attempts. `published` is true whoever marks it: it was sent. A failure is
# only recorded by the claim that made it, lest a late loser take a row back from a newer claim.
_MARK: Final = text("""
    UPDATE onceproof.outbox AS o
    SET published_at = CASE WHEN r.error IS NULL THEN clock_timestamp() END,
        message_id = r.message_id,
        last_error = coalesce(r.error, o.last_error),
        available_at = clock_timestamp() + make_interval(secs => r.delay_s)
    FROM unnest(
        CAST(:ids AS text[]), CAST(:attempts AS int[]), CAST(:message_ids AS text[]),
        CAST(:errors AS text[]), CAST(:delays AS double precision[])
    ) AS r (id, attempts, message_id, error, delay_s)
    WHERE o.id = r.id AND o.published_at IS NULL AND (r.error IS NULL OR o.attempts = r.attempts)
""")

_PENDING: Final = text("""
    SELECT count(*) AS pending,
           coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0) AS oldest_age_s
    FROM (SELECT created_at FROM onceproof.outbox
          WHERE published_at IS NULL ORDER BY seq LIMIT :cap) AS rows
""")

PENDING_COUNT_CAP: Final = 100_000
"""Rows counted at most, so that watching a large backlog stays cheap."""


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A claimed row. `attempts` counts this claim."""

    id: str
    seq: int
    destination: str
    key: str | None
    payload: str
    traceparent: str | None
    attempts: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class RowResult:
    """What became of a claimed row; with an error it is available again after `delay_s` seconds."""

    row: OutboxRow
    message_id: str | None = None
    error: str | None = None
    delay_s: float = 0.0


class OutboxStore:
    """Claims and marks outbox rows. Each method is one transaction of one statement.

    Raises:
        DatabaseUnavailableError: from every method; nothing is known to have happened.
        TransientError: from every method; a lock or the statement timeout was in the way.
    """

    def __init__(self, engine: AsyncEngine, *, relay: str) -> None:
        self._engine = engine
        self._relay = relay

    async def claim(self, batch_size: int, lease_s: float) -> list[OutboxRow]:
        """Claim up to `batch_size` rows for `lease_s` seconds, oldest first."""
        with translated():
            async with self._engine.begin() as connection:
                result = await connection.execute(
                    _CLAIM,
                    {"batch_size": batch_size, "lease_s": lease_s, "relay": self._relay},
                )
                rows = [OutboxRow(**row._mapping) for row in result]  # noqa: SLF001 - public API of Row
        return sorted(rows, key=lambda row: row.seq)

    async def mark(self, results: Sequence[RowResult]) -> None:
        """Record the results of a batch in one statement."""
        # Sorted, so that two relays that mark the same rows cannot deadlock.
        ordered = sorted(results, key=lambda result: result.row.id)
        with translated():
            async with self._engine.begin() as connection:
                await connection.execute(
                    _MARK,
                    {
                        "ids": [result.row.id for result in ordered],
                        "attempts": [result.row.attempts for result in ordered],
                        "message_ids": [result.message_id for result in ordered],
                        "errors": [result.error for result in ordered],
                        "delays": [result.delay_s for result in ordered],
                    },
                )

    async def pending(self) -> tuple[int, float]:
        """Unpublished rows (counted up to a cap) and the age of the oldest of them in seconds."""
        with translated():
            async with self._engine.connect() as connection:
                row = (await connection.execute(_PENDING, {"cap": PENDING_COUNT_CAP})).one()
        return int(row.pending), float(row.oldest_age_s)
