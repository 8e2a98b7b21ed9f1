"""The library's producer and consumer as processes, for the end-to-end contest.

They speak with the harness as the peers' drivers do, see `benchmarks.peers.process`. The work is that of
the peers, too: an order and its event in one transaction, eight at a time; a claim and a charge.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker

from benchmarks.null_broker import DUPLICATE_EVERY, order_event
from benchmarks.peers.work import PRODUCERS, main, produce, say, until_closed, wait_for_go
from onceproof.brokers.sqs import SqsBroker
from onceproof.consumer import Consumer, ConsumerSettings
from onceproof.events import Event
from onceproof.outbox import Waker, append
from onceproof.ports import Delivery
from onceproof.postgres import create_engine
from onceproof.service import alongside

_CONSUMERS: Final = 8
_BATCH: Final = 10
_INSERT_ORDER: Final = text(
    "INSERT INTO orders (order_id, amount, currency, event_id) "
    "VALUES (:order_id, :amount, :currency, :event_id)"
)
# The same event once more, under an id of its own: what a relay that died after a send leaves.
_AGAIN: Final = text("""
    INSERT INTO onceproof.outbox (id, destination, key, type, payload, traceparent)
    SELECT id || '-again', destination, key, type, payload, traceparent
    FROM onceproof.outbox WHERE id = :id
""")
_CHARGE_MANY: Final = text("""
    INSERT INTO charges (order_id, event_id, amount, currency, provider_charge_id, delivery_attempt)
    SELECT * FROM unnest(
        CAST(:order_ids AS text[]), CAST(:event_ids AS text[]), CAST(:amounts AS bigint[]),
        CAST(:currencies AS text[]), CAST(:event_ids AS text[]), CAST(:attempts AS int[]))
""")


async def charge_many(session: AsyncSession | AsyncConnection, batch: Sequence[Delivery]) -> None:
    """The set-based handler: a charge for each of the orders, in one statement."""
    orders = [delivery.event.data for delivery in batch]
    await session.execute(
        _CHARGE_MANY,
        {
            "order_ids": [order["order_id"] for order in orders],
            "event_ids": [delivery.event.id for delivery in batch],
            "amounts": [order["amount"] for order in orders],
            "currencies": [order["currency"] for order in orders],
            "attempts": [delivery.attempt for delivery in batch],
        },
    )


async def enqueue() -> None:
    """Write the orders with their events."""
    queue = os.environ["BENCH_QUEUE"]
    engine = create_engine(
        os.environ["BENCH_DSN"], application_name="bench-producer", pool_size=PRODUCERS + 1
    )
    waker = Waker(engine)

    async def one(number: int) -> None:
        event: Event = order_event(number)
        async with engine.begin() as connection:
            await connection.execute(
                _INSERT_ORDER,
                {
                    "order_id": event.key,
                    "amount": event.data["amount"],
                    "currency": event.data["currency"],
                    "event_id": event.id,
                },
            )
            await append(connection, event, queue)
            if number % DUPLICATE_EVERY == 0:
                await connection.execute(_AGAIN, {"id": event.id})
        waker.wake()

    async with alongside(waker.run()):
        say("ready")
        await asyncio.to_thread(wait_for_go)
        await produce(one)
    await engine.dispose()


async def work() -> None:
    """Consume until stdin is closed."""
    engine = create_engine(
        os.environ["BENCH_DSN"], application_name="bench-consumer", pool_size=_CONSUMERS
    )
    stop = asyncio.Event()
    async with SqsBroker.connect(
        endpoint_url=os.environ["BENCH_SQS_ENDPOINT"], region=os.environ["AWS_REGION"]
    ) as broker:
        consumer = Consumer(
            broker.subscriber(os.environ["BENCH_QUEUE"]),
            async_sessionmaker(engine, expire_on_commit=False),
            handle_batch=charge_many,
            settings=ConsumerSettings(
                name="payments", concurrency=_CONSUMERS, batch_size=_BATCH, wait_s=1
            ),
        )
        running = asyncio.create_task(consumer.run(stop))
        say("ready")
        await until_closed()
        stop.set()
        await running
    await engine.dispose()


if __name__ == "__main__":
    main(enqueue=enqueue, work=work)
