"""The outbox table as the relay sees it: claim a batch under a lease, then mark each row's result.

The claim is by predicate on the partial index of unpublished rows. A cursor on `seq` would skip rows:
`seq` is assigned before the commit, so a slow transaction's row appears behind the cursor. The lease
is `available_at`: a row that is being sent is simply not available until the lease ends, and a relay
that died needs no clean-up. `FOR UPDATE SKIP LOCKED` lets several relays claim side by side.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine

from onceproof.outbox import statements
from onceproof.outbox.floor import Floor
from onceproof.postgres import Connection, Connections, translated

PENDING_COUNT_CAP: Final = 100_000
"""Rows counted at most, so that watching a large backlog stays cheap."""
WINDOW: Final = 10_000
"""Sequence numbers among which one statement looks for rows to claim: a long row of events that wait for
the head of their key is walked in pieces. To find where the next piece begins is one step in the index,
except over published rows that vacuum may not remove yet."""


class OutboxRow(NamedTuple):
    """A claimed row. `attempts` counts this claim."""

    id: str
    seq: int
    destination: str
    key: str | None
    payload: str
    traceparent: str | None
    attempts: int
    created_at: datetime


class RowResult(NamedTuple):
    """What became of a claimed row; with an error it is available again after `delay_s` seconds."""

    row: OutboxRow
    message_id: str | None = None
    error: str | None = None
    delay_s: float = 0.0


class Claim(NamedTuple):
    """Rows of one look at the table, oldest first.

    `next_seq` is where unpublished rows go on that were not looked at; None: that were all.
    """

    rows: list[OutboxRow]
    next_seq: int | None


class OutboxStore:
    """Claims and marks outbox rows. Each method is one transaction of one statement.

    Args:
        engine: where the outbox is.
        relay: who claims, for people who read the table.

    Raises:
        DatabaseUnavailableError: from every method; nothing is known to have happened.
        TransientError: from every method; a lock or the statement timeout was in the way.
    """

    def __init__(self, engine: AsyncEngine, *, relay: str) -> None:
        # One to claim and one to mark; what is neither must not be in the way of these.
        self._connections = Connections(engine, size=2, setup=statements.SESSION)
        self._others = Connections(engine)
        self._relay = relay
        self.floor = Floor()

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[None]:
        """Keep two connections, one to claim and one to mark, while the block runs."""
        async with self._connections:
            yield

    async def claim(self, batch_size: int, lease_s: float) -> list[OutboxRow]:
        """Claim up to `batch_size` rows for `lease_s` seconds, oldest first.

        Fewer than that: nothing else can be claimed now.
        """
        rows: list[OutboxRow] = []
        next_seq: int | None = 0
        while next_seq is not None and len(rows) < batch_size:
            found = await self.claim_from(next_seq, batch_size - len(rows), lease_s)
            rows += found.rows
            next_seq = found.next_seq
        return rows

    async def claim_from(self, seq: int, batch_size: int, lease_s: float) -> Claim:
        """Claim up to `batch_size` rows from `seq` on, and look no further than `WINDOW`.

        Rows before `seq` are not looked at. Who calls this must come back to them; see `Scan`.
        """

        async def claim(connection: Connection) -> Sequence[Sequence[object]]:
            floor = await self._floor_now(connection)
            start = max(seq, floor)
            records: Sequence[Sequence[object]] = await connection.fetch(
                statements.CLAIM,
                lease_s, self._relay, floor, start, start + WINDOW, batch_size,
            )  # fmt: skip
            return records

        with translated():
            rows, next_seq = _claimed(await self._connections.run(claim))
        if len(rows) == batch_size:
            next_seq = rows[-1].seq + 1
        return Claim(rows, next_seq)

    async def claim_these(self, seqs: Sequence[int], lease_s: float) -> list[OutboxRow]:
        """Claim the rows with these `seq` as far as they are free now, oldest first."""

        async def claim(connection: Connection) -> Sequence[Sequence[object]]:
            floor = await self._floor_now(connection)
            records: Sequence[Sequence[object]] = await connection.fetch(
                statements.CLAIM_THESE, lease_s, self._relay, floor, seqs
            )
            return records

        with translated():
            return _claimed(await self._connections.run(claim))[0]

    async def mark(self, results: Iterable[RowResult]) -> list[int]:
        """Record the results of a batch in one statement.

        Returns:
            The `seq` of those rows that are now the first unpublished ones of their key, where there
            are any that were committed before: nothing else tells that they can be claimed.
        """
        # Sorted, so that two relays that mark the same rows cannot deadlock.
        ordered = sorted(results, key=lambda result: result.row.seq)
        columns = (
            [result.row.id for result in ordered],
            [result.row.seq for result in ordered],
            [result.row.attempts for result in ordered],
            [result.message_id for result in ordered],
            [result.error for result in ordered],
            [result.delay_s for result in ordered],
        )
        with translated():
            behind = await self._connections.run(lambda c: c.fetch(statements.MARK, *columns))
        return [record[0] for record in behind]

    async def behind(self, results: Iterable[RowResult]) -> list[int]:
        """What `mark` would have returned, had it known of the rows committed while it ran."""
        sent = [r.row for r in results if r.error is None and r.row.key is not None]
        if not sent:
            return []
        columns = (
            [row.key for row in sent],
            [row.destination for row in sent],
            [row.seq for row in sent],
        )
        with translated():
            behind = await self._connections.run(lambda c: c.fetch(statements.BEHIND, *columns))
        return [record[0] for record in behind]

    async def pending(self) -> tuple[int, float]:
        """Unpublished rows (counted up to a cap) and the age of the oldest of them in seconds.

        It knows of no floor, so it walks over the published rows that vacuum may not remove yet: about
        half a second for a million of them.
        """
        with translated():
            row = await self._others.run(
                lambda c: c.fetchrow(statements.PENDING, PENDING_COUNT_CAP)
            )
        return int(row["pending"]), float(row["oldest_age_s"])

    async def _floor_now(self, connection: Connection) -> int:
        """Known only from connections that stay, or it would cost more than it saves."""
        if not self._connections.keeping:
            return 0
        return await self.floor.now(connection, self._connections.opened)


def _claimed(records: Sequence[Sequence[object]]) -> tuple[list[OutboxRow], int | None]:
    """Rows and `next_seq`, which is in a record of its own without an id."""
    rows: list[OutboxRow] = []
    next_seq = None
    for record in records:
        *columns, following = record
        if columns[0] is None:
            next_seq = following
        else:
            rows.append(OutboxRow._make(columns))
    rows.sort(key=_seq)
    return rows, next_seq  # type: ignore[return-value]


def _seq(row: OutboxRow) -> int:
    return row.seq
