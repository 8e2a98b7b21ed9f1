"""Orders committed at a steady rate, one a transaction, and when each commit had returned.

An open loop: an order is due at its time, whatever the others do. The order and its event are written by
one statement, so that a commit is one round trip.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.cdc.relays import Kind
from benchmarks.database import Database
from benchmarks.null_broker import order_event
from onceproof.outbox import Waker
from onceproof.postgres import create_engine
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


class Offering:
    """Writers with connections of their own, and the producer's notifications; use it as a context.

    Args:
        where: the database.
        kind: whether rows are deleted at once, and whether the relay is woken.
        queue: where the events go.
    """

    def __init__(self, where: Database, kind: Kind, queue: str) -> None:
        self._where = where
        self._kind = kind
        self._queue = queue
        self._stack = AsyncExitStack()
        self._engine: AsyncEngine | None = None
        self._waker: Waker | None = None
        self._offered = 0

    async def __aenter__(self) -> Self:
        await self._where.connection.execute(_FUNCTION)
        if self._kind.woken:
            self._engine = create_engine(
                self._where.library_url(), application_name="onceproof-bench", pool_size=1
            )
            self._stack.push_async_callback(self._engine.dispose)
            self._waker = Waker(self._engine)
            task = asyncio.create_task(self._waker.run())
            self._stack.callback(task.cancel)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

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
                if self._waker is not None:
                    self._waker.wake()
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
