"""The library's producer and consumer as processes, for the end-to-end contest.

They speak with the harness as the peers' drivers do, see `benchmarks.peers.process`. The work is that of
the peers, too: an order and its event in one transaction, eight at a time; a claim and a charge.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import Final

from sqlalchemy import text

from benchmarks.charge import CHARGE
from benchmarks.null_broker import DUPLICATE_EVERY, order_event
from benchmarks.peers.work import PRODUCERS, main, produce, say, until_closed, wait_for_go
from onceproof.brokers.sqs import SqsBroker
from onceproof.consumer import Consumer, ConsumerSettings
from onceproof.events import Event
from onceproof.outbox import Waker, appended_with, outbox_parameters
from onceproof.postgres import Connections, create_engine
from onceproof.service import alongside

_CONSUMERS: Final = 8
_BATCH: Final = 10
_INSERT_ORDER: Final = text(
    appended_with("""
        INSERT INTO orders (order_id, amount, currency, event_id)
        VALUES (:order_id, :amount, :currency, :event_id) RETURNING true
    """)
)
# The same event once more, under an id of its own: what a relay that died after a send leaves.
_AGAIN: Final = text("""
    INSERT INTO onceproof.outbox (id, destination, key, type, payload, traceparent)
    SELECT id || '-again', destination, key, type, payload, traceparent
    FROM onceproof.outbox WHERE id = :id
""")


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
                    **outbox_parameters(event, queue),
                },
            )
            if number % DUPLICATE_EVERY == 0:
                await connection.execute(_AGAIN, {"id": event.id})
        waker.wake()

    async with alongside(waker.run()):
        say("ready")
        await asyncio.to_thread(wait_for_go)
        await produce(one)
    await engine.dispose()


async def work(*, at_once: bool = True) -> None:
    """Consume until stdin is closed, at once or after the word."""
    stop = asyncio.Event()
    async with (
        Connections(
            os.environ["BENCH_DSN"], application_name="bench-consumer", size=_CONSUMERS
        ) as connections,
        SqsBroker.connect(
            endpoint_url=os.environ["BENCH_SQS_ENDPOINT"], region=os.environ["AWS_REGION"]
        ) as broker,
    ):
        consumer = Consumer(
            broker.subscriber(os.environ["BENCH_QUEUE"]),
            connections,
            effect=CHARGE,
            settings=ConsumerSettings(
                name="payments", concurrency=_CONSUMERS, batch_size=_BATCH, wait_s=1
            ),
        )
        if not at_once:
            say("ready")
            await asyncio.to_thread(wait_for_go)
        running = asyncio.create_task(consumer.run(stop))
        if at_once:
            say("ready")
        await until_closed()
        stop.set()
        await running


if __name__ == "__main__":
    main(enqueue=enqueue, work=work, consume=partial(work, at_once=False))
