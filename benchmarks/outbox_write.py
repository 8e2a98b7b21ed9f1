"""Figure 7: how long the producer's transaction takes with the outbox row, and without it.

Both sides are the producer's own code with the same statements before and after; the one without an
outbox gets a publisher that does nothing. They alternate order by order on one connection, so that
whatever the machine does meanwhile hits both.
"""

from __future__ import annotations

import time
from typing import Final, cast
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.database import Database
from benchmarks.figures import InvalidRunError
from benchmarks.latency import Latency, LatencyComparison
from benchmarks.null_broker import ORDER_BYTES
from onceproof.events import Event
from onceproof_producer.dual_write import DirectPublisher
from onceproof_producer.orders import Orders
from onceproof_producer.validation import OrderRequest

NAME: Final = "producer's write, with / without the outbox row"
_QUEUE: Final = "orders"
_WARM_UP: Final = 50


class _Nowhere:
    async def publish(self, event: Event) -> None:
        """Nothing: only the write is timed."""


async def compare_writes(
    where: Database, engine: AsyncEngine, *, orders: int = 400, repeats: int = 5
) -> LatencyComparison:
    """Write `orders` orders a run and side.

    Raises:
        InvalidRunError: the tables do not hold what was written.
    """
    outbox = Orders(engine, _QUEUE)
    bare = Orders(engine, _QUEUE, direct=cast("DirectPublisher", _Nowhere()))
    mine, theirs = [], []
    for _ in range(repeats):
        await _empty(where)
        for _ in range(_WARM_UP):
            await _write(outbox)
            await _write(bare)
        with_row, without = [], []
        for _ in range(orders):
            with_row.append(await _write(outbox))
            without.append(await _write(bare))
        written = _WARM_UP + orders
        await require_written(where, orders=2 * written, events=written)
        mine.append(Latency.of(with_row))
        theirs.append(Latency.of(without))
    return LatencyComparison(NAME, mine, theirs)


async def require_written(where: Database, *, orders: int, events: int) -> None:
    """Refuse a run after which another number of orders or events is in the tables.

    Raises:
        InvalidRunError: with the numbers.
    """
    found = await where.counts(
        "SELECT (SELECT count(*) FROM orders) AS orders, "
        "(SELECT count(*) FROM onceproof.outbox) AS events"
    )
    if found != {"orders": orders, "events": events}:
        raise InvalidRunError(f"{orders} orders and {events} events were written, found {found}")


async def _empty(where: Database) -> None:
    await where.connection.execute("TRUNCATE orders, onceproof.outbox, onceproof.idempotency_keys")
    await where.settle("orders", "onceproof.outbox", "onceproof.idempotency_keys")


async def _write(orders: Orders) -> float:
    number = uuid4().hex
    order = OrderRequest(order_id=f"o-{number}", amount=1999, currency="EUR")
    body = order.model_dump_json().encode().ljust(ORDER_BYTES)
    started = time.perf_counter()
    await orders.place(order, number, body)
    return time.perf_counter() - started
