"""What each relay does to the database over the whole life of its rows, until they are cleaned up.

The same orders are written at the same rate for each; what nobody's rows cost is the writers' own share.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.cdc.relays import Kind
from benchmarks.cdc.round import WITHIN_S, around, require_each
from benchmarks.figures import Sample
from onceproof.outbox import Slot, delete_published
from onceproof.postgres import create_engine

_PER_S: Final = 400
_SECONDS: Final = 8.0
_REPORTED_S: Final = 1.5
"""Backends report what they did when they end, and at most once a second before."""
_COUNTERS: Final = """
    SELECT d.xact_commit AS transactions, t.n_tup_upd + t.n_tup_del AS dead_tuples,
           t.n_tup_upd - t.n_tup_hot_upd AS index_updates,
           (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint AS wal_bytes
    FROM pg_stat_database AS d, pg_stat_all_tables AS t
    WHERE d.datname = current_database() AND t.relid = 'onceproof.outbox'::regclass
"""
_SIZES: Final = """
    SELECT pg_indexes_size('onceproof.outbox') AS index_bytes,
           pg_table_size('onceproof.outbox') AS table_bytes
"""


class Load:
    """One relay at a steady rate, then the clean-up of all its rows.

    Args:
        at: the servers.
        client: of the queue server.
        kind: the relay.
    """

    def __init__(self, at: Bench, client: Any, kind: Kind) -> None:  # noqa: ANN401 - no types
        self.name = kind.name
        self._at = at
        self._client = client
        self._kind = kind

    async def prepare(self) -> None:
        """Nothing: each run warms its relay up."""

    async def measure(self, repeat: int) -> Sample:
        """One run; `repeat` changes nothing.

        Raises:
            InvalidRunError: an event was lost, or came twice.
        """
        del repeat
        started = time.perf_counter()
        connection = self._at.where.connection
        async with around(self._at, self._client, self._kind) as this:
            await asyncio.sleep(_REPORTED_S)
            before = dict(await connection.fetchrow(_COUNTERS))
            warm = len(this.arrivals.at)
            committed = await this.offering.offer(_PER_S, _SECONDS)
            if this.relay is not None:
                await this.arrivals.until(warm + len(committed), WITHIN_S)
                require_each(set(committed), this.arrivals)
                await self._clean_up(this.relay.slot)
            sizes = dict(await connection.fetchrow(_SIZES))
            # In the end, so that what backends held back is in it.
            if this.relay is not None:
                await this.relay.stack.aclose()
            await asyncio.sleep(_REPORTED_S)
            after = dict(await connection.fetchrow(_COUNTERS))
        orders = len(committed)
        values = {f"{name}_per_order": (after[name] - before[name]) / orders for name in before}
        values |= {f"{name}_per_order": size / orders for name, size in sizes.items()}
        return Sample(orders, time.perf_counter() - started, 0, 0, values=values)

    async def _clean_up(self, slot: str | None) -> None:
        """Delete what was sent, as the relay does when the retention is over."""
        engine = create_engine(self._at.where.library_url(), application_name="bench", pool_size=2)
        try:
            if slot is None:
                await delete_published(engine, older_than_s=0)
            elif not self._kind.deletes:
                kept = Slot(engine, slot)
                async with asyncio.timeout(WITHIN_S), kept.watched():
                    while (await kept.pending())[0]:
                        await kept.advance()
                        await asyncio.sleep(0.2)
                await kept.delete_sent(older_than_s=0)
        finally:
            await engine.dispose()
