"""Any interleaving of crashes and redeliveries keeps one charge for each order.

Hypothesis writes the schedule; the library's own relay, settler and transaction carry it out on a real
Postgres. A crash is an exception that nothing may catch: the step is abandoned, its transaction rolled
back as Postgres does when a connection dies, its acks never sent. What it did in other systems stays.
Afterwards everything is drained without faults and the ledgers are counted. With one of the fixes
switched off the same property must be falsified, or it would prove nothing.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from onceproof.brokers.memory import MemoryBroker
from onceproof.consumer import ConsumerSettings, SqlEffect
from onceproof.consumer.acker import Acker
from onceproof.consumer.effect import EffectTransaction
from onceproof.consumer.gate import Gate
from onceproof.consumer.handler import Transaction, Work
from onceproof.consumer.inflight import InFlight, InHand
from onceproof.consumer.settle import Settler
from onceproof.errors import OutcomeUnknownError
from onceproof.events import ORDER_PLACED, Event
from onceproof.outbox import OutboxStore, Relay, RelaySettings, append
from onceproof.ports import Delivery, Outgoing, SendResult
from onceproof.postgres import Connections, create_engine
from onceproof.variants import HARDENED, Fixes, parse_variant

VISIBILITY_S = 30.0
CHARGE = SqlEffect("""
    INSERT INTO charges (order_id, event_id, amount, currency, provider_charge_id, delivery_attempt)
    SELECT key, event_id, 1, 'EUR', 'c', attempt FROM events RETURNING event_id
""")


class Crash(BaseException):
    """The process is gone. No handler of the library may swallow it."""


class BreachError(AssertionError):
    """The ledgers do not show one charge for each order."""


Behaviour = Callable[[], Awaitable[None]]


async def _nothing() -> None:
    """No fault."""


@dataclass
class Faults:
    """What happens within one delivery, before and after the provider was asked."""

    before_charge: Behaviour = _nothing
    after_charge: Behaviour = _nothing
    reply_lost: bool = False


class FaultyConnections(Connections):
    """Where an effect in SQL runs, with faults at the moments that a handler has in Python."""

    faults = Faults()

    async def run(self, use: Callable[[Any], Awaitable[Any]]) -> Any:
        async def faulty(connection: Any) -> Any:
            await self.faults.before_charge()
            async with connection.transaction():
                result = await use(connection)
                await self.faults.after_charge()
            return result

        result = await super().run(faulty)
        if self.faults.reply_lost:
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle")
        return result


@dataclass
class Publisher:
    """The broker as one relay sees it, with a fault."""

    broker: MemoryBroker
    fault: str
    meanwhile: Callable[[], Awaitable[None]]

    async def send(self, destination: str, messages: Sequence[Outgoing]) -> list[SendResult]:
        if self.fault == "crash before publish":
            raise Crash
        if self.fault == "an entry fails":
            self.broker.fail_next_send([messages[0].id])
        if self.fault == "zombie":
            await self.meanwhile()
        results = await self.broker.send(destination, messages)
        if self.fault == "crash after publish":
            raise Crash
        return results


@dataclass
class World:
    """Postgres, a queue, a payment provider, and the processes that come and go between them."""

    engine: AsyncEngine
    fixes: Fixes
    connections: FaultyConnections | None = None
    offset_s: float = 0.0
    placed: list[str] = field(default_factory=list)
    captures: list[str] = field(default_factory=list)
    by_key: dict[str, str] = field(default_factory=dict)
    sent: list[Event] = field(default_factory=list)
    delivered: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        # Ahead of the consumer's own clock, so that no consumer sees that its visibility lapsed.
        self.broker = MemoryBroker(lambda: time.monotonic() + self.offset_s)
        self.broker.create_queue("orders")
        self.sessions = async_sessionmaker(self.engine, expire_on_commit=False)

    async def place(self, fault: str) -> None:
        order_id = f"o-{len(self.placed)}"
        event = Event(type=ORDER_PLACED, data={"order_id": order_id}, key=order_id)
        async with self.sessions() as session:
            await session.execute(
                text("INSERT INTO orders (order_id, amount, currency, event_id) "
                     "VALUES (:order_id, 1, 'EUR', :event_id)"),
                {"order_id": order_id, "event_id": event.id},
            )  # fmt: skip
            await append(session, event, "orders")
            if fault == "crash before commit":
                return
            await session.commit()
        self.placed.append(order_id)
        self.sent.append(event)

    async def relay(self, fault: str) -> None:
        async def another_relay() -> None:
            await self.end_leases()
            await self.relay("none")

        publisher = Publisher(self.broker, fault, another_relay)
        relay = Relay(
            OutboxStore(self.engine, relay="r"),
            publisher,
            settings=RelaySettings(batch_size=3),
            rng=random.Random(0),
        )
        with suppress(Crash):
            await relay.run_once()

    async def duplicate(self, _fault: str) -> None:
        """A relay that died after its publish: the same event under a new message id."""
        if self.sent:
            event = self.sent[-1]
            await self.broker.send("orders", [Outgoing(event.id, event.encode(), event.key)])

    async def advance(self, _fault: str) -> None:
        """Every visibility lapses, every lease and every backoff ends."""
        self.offset_s += VISIBILITY_S * 20
        await self.end_leases()

    async def end_leases(self) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(
                text("UPDATE onceproof.outbox SET available_at = '-infinity' "
                     "WHERE published_at IS NULL")
            )  # fmt: skip

    async def consume(self, fault: str, *, most: int = 1) -> None:
        with suppress(Crash):
            await self.deliver(_faults(fault), acks=fault != "crash after commit", most=most)

    async def batch(self, fault: str) -> None:
        await self.consume(fault, most=3)

    async def zombie(self, fault: str) -> None:
        """The first consumer stands still after its charge while a second gets the message."""
        charged, go_on = asyncio.Event(), asyncio.Event()

        async def stand_still() -> None:
            charged.set()
            await go_on.wait()
            if fault == "crashes":
                raise Crash

        first = asyncio.create_task(self.deliver(Faults(after_charge=stand_still)))
        reached = asyncio.create_task(charged.wait())
        await asyncio.wait({first, reached}, return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        await self.advance("")
        second = asyncio.create_task(self.deliver(Faults()))
        await asyncio.wait({second}, timeout=0.02)  # done, or blocked by the key of the first
        go_on.set()
        for task in (first, second):
            with suppress(Crash):
                await task

    async def deliver(self, faults: Faults, *, acks: bool = True, most: int = 1) -> int:
        """One consumer process takes up to `most` messages; how many there were."""
        subscriber = self.broker.subscriber("orders")
        messages = await subscriber.receive(max_messages=most, wait_s=0, visibility_s=VISIBILITY_S)
        in_flight = InFlight(10)
        items = []
        for message in messages:
            event = Event.decode(message.body)
            self.delivered[event.id] += 1
            key = event.id if self.fixes.dedup_on_event_id else message.message_id
            items.append(InHand(Delivery(event, message, key), message.visible_until))
            in_flight.add(items[-1])
        acker = Acker(subscriber, linger_s=0, system="memory")
        settler = Settler(
            subscriber,
            self.work(faults),
            acker,
            in_flight,
            Gate(_never, interval_s=1),
            ConsumerSettings("payments", fixes=self.fixes),
            random.Random(0),
        )
        if items:
            await settler.settle(items)
        if acks:
            await acker.flush()
        return len(items)

    def work(self, faults: Faults) -> Work:
        if self.connections is None:
            return Transaction("payments", self.sessions, *self.handlers(faults), self.fixes)
        connections = copy(self.connections)  # a process of its own, as the faults are
        connections.faults = faults
        return EffectTransaction("payments", connections, CHARGE, self.fixes)

    def handlers(
        self, faults: Faults
    ) -> tuple[
        Callable[[AsyncSession, Delivery], Awaitable[None]],
        Callable[[AsyncSession, Sequence[Delivery]], Awaitable[None]],
    ]:
        async def handle(session: AsyncSession, delivery: Delivery) -> None:
            await faults.before_charge()
            order_id = str(delivery.event.key)
            self.capture(order_id, delivery.dedup_key)
            await session.execute(
                text("INSERT INTO charges (order_id, event_id, amount, currency, "
                     "provider_charge_id, delivery_attempt) VALUES (:o, :e, 1, 'EUR', 'c', :a)"),
                {"o": order_id, "e": delivery.event.id, "a": delivery.attempt},
            )  # fmt: skip
            await faults.after_charge()
            if faults.reply_lost:
                raise OutcomeUnknownError("the provider's answer was lost")

        async def handle_batch(session: AsyncSession, deliveries: Sequence[Delivery]) -> None:
            for delivery in deliveries:
                await handle(session, delivery)

        return handle, handle_batch

    def capture(self, order_id: str, key: str) -> None:
        """The provider: another system, which no rollback of ours reaches."""
        if self.fixes.idempotency_key:
            if key in self.by_key:
                return
            self.by_key[key] = order_id
        self.captures.append(order_id)

    async def drain(self) -> None:
        for _ in range(200):
            await self.advance("")
            await self.relay("none")
            while await self.deliver(Faults(), most=3):
                pass
            pending, _ = await OutboxStore(self.engine, relay="r").pending()
            if not pending and not (await self.broker.subscriber("orders").depth()).total:
                return
        raise BreachError("it does not come to rest")

    async def check(self) -> None:
        async with self.engine.connect() as connection:
            charges = list(await connection.scalars(text("SELECT order_id FROM charges")))
        wanted = Counter(self.placed)
        if self.connections is not None:
            self.captures = charges  # an effect in SQL has no other system to reach
        if Counter(charges) != wanted or Counter(self.captures) != wanted:
            raise BreachError(f"{wanted=} {charges=} captures={self.captures}")


async def _never() -> None:
    """The database never goes away here."""


def _faults(fault: str) -> Faults:
    async def crash() -> None:
        raise Crash

    return {
        "crash before charge": Faults(before_charge=crash),
        "crash after charge": Faults(after_charge=crash),
        "reply lost": Faults(reply_lost=True),
    }.get(fault, Faults())


DELIVERY_FAULTS = (
    "none", "crash before charge", "crash after charge", "crash after commit", "reply lost",
)  # fmt: skip
FAULTS = {
    "place": ("none", "crash before commit"),
    "relay": ("none", "crash before publish", "crash after publish", "an entry fails", "zombie"),
    "consume": DELIVERY_FAULTS,
    "batch": DELIVERY_FAULTS,
    "zombie": ("commits", "crashes"),
    "duplicate": ("",),
    "advance": ("",),
}
schedules = st.lists(
    st.sampled_from([(step, fault) for step, faults in FAULTS.items() for fault in faults]),
    min_size=3,
    max_size=25,
).map(lambda steps: [("place", "none"), *steps])


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def engine(runner: asyncio.Runner, database_url: str) -> Iterator[AsyncEngine]:
    made = create_engine(database_url, application_name="test-model", pool_size=5)

    async def prepare() -> None:
        async with made.begin() as connection:
            # What is committed is the question here, not whether the server survives a power cut.
            await connection.execute(
                text("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off',"
                     " current_database()); END $$")
            )  # fmt: skip
        await made.dispose()

    runner.run(prepare())
    yield made
    runner.run(made.dispose())


@pytest.fixture
def connections(runner: asyncio.Runner, database_url: str) -> Iterator[FaultyConnections]:
    engine = create_engine(database_url, application_name="test-model", pool_size=5)
    made = FaultyConnections(engine, size=5)
    runner.run(made.__aenter__())
    yield made
    runner.run(made.__aexit__(None, None, None))
    runner.run(engine.dispose())


@pytest.fixture(params=["handler", "effect"])
def by(request: pytest.FixtureRequest, connections: FaultyConnections) -> FaultyConnections | None:
    """Where the effect in SQL runs; None where a handler charges."""
    return connections if request.param == "effect" else None


async def _example(
    engine: AsyncEngine,
    fixes: Fixes,
    schedule: list[tuple[str, str]],
    by: FaultyConnections | None,
) -> World:
    async with engine.begin() as connection:
        for table in ("orders", "charges", "onceproof.inbox", "onceproof.outbox"):
            await connection.execute(text(f"DELETE FROM {table}"))  # noqa: S608 - a literal above
    world = World(engine, fixes, by)
    for step, fault in schedule:
        await getattr(world, step)(fault)
    await world.drain()
    await world.check()
    return world


def test_any_schedule_keeps_one_charge_per_order(
    runner: asyncio.Runner, engine: AsyncEngine, by: FaultyConnections | None
) -> None:
    redelivered = captured = 0

    @settings(
        max_examples=150,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(schedules)
    def holds(schedule: list[tuple[str, str]]) -> None:
        nonlocal redelivered, captured
        world = runner.run(_example(engine, HARDENED, schedule, by))
        redelivered += world.delivered.total() - len(world.delivered)
        captured += len(world.captures)

    holds()
    assert captured > 150
    assert redelivered > 150  # a schedule without redeliveries would prove nothing


@pytest.mark.parametrize("fix", ["inbox", "idempotency_key", "dedup_on_event_id"])
def test_without_a_fix_a_schedule_breaks_it(
    runner: asyncio.Runner, engine: AsyncEngine, fix: str, by: FaultyConnections | None
) -> None:
    if by is not None and fix == "idempotency_key":
        pytest.skip("an effect in SQL asks no other system")

    @settings(
        max_examples=150,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(schedules)
    def holds(schedule: list[tuple[str, str]]) -> None:
        runner.run(_example(engine, parse_variant(f"hardened-{fix}"), schedule, by))

    with pytest.raises(BreachError):
        holds()


@pytest.mark.parametrize(
    "schedule",
    [
        [("consume", "crash after charge")],
        [("consume", "crash after commit"), ("advance", ""), ("consume", "none")],
        [("zombie", "commits")],
        [("zombie", "crashes"), ("consume", "reply lost")],
        [("duplicate", ""), ("batch", "reply lost"), ("batch", "crash after commit")],
    ],
)
def test_the_schedules_that_hurt_most(
    runner: asyncio.Runner,
    engine: AsyncEngine,
    schedule: list[tuple[str, str]],
    by: FaultyConnections | None,
) -> None:
    start = [("place", "none"), ("place", "crash before commit"), ("relay", "crash after publish"),
             ("advance", ""), ("relay", "none")]  # fmt: skip
    world = runner.run(_example(engine, HARDENED, start + schedule, by))
    assert world.captures == ["o-0"]
