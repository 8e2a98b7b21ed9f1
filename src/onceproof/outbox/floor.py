"""Below the floor nothing can be pending any more, so no claim looks there.

A published row leaves the partial index of pending rows only when vacuum may remove its entry, and that
waits for the oldest transaction of the whole server. While a report runs for ten minutes, each claim
that starts at the head of the index walks over everything published in these ten minutes.

The floor is no cursor. A row's `seq` is given before its commit, so a highest `seq` seen says nothing
about those below it. What does: whoever inserts holds a lock on the table from before it gets a `seq`
until it has ended. So: read the sequence, then note who holds that lock; when all of these have ended,
every `seq` up to the one that was read is committed or rolled back. A transaction that only reads, or
writes elsewhere, holds up nothing here, however long it runs.

The knowledge is that of one server: after a failover to a standby that is a little behind, sequence
numbers may be given again. Such a failover ends connections, so whenever one was opened, all starts from
nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from onceproof.outbox import statements
from onceproof.postgres import Connection

REFRESH_S: Final = 0.2
RECHECK_S: Final = 600.0
"""Seconds until all is found out anew: a sequence that was reset or rows put back by hand heal by it."""
_STEP: Final = 1_000_000
"""Sequence numbers in one look for the first pending row, which may walk over that many dead entries:
what one look found out is kept when the next one takes too long."""


@dataclass(slots=True)
class Floor:
    """What is known of the outbox; see the module.

    Args:
        refresh_s: seconds for which an answer is used.
        clock: monotonic, in seconds.
    """

    refresh_s: float = REFRESH_S
    clock: Callable[[], float] = time.monotonic
    value: int = 0
    """No row with a lower `seq` is pending or can become so."""
    complete: int = 0
    """Every `seq` up to this one is committed or rolled back."""
    epoch: int = 0
    """Counts how often everything known was thrown away."""
    _connection_id: object = None
    _refresh_at: float = 0.0
    _recheck_at: float = 0.0
    _candidate: int = 0
    _writers: frozenset[str] = field(default_factory=frozenset)

    async def now(self, connection: Connection, connection_id: object) -> int:
        """The floor, found out anew when it is old.

        Args:
            connection: an asyncpg connection outside of any transaction.
            connection_id: changes when it may be another server: not with each connection of several
                that are used in turn, but whenever one of them was opened.
        """
        now = self.clock()
        if connection_id != self._connection_id or now >= self._recheck_at:
            self._forget()
            self._connection_id = connection_id
            self._recheck_at = now + RECHECK_S
        if now >= self._refresh_at:
            await self._refresh(connection)
            self._refresh_at = self.clock() + self.refresh_s
        return self.value

    def _forget(self) -> None:
        self.value = self.complete = self._candidate = 0
        self._writers = frozenset()
        self._refresh_at = 0.0
        self.epoch += 1

    async def _refresh(self, connection: Connection) -> None:
        # The order matters: who is not among the writers read now, and has a `seq` up to the one read
        # before, has ended.
        last_seq = await connection.fetchval(statements.LAST_SEQ) or 0
        writers = await connection.fetch(statements.WRITERS)
        if last_seq < self.complete:
            self._forget()  # the sequence was reset
        names = frozenset(str(writer["virtualtransaction"]) for writer in writers)
        # A transaction that was prepared goes by another name than when it was noted.
        prepared = any(writer["prepared"] for writer in writers)
        if self._candidate:
            self._writers &= names
        else:
            self._candidate, self._writers = last_seq, names
        if not self._candidate or self._writers or prepared:
            return
        self.complete, self._candidate = self._candidate, 0
        await self._rise(connection)

    async def _rise(self, connection: Connection) -> None:
        while self.value <= self.complete:
            until = min(self.value + _STEP, self.complete + 1)
            found = await connection.fetchval(statements.FIRST_PENDING, self.value, until)
            if found is not None:
                self.value = found
                return
            self.value = until
