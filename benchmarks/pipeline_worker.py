"""The library's producer and consumer as processes, for the end-to-end contest.

They speak with the harness as the peers' drivers do, see `benchmarks.peers.process`. The work is that of
the peers, too: an order and its event in one transaction, eight at a time; a claim and a charge.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.charge import CHARGE
from benchmarks.null_broker import DUPLICATE_EVERY, order_event
from benchmarks.peers.work import PRODUCERS, main, produce, say, until_closed, wait_for_go
from onceproof.brokers.sqs import SqsBroker
from onceproof.consumer import Consumer, ConsumerSettings
from onceproof.outbox import SqlWrite, Waker
from onceproof.postgres import Connection, Connections, create_engine
from onceproof.service import alongside

_CONSUMERS: Final = 4
_BATCH: Final = 50
_PLACE: Final = """
    INSERT INTO orders (order_id, amount, currency, event_id)
    SELECT key, CAST(data->>'amount' AS bigint), data->>'currency', event_id FROM request
    RETURNING 1
"""
# The same event once more, under an id of its own: what a relay that died after a send leaves.
_AGAIN: Final = """
    INSERT INTO onceproof.outbox (id, destination, key, type, payload, traceparent)
    SELECT id || '-again', destination, key, type, payload, traceparent
    FROM onceproof.outbox WHERE id = $1
"""


async def enqueue() -> None:
    """Write the orders with their events."""
    async with (
        _connections("bench-producer", PRODUCERS) as (engine, connections),
        alongside((waker := Waker(engine)).run()),
    ):
        orders = SqlWrite(connections, _PLACE, os.environ["BENCH_QUEUE"])

        async def one(number: int) -> None:
            event = await orders.write(order_event(number))
            if number % DUPLICATE_EVERY == 0:
                await connections.run(partial(_again, event.id))
            waker.wake()

        say("ready")
        await asyncio.to_thread(wait_for_go)
        await produce(one)


async def _again(event_id: str, connection: Connection) -> None:
    await connection.execute(_AGAIN, event_id)


async def work(*, at_once: bool = True) -> None:
    """Consume until stdin is closed, at once or after the word."""
    stop = asyncio.Event()
    async with (
        _connections("bench-consumer", _CONSUMERS) as (_, connections),
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


@asynccontextmanager
async def _connections(name: str, size: int) -> AsyncIterator[tuple[AsyncEngine, Connections]]:
    engine = create_engine(os.environ["BENCH_DSN"], application_name=name, pool_size=size + 1)
    async with Connections(engine, size=size) as connections:
        yield engine, connections
    await engine.dispose()


if __name__ == "__main__":
    main(enqueue=enqueue, work=work, consume=partial(work, at_once=False))
