"""What a broker and its client allow, and the library through them.

P publishes messages from memory, Q receives and deletes them, both with the library's client, ten
messages a request and eight requests in flight, and do nothing else. Through a real broker they, and not
Postgres, are the ceiling.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from benchmarks.database import Database
from benchmarks.figures import InvalidRunError, Sample, require_charged_once, require_published_once
from benchmarks.null_broker import deliveries, order_event
from benchmarks.pipeline_worker import charge_many
from benchmarks.queue_content import BATCH, IN_FLIGHT, fresh_queue, until_filled
from onceproof.brokers.sqs import SqsBroker
from onceproof.consumer import Consumer, ConsumerSettings
from onceproof.outbox import OutboxStore, Relay, RelaySettings
from onceproof.ports import Delivery

_STUCK_S: Final = 120.0
_CLAIM_BATCH: Final = 100


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
    """Send all of them, ten a request.

    Raises:
        InvalidRunError: the broker refused one.
    """
    batches = iter([bodies[start : start + BATCH] for start in range(0, len(bodies), BATCH)])

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
    """

    def __init__(self, where: Database, client: Any) -> None:  # noqa: ANN401
        self._where = where
        self._client = client

    async def measure(self, orders: int) -> Sample:
        """Receive and delete the deliveries of `orders` orders.

        Raises:
            InvalidRunError: not each message came exactly once.
        """
        bodies = [message.body.decode() for message in deliveries(orders)]
        async with fresh_queue(self._client) as (_, url):
            await publish(self._client, url, bodies)
            requests = itertools.count()
            seen: list[str] = []
            await self._where.meter.start()
            cpu, started = time.process_time(), time.perf_counter()

            async def receive() -> None:
                while len(seen) < len(bodies):
                    answer = await self._client.receive_message(
                        QueueUrl=url, MaxNumberOfMessages=BATCH, WaitTimeSeconds=0
                    )
                    next(requests)
                    messages = answer.get("Messages", [])
                    if not messages:
                        continue
                    seen.extend(message["MessageId"] for message in messages)
                    await self._client.delete_message_batch(
                        QueueUrl=url,
                        Entries=[
                            {"Id": str(i), "ReceiptHandle": message["ReceiptHandle"]}
                            for i, message in enumerate(messages)
                        ],
                    )
                    next(requests)

            async with asyncio.timeout(_STUCK_S):
                await asyncio.gather(*(receive() for _ in range(IN_FLIGHT)))
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
            await self._where.meter.stop()
        if len(set(seen)) != len(seen):
            raise InvalidRunError(f"{len(seen)} messages came, {len(set(seen))} of them different")
        return Sample(orders, seconds, cpu, 0, sqs_requests={"all": next(requests)})


class ThroughQueue:
    """The library's consumer with a set-based handler on the same queue server.

    Args:
        where: the database.
        engine: its connections.
        broker: the library's.
        client: a client for filling the queue.
        clients: transactions in flight.
    """

    def __init__(
        self,
        where: Database,
        engine: AsyncEngine,
        broker: SqsBroker,
        client: Any,  # noqa: ANN401 - aiobotocore has no types
        *,
        clients: int,
    ) -> None:
        self._where = where
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)
        self._broker = broker
        self._client = client
        self._clients = clients

    async def measure(self, orders: int) -> Sample:
        """Consume the deliveries of `orders` orders.

        Raises:
            InvalidRunError: not every order was charged exactly once.
        """
        bodies = [message.body.decode() for message in deliveries(orders)]
        await self._where.connection.execute("TRUNCATE onceproof.inbox, charges")
        stop = asyncio.Event()
        handled = 0
        ended = 0.0

        async def handle(session: AsyncSession, batch: Sequence[Delivery]) -> None:
            nonlocal handled, ended
            await charge_many(session, batch)
            handled += len(batch)
            if handled >= orders:
                ended = time.perf_counter()
                stop.set()

        async with fresh_queue(self._client) as (queue, url):
            await publish(self._client, url, bodies)
            consumer = Consumer(
                self._broker.subscriber(queue),
                self._sessions,
                handle_batch=handle,
                settings=ConsumerSettings(
                    name="payments", concurrency=self._clients, batch_size=BATCH, wait_s=1
                ),
            )
            await self._where.settle("onceproof.inbox", "charges")
            cpu, started = time.process_time(), time.perf_counter()
            async with asyncio.timeout(_STUCK_S):
                await consumer.run(stop)
            cpu = time.process_time() - cpu
            found = await self._where.counts(
                "SELECT count(*) AS charges, count(DISTINCT order_id) AS orders FROM charges"
            )
        require_charged_once(
            asked=orders, charges=found["charges"], charged_orders=found["orders"], given_back=0
        )
        return Sample(orders, ended - started, cpu, 0)


class RelayToQueue:
    """The library's relay on the same queue server.

    Args:
        where: the database.
        engine: its connections.
        broker: the library's.
        client: a client for making the queue.
    """

    def __init__(
        self,
        where: Database,
        engine: AsyncEngine,
        broker: SqsBroker,
        client: Any,  # noqa: ANN401 - aiobotocore has no types
    ) -> None:
        self._where = where
        self._store = OutboxStore(engine, relay="relay")
        self._broker = broker
        self._client = client

    async def measure(self, orders: int) -> Sample:
        """Relay `orders` pending rows.

        Raises:
            InvalidRunError: not each row was published exactly once.
        """
        event = order_event(0)
        async with fresh_queue(self._client) as (queue, url):
            await self._where.connection.execute("TRUNCATE onceproof.outbox")
            await self._where.connection.execute(
                "INSERT INTO onceproof.outbox (id, destination, key, type, payload, traceparent) "
                "SELECT '01930000-0000-7000-8000-' || lpad(n::text, 12, '0'), $2, 'o-' || n, $3, $4, $5 "
                "FROM generate_series(1, $1::int) AS n",
                orders, queue, event.type, event.encode().decode(), event.traceparent,
            )  # fmt: skip
            await self._where.settle("onceproof.outbox")
            relay = Relay(
                self._store, self._broker, settings=RelaySettings(batch_size=_CLAIM_BATCH)
            )
            cpu, started = time.process_time(), time.perf_counter()
            while await relay.run_once():
                pass
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
            found = await self._where.counts(
                "SELECT count(*) FILTER (WHERE published_at IS NOT NULL) AS published, "
                "coalesce(sum(attempts), 0) AS attempts FROM onceproof.outbox"
            )
            await until_filled(self._client, url, orders, _STUCK_S)
        require_published_once(
            asked=orders, published=found["published"], attempts=found["attempts"], sent=orders
        )
        return Sample(orders, seconds, cpu, 0)
