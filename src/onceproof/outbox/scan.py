"""Where a relay looks next, so that it finds all there is without looking everywhere each time.

A pass goes from the tail to the end of the table, one batch after the other; when there is nothing more,
the next pass starts from the new tail. What a pass may have missed lies before the tail: rows that
committed late, whose lease ended, that failed and are due again. A sweep looks for these from the floor
up to the tail, every now and then and between the batches of a pass, however long that takes. A row that
waited for the head of its key is told by whoever marks that head, and needs neither; such rows take
turns with the others, for there may be some after every batch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from onceproof.outbox.store import OutboxRow, OutboxStore

_SWEEP_SHARE: Final = 10
"""A sweep that keeps the database busy long is made again after so many times that."""


class Scan:
    """Claims for one relay, in the order that the module describes.

    Args:
        store: the outbox.
        batch_size: rows of a claim, at most.
        lease_s: seconds for which they are claimed.
        sweep_s: seconds between the end of a sweep and the start of the next.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        store: OutboxStore,
        *,
        batch_size: int,
        lease_s: float,
        sweep_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._batch_size = batch_size
        self._lease_s = lease_s
        self._sweep_s = sweep_s
        self._clock = clock
        self._freed: deque[int] = deque()
        self._epoch = store.floor.epoch
        self._tail = 0
        self._position: int | None = None
        self._ahead = False
        self._again = False
        self.passes = 0
        """How many have begun."""
        self._complete_at_start = 0
        self._sweep: int | None = None
        self._sweep_until = 0
        self._sweep_took_s = 0.0
        self._sweep_due = 0.0
        self._turn_of_sweep = True
        self._turn_of_freed = True

    @property
    def unfinished(self) -> bool:
        """Whether another look now may find rows without anything new being committed."""
        return bool(self._freed) or self._ahead or self._sweep is not None

    def told(self) -> None:
        """Somebody told of new rows. A pass under way may be beyond them, so there is one more."""
        self._again = True

    def free(self, seqs: Iterable[int]) -> None:
        """Rows that are now the head of their key; see `OutboxStore.mark`."""
        self._freed.extend(seqs)

    async def next(self) -> list[OutboxRow]:
        """Claim the next rows, by one look or two; while `unfinished`, none does not mean the end.

        Raises:
            TransientError: nothing is known to be claimed. Rows that were, come back with the sweep.
        """
        self._ahead = True  # whoever asks may have been told of new rows
        if self._freed and self._turn_of_freed:
            self._turn_of_freed = False
            seqs = [self._freed.popleft() for _ in range(min(len(self._freed), self._batch_size))]
            rows = await self._store.claim_these(seqs, self._lease_s)
            if rows:
                return rows
        self._turn_of_freed = True
        self._begin_sweep()
        self._turn_of_sweep = self._sweep is not None and (
            self._turn_of_sweep or self._position is None
        )
        if self._turn_of_sweep:
            self._turn_of_sweep = False
            rows = await self._look_back()
            if rows:
                return rows
        self._turn_of_sweep = True
        return await self._look_ahead()

    async def _look_ahead(self) -> list[OutboxRow]:
        floor = self._store.floor
        if self._position is None:
            if floor.epoch != self._epoch:
                self._epoch, self._tail = floor.epoch, 0
            self._position, self._complete_at_start = self._tail, floor.complete
            self._again = False
            self.passes += 1
        found = await self._store.claim_from(self._position, self._batch_size, self._lease_s)
        self._position = found.next_seq
        self._ahead = self._position is not None or self._again
        if self._position is None and floor.epoch == self._epoch:
            # All rows up to there were committed before the pass began, so it has seen them.
            self._tail = max(self._tail, self._complete_at_start + 1)
        return found.rows

    def _begin_sweep(self) -> None:
        if self._sweep is not None or self._clock() < self._sweep_due:
            return
        self._sweep_until = self._tail if self._position is None else self._position
        self._sweep, self._sweep_took_s = 0, 0.0

    async def _look_back(self) -> list[OutboxRow]:
        assert self._sweep is not None  # noqa: S101 - for the type checker
        asked = self._clock()
        found = await self._store.claim_from(self._sweep, self._batch_size, self._lease_s)
        now = self._clock()
        # Nothing but that: what lies between two looks is the broker's time, or an outage.
        self._sweep_took_s += now - asked
        self._sweep = found.next_seq
        if self._sweep is None or self._sweep >= self._sweep_until:
            pause_s = max(self._sweep_s, _SWEEP_SHARE * self._sweep_took_s)
            self._sweep, self._sweep_due = None, now + pause_s
        return found.rows
