"""How long the producer's transaction takes with the outbox row, and without it.

Both sides are the producer's own code with the same statements before and after; the one without an
outbox gets a publisher that does nothing. They alternate order by order on one connection, so that
whatever the machine does meanwhile hits both.
"""

from __future__ import annotations

import time
from typing import Final, cast
from uuid import uuid4

from benchmarks.database import Database
from benchmarks.figures import InvalidRunError, Sample
from benchmarks.latency import Latency
from benchmarks.null_broker import ORDER_BYTES
from onceproof.events import Event
from onceproof.postgres import Connections
from onceproof_producer.dual_write import DirectPublisher
from onceproof_producer.orders import Orders
from onceproof_producer.validation import OrderRequest

_QUEUE: Final = "orders"
_WARM_UP: Final = 50


class _Nowhere:
    async def publish(self, event: Event) -> None:
        """Nothing: only the write is timed."""


class OrderWrites:
    """Orders written in turn with the outbox row and without it.

    Args:
        where: the database.
        connections: of the producer.
    """

    def __init__(self, where: Database, connections: Connections) -> None:
        self._where = where
        self._outbox = Orders(connections, _QUEUE)
        self._bare = Orders(connections, _QUEUE, direct=cast("DirectPublisher", _Nowhere()))

    async def measure(self, orders: int) -> Sample:
        """Write `orders` orders of each kind; `values` has p50 and p99 of both in ms, and the ratio.

        Raises:
            InvalidRunError: the tables do not hold what was written.
        """
        await self._where.connection.execute(
            "TRUNCATE orders, onceproof.outbox, onceproof.idempotency_keys"
        )
        await self._where.settle("orders", "onceproof.outbox", "onceproof.idempotency_keys")
        for _ in range(_WARM_UP):
            await _write(self._outbox)
            await _write(self._bare)
        with_row, without = [], []
        cpu, started = time.process_time(), time.perf_counter()
        for _ in range(orders):
            with_row.append(await _write(self._outbox))
            without.append(await _write(self._bare))
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        written = _WARM_UP + orders
        await require_written(self._where, orders=2 * written, events=written)
        mine, theirs = Latency.of(with_row), Latency.of(without)
        return Sample(
            2 * orders, seconds, cpu, 2 * orders,
            values={
                "p50_ratio": mine.p50_ms / theirs.p50_ms,
                "with_p50_ms": mine.p50_ms, "without_p50_ms": theirs.p50_ms,
                "with_p99_ms": mine.p99_ms, "without_p99_ms": theirs.p99_ms,
            },
        )  # fmt: skip


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


async def _write(orders: Orders) -> float:
    number = uuid4().hex
    order = OrderRequest(order_id=f"o-{number}", amount=1999, currency="EUR")
    body = order.model_dump_json().encode().ljust(ORDER_BYTES)
    started = time.perf_counter()
    await orders.place(order, number, body)
    return time.perf_counter() - started
