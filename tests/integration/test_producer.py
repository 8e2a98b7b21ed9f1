"""The order API over HTTP, on a real Postgres."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from onceproof.crashpoints import (
    PRODUCER_AFTER_COMMIT,
    Action,
    Armed,
    crash_points,
)
from onceproof.events import ORDER_PLACED, Event
from onceproof.postgres import Connections, create_engine
from onceproof.service.asgi import serve
from onceproof_producer.app import create_app
from onceproof_producer.orders import Orders

QUEUE = "orders"
APPLICATION = "test-producer"
PROBLEM = "application/problem+json"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


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
async def client(engine: AsyncEngine) -> AsyncIterator[aiohttp.ClientSession]:
    async with client_of(Orders(Connections(engine), QUEUE)) as client:
        yield client


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


async def problem(response: aiohttp.ClientResponse) -> dict[str, Any]:
    assert response.content_type == PROBLEM
    document = await response.json(content_type=PROBLEM)
    assert document["status"] == response.status
    assert {"type", "title"} <= set(document)
    assert isinstance(document, dict)
    return document


async def counts(engine: AsyncEngine) -> tuple[int, int, int]:
    async with engine.connect() as connection:
        row = await connection.execute(
            text(
                "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM onceproof.outbox), "
                "(SELECT count(*) FROM onceproof.idempotency_keys)"
            )
        )
        one, two, three = row.one()
        return one, two, three


async def rows(engine: AsyncEngine, sql: str, order_id: str) -> list[Any]:
    async with engine.connect() as connection:
        return list(await connection.execute(text(sql), {"order_id": order_id}))


async def eventually(condition: Callable[[], Awaitable[list[Any]]]) -> list[Any]:
    async with asyncio.timeout(10):
        while True:
            if found := await condition():
                return found
            await asyncio.sleep(0.01)


async def test_an_order_is_accepted_with_its_event_in_one_transaction(
    client: aiohttp.ClientSession, engine: AsyncEngine, order: dict[str, Any]
) -> None:
    parent = f"00-{TRACE_ID}-b7ad6b7169203331-01"
    async with client.post("/orders", json=order, headers=headers(traceparent=parent)) as response:
        accepted = await response.json()
        assert response.status == 201
        assert response.headers["Location"] == f"/orders/{order['order_id']}"
        assert "Idempotent-Replayed" not in response.headers
    assert accepted == order | {"status": "accepted", "event_id": accepted["event_id"]}

    [written] = await rows(
        engine, "SELECT amount, event_id FROM orders WHERE order_id = :order_id", order["order_id"]
    )
    assert tuple(written) == (1999, accepted["event_id"])
    [sent] = await rows(
        engine,
        "SELECT destination, payload FROM onceproof.outbox WHERE key = :order_id",
        order["order_id"],
    )
    event = Event.decode(sent.payload.encode())
    assert (sent.destination, event.id, event.type, event.source, event.key, event.data) == (
        QUEUE,
        accepted["event_id"],
        ORDER_PLACED,
        "/onceproof/orders",
        order["order_id"],
        order,
    )
    assert event.traceparent is not None
    assert event.traceparent.split("-")[1] == TRACE_ID

    async with client.get(response.headers["Location"]) as shown:
        assert shown.status == 200
        found = await shown.json()
    assert found == accepted | {"created_at": found["created_at"]}


async def test_the_relay_is_woken_after_the_commit(
    engine: AsyncEngine, order: dict[str, Any]
) -> None:
    woken: list[bool] = []
    same = headers()
    orders = Orders(Connections(engine), QUEUE, wake=lambda: woken.append(True))
    async with client_of(orders) as client:
        for _ in range(2):
            await (await client.post("/orders", json=order, headers=same)).read()
    assert woken == [True]


async def test_a_repeated_request_gets_the_same_answer_and_writes_nothing(
    client: aiohttp.ClientSession, engine: AsyncEngine, order: dict[str, Any]
) -> None:
    same = headers()
    async with client.post("/orders", json=order, headers=same) as first:
        expected = await first.read()
    before = await counts(engine)
    async with client.post("/orders", json=order, headers=same) as second:
        assert (second.status, await second.read()) == (201, expected)
        assert second.headers["Idempotent-Replayed"] == "true"
        assert second.headers["Location"] == first.headers["Location"]
        assert second.headers["Content-Type"] == first.headers["Content-Type"]
    assert await counts(engine) == before


async def test_a_key_is_not_reused_for_another_body(
    client: aiohttp.ClientSession, engine: AsyncEngine, order: dict[str, Any]
) -> None:
    same = headers()
    await (await client.post("/orders", json=order, headers=same)).read()
    before = await counts(engine)
    async with client.post("/orders", json=order | {"amount": 1}, headers=same) as response:
        assert response.status == 422
        assert (await problem(response))["type"].endswith(":idempotency-key-reused")
    assert await counts(engine) == before


async def test_an_order_is_not_placed_again_under_another_key(
    client: aiohttp.ClientSession, engine: AsyncEngine, order: dict[str, Any]
) -> None:
    await (await client.post("/orders", json=order, headers=headers())).read()
    before = await counts(engine)
    async with client.post("/orders", json=order, headers=headers()) as response:
        assert response.status == 409
        assert (await problem(response))["type"].endswith(":order-exists")
    assert await counts(engine) == before


@asynccontextmanager
async def held_in_its_transaction(
    client: aiohttp.ClientSession, engine: AsyncEngine, order: dict[str, Any], key: str
) -> AsyncIterator[tuple[asyncio.Task[aiohttp.ClientResponse], int]]:
    """A request that holds its key and waits on a lock; the task, and the backend's pid."""
    async with engine.connect() as blocker:
        # An uncommitted row with the order's id: whoever inserts it as well has to wait.
        await blocker.execute(
            text("INSERT INTO orders VALUES (:order_id, 1, 'EUR', 'nobody')"),
            {"order_id": order["order_id"]},
        )
        task = asyncio.create_task(
            client.request("POST", "/orders", json=order, headers=headers(key))
        )

        async def waiting() -> list[Any]:
            return await rows(
                engine,
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
                "AND application_name = :order_id AND wait_event_type = 'Lock'",
                APPLICATION,
            )

        [[pid]] = await eventually(waiting)
        yield task, pid
        await blocker.rollback()


async def test_a_request_in_progress_is_a_conflict(
    client: aiohttp.ClientSession, engine: AsyncEngine, order: dict[str, Any]
) -> None:
    key = uuid.uuid4().hex
    async with (
        held_in_its_transaction(client, engine, order, key) as (first, _),
        client.post("/orders", json=order, headers=headers(key)) as second,
    ):
        assert second.status == 409
        assert second.headers["Retry-After"] == "1"
        assert (await problem(second))["type"].endswith(":idempotency-key-in-progress")
    async with await first as response:
        assert response.status == 201
        expected = await response.read()
    async with client.post("/orders", json=order, headers=headers(key)) as third:
        assert await third.read() == expected


async def test_a_crash_in_between_leaves_the_key_free(
    client: aiohttp.ClientSession, engine: AsyncEngine, order: dict[str, Any]
) -> None:
    key = uuid.uuid4().hex
    before = await counts(engine)
    async with held_in_its_transaction(client, engine, order, key) as (first, pid):
        await rows(engine, f"SELECT pg_terminate_backend({pid}, 5000), :order_id", "")
        async with await first as response:
            # Whether it was done before the connection broke cannot be seen from here.
            assert response.status == 500
            assert (await problem(response))["type"].endswith(":outcome-unknown")
    assert await counts(engine) == before

    async with client.post("/orders", json=order, headers=headers(key)) as again:
        assert again.status == 201
        assert "Idempotent-Replayed" not in again.headers


async def test_a_database_that_is_away_is_a_503_before_anything_was_done(
    order: dict[str, Any], unused_tcp_port: int
) -> None:
    away = create_engine(
        f"postgresql://nobody:hunter2@127.0.0.1:{unused_tcp_port}/x", application_name=APPLICATION
    )
    async with (
        client_of(Orders(Connections(away), QUEUE)) as client,
        client.post("/orders", json=order, headers=headers()) as response,
    ):
        assert response.status == 503
        assert "Retry-After" in response.headers
        assert (await problem(response))["type"].endswith(":temporarily-unavailable")
        assert "hunter2" not in await response.text()
    await away.dispose()


class LosingReplies(Connections):
    """Does what it is asked to, and then the connection breaks."""

    async def run(self, use: Any) -> Any:
        await super().run(use)
        raise asyncpg.ConnectionDoesNotExistError(
            "connection was closed in the middle of operation"
        )


async def test_a_lost_reply_is_an_unknown_outcome(
    client: aiohttp.ClientSession, engine: AsyncEngine, order: dict[str, Any]
) -> None:
    same = headers()
    async with (
        client_of(Orders(LosingReplies(engine), QUEUE)) as losing,
        losing.post("/orders", json=order, headers=same) as response,
    ):
        assert response.status == 500
        assert (await problem(response))["type"].endswith(":outcome-unknown")
    async with client.post("/orders", json=order, headers=same) as again:
        assert (again.status, again.headers["Idempotent-Replayed"]) == (201, "true")


async def test_a_dropped_answer_is_found_again_under_its_key(
    client: aiohttp.ClientSession,
    engine: AsyncEngine,
    order: dict[str, Any],
    arm: Callable[[str, str], None],
) -> None:
    same = headers()
    arm(PRODUCER_AFTER_COMMIT, order["order_id"])
    async with client.post("/orders", json=order, headers=same) as response:
        assert response.status == 500
        assert (await problem(response))["type"].endswith(":outcome-unknown")
    async with client.post("/orders", json=order, headers=same) as again:
        assert (again.status, again.headers["Idempotent-Replayed"]) == (201, "true")
    sent = await rows(
        engine, "SELECT 1 FROM onceproof.outbox WHERE key = :order_id", order["order_id"]
    )
    assert len(sent) == 1


async def test_many_clients_with_one_key_place_one_order(
    client: aiohttp.ClientSession, engine: AsyncEngine, order: dict[str, Any]
) -> None:
    same = headers()
    body = json.dumps(order)

    async def post() -> int:
        async with client.post("/orders", data=body, headers=same) as response:
            await response.read()
            return response.status

    statuses = await asyncio.gather(*(post() for _ in range(20)))
    assert set(statuses) <= {201, 409}
    assert 201 in statuses
    sent = await rows(
        engine, "SELECT 1 FROM onceproof.outbox WHERE key = :order_id", order["order_id"]
    )
    assert len(sent) == 1
