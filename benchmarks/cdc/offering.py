"""Orders committed at a steady rate, one a transaction, and when each commit had returned.

An open loop: an order is due at its time, whatever the others do. The order and its event are written by
one statement, so that a commit is one round trip.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from benchmarks.cdc.relays import Kind
from benchmarks.database import Database
from benchmarks.null_broker import order_event
from onceproof.outbox import Waker
from onceproof.postgres import create_engine
from onceproof.service import alongside
from onceproof_chaos.environment import asyncpg_url

_CONNECTIONS: Final = 8
_RECONNECT_S: Final = 0.05
_FUNCTION: Final = """
    CREATE OR REPLACE FUNCTION bench_order(
        id text, destination text, key text, type text, payload text, traceparent text, remove boolean
    ) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO orders (order_id, amount, currency, event_id) VALUES (key, 1999, 'EUR', id);
        INSERT INTO onceproof.outbox (id, destination, key, type, payload, traceparent)
        VALUES (id, destination, key, type, payload, traceparent);
        IF remove THEN
            DELETE FROM onceproof.outbox WHERE outbox.id = bench_order.id;
        END IF;
    END $$
"""
_WRITE: Final = "SELECT bench_order($1, $2, $3, $4, $5, $6, $7)"


@asynccontextmanager
async def offering_of(where: Database, kind: Kind, queue: str) -> AsyncIterator[Offering]:
    """Writers, with the producer's notifications where the relay is woken.

    Args:
        where: the database.
        kind: whether rows are deleted at once, and whether the relay is woken.
        queue: where the events go.
    """
    await where.connection.execute(_FUNCTION)
    if not kind.woken:
        yield Offering(where, kind, queue)
        return
    engine = create_engine(where.library_url(), application_name="onceproof-bench", pool_size=1)
    waker = Waker(engine)
    try:
        async with alongside(waker.run()):
            yield Offering(where, kind, queue, waker.wake)
    finally:
        await engine.dispose()


class Offering:
    """Writers with connections of their own; see `offering_of`."""

    def __init__(
        self, where: Database, kind: Kind, queue: str, tell: Callable[[], None] = lambda: None
    ) -> None:
        self._where = where
        self._kind = kind
        self._queue = queue
        self._tell = tell
        self._offered = 0

    async def offer(self, orders_per_s: float, seconds: float) -> dict[str, float]:
        """Commit orders for so long; when each commit returned, by event id.

        A writer whose server is away writes the order again until it is there.
        """
        orders = round(orders_per_s * seconds)
        first, self._offered = self._offered, self._offered + orders
        events = [order_event(first + number) for number in range(orders)]
        rows = [
            (each.id, self._queue, each.key, each.type, each.encode().decode(), each.traceparent,
             self._kind.deletes)
            for each in events
        ]  # fmt: skip
        committed: dict[str, float] = {}
        writers = min(_CONNECTIONS, orders)
        started = time.perf_counter()

        async def write(mine: int) -> None:
            connection = await self._connect()
            for number in range(mine, orders, writers):
                wait = started + number / orders_per_s - time.perf_counter()
                if wait > 0:
                    await asyncio.sleep(wait)
                while True:
                    try:
                        await connection.execute(_WRITE, *rows[number])
                        break
                    except asyncpg.UniqueViolationError:
                        break  # the answer to its commit was lost
                    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                        connection = await self._connect()
                committed[rows[number][0]] = time.perf_counter()
                self._tell()
            await connection.close()

        async with asyncio.TaskGroup() as group:
            for mine in range(writers):
                group.create_task(write(mine))
        return committed

    async def _connect(self) -> asyncpg.Connection:
        while True:
            try:
                return await asyncpg.connect(asyncpg_url(self._where.library_url()), timeout=5)
            except (OSError, asyncpg.PostgresError, TimeoutError):
                await asyncio.sleep(_RECONNECT_S)
