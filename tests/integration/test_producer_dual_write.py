"""The naive producer: its dual write must show the breach that the outbox closes."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from onceproof import metrics
from onceproof.crashpoints import (
    PRODUCER_AFTER_COMMIT,
    RELAY_AFTER_PUBLISH,
    RELAY_BEFORE_PUBLISH,
    Action,
    Armed,
    crash_points,
)
from onceproof.events import Event
from onceproof.ports import Outgoing, SendResult
from onceproof.postgres import Connections, create_engine
from onceproof.service.asgi import serve
from onceproof_producer.app import create_app
from onceproof_producer.dual_write import DirectPublisher
from onceproof_producer.orders import Orders

QUEUE = "orders"
APPLICATION = "test-dual-write"


class RecordingPublisher:
    """Confirms what it is sent, or fails it all."""

    def __init__(self, error: str | None = None) -> None:
        self.error = error
        self.sent: list[Outgoing] = []

    async def send(self, destination: str, messages: Sequence[Outgoing]) -> list[SendResult]:
        assert destination == QUEUE
        self.sent += messages
        return [SendResult(m.id, None if self.error else "mid", self.error) for m in messages]


@asynccontextmanager
async def client_of(orders: Orders) -> AsyncIterator[aiohttp.ClientSession]:
    stop = asyncio.Event()
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    app = create_app(orders, max_body_bytes=4096)
    server = asyncio.create_task(serve(app, "127.0.0.1", 0, stop, 5, on_bound=port.set_result))
    async with aiohttp.ClientSession(f"http://127.0.0.1:{await port}") as client:
        yield client
    stop.set()
    await server


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url, application_name=APPLICATION)
    yield engine
    await engine.dispose()


@pytest.fixture
def order() -> dict[str, Any]:
    return {"order_id": f"o-{uuid.uuid4().hex}", "amount": 1999, "currency": "EUR"}


@pytest.fixture
def arm() -> Iterator[Callable[[str, str], None]]:
    def armed(point: str, order_id: str) -> None:
        crash_points.arm([Armed(uuid.uuid4().hex, point, Action.DROP, frozenset({order_id}))])

    yield armed
    crash_points.disarm()


def headers(key: str = "", **more: str) -> dict[str, str]:
    return {"Content-Type": "application/json", "Idempotency-Key": key or uuid.uuid4().hex} | more


async def rows(engine: AsyncEngine, sql: str, order_id: str) -> list[Any]:
    async with engine.connect() as connection:
        return list(await connection.execute(text(sql), {"order_id": order_id}))


async def _place_naively(
    engine: AsyncEngine, publisher: RecordingPublisher, order: dict[str, Any]
) -> tuple[int, float]:
    before = metrics.publish_failures._value.get()
    orders = Orders(Connections(engine), QUEUE, direct=DirectPublisher(publisher, QUEUE))
    async with (
        client_of(orders) as client,
        client.post("/orders", json=order, headers=headers()) as response,
    ):
        await response.read()
    written = await rows(
        engine, "SELECT 1 FROM onceproof.outbox WHERE key = :order_id", order["order_id"]
    )
    assert written == []
    return response.status, metrics.publish_failures._value.get() - before


async def test_without_the_outbox_the_event_is_published_after_the_commit(
    engine: AsyncEngine, order: dict[str, Any]
) -> None:
    publisher = RecordingPublisher()
    assert await _place_naively(engine, publisher, order) == (201, 0)
    [message] = publisher.sent
    event = Event.decode(message.body)
    assert (message.id, message.key, event.data) == (event.id, order["order_id"], order)


async def test_without_the_outbox_a_failed_publish_is_answered_all_the_same(
    engine: AsyncEngine, order: dict[str, Any]
) -> None:
    publisher = RecordingPublisher(error="no route to the broker")
    assert await _place_naively(engine, publisher, order) == (201, 1)
    found = await rows(engine, "SELECT 1 FROM orders WHERE order_id = :order_id", order["order_id"])
    assert len(found) == 1


@pytest.mark.parametrize(("point", "sent"), [(RELAY_BEFORE_PUBLISH, 0), (RELAY_AFTER_PUBLISH, 1)])
async def test_without_the_outbox_a_dropped_publish_is_counted(
    point: str,
    sent: int,
    engine: AsyncEngine,
    order: dict[str, Any],
    arm: Callable[[str, str], None],
) -> None:
    arm(point, order["order_id"])
    publisher = RecordingPublisher()
    assert await _place_naively(engine, publisher, order) == (201, 1)
    assert len(publisher.sent) == sent


async def test_a_crash_after_the_commit_loses_the_event_and_the_replay_does_not_send_it(
    engine: AsyncEngine, order: dict[str, Any], arm: Callable[[str, str], None]
) -> None:
    publisher = RecordingPublisher()
    orders = Orders(Connections(engine), QUEUE, direct=DirectPublisher(publisher, QUEUE))
    arm(PRODUCER_AFTER_COMMIT, order["order_id"])
    same = headers()
    async with client_of(orders) as client:
        async with client.post("/orders", json=order, headers=same) as response:
            assert response.status == 500
        async with client.post("/orders", json=order, headers=same) as again:
            assert again.status == 201
    assert publisher.sent == []
