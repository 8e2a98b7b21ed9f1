"""The consumer with an effect in SQL through a real SQS server, and Q: the same queue, and no work.

Q receives and deletes with the library's own client, ten messages a request, and does nothing else. So
through a broker Q is the ceiling, and not Postgres: of each message the client's HTTP and JSON are most.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from benchmarks.consuming import NAME, STUCK_S, empty
from benchmarks.database import Database
from benchmarks.effect import CHARGE, Counting
from benchmarks.figures import InvalidRunError, Sample, require_charged_once
from benchmarks.null_broker import deliveries
from onceproof.brokers.sqs import SqsBroker, SqsSubscriber
from onceproof.consumer import Consumer, ConsumerSettings
from onceproof.ports import Message, Outgoing, SettleResult

BATCH: Final = 10
_POLL_S: Final = 0.002
_VISIBILITY_S: Final = 600.0
_SEND: Final = 1000
_numbers: Final = itertools.count()


@asynccontextmanager
async def filled_queue(broker: SqsBroker, orders: int) -> AsyncIterator[tuple[str, int]]:
    """A queue with the deliveries of `orders` orders; its name, and how many they are.

    Raises:
        InvalidRunError: the broker refused some.
    """
    name = f"bench-{os.getpid()}-{next(_numbers)}"
    await broker.ensure_queue(name, visibility_timeout_s=_VISIBILITY_S)
    try:
        messages = [Outgoing(m.message_id, m.body) for m in deliveries(orders)]
        for start in range(0, len(messages), _SEND):
            results = await broker.send(name, messages[start : start + _SEND])
            if not all(result.ok for result in results):
                raise InvalidRunError("the broker refused messages")
        yield name, len(messages)
    finally:
        await broker.delete_queue(name)


class Watching:
    """A subscriber that knows when the last message was acked.

    Args:
        inner: what it passes everything on to.
        messages: how many there are.
    """

    def __init__(self, inner: SqsSubscriber, messages: int) -> None:
        self._inner = inner
        self._left = messages
        self.queue = inner.queue
        self.receive = inner.receive
        self.reject = inner.reject
        self.describe = inner.describe
        self.depth = inner.depth
        self.given_back = 0
        self.requests = 0
        self.finished = asyncio.Event()
        self.finished_at = 0.0

    async def ack(self, messages: Sequence[Message]) -> list[SettleResult]:
        """Count what was confirmed."""
        results = await self._inner.ack(messages)
        self.requests += 1
        self._left -= sum(result.ok for result in results)
        if self._left <= 0:
            self.finished_at = time.perf_counter()
            self.finished.set()
        return results

    async def extend(self, messages: Sequence[Message], visibility_s: float) -> list[SettleResult]:
        """Count: what is given back is not acked, and the run is refused."""
        self.given_back += len(messages)
        return await self._inner.extend(messages, visibility_s)


class ThroughQueue:
    """The library's consumer.

    Args:
        where: the database.
        connections: as many as statements may be in flight.
        broker: of the SQS server.
        clients: statements in flight.
        receives: receive requests in flight.
    """

    def __init__(
        self,
        where: Database,
        connections: Counting,
        broker: SqsBroker,
        *,
        clients: int,
        receives: int,
    ) -> None:
        self._where = where
        self._connections = connections
        self._broker = broker
        self._settings = ConsumerSettings(
            name=NAME,
            concurrency=clients,
            batch_size=BATCH,
            receives=receives,
            wait_s=1,
            visibility_s=_VISIBILITY_S,
        )

    async def measure(self, orders: int) -> Sample:
        """Consume the deliveries of `orders` orders.

        Raises:
            InvalidRunError: not every order was charged exactly once.
        """
        await empty(self._where)
        async with filled_queue(self._broker, orders) as (queue, messages):
            subscriber = Watching(self._broker.subscriber(queue), messages)
            consumer = Consumer(
                subscriber, self._connections, effect=CHARGE, settings=self._settings
            )
            before = self._connections.lent
            gc.collect()
            cpu, started = time.process_time(), time.perf_counter()
            try:
                async with asyncio.timeout(STUCK_S):
                    await consumer.run(subscriber.finished)
            except TimeoutError:
                raise InvalidRunError(f"not all was acked in {STUCK_S:.0f} s") from None
            cpu = time.process_time() - cpu
        found = await self._where.counts(
            "SELECT count(*) AS charges, count(DISTINCT order_id) AS orders FROM charges"
        )
        require_charged_once(
            asked=orders,
            charges=found["charges"],
            charged_orders=found["orders"],
            given_back=subscriber.given_back,
        )
        transactions = self._connections.lent - before
        return Sample(orders, subscriber.finished_at - started, cpu, transactions)


class NoOp:
    """Q.

    Args:
        broker: of the SQS server.
        in_flight: loops at once, each with one request at a time.
    """

    def __init__(self, broker: SqsBroker, *, in_flight: int) -> None:
        self._broker = broker
        self._in_flight = in_flight

    async def measure(self, orders: int) -> Sample:
        """Receive and delete the deliveries of `orders` orders.

        Raises:
            InvalidRunError: a message came twice.
        """
        async with filled_queue(self._broker, orders) as (queue, messages):
            subscriber = self._broker.subscriber(queue)
            client, url = subscriber._client, await subscriber._queues.url(queue)  # noqa: SLF001
            seen: set[str] = set()
            came = 0

            async def loop() -> None:
                nonlocal came
                while came < messages:
                    answer = await client.receive_message(
                        QueueUrl=url, MaxNumberOfMessages=BATCH, WaitTimeSeconds=0
                    )
                    found = answer.get("Messages", [])
                    if not found:
                        await asyncio.sleep(_POLL_S)
                        continue
                    came += len(found)
                    seen.update(message["MessageId"] for message in found)
                    await client.delete_message_batch(
                        QueueUrl=url,
                        Entries=[
                            {"Id": str(i), "ReceiptHandle": message["ReceiptHandle"]}
                            for i, message in enumerate(found)
                        ],
                    )

            gc.collect()
            cpu, started = time.process_time(), time.perf_counter()
            async with asyncio.timeout(STUCK_S):
                await asyncio.gather(*(loop() for _ in range(self._in_flight)))
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        if not len(seen) == came == messages:
            raise InvalidRunError(f"{messages} messages, {came} came, {len(seen)} different")
        return Sample(orders, seconds, cpu, came)
