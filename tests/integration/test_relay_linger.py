"""A relay that was woken lets rows gather, but only where they do, and in nobody's way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from onceproof.crashpoints import RELAY_AFTER_PUBLISH, Armed, crash_points
from onceproof.events import Event
from onceproof.linger import Linger
from onceproof.outbox import OutboxStore, Relay, RelaySettings, append
from onceproof.ports import Outgoing, SendResult
from onceproof.postgres import create_engine


class Broker:
    """Takes everything; counts the requests."""

    def __init__(self) -> None:
        self.requests = 0

    async def send(self, destination: str, messages: Sequence[Outgoing]) -> list[SendResult]:
        assert destination
        self.requests += 1
        return [SendResult(message.id, message_id="m") for message in messages]


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url, application_name="test-linger")
    yield engine
    await engine.dispose()


@pytest.fixture
def disarmed() -> Iterator[None]:
    yield
    crash_points.disarm()


@pytest.fixture
def lingering(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Every pause is an hour long; set when one was asked for."""
    asked = asyncio.Event()

    def delay_s(_linger: Linger, _now: float) -> float:
        asked.set()
        return 3600.0

    monkeypatch.setattr(Linger, "delay_s", delay_s)
    return asked


async def add(engine: AsyncEngine, *keys: str | None) -> None:
    async with AsyncSession(engine) as session:
        for key in keys:
            await append(session, Event(type="t", data=None, key=key), "orders")
        await session.commit()


async def published(engine: AsyncEngine, count: int) -> None:
    async with asyncio.timeout(15):
        while True:
            async with engine.connect() as connection:
                found = await connection.scalar(
                    text("SELECT count(*) FROM onceproof.outbox WHERE published_at IS NOT NULL")
                )
            if found == count:
                return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(
    engine: AsyncEngine, broker: Broker, linger_s: float = 0.01
) -> AsyncIterator[asyncio.Event]:
    """A relay that only a wake-up makes look; the wake-up."""
    stop, wakeup = asyncio.Event(), asyncio.Event()
    settings = RelaySettings(poll_s=3600, linger_s=linger_s)
    relay = Relay(OutboxStore(engine, relay="r"), broker, wakeup=wakeup, settings=settings)
    task = asyncio.create_task(relay.run(stop))
    try:
        yield wakeup
    finally:
        stop.set()
        async with asyncio.timeout(10):
            await task


async def test_a_steady_stream_of_single_commits_shares_requests(engine: AsyncEngine) -> None:
    broker = Broker()
    async with running(engine, broker, linger_s=1) as wakeup:
        for _ in range(150):
            await add(engine, None)
            wakeup.set()
        await published(engine, 150)
    assert broker.requests < 75


async def test_a_row_that_comes_alone_is_sent_at_once(engine: AsyncEngine) -> None:
    broker = Broker()
    async with running(engine, broker, linger_s=3600) as wakeup:
        await add(engine, None)
        wakeup.set()
        await published(engine, 1)


async def test_neither_a_stop_nor_the_next_of_a_key_waits_for_others(
    engine: AsyncEngine, lingering: asyncio.Event
) -> None:
    await add(engine, *["hot"] * 5)
    broker = Broker()
    async with running(engine, broker) as wakeup:
        await published(engine, 5)
        assert broker.requests == 5
        lingering.clear()
        wakeup.set()
        async with asyncio.timeout(10):
            await lingering.wait()


@pytest.mark.usefixtures("disarmed", "lingering")
async def test_behind_an_armed_crash_point_nothing_lingers(engine: AsyncEngine) -> None:
    crash_points.arm(
        [Armed.from_json({"id": "f", "point": RELAY_AFTER_PUBLISH, "action": "drop",
                          "orders": ["nobody"]})]
    )  # fmt: skip
    broker = Broker()
    async with running(engine, broker) as wakeup:
        for count in (1, 2):
            await add(engine, None)
            wakeup.set()
            await published(engine, count)
