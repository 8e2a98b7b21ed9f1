"""A burst: many orders in one commit, and how the queue fills.

The queue is only counted while it fills, and read afterwards: readers of that many messages would take
the relay's share of the machine.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.cdc.relays import Kind, relay_of
from benchmarks.figures import Sample
from benchmarks.outbox_table import add_rows
from benchmarks.peers.relays import Target
from benchmarks.queue_content import fresh_queue, require_each_once, until_filled
from onceproof.outbox.wakeup import CHANNEL

_WARM_UP: Final = 500
_STUCK_S: Final = 300.0


class Burst:
    """One relay, idle until the burst comes.

    Args:
        at: the servers.
        client: of the queue server.
        kind: the relay.
        orders: of the burst.
    """

    def __init__(
        self,
        at: Bench,
        client: Any,  # noqa: ANN401 - aiobotocore has no types
        kind: Kind,
        orders: int,
    ) -> None:
        self.name = kind.name
        self._at = at
        self._client = client
        self._kind = kind
        self._orders = orders

    async def prepare(self) -> None:
        """Nothing: each run warms its relay up."""

    async def measure(self, repeat: int) -> Sample:
        """One burst; `repeat` changes nothing.

        Raises:
            InvalidRunError: not every event was in the queue exactly once.
        """
        del repeat
        where, total = self._at.where, _WARM_UP + self._orders
        server = await self._at.queue_server()
        await where.connection.execute("TRUNCATE onceproof.outbox")
        async with fresh_queue(self._client) as (queue, url):
            async with relay_of(self._at, self._kind, Target(server.endpoint, queue, url)) as relay:
                await relay.start()
                await self._commit(1, _WARM_UP, queue)
                await until_filled(self._client, url, _WARM_UP, _STUCK_S)
                await where.settle("onceproof.outbox")
                await where.meter.start(relay.processes())
                await self._commit(1 + _WARM_UP, self._orders, queue)
                committed = time.perf_counter()
                filled = await until_filled(self._client, url, total, _STUCK_S)
                await where.meter.stop()
            resources = await where.meter.collect()
            await require_each_once(self._client, url, total)
        share = {
            f"{name}_s": _when(filled, _WARM_UP + self._orders * part) - committed
            for name, part in (("half", 0.5), ("p99", 0.99), ("last", 1.0))
        }
        return Sample(self._orders, share["last_s"], 0, 0, resources, values=share)

    async def _commit(self, first: int, orders: int, queue: str) -> None:
        await add_rows(self._at.where, orders, first=first, destination=queue)
        if self._kind.woken:
            await self._at.where.connection.execute("SELECT pg_notify($1, '')", CHANNEL)


def _when(filled: Sequence[tuple[float, int]], messages: float) -> float:
    """The first moment at which it had so many."""
    return next(at for at, found in filled if found >= messages)
