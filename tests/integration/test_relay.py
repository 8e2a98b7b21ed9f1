"""Relays on a real Postgres: side by side, woken, disturbed and stopped."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from onceproof.crashpoints import RELAY_AFTER_PUBLISH, RELAY_BEFORE_PUBLISH, Armed, crash_points
from onceproof.events import Event
from onceproof.outbox import Listener, OutboxStore, Relay, RelaySettings, Waker, append
from onceproof.ports import Outgoing, SendResult
from onceproof.postgres import create_engine

FAST = RelaySettings(
    poll_s=0.02, backoff_s=0.02, backoff_max_s=0.1, database_backoff_s=0.05, lease_s=10
)


class Broker:
    """Records what is sent. `answer` decides on each entry; None means confirmed."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []
        self.calls = 0
        self.answer: Callable[[Outgoing], str | None] = lambda _: None
        self.before: Callable[[], Awaitable[None]] | None = None

    async def send(self, destination: str, messages: Sequence[Outgoing]) -> list[SendResult]:
        assert destination
        self.calls += 1
        if self.before is not None:
            await self.before()
        results = []
        for message in messages:
            error = self.answer(message)
            if error is None:
                self.sent.append(message)
                results.append(SendResult(message.id, message_id=f"m-{len(self.sent)}"))
            else:
                results.append(SendResult(message.id, error=error))
        return results


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url, application_name="test-relay", lock_timeout_s=0.3)
    yield engine
    await engine.dispose()


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def disarmed() -> Iterator[None]:
    yield
    crash_points.disarm()


async def add(engine: AsyncEngine, *keys: str | None, destination: str = "orders") -> list[str]:
    events = [Event(type="dev.test", data={"n": n}, key=key) for n, key in enumerate(keys)]
    async with AsyncSession(engine) as session:
        for event in events:
            await append(session, event, destination)
        await session.commit()
    return [event.id for event in events]


@asynccontextmanager
async def running(*relays: Relay) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    tasks = [asyncio.create_task(relay.run(stop)) for relay in relays]
    try:
        yield stop
    finally:
        stop.set()
        async with asyncio.timeout(10):
            await asyncio.gather(*tasks)


async def until(condition: Callable[[], bool], timeout_s: float = 15) -> None:
    async with asyncio.timeout(timeout_s):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def published(engine: AsyncEngine, count: int, timeout_s: float = 15) -> None:
    async with asyncio.timeout(timeout_s):
        while True:
            async with engine.connect() as connection:
                found = await connection.scalar(
                    text("SELECT count(*) FROM onceproof.outbox WHERE published_at IS NOT NULL")
                )
            if found == count:
                return
            await asyncio.sleep(0.01)


def relay(
    engine: AsyncEngine, broker: Broker, name: str = "r", settings: RelaySettings = FAST
) -> Relay:
    return Relay(OutboxStore(engine, relay=name), broker, settings=settings)


async def test_several_relays_send_everything_once_and_in_order_per_key(
    engine: AsyncEngine, broker: Broker
) -> None:
    keys = [f"k-{n % 7}" for n in range(70)] + [None] * 30
    added = await add(engine, *keys)
    failures: dict[str, int] = defaultdict(int)

    def flaky(message: Outgoing) -> str | None:
        failures[message.id] += 1
        return (
            "throttled" if sum(message.id.encode()) % 3 == 0 and failures[message.id] < 3 else None
        )

    broker.answer = flaky
    async with running(*(relay(engine, broker, f"r-{n}") for n in range(4))):
        await until(lambda: len(broker.sent) == 100)
        await published(engine, 100)
    assert sorted(message.id for message in broker.sent) == sorted(added)
    for key in set(keys) - {None}:
        of_key = [message.id for message in broker.sent if message.key == key]
        assert of_key == [one for one, k in zip(added, keys, strict=True) if k == key]


async def test_a_failing_key_does_not_hold_up_others_and_goes_on_later(
    engine: AsyncEngine, broker: Broker
) -> None:
    stuck, behind, *others = await add(engine, "a", "a", "b", "b", None)
    refused = True
    broker.answer = lambda message: "refused" if message.id == stuck and refused else None
    async with running(relay(engine, broker)):
        await until(lambda: len(broker.sent) == 3)
        assert {message.id for message in broker.sent} == set(others)
        async with engine.connect() as connection:
            row = (
                await connection.execute(
                    text("SELECT last_error, attempts, published_at FROM onceproof.outbox "
                         "WHERE id = :id"),
                    {"id": stuck},
                )
            ).one()  # fmt: skip
        assert row.last_error == "refused"
        assert row.attempts >= 1
        assert row.published_at is None
        refused = False
        await until(lambda: len(broker.sent) == 5)
    assert [message.id for message in broker.sent[3:]] == [stuck, behind]


async def test_an_error_that_postgres_cannot_store_does_not_stop_the_relay(
    engine: AsyncEngine, broker: Broker
) -> None:
    await add(engine, None)
    answers = ["bad \x00 byte", "half a pair \ud800", "x" * 100_000]
    broker.answer = lambda _: answers.pop() if answers else None
    async with running(relay(engine, broker)):
        await published(engine, 1)


async def test_a_broker_that_is_away_is_not_hammered(engine: AsyncEngine, broker: Broker) -> None:
    await add(engine, *[None] * 400)
    broker.answer = lambda _: "broker unavailable"
    settings = RelaySettings(
        batch_size=10, poll_s=0.02, backoff_s=0.01, backoff_max_s=0.01, database_backoff_s=0.2
    )
    health: list[tuple[str, str | None]] = []
    told = Relay(
        OutboxStore(engine, relay="r"),
        broker,
        settings=settings,
        on_health=lambda dependency, reason: health.append((dependency, reason)),
    )
    async with running(told):
        await until(lambda: broker.calls >= 1)
        before = broker.calls
        await asyncio.sleep(0.6)  # the measured window, not a wait for something
        assert broker.calls - before <= 5
        assert set(health) == {("broker", "broker unavailable")}
        broker.answer = lambda _: None
        await published(engine, 400)
    assert health[-1] == ("broker", None)


async def test_a_failure_is_forgotten_when_another_relay_has_sent_the_row(
    engine: AsyncEngine, broker: Broker
) -> None:
    await add(engine, None)
    broker.answer = lambda _: "broker unavailable"
    health: list[str | None] = []
    told = Relay(
        OutboxStore(engine, relay="r"),
        broker,
        settings=FAST,
        on_health=lambda _, reason: health.append(reason),
    )
    async with running(told):
        await until(lambda: bool(health))
        async with engine.begin() as connection:
            await connection.execute(
                text("UPDATE onceproof.outbox SET published_at = clock_timestamp()")
            )
        await until(lambda: health[-1] is None)
    assert broker.sent == []


async def test_a_wake_up_makes_a_slow_relay_send_at_once_also_after_its_connection_was_lost(
    engine: AsyncEngine, broker: Broker
) -> None:
    woken = asyncio.Event()
    slow = Relay(
        OutboxStore(engine, relay="r"), broker, wakeup=woken, settings=RelaySettings(poll_s=60)
    )
    waker = Waker(engine)
    duties = [
        asyncio.create_task(Listener(engine, woken, reconnect_s=0.05).run()),
        asyncio.create_task(waker.run()),
    ]
    try:
        async with running(slow):
            listening = await _listener_pid(engine)
            await add(engine, None)
            waker.wake()
            await published(engine, 1, timeout_s=5)
            async with engine.begin() as connection:
                await connection.execute(text("SELECT pg_terminate_backend(:p)"), {"p": listening})
            assert await _listener_pid(engine, other_than=listening) != listening
            await add(engine, None)
            waker.wake()
            await published(engine, 2, timeout_s=5)
        assert all(not duty.done() for duty in duties)
    finally:
        for duty in duties:
            duty.cancel()
        await asyncio.gather(*duties, return_exceptions=True)


async def _listener_pid(engine: AsyncEngine, other_than: int = 0) -> int:
    async with asyncio.timeout(5):
        while True:
            async with engine.connect() as connection:
                pid = await connection.scalar(
                    text("SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
                         "AND query LIKE 'LISTEN%' AND pid <> :other"),
                    {"other": other_than},
                )  # fmt: skip
            if pid is not None:
                return int(pid)
            await asyncio.sleep(0.01)


async def test_many_wakes_share_a_notification(engine: AsyncEngine) -> None:
    woken = asyncio.Event()
    counted = 0

    class Counting(asyncio.Event):
        def set(self) -> None:
            nonlocal counted
            counted += 1
            super().set()

    waker = Waker(engine, min_interval_s=0.05)
    listener = asyncio.create_task(Listener(engine, woken := Counting()).run())
    sender = asyncio.create_task(waker.run())
    try:
        await asyncio.wait_for(woken.wait(), 5)  # it listens
        before = counted
        for _ in range(1000):
            waker.wake()
            await asyncio.sleep(0)
        await until(lambda: counted > before)
        assert counted - before < 20
    finally:
        listener.cancel()
        sender.cancel()
        await asyncio.gather(listener, sender, return_exceptions=True)


async def test_a_lost_wake_up_connection_is_not_left_in_the_pool(database_url: str) -> None:
    engine = create_engine(database_url, application_name="test-listener", pool_size=1)
    other = create_engine(database_url, application_name="test-other", pool_size=1)
    listener = asyncio.create_task(Listener(engine, asyncio.Event(), reconnect_s=30).run())
    try:
        pid = await _listener_pid(other)
        async with other.begin() as connection:
            await connection.execute(text("SELECT pg_terminate_backend(:p)"), {"p": pid})
        async with engine.connect() as connection:  # waits until the listener gave it back
            assert await connection.scalar(text("SELECT 1")) == 1
    finally:
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)
        await engine.dispose()
        await other.dispose()


async def test_stop_finishes_the_batch_in_hand(engine: AsyncEngine, broker: Broker) -> None:
    await add(engine, None, None)
    sending, release = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        sending.set()
        await release.wait()

    broker.before = wait
    stop = asyncio.Event()
    task = asyncio.create_task(relay(engine, broker).run(stop))
    await asyncio.wait_for(sending.wait(), 5)
    stop.set()
    await add(engine, None)
    release.set()
    await asyncio.wait_for(task, 5)
    await published(engine, 2)
    assert len(broker.sent) == 2
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_stop_ends_a_long_pause(engine: AsyncEngine, broker: Broker) -> None:
    async with running(relay(engine, broker, settings=RelaySettings(poll_s=3600))) as stop:
        stop.set()


async def test_terminated_backends_are_survived_and_nothing_is_lost(
    engine: AsyncEngine, broker: Broker, database_url: str
) -> None:
    admin = create_engine(database_url, application_name="admin", pool_size=1)
    settings = RelaySettings(batch_size=5, lease_s=0.3, poll_s=0.02, database_backoff_s=0.02)
    added: list[str] = []
    try:
        async with running(*(relay(engine, broker, f"r-{n}", settings) for n in range(3))):
            for _ in range(8):
                async with AsyncSession(admin) as session:
                    for _ in range(10):
                        event = Event(type="t", data=None)
                        added.append((await append(session, event, "orders")).id)
                    await session.commit()
                async with admin.begin() as connection:
                    await connection.execute(
                        text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
                             "datname = current_database() AND application_name = 'test-relay'")
                    )  # fmt: skip
                await asyncio.sleep(0.02)
            await published(admin, 80)
    finally:
        await admin.dispose()
    assert {message.id for message in broker.sent} == set(added)


async def test_a_table_lock_does_not_end_the_relay(engine: AsyncEngine, broker: Broker) -> None:
    await add(engine, None)
    async with running(relay(engine, broker)):
        await published(engine, 1)
        async with engine.begin() as connection:
            await connection.execute(text("LOCK onceproof.outbox IN ACCESS EXCLUSIVE MODE"))
            await asyncio.sleep(0.8)  # longer than the relay's lock timeout
        await add(engine, None)
        await published(engine, 2)


@pytest.mark.usefixtures("disarmed")
async def test_a_dropped_publish_is_sent_later_and_an_unknown_one_again(
    engine: AsyncEngine, broker: Broker
) -> None:
    await add(engine, "before", "after", "fine")
    crash_points.arm(
        Armed.from_json({"id": f"relay-{point}-{key}", "point": point, "action": "drop",
                         "orders": [key]})
        for point, key in ((RELAY_BEFORE_PUBLISH, "before"), (RELAY_AFTER_PUBLISH, "after"))
    )  # fmt: skip
    first = relay(engine, broker)
    assert await first.run_once() == 3
    assert sorted(str(message.key) for message in broker.sent) == ["after", "fine"]
    async with running(first):
        await published(engine, 3)
    sent = sorted(str(message.key) for message in broker.sent)
    assert sent == ["after", "after", "before", "fine"]
    assert len({message.id for message in broker.sent}) == 3  # the same event under its own id
