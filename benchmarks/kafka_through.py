"""Relay and consumer over Kafka, on the work that they do over SQS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.consuming import NAME
from benchmarks.database import Database
from benchmarks.effect import Counting
from benchmarks.figures import InvalidRunError, Sample
from benchmarks.null_broker import deliveries
from benchmarks.outbox_table import fill, require_all_published
from benchmarks.relaying import timed
from benchmarks.through_queue import consumed
from onceproof.brokers.kafka import KafkaBroker, KafkaSettings
from onceproof.consumer import ConsumerSettings
from onceproof.events import Event
from onceproof.ports import Outgoing

_PARTITIONS: Final = 6
_VISIBILITY_S: Final = 600.0


@asynccontextmanager
async def _fresh_topic(bootstrap: str) -> AsyncIterator[tuple[KafkaBroker, str]]:
    name = f"bench-{uuid4().hex[:12]}"
    settings = KafkaSettings(bootstrap, group=name, stall_s=_VISIBILITY_S)
    async with KafkaBroker.connect(settings) as broker:
        await broker.ensure_topic(name, partitions=_PARTITIONS)
        try:
            yield broker, name
        finally:
            await broker.delete_topic(name)


class KafkaRelayed:
    """The library's relay to Kafka.

    Args:
        where: the database.
        engine: of the relay.
        bootstrap: of the cluster.
    """

    def __init__(self, where: Database, engine: AsyncEngine, bootstrap: str) -> None:
        self._where = where
        self._engine = engine
        self._bootstrap = bootstrap

    async def measure(self, rows: int) -> Sample:
        """Relay `rows` pending rows to a topic of their own.

        Raises:
            InvalidRunError: not every row was published exactly once, or is in the topic exactly once.
        """
        async with _fresh_topic(self._bootstrap) as (broker, topic):
            await fill(self._where, rows, destination=topic)
            sample, sent = await timed(self._engine, broker, rows)
            await require_all_published(self._where, rows, sent)
            there = (await broker.subscriber(topic).depth()).total
            if there != rows:
                raise InvalidRunError(f"{rows} rows were relayed, the topic has {there} records")
        return sample


class KafkaConsumed:
    """The library's consumer from Kafka.

    Args:
        where: the database.
        connections: as many as statements may be in flight.
        bootstrap: of the cluster.
        clients: statements in flight.
        batch: orders a statement, at most.
    """

    def __init__(
        self, where: Database, connections: Counting, bootstrap: str, *, clients: int, batch: int
    ) -> None:
        self._where = where
        self._connections = connections
        self._bootstrap = bootstrap
        self._settings = ConsumerSettings(
            name=NAME, concurrency=clients, batch_size=batch, wait_s=1, visibility_s=_VISIBILITY_S,
            system="kafka",
        )  # fmt: skip

    async def measure(self, orders: int) -> Sample:
        """Consume the deliveries of `orders` orders.

        Raises:
            InvalidRunError: not every order was charged exactly once.
        """
        bodies = [message.body for message in deliveries(orders)]
        events = [Event.decode(body) for body in bodies]
        async with _fresh_topic(self._bootstrap) as (broker, topic):
            for start in range(0, len(bodies), 10_000):
                part = range(start, min(start + 10_000, len(bodies)))
                sent = await broker.send(
                    topic, [Outgoing(events[i].id, bodies[i], events[i].key) for i in part]
                )
                if not all(result.ok for result in sent):
                    raise InvalidRunError("not all was sent")
            subscriber = broker.subscriber(topic)
            await subscriber.join()
            return await consumed(
                self._where, self._connections, subscriber, self._settings, orders, len(bodies)
            )
