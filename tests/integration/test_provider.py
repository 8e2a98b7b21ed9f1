"""The payment provider over HTTP, on a real Postgres."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from onceproof.crashpoints import PROVIDER_AFTER_CAPTURE, Action, Armed, crash_points
from onceproof.postgres import create_engine
from onceproof.service.asgi import serve
from onceproof_provider.app import create_app
from onceproof_provider.ledger import Ledger
from onceproof_provider.misbehaviour import Misbehaviour

PROBLEM = "application/problem+json"


@asynccontextmanager
async def client_of(
    engine: AsyncEngine, misbehaviour: Misbehaviour | None = None
) -> AsyncIterator[aiohttp.ClientSession]:
    stop = misbehaviour.stop if misbehaviour else asyncio.Event()
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    app = create_app(Ledger(engine), misbehaviour=misbehaviour, max_body_bytes=4096)
    server = asyncio.create_task(serve(app, "127.0.0.1", 0, stop, 5, on_bound=port.set_result))
    async with aiohttp.ClientSession(f"http://127.0.0.1:{await port}") as client:
        yield client
    stop.set()
    await server


@pytest.fixture
async def engine(provider_database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(provider_database_url, application_name="test-provider")
    yield engine
    await engine.dispose()


@pytest.fixture
async def client(engine: AsyncEngine) -> AsyncIterator[aiohttp.ClientSession]:
    async with client_of(engine) as client:
        yield client


@pytest.fixture
def charge() -> dict[str, Any]:
    return {"order_id": f"o-{uuid.uuid4().hex}", "amount": 1999, "currency": "EUR"}


@pytest.fixture
def dropped_answer(charge: dict[str, Any]) -> Iterator[None]:
    crash_points.arm(
        [
            Armed(
                uuid.uuid4().hex,
                PROVIDER_AFTER_CAPTURE,
                Action.DROP,
                frozenset({charge["order_id"]}),
            )
        ]
    )
    yield
    crash_points.disarm()


def headers(key: str | None = None) -> dict[str, str]:
    return {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})


async def problem(response: aiohttp.ClientResponse) -> dict[str, Any]:
    assert response.content_type == PROBLEM
    document = await response.json(content_type=PROBLEM)
    assert document["status"] == response.status
    assert isinstance(document, dict)
    return document


async def captures(client: aiohttp.ClientSession, charge: dict[str, Any]) -> list[dict[str, Any]]:
    async with client.get("/charges", params={"order_id": charge["order_id"]}) as response:
        assert response.status == 200
        found = (await response.json())["charges"]
        assert isinstance(found, list)
        return found


async def total(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int(await connection.scalar(text("SELECT count(*) FROM captures")) or 0)


async def test_a_charge_is_captured(client: aiohttp.ClientSession, charge: dict[str, Any]) -> None:
    async with client.post(
        "/charges", json=charge, headers=headers("k-" + charge["order_id"])
    ) as response:
        assert response.status == 201
        captured = await response.json()
    assert captured == charge | {"charge_id": captured["charge_id"], "status": "captured"}
    assert await captures(client, charge) == [captured]


async def test_a_repeated_charge_is_the_stored_one(
    client: aiohttp.ClientSession, charge: dict[str, Any]
) -> None:
    same = headers("k-" + charge["order_id"])
    async with client.post("/charges", json=charge, headers=same) as first:
        expected = await first.json()
    async with client.post("/charges", json=charge, headers=same) as second:
        assert (second.status, await second.json()) == (200, expected)
        assert second.headers["Idempotent-Replayed"] == "true"
    assert await captures(client, charge) == [expected]


async def test_a_key_is_not_reused_for_another_charge(
    client: aiohttp.ClientSession, charge: dict[str, Any]
) -> None:
    same = headers("k-" + charge["order_id"])
    await (await client.post("/charges", json=charge, headers=same)).read()
    async with client.post("/charges", json=charge | {"amount": 1}, headers=same) as response:
        assert response.status == 422
        assert (await problem(response))["type"].endswith(":idempotency-key-reused")
    assert len(await captures(client, charge)) == 1


async def test_without_a_key_every_request_captures(
    client: aiohttp.ClientSession, charge: dict[str, Any]
) -> None:
    for _ in range(2):
        async with client.post("/charges", json=charge, headers=headers()) as response:
            assert response.status == 201
    assert len({found["charge_id"] for found in await captures(client, charge)}) == 2


async def test_concurrent_requests_with_one_key_capture_once(
    client: aiohttp.ClientSession, charge: dict[str, Any]
) -> None:
    same = headers("k-" + charge["order_id"])
    body = json.dumps(charge)

    async def post() -> tuple[int, str]:
        async with client.post("/charges", data=body, headers=same) as response:
            return response.status, (await response.json())["charge_id"]

    answers = await asyncio.gather(*(post() for _ in range(20)))
    assert sorted(status for status, _ in answers) == [200] * 19 + [201]
    [captured] = await captures(client, charge)
    assert {charge_id for _, charge_id in answers} == {captured["charge_id"]}


@pytest.mark.usefixtures("dropped_answer")
async def test_a_withheld_answer_is_a_time_out_after_the_capture(
    engine: AsyncEngine, charge: dict[str, Any]
) -> None:
    same = headers("k-" + charge["order_id"])
    async with client_of(engine, Misbehaviour(withhold_s=60)) as client:
        with pytest.raises(TimeoutError):
            await client.post(
                "/charges", json=charge, headers=same, timeout=aiohttp.ClientTimeout(total=0.5)
            )
        [captured] = await captures(client, charge)
        async with client.post("/charges", json=charge, headers=same) as again:
            assert (again.status, (await again.json())["charge_id"]) == (200, captured["charge_id"])


@pytest.mark.usefixtures("dropped_answer")
async def test_a_withheld_answer_ends_without_a_claim(
    engine: AsyncEngine, charge: dict[str, Any]
) -> None:
    async with (
        client_of(engine, Misbehaviour(withhold_s=0.05)) as client,
        client.post(
            "/charges", json=charge, headers=headers("k-" + charge["order_id"])
        ) as response,
    ):
        assert response.status == 500
        assert (await problem(response))["type"].endswith(":outcome-unknown")
        assert "charge_id" not in await response.text()


@pytest.mark.usefixtures("dropped_answer")
async def test_a_withheld_answer_does_not_hold_up_the_stop(
    engine: AsyncEngine, charge: dict[str, Any]
) -> None:
    misbehaviour = Misbehaviour(withhold_s=60)
    async with asyncio.timeout(10), client_of(engine, misbehaviour) as client:
        request = asyncio.create_task(
            client.request("POST", "/charges", json=charge, headers=headers())
        )
        while not await captures(client, charge):
            pass
        misbehaviour.stop.set()
        async with await request as response:
            assert response.status == 500


async def test_an_injected_fault_captures_nothing(
    engine: AsyncEngine, charge: dict[str, Any]
) -> None:
    async with client_of(engine, Misbehaviour(fault_rate=1)) as client:
        async with client.post("/charges", json=charge, headers=headers()) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1
            await problem(response)
        assert await captures(client, charge) == []


async def test_faults_and_jitter_repeat_with_their_seed() -> None:
    async def refused(seed: int) -> list[bool]:
        misbehaviour = Misbehaviour(jitter_ms=0.01, fault_rate=0.5, rng=random.Random(seed))
        results = await asyncio.gather(
            *(misbehaviour.before_capture() for _ in range(30)), return_exceptions=True
        )
        return [result is not None for result in results]

    assert await refused(7) == await refused(7)
    assert True in await refused(7)
    assert False in await refused(7)


async def test_latency_comes_before_the_capture(
    engine: AsyncEngine, charge: dict[str, Any]
) -> None:
    loop = asyncio.get_running_loop()
    async with client_of(engine, Misbehaviour(latency_ms=150)) as client:
        started = loop.time()
        async with client.post("/charges", json=charge, headers=headers()) as response:
            assert response.status == 201
        assert loop.time() - started >= 0.15


VALID = b'{"order_id": "o-bad", "amount": 1999, "currency": "EUR"}'


@pytest.mark.parametrize(
    ("body", "sent_headers", "status"),
    [
        (b"", headers(), 400),
        (b"{", headers(), 400),
        (VALID.replace(b"o-bad", b"\xff"), headers(), 400),
        (VALID.replace(b"1999", b"0"), headers(), 422),
        (VALID.replace(b"1999", b"-1"), headers(), 422),
        (VALID.replace(b"1999", b"100000000"), headers(), 422),
        (VALID.replace(b"1999", b"true"), headers(), 422),
        (VALID.replace(b"1999", b"1.5"), headers(), 422),
        (VALID.replace(b"EUR", b"XXX"), headers(), 422),
        (VALID[:-1] + b', "tip": 1}', headers(), 422),
        (VALID.replace(b"o-bad", b"o bad"), headers(), 422),
        (VALID.replace(b"o-bad", b"o" * 5000), headers(), 413),
        (VALID, {"Content-Type": "text/plain"}, 415),
        (VALID, headers("k" * 256), 400),
        (VALID, headers('"open'), 400),
    ],
)
async def test_bad_input_is_refused_and_nothing_captured(
    body: bytes,
    sent_headers: dict[str, str],
    status: int,
    client: aiohttp.ClientSession,
    engine: AsyncEngine,
) -> None:
    before = await total(engine)
    async with client.post("/charges", data=body, headers=sent_headers) as response:
        assert response.status == status
        await problem(response)
    assert await total(engine) == before


@pytest.mark.parametrize("query", ["", "?order_id=", "?order_id=%00", "?order_id=" + "o" * 65])
async def test_a_listing_needs_an_order(client: aiohttp.ClientSession, query: str) -> None:
    async with client.get("/charges" + query) as response:
        assert response.status == 400
        await problem(response)


async def test_a_ledger_that_is_away_is_a_503(charge: dict[str, Any], unused_tcp_port: int) -> None:
    away = create_engine(f"postgresql://127.0.0.1:{unused_tcp_port}/x", application_name="away")
    async with (
        client_of(away) as client,
        client.post("/charges", json=charge, headers=headers()) as response,
    ):
        assert response.status == 503
        await problem(response)
    await away.dispose()


async def test_a_connection_lost_in_the_middle_is_an_unknown_outcome(
    engine: AsyncEngine, charge: dict[str, Any]
) -> None:
    name = f"die_{uuid.uuid4().hex}"
    async with engine.begin() as connection:
        await connection.execute(
            text(
                f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$"
            )
        )
        await connection.execute(
            text(
                f"CREATE TRIGGER {name} AFTER INSERT ON captures FOR EACH ROW "
                f"WHEN (NEW.order_id = '{charge['order_id']}') EXECUTE FUNCTION {name}()"
            )
        )
    try:
        async with (
            client_of(engine) as client,
            client.post("/charges", json=charge, headers=headers()) as response,
        ):
            assert response.status == 500
            assert (await problem(response))["type"].endswith(":outcome-unknown")
    finally:
        async with engine.begin() as connection:
            await connection.execute(text(f"DROP FUNCTION {name} CASCADE"))
