"""Several batches under way at once: what overlaps, and that nothing is lost or out of order for it."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from onceproof.crashpoints import RELAY_AFTER_PUBLISH, Armed, crash_points
from onceproof.events import Event
from onceproof.outbox import OutboxStore, Relay, RelaySettings, append
from onceproof.ports import Outgoing, SendResult
from onceproof.postgres import create_engine


class Broker:
    """Takes its time, fails and loses answers as a seeded generator says."""

    def __init__(self, seed: int = 0, *, faults: float = 0.0) -> None:
        self._rng = random.Random(seed)
        self._faults = faults
        self.sent: list[Outgoing] = []
        self.now = 0
        self.most = 0
        self.three_at_once = asyncio.Event()
        self.hold: asyncio.Event | None = None

    async def send(self, destination: str, messages: Sequence[Outgoing]) -> list[SendResult]:
        assert destination
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now == 3:
            self.three_at_once.set()
        try:
            if self.hold is not None and len(self.sent) > 10:
                await self.hold.wait()
            for _ in range(self._rng.randrange(5)):
                await asyncio.sleep(0)
            return [self._one(message) for message in messages]
        finally:
            self.now -= 1

    def _one(self, message: Outgoing) -> SendResult:
        luck = self._rng.random()
        if luck < self._faults:
            return SendResult(message.id, error="throttled")
        self.sent.append(message)
        if luck < 1.5 * self._faults:
            return SendResult(message.id, error="outcome unknown: reset")
        return SendResult(message.id, message_id=f"m-{len(self.sent)}")


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url, application_name="test-pipeline", pool_size=20)
    yield engine
    await engine.dispose()


@pytest.fixture
def disarmed() -> Iterator[None]:
    yield
    crash_points.disarm()


async def add(engine: AsyncEngine, keys: Sequence[str | None]) -> list[str]:
    events = [Event(type="t", data={"n": n}, key=key) for n, key in enumerate(keys)]
    async with AsyncSession(engine) as session:
        for event in events:
            await append(session, event, "orders")
        await session.commit()
    return [event.id for event in events]


async def published(engine: AsyncEngine, count: int) -> None:
    async with asyncio.timeout(30):
        while True:
            async with engine.connect() as connection:
                found = await connection.scalar(
                    text("SELECT count(*) FROM onceproof.outbox WHERE published_at IS NOT NULL")
                )
            if found == count:
                return
            await asyncio.sleep(0.01)


async def until(condition: asyncio.Event) -> None:
    async with asyncio.timeout(10):
        await condition.wait()


def first_sent(broker: Broker, key: str) -> list[str]:
    """Ids of a key's events in the order in which each was sent for the first time."""
    return list(dict.fromkeys(message.id for message in broker.sent if message.key == key))


async def test_batches_overlap_once_the_broker_takes_anything(engine: AsyncEngine) -> None:
    broker = Broker()
    broker.hold = asyncio.Event()
    settings = RelaySettings(batch_size=11, batches_in_flight=3, poll_s=0.02)
    relay = Relay(OutboxStore(engine, relay="r"), broker, settings=settings)
    await add(engine, [None] * 200)
    stop = asyncio.Event()
    running = asyncio.create_task(relay.run(stop))
    await until(broker.three_at_once)
    broker.hold.set()
    await published(engine, 200)
    stop.set()
    await running
    assert broker.most == 3
    assert len(broker.sent) == 200


@pytest.mark.usefixtures("disarmed")
async def test_behind_an_armed_crash_point_there_is_one_batch_at_a_time(
    engine: AsyncEngine,
) -> None:
    broker = Broker()
    crash_points.arm(
        [Armed.from_json({"id": "f", "point": RELAY_AFTER_PUBLISH, "action": "drop",
                          "orders": ["nobody"]})]
    )  # fmt: skip
    settings = RelaySettings(batch_size=10, batches_in_flight=4, poll_s=0.02)
    relay = Relay(OutboxStore(engine, relay="r"), broker, settings=settings)
    await add(engine, [None] * 100)
    stop = asyncio.Event()
    running = asyncio.create_task(relay.run(stop))
    await published(engine, 100)
    stop.set()
    await running
    assert broker.most == 1


async def test_a_key_with_many_events_goes_on_without_waiting_for_a_poll(
    engine: AsyncEngine,
) -> None:
    broker = Broker()
    added = await add(engine, ["hot"] * 60 + ["other"])
    settings = RelaySettings(poll_s=3600)
    relay = Relay(OutboxStore(engine, relay="r"), broker, settings=settings)
    stop = asyncio.Event()
    running = asyncio.create_task(relay.run(stop))
    await published(engine, 61)
    stop.set()
    await running
    assert first_sent(broker, "hot") == added[:60]
    assert len(broker.sent) == 61


@pytest.mark.parametrize("seed", range(4))
async def test_order_per_key_and_nothing_lost_over_relays_that_die_in_the_middle(
    engine: AsyncEngine, seed: int
) -> None:
    rng = random.Random(seed)
    broker = Broker(seed, faults=0.1)
    settings = RelaySettings(
        batch_size=7, batches_in_flight=3, poll_s=0.02, lease_s=0.3,
        backoff_s=0.01, backoff_max_s=0.05, database_backoff_s=0.02,
    )  # fmt: skip
    expected: dict[str | None, list[str]] = defaultdict(list)
    stop = asyncio.Event()

    def start(name: str) -> asyncio.Task[None]:
        store = OutboxStore(engine, relay=name)
        return asyncio.create_task(Relay(store, broker, settings=settings).run(stop))

    relays = [start(f"r-{n}") for n in range(3)]
    count = 0
    for _ in range(12):
        keys: list[str | None] = [
            rng.choice(["a", "b", "hot", "hot", "hot", None]) for _ in range(rng.randrange(1, 20))
        ]
        for key, added in zip(keys, await add(engine, keys), strict=True):
            expected[key].append(added)
        count += len(keys)
        await asyncio.sleep(rng.random() * 0.03)
        victim = rng.randrange(len(relays))
        relays[victim].cancel()  # with what it has in hand: claimed, sent, not marked
        await asyncio.gather(relays[victim], return_exceptions=True)
        relays[victim] = start(f"again-{count}")
    await published(engine, count)
    stop.set()
    await asyncio.gather(*relays)
    assert {message.id for message in broker.sent} == {i for ids in expected.values() for i in ids}
    for key in ("a", "b", "hot"):
        assert first_sent(broker, key) == expected[key]
