"""The consumer's rate with many events in the inbox, by its rate with none.

Ids of events ascend, so the inserts of a large inbox meet the same few pages as those of a small one;
this is where that is measured.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from benchmarks.bench import Bench
from benchmarks.consuming import NAME
from benchmarks.database import Database
from benchmarks.effect import Counting, Ours
from benchmarks.figures import Sample
from benchmarks.sides import with_client
from benchmarks.table_state import TableState

_CHUNK: Final = 1_000_000
_WARM_UP: Final = 2000
_BATCH: Final = 10
# As large as an event's own id, and older than any of them.
_ROWS: Final = """
    INSERT INTO onceproof.inbox (consumer, event_id, processed_at)
    SELECT $1, '01000000-0000-7000-8000-' || lpad(n::text, 12, '0'), now() - interval '1 hour'
    FROM generate_series($2::bigint, $3::bigint) AS n
"""


class ScaledConsumer:
    """A consumer with an effect in SQL, and an inbox with many rows.

    Args:
        at: the servers.
        connections: of the consumer.
        name: of the contender.
        known: events in the inbox.
    """

    def __init__(self, at: Bench, connections: Counting, name: str, *, known: int) -> None:
        self.name = name
        self._at = at
        self._connections = connections
        self._known = known
        self._state = TableState(at.where, "inbox", name)
        self._orders = _WARM_UP

    async def prepare(self) -> None:
        """Fill the inbox, and find out how many orders fill the time of a run."""
        await self._state.make()
        connection = self._at.where.connection
        async with self._state.in_place():
            for first in range(1, self._known + 1, _CHUNK):
                last = min(first + _CHUNK - 1, self._known)
                await connection.execute(_ROWS, NAME, first, last)
            await connection.execute("VACUUM (ANALYZE) onceproof.inbox")
            await self._consumer().measure(_WARM_UP)
            warm = await self._consumer().measure(_WARM_UP)
        self._orders = max(round(warm.orders_per_s * self._at.scale.seconds), _WARM_UP)

    async def measure(self, repeat: int) -> Sample:
        """Consume; `repeat` changes nothing."""
        del repeat
        async with self._state.in_place():
            sample = await self._consumer().measure(self._orders)
            await self._connections.close()
            used = await self._at.where.meter.collect()
        return replace(sample, resources=with_client(used, sample.cpu_s))

    async def drop(self) -> None:
        """Remove the inbox."""
        await self._state.drop()

    def _consumer(self) -> Ours:
        clients = self._at.scale.clients
        return Ours(
            self._at.where, self._connections, clients=clients, batch=_BATCH, reset=_no_charges
        )


async def _no_charges(where: Database) -> None:
    await where.connection.execute("TRUNCATE charges")
    await where.settle("charges")
