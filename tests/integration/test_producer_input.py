"""Whatever the order API cannot accept is a 4xx problem document, and nothing is written."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from onceproof.postgres import Connections, create_engine
from onceproof.service.asgi import serve
from onceproof_producer.app import create_app
from onceproof_producer.orders import Orders

QUEUE = "orders"
APPLICATION = "test-producer-input"
PROBLEM = "application/problem+json"


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


VALID = b'{"order_id": "o-bad", "amount": 1999, "currency": "EUR"}'
BAD_BODIES = {
    "empty": (b"", 400),
    "malformed": (b'{"order_id"', 400),
    "not-utf-8": (VALID.replace(b"o-bad", b"\xff\xfe"), 400),
    "lone-surrogate": (VALID.replace(b"o-bad", b"\\ud800"), 400),
    "too-deep": (b"[" * 4000, 400),
    "not-an-object": (b"[]", 422),
    "unknown-field": (VALID[:-1] + b', "discount": 5}', 422),
    "no-amount": (b'{"order_id": "o-bad", "currency": "EUR"}', 422),
    "negative": (VALID.replace(b"1999", b"-1"), 422),
    "zero": (VALID.replace(b"1999", b"0"), 422),
    "one-too-much": (VALID.replace(b"1999", b"100000000"), 422),
    "huge": (VALID.replace(b"1999", b"9" * 3000), 422),
    "bool": (VALID.replace(b"1999", b"true"), 422),
    "float": (VALID.replace(b"1999", b"1.0"), 422),
    "nan": (VALID.replace(b"1999", b"NaN"), 422),
    "text-amount": (VALID.replace(b"1999", b'"1999"'), 422),
    "unknown-currency": (VALID.replace(b"EUR", b"XXX"), 422),
    "lower-case-currency": (VALID.replace(b"EUR", b"eur"), 422),
    "empty-id": (VALID.replace(b"o-bad", b""), 422),
    "long-id": (VALID.replace(b"o-bad", b"o" * 65), 422),
    "id-with-newline": (VALID.replace(b"o-bad", b"o-bad\\n"), 422),
    "id-with-nul": (VALID.replace(b"o-bad", b"\\u0000"), 422),
    "oversized": (VALID.replace(b"o-bad", b"o" * 5000), 413),
    "far-oversized": (b" " * 1_000_000, 413),
}


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_a_bad_body_is_refused_and_nothing_written(
    name: str, client: aiohttp.ClientSession, engine: AsyncEngine
) -> None:
    body, status = BAD_BODIES[name]
    before = await counts(engine)
    async with client.post("/orders", data=body, headers=headers()) as response:
        assert response.status == status
        await problem(response)
    assert await counts(engine) == before


async def test_each_invalid_part_is_named(client: aiohttp.ClientSession) -> None:
    body = b'{"order_id": 7, "amount": 0, "currency": "EUR", "a/b": 1}'
    async with client.post("/orders", data=body, headers=headers()) as response:
        document = await problem(response)
    pointers = {error["pointer"] for error in document["errors"]}
    assert pointers == {"#/order_id", "#/amount", "#/a~1b"}


async def test_an_oversized_body_of_unknown_length_is_refused(
    client: aiohttp.ClientSession, engine: AsyncEngine
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    before = await counts(engine)
    async with client.post("/orders", data=chunks(), headers=headers()) as response:
        assert response.status == 413
        await problem(response)
    assert await counts(engine) == before


BAD_HEADERS: dict[str, tuple[list[tuple[str, str]], int]] = {
    "no-key": ([("Content-Type", "application/json")], 400),
    "empty-key": ([("Content-Type", "application/json"), ("Idempotency-Key", "")], 400),
    "long-key": ([("Content-Type", "application/json"), ("Idempotency-Key", "k" * 256)], 400),
    "very-long-key": ([("Content-Type", "application/json"), ("Idempotency-Key", "k" * 9000)], 400),
    "foreign-key": ([("Content-Type", "application/json"), ("Idempotency-Key", "\u00fc")], 400),
    "two-keys": (
        [("Content-Type", "application/json"), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")],
        400,
    ),
    "wrong-type": ([("Content-Type", "text/plain"), ("Idempotency-Key", "k")], 415),
    "form": (
        [("Content-Type", "application/x-www-form-urlencoded"), ("Idempotency-Key", "k")],
        415,
    ),
}


@pytest.mark.parametrize("name", BAD_HEADERS)
async def test_bad_headers_are_refused_and_nothing_written(
    name: str, client: aiohttp.ClientSession, engine: AsyncEngine
) -> None:
    pairs, status = BAD_HEADERS[name]
    before = await counts(engine)
    async with client.post("/orders", data=VALID, headers=pairs) as response:
        assert response.status == status
        await problem(response)
    assert await counts(engine) == before


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/orders/o-never-placed", 404),
        ("GET", "/orders/%00", 404),
        ("GET", "/orders/" + "o" * 65, 404),
        ("GET", "/nothing-here", 404),
        ("GET", "/orders", 405),
        ("DELETE", "/orders/o-1", 405),
    ],
)
async def test_what_is_not_there_is_a_problem_document(
    method: str, path: str, status: int, client: aiohttp.ClientSession
) -> None:
    async with client.request(method, path) as response:
        assert response.status == status
        await problem(response)
        assert ("Allow" in response.headers) == (status == 405)


async def test_an_internal_error_tells_nothing(engine: AsyncEngine) -> None:
    class Broken(Orders):
        async def get(self, order_id: str) -> None:
            raise RuntimeError(f"secret about {order_id}")

    async with (
        client_of(Broken(Connections(engine), QUEUE)) as client,
        client.get("/orders/o-1") as response,
    ):
        assert response.status == 500
        await problem(response)
        assert "secret" not in await response.text()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
near_orders = st.fixed_dictionaries(
    {},
    optional={
        "order_id": st.uuids().map(str) | json_values,
        "amount": st.integers(1, 99_999_999) | json_values,
        "currency": st.sampled_from(["EUR", "USD", "XXX", "eur"]) | json_values,
        "note": json_values,
    },
)
bodies = st.one_of(
    st.binary(max_size=200),
    json_values.map(lambda value: json.dumps(value).encode()),
    near_orders.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {
            "order_id": st.uuids().map(str),
            "amount": st.integers(1, 99_999_999),
            "currency": st.just("EUR"),
        }
    ).map(lambda value: json.dumps(value).encode()),
)


@given(body=bodies)
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_any_body_is_an_order_or_a_problem(
    body: bytes, client: aiohttp.ClientSession
) -> None:
    async with client.post("/orders", data=body, headers=headers()) as response:
        if response.status == 201:
            accepted = await response.json()
            order = json.loads(body)
            assert accepted == order | {"status": "accepted", "event_id": accepted["event_id"]}
        else:
            assert 400 <= response.status < 500
            await problem(response)
