"""A relay that stands while orders come: what grows, and how long it takes to catch up.

Beside the outbox another table is written, because a slot keeps all of the WAL, whoever wrote it.
"""

from __future__ import annotations

import time
from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.cdc.relays import Kind, relay_of
from benchmarks.cdc.round import TABLES
from benchmarks.contest import NotRunError
from benchmarks.figures import Sample
from benchmarks.outbox_table import add_rows
from benchmarks.peers.relays import Target
from benchmarks.queue_content import fresh_queue, require_each_once, until_filled
from onceproof.outbox import Slot
from onceproof.postgres import create_engine

_ORDERS: Final = 10_000
_STUCK_S: Final = 300.0
_OTHER_BYTES: Final = 2_000
"""Written elsewhere for each order."""
_ELSEWHERE: Final = (
    "CREATE TABLE IF NOT EXISTS bench_elsewhere (n bigint, filler text STORAGE PLAIN)"
)
_WRITE_ELSEWHERE: Final = (
    "INSERT INTO bench_elsewhere SELECT n, repeat('x', $2) FROM generate_series(1, $1) AS n"
)
_SIZE: Final = "SELECT pg_total_relation_size('onceproof.outbox')"


class Standing:
    """One relay that starts when all orders are there.

    Args:
        at: the servers.
        client: of the queue server.
        kind: the relay.
        others: whether another table is written as well.
    """

    def __init__(self, at: Bench, client: Any, kind: Kind, *, others: bool) -> None:  # noqa: ANN401
        self.name = f"{kind.name}, {'others write' if others else 'alone'}"
        self._at = at
        self._client = client
        self._kind = kind
        self._others = others

    async def prepare(self) -> None:
        """The other table."""
        await self._at.where.connection.execute(_ELSEWHERE)

    async def measure(self, repeat: int) -> Sample:
        """One standstill; `repeat` changes nothing.

        Raises:
            InvalidRunError: not every event was in the queue exactly once.
        """
        del repeat
        connection = self._at.where.connection
        server = await self._at.queue_server()
        await connection.execute(f"TRUNCATE {', '.join(TABLES)}, bench_elsewhere")
        async with fresh_queue(self._client) as (queue, url):
            to = Target(server.endpoint, queue, url)
            async with relay_of(self._at, self._kind, to) as relay:
                empty = await connection.fetchval(_SIZE)
                kept = await self._kept(relay.slot)
                await add_rows(self._at.where, _ORDERS, destination=queue)
                if self._others:
                    await connection.execute(_WRITE_ELSEWHERE, _ORDERS, _OTHER_BYTES)
                await connection.execute("CHECKPOINT")  # which removes the WAL that nobody needs
                values = {
                    "table_bytes_per_order": (await connection.fetchval(_SIZE) - empty) / _ORDERS,
                    "wal_kept_per_order": (await self._kept(relay.slot) - kept) / _ORDERS,
                }
                started = time.perf_counter()
                await relay.start()
                ready = time.perf_counter()
                sent = (await until_filled(self._client, url, _ORDERS, _STUCK_S))[-1][0]
            await require_each_once(self._client, url, _ORDERS)
        values |= {"start_s": ready - started, "caught_up_s": sent - started}
        return Sample(_ORDERS, sent - started, 0, 0, values=values)

    async def _kept(self, slot: str | None) -> int:
        """Bytes of WAL that a slot keeps; 0 where there is none, as a checkpoint removes it then."""
        if slot is None:
            return 0
        engine = create_engine(self._at.where.library_url(), application_name="bench", pool_size=1)
        try:
            status = await Slot(engine, slot).status()
        finally:
            await engine.dispose()
        if not status.usable:
            raise NotRunError(f"the slot is {status.state}")
        return status.retained_bytes
