"""What a broker and its client allow.

P publishes messages from memory, Q receives and deletes them, both with the library's client, ten
messages a request and eight requests in flight, and do nothing else. Through a real broker they, and not
Postgres, are the ceiling.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Any, Final

from benchmarks.database import Database
from benchmarks.figures import InvalidRunError, Sample
from benchmarks.null_broker import ORDER_BYTES, deliveries, order_event
from benchmarks.queue_content import BATCH, IN_FLIGHT, fresh_queue, until_filled

_STUCK_S: Final = 120.0
_WARM_UP: Final = 10_000
_ROUNDS: Final = 4
_REQUEST_BYTES: Final = 250_000
"""What a request may hold; SQS takes 256 KiB, with the attributes."""


class DirectPublisher:
    """P.

    Args:
        where: for the meter.
        client: the library's client, bare.
    """

    def __init__(self, where: Database, client: Any) -> None:  # noqa: ANN401 - aiobotocore has no types
        self._where = where
        self._client = client

    async def measure(self, orders: int) -> Sample:
        """Publish `orders` messages.

        Raises:
            InvalidRunError: the queue does not hold them all.
        """
        bodies = [order_event(number).encode().decode() for number in range(orders)]
        async with fresh_queue(self._client) as (_, url):
            await self._where.meter.start()
            cpu, started = time.process_time(), time.perf_counter()
            await publish(self._client, url, bodies)
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
            await self._where.meter.stop()
            await until_filled(self._client, url, orders, _STUCK_S)
        return Sample(
            orders, seconds, cpu, 0, sqs_requests={"SendMessageBatch": -(-orders // BATCH)}
        )


async def publish(client: Any, url: str, bodies: list[str]) -> None:  # noqa: ANN401
    """Send all of them, ten a request, or as many as fit.

    Raises:
        InvalidRunError: the broker refused one.
    """
    many = min(BATCH, max(1, _REQUEST_BYTES // max(map(len, bodies))))
    batches = iter([bodies[start : start + many] for start in range(0, len(bodies), many)])

    async def send(batches: Iterator[list[str]]) -> None:
        for batch in batches:
            answer = await client.send_message_batch(
                QueueUrl=url,
                Entries=[{"Id": str(i), "MessageBody": body} for i, body in enumerate(batch)],
            )
            if len(answer.get("Successful", [])) != len(batch):
                raise InvalidRunError(f"the broker refused messages: {answer.get('Failed')}")

    await asyncio.gather(*(send(batches) for _ in range(IN_FLIGHT)))


class NoOpConsumer:
    """Q.

    Args:
        where: for the meter.
        client: the library's client, bare.
        size: bytes of an order.
    """

    def __init__(self, where: Database, client: Any, *, size: int = ORDER_BYTES) -> None:  # noqa: ANN401
        self._where = where
        self._client = client
        self._size = size

    async def measure(self, orders: int) -> Sample:
        """Receive and delete the deliveries of `orders` orders.

        Raises:
            InvalidRunError: not each message came exactly once.
        """
        bodies = [message.body.decode() for message in deliveries(orders, size=self._size)]
        async with fresh_queue(self._client) as (_, url):
            await publish(self._client, url, bodies)
            await self._where.meter.start()
            cpu, started = time.process_time(), time.perf_counter()
            requests = await receive_and_delete(self._client, url, len(bodies))
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
            await self._where.meter.stop()
        return Sample(orders, seconds, cpu, 0, sqs_requests={"all": requests})


async def receive_and_delete(client: Any, url: str, messages: int) -> int:  # noqa: ANN401
    """Receive and delete so many messages, ten a request; the number of requests.

    Raises:
        InvalidRunError: not each message came exactly once.
    """
    requests = itertools.count()
    seen: list[str] = []

    async def loop() -> None:
        while len(seen) < messages:
            answer = await client.receive_message(
                QueueUrl=url, MaxNumberOfMessages=BATCH, WaitTimeSeconds=0
            )
            next(requests)
            found = answer.get("Messages", [])
            if not found:
                continue
            seen.extend(message["MessageId"] for message in found)
            await client.delete_message_batch(
                QueueUrl=url,
                Entries=[
                    {"Id": str(i), "ReceiptHandle": message["ReceiptHandle"]}
                    for i, message in enumerate(found)
                ],
            )
            next(requests)

    async with asyncio.timeout(_STUCK_S):
        await asyncio.gather(*(loop() for _ in range(IN_FLIGHT)))
    if len(set(seen)) != len(seen):
        raise InvalidRunError(f"{len(seen)} messages came, {len(set(seen))} of them different")
    return next(requests)


async def warm_up(client: Any) -> None:  # noqa: ANN401
    """Have a server on a JVM compile what will be timed, which takes it some ten thousand messages."""
    bodies = [message.body.decode() for message in deliveries(_WARM_UP)]
    for _ in range(_ROUNDS):
        async with fresh_queue(client) as (_, url):
            await publish(client, url, bodies)
            await receive_and_delete(client, url, len(bodies))
