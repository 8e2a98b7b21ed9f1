"""A rig for the consumer's tests: a queue with a DLQ in memory, charges in a real Postgres."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from onceproof.brokers.memory import MemoryBroker, MemorySubscriber
from onceproof.consumer import Consumer, ConsumerSettings, SqlEffect
from onceproof.errors import PermanentError
from onceproof.events import Event
from onceproof.ports import Delivery, Message, Outgoing, SettleResult
from onceproof.postgres import Connections, create_engine

_CHARGE = text("""
    INSERT INTO charges (order_id, event_id, amount, currency, provider_charge_id, delivery_attempt)
    VALUES (:order_id, :event_id, 100, 'EUR', 'ch', :attempt)
""")

_EFFECT = """
    INSERT INTO charges (order_id, event_id, amount, currency, provider_charge_id, delivery_attempt)
    SELECT key, event_id, CAST(coalesce(data->>'amount', '100') AS bigint), 'EUR', 'ch', attempt
    FROM events
    RETURNING event_id
"""


class Watched(MemorySubscriber):
    """A subscriber that records what the consumer asks of it."""

    def __init__(self, broker: MemoryBroker) -> None:
        inner = broker.subscriber("orders")
        super().__init__("orders", find=inner._find, clock=inner._clock)
        self.acks: list[list[str]] = []
        self.extensions: list[tuple[float, float]] = []
        self.received = 0
        self.receives = 0

    async def receive(
        self, *, max_messages: int, wait_s: float, visibility_s: float
    ) -> list[Message]:
        self.receives += 1
        found = await super().receive(
            max_messages=max_messages, wait_s=wait_s, visibility_s=visibility_s
        )
        self.received += len(found)
        return found

    async def ack(self, messages: Sequence[Message]) -> list[SettleResult]:
        self.acks.append([message.message_id for message in messages])
        return await super().ack(messages)

    async def extend(self, messages: Sequence[Message], visibility_s: float) -> list[SettleResult]:
        self.extensions += [(time.monotonic(), visibility_s)] * len(messages)
        return await super().extend(messages, visibility_s)


class Rig:
    """A queue with a DLQ, a handler that charges, and a consumer on both."""

    def __init__(self, engine: AsyncEngine, connections: Connections) -> None:
        self.engine = engine
        self.connections = connections
        self.effect = SqlEffect(_EFFECT)
        self.broker = MemoryBroker()
        self.broker.create_queue("dlq")
        self.broker.create_queue("orders", max_receive_count=5, dead_letter="dlq")
        self.subscriber = Watched(self.broker)
        self.seen: list[Delivery] = []
        self.batches: list[list[str]] = []
        self.health: list[tuple[str, str | None]] = []
        self.behave: Callable[[Delivery], Awaitable[None]] = self.nothing
        self.settings: dict[str, Any] = {
            "wait_s": 0.2, "backoff_s": 0.02, "backoff_max_s": 0.1, "drain_timeout_s": 5,
        }  # fmt: skip

    async def nothing(self, delivery: Delivery) -> None:
        """What a handler does beside its charge."""

    async def handle(self, session: AsyncSession, delivery: Delivery) -> None:
        self.seen.append(delivery)
        if (delivery.event.data or {}).get("amount"):
            raise PermanentError("the amount is no number")
        await session.execute(
            _CHARGE,
            {
                "order_id": delivery.event.key,
                "event_id": delivery.event.id,
                "attempt": delivery.attempt,
            },
        )
        await self.behave(delivery)

    async def handle_batch(self, session: AsyncSession, deliveries: Sequence[Delivery]) -> None:
        self.batches.append([str(delivery.event.key) for delivery in deliveries])
        for delivery in deliveries:
            await self.handle(session, delivery)

    def consumer(self, path: str = "handle", *, single: bool = True, **settings: Any) -> Consumer:
        """A consumer that charges by a handler, by a batch handler too, or by an effect in SQL."""
        effect = path == "effect"
        return Consumer(
            self.subscriber,
            self.connections if effect else async_sessionmaker(self.engine, expire_on_commit=False),
            None if effect or not single else self.handle,
            handle_batch=self.handle_batch if path == "batch" else None,
            effect=self.effect if effect else None,
            on_health=lambda dependency, reason: self.health.append((dependency, reason)),
            settings=ConsumerSettings("payments", **(self.settings | settings)),
        )

    async def refuse_charges(self, condition: str, state: str = "P0001") -> None:
        """Have Postgres raise an error with this SQLSTATE for charges `NEW` that meet a condition."""
        async with self.engine.begin() as connection:
            await connection.execute(
                text(f"""
                    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                        RAISE EXCEPTION 'refused' USING ERRCODE = '{state}';
                    END $$
                """)
            )
            await connection.execute(
                text("CREATE TRIGGER refuse BEFORE INSERT ON charges FOR EACH ROW "
                     f"WHEN ({condition}) EXECUTE FUNCTION refuse()")
            )  # fmt: skip

    @asynccontextmanager
    async def charges_held_back(self) -> AsyncIterator[None]:
        """While this lasts, whoever inserts a charge waits, with its claim made."""
        async with self.engine.begin() as connection:
            await connection.execute(text("LOCK TABLE charges IN EXCLUSIVE MODE"))
            yield

    async def waiting(self, number: int) -> None:
        """Until so many transactions wait for a lock."""
        async with asyncio.timeout(10), self.engine.connect() as connection:
            while True:
                found = await connection.scalar(
                    text("SELECT count(*) FROM pg_stat_activity "
                         "WHERE datname = current_database() AND wait_event_type = 'Lock'")
                )  # fmt: skip
                await connection.rollback()
                if found >= number:
                    return
                await asyncio.sleep(0.01)

    async def send(self, *events: Event) -> None:
        await self.broker.send("orders", [Outgoing(e.id, e.encode(), e.key) for e in events])

    async def charges(self) -> list[tuple[str, int]]:
        async with self.engine.connect() as connection:
            rows = await connection.execute(
                text("SELECT order_id, delivery_attempt FROM charges ORDER BY order_id, id")
            )
            return [(row.order_id, row.delivery_attempt) for row in rows]

    async def drained(self) -> None:
        async with asyncio.timeout(20):
            while True:
                if (await self.subscriber.depth()).total == 0:
                    return
                await asyncio.sleep(0.01)

    async def dead(self) -> list[Message]:
        return await self.broker.subscriber("dlq").receive(
            max_messages=100, wait_s=0, visibility_s=60
        )

    @asynccontextmanager
    async def running(self, *consumers: Consumer) -> AsyncIterator[asyncio.Event]:
        """Run consumers until the block ends; the event stops them earlier."""
        stop = asyncio.Event()
        tasks = [asyncio.create_task(consumer.run(stop)) for consumer in consumers]
        try:
            yield stop
        finally:
            stop.set()
            async with asyncio.timeout(15):
                await asyncio.gather(*tasks)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while True:
                if condition():
                    return
                await asyncio.sleep(0.005)

    def count(self, name: str, **labels: str) -> float:
        """The value of a metric."""
        return REGISTRY.get_sample_value(name, labels) or 0.0

    def order(self, number: int, **data: Any) -> Event:
        """An order; with an `amount`, which is no number, it can be charged on no path."""
        return Event(type="dev.test", data={"n": number} | data, key=f"o-{number}")


@pytest.fixture
async def rig(database_url: str) -> AsyncIterator[Rig]:
    engine = create_engine(database_url, application_name="test-consumer", pool_size=20)
    effects = create_engine(database_url, application_name="test-effect", pool_size=20)
    async with Connections(effects, size=20) as connections:
        yield Rig(engine, connections)
    await effects.dispose()
    await engine.dispose()


@pytest.fixture(params=["handle", "batch", "effect"])
def path(request: pytest.FixtureRequest) -> str:
    """How the consumer charges; what is promised is the same."""
    return str(request.param)


@pytest.fixture(params=["batch", "effect"])
def batch_path(request: pytest.FixtureRequest) -> str:
    """The ways that take several messages in one transaction."""
    return str(request.param)
