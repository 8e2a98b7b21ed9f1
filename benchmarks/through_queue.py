"""The library's consumer with an effect in SQL through a real SQS server.

Through a broker the ceiling is not Postgres but Q, see `benchmarks.queue_ceiling`: HTTP and JSON of the
client are most of what a message costs.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence
from typing import Any, Final

from benchmarks.charge import CHARGE
from benchmarks.consuming import NAME, STUCK_S, empty, require_all_charged
from benchmarks.database import Database
from benchmarks.effect import Counting
from benchmarks.figures import InvalidRunError, Sample
from benchmarks.null_broker import ORDER_BYTES, deliveries
from benchmarks.queue_ceiling import publish
from benchmarks.queue_content import BATCH, fresh_queue
from onceproof.brokers.sqs import SqsBroker
from onceproof.consumer import Consumer, ConsumerSettings
from onceproof.ports import Message, SettleResult, Subscriber

_VISIBILITY_S: Final = 600.0


class Watching:
    """A subscriber that knows when the last message was acked.

    Args:
        inner: what it passes everything on to.
        messages: how many there are.
    """

    def __init__(self, inner: Subscriber, messages: int) -> None:
        self._inner = inner
        self._left = messages
        self.queue = inner.queue
        self.receive = inner.receive
        self.extend = inner.extend
        self.reject = inner.reject
        self.describe = inner.describe
        self.depth = inner.depth
        self.given_back = 0
        self.finished = asyncio.Event()
        self.finished_at = 0.0

    async def ack(self, messages: Sequence[Message]) -> list[SettleResult]:
        """Count what was confirmed."""
        results = await self._inner.ack(messages)
        self._left -= sum(result.ok for result in results)
        if self._left <= 0:
            self.finished_at = time.perf_counter()
            self.finished.set()
        return results

    async def release(self, messages: Sequence[Message], delay_s: float) -> list[SettleResult]:
        """Count: what is given back is not acked, and the run is refused."""
        self.given_back += len(messages)
        return await self._inner.release(messages, delay_s)


class ThroughQueue:
    """The library's consumer.

    Args:
        where: the database.
        connections: as many as statements may be in flight.
        broker: the library's.
        client: a client for making and filling the queue.
        clients: statements in flight.
        batch: orders a statement, at most.
        size: bytes of an order.
    """

    def __init__(
        self,
        where: Database,
        connections: Counting,
        broker: SqsBroker,
        client: Any,  # noqa: ANN401 - aiobotocore has no types
        *,
        clients: int,
        batch: int = BATCH,
        size: int = ORDER_BYTES,
    ) -> None:
        self._where = where
        self._connections = connections
        self._broker = broker
        self._client = client
        self._size = size
        self._settings = ConsumerSettings(
            name=NAME,
            concurrency=clients,
            batch_size=batch,
            wait_s=1,
            visibility_s=_VISIBILITY_S,
        )

    async def measure(self, orders: int) -> Sample:
        """Consume the deliveries of `orders` orders.

        Raises:
            InvalidRunError: not every order was charged exactly once.
        """
        bodies = [message.body.decode() for message in deliveries(orders, size=self._size)]
        async with fresh_queue(self._client) as (queue, url):
            await publish(self._client, url, bodies)
            return await consumed(
                self._where,
                self._connections,
                self._broker.subscriber(queue),
                self._settings,
                orders,
                len(bodies),
            )


async def consumed(
    where: Database,
    connections: Counting,
    subscriber: Subscriber,
    settings: ConsumerSettings,
    orders: int,
    messages: int,
) -> Sample:
    """Run the library's consumer until `messages` messages about `orders` orders are acked.

    Raises:
        InvalidRunError: not every order was charged exactly once.
    """
    watched = Watching(subscriber, messages)
    consumer = Consumer(watched, connections, effect=CHARGE, settings=settings)
    await empty(where)
    before = connections.lent
    gc.collect()
    cpu, started = time.process_time(), time.perf_counter()
    try:
        async with asyncio.timeout(STUCK_S):
            await consumer.run(watched.finished)
    except TimeoutError:
        raise InvalidRunError(f"not all was acked in {STUCK_S:.0f} s") from None
    cpu = time.process_time() - cpu
    await require_all_charged(where, orders, given_back=watched.given_back)
    return Sample(orders, watched.finished_at - started, cpu, connections.lent - before)
