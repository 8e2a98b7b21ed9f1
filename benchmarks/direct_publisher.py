"""P: a bare direct batched publisher, the ceiling of every relay to the same broker by the same client.

Messages in memory, ten a request, eight requests in flight: no database, no result per message but the
reply's own, no checks. What a relay does beside that is its price.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

from benchmarks.figures import InvalidRunError, Sample
from benchmarks.null_broker import order_event
from onceproof.brokers.sqs import SqsBroker

REQUESTS_IN_FLIGHT: Final = 8
PER_REQUEST: Final = 10


class DirectPublisher:
    """Publishes prepared orders to a queue of their own.

    Args:
        broker: whose client is used, so that both sides have the same.
    """

    def __init__(self, broker: SqsBroker) -> None:
        self._broker = broker

    async def measure(self, orders: int) -> Sample:
        """Publish `orders` messages, each once.

        Raises:
            InvalidRunError: the broker has another number of messages.
        """
        bodies = [order_event(number).encode().decode() for number in range(orders)]
        async with fresh_queue(self._broker) as queue:
            url = await queue_url(self._broker, queue)
            client = self._broker._client  # noqa: SLF001 - the very client of the other side
            requests = _requests(bodies)
            cpu, started = time.process_time(), time.perf_counter()
            async with asyncio.TaskGroup() as senders:
                for _ in range(REQUESTS_IN_FLIGHT):
                    senders.create_task(_send(client, url, requests))
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
            await require_arrived(self._broker, queue, orders)
        return Sample(orders, seconds, cpu, -(-orders // PER_REQUEST))


def _requests(bodies: list[str]) -> Iterator[list[dict[str, str]]]:
    for start in range(0, len(bodies), PER_REQUEST):
        part = bodies[start : start + PER_REQUEST]
        yield [{"Id": str(index), "MessageBody": body} for index, body in enumerate(part)]


async def _send(client: Any, url: str, requests: Iterator[list[dict[str, str]]]) -> None:  # noqa: ANN401
    for entries in requests:
        reply = await client.send_message_batch(QueueUrl=url, Entries=entries)
        if reply.get("Failed"):
            raise InvalidRunError(f"the broker refused {len(reply['Failed'])} messages")


@asynccontextmanager
async def fresh_queue(broker: SqsBroker) -> AsyncIterator[str]:
    """The name of a queue for one run, deleted at the end."""
    name = f"bench-{time.time_ns()}"
    await broker.ensure_queue(name)
    try:
        yield name
    finally:
        await broker.delete_queue(name)


async def queue_url(broker: SqsBroker, queue: str) -> str:
    """Looked up before the clock starts, on both sides."""
    return await broker._queues.url(queue)  # noqa: SLF001 - as above


async def require_arrived(broker: SqsBroker, queue: str, asked: int) -> None:
    """Refuse a run after which the queue holds another number of messages than were asked for.

    Raises:
        InvalidRunError: with both numbers.
    """
    depth = await broker.subscriber(queue).depth()
    if depth.total != asked:
        raise InvalidRunError(f"{asked} orders to publish: the queue holds {depth.total} messages")
