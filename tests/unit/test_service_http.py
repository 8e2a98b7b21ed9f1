"""Serving and problem documents, without a database."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from onceproof.errors import BrokerUnavailableError, ConfigurationError, OutcomeUnknownError
from onceproof.service.asgi import serve
from onceproof.service.problems import EXCEPTION_HANDLERS, ProblemError, read_body

PROBLEM = "application/problem+json"


class Gate:
    """A request that waits until it is let through."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    async def wait(self, _request: Request) -> Response:
        self.reached.set()
        await self.open.wait()
        return PlainTextResponse("through")


async def _echo_length(request: Request) -> Response:
    return PlainTextResponse(str(len(await read_body(request, 10, timeout_s=0.2))))


async def _busy(_request: Request) -> Response:
    raise BrokerUnavailableError("secret host", retry_after_s=2.5)


async def _unknown(_request: Request) -> Response:
    raise OutcomeUnknownError("secret host")


async def _teapot(_request: Request) -> Response:
    raise ProblemError(418, type="teapot", title="Teapot", detail="\ud800", headers={"X-Pot": "1"})


@asynccontextmanager
async def served(
    gate: Gate | None = None, drain_timeout_s: float = 5
) -> AsyncIterator[tuple[aiohttp.ClientSession, asyncio.Event, asyncio.Task[None]]]:
    app = Starlette(
        routes=[
            Route("/gate", (gate or Gate()).wait),
            Route("/body", _echo_length, methods=["POST"]),
            Route("/busy", _busy),
            Route("/unknown", _unknown),
            Route("/teapot", _teapot),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    stop = asyncio.Event()
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    server = asyncio.create_task(
        serve(app, "127.0.0.1", 0, stop, drain_timeout_s, on_bound=port.set_result)
    )
    async with aiohttp.ClientSession(f"http://127.0.0.1:{await port}") as client:
        try:
            yield client, stop, server
        finally:
            stop.set()
    await server


async def test_a_request_in_flight_is_answered_before_serving_ends() -> None:
    gate = Gate()
    async with served(gate) as (client, stop, server):
        request = asyncio.create_task(client.request("GET", "/gate"))
        await asyncio.wait_for(gate.reached.wait(), 5)
        stop.set()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(server), 0.3)
        gate.open.set()
        async with await request as response:
            assert await response.text() == "through"
        await server


async def test_a_drain_has_an_end() -> None:
    gate = Gate()
    async with served(gate, drain_timeout_s=1) as (client, stop, server):
        request = asyncio.create_task(client.request("GET", "/gate"))
        await asyncio.wait_for(gate.reached.wait(), 5)
        stop.set()
        await asyncio.wait_for(server, 5)
        with pytest.raises(aiohttp.ClientError):
            async with await request as response:
                response.raise_for_status()


async def test_signals_stay_with_the_service() -> None:
    before = signal.getsignal(signal.SIGTERM)
    gate = Gate()
    async with served(gate) as (client, _, _server):
        request = asyncio.create_task(client.request("GET", "/gate"))
        await asyncio.wait_for(gate.reached.wait(), 5)
        assert signal.getsignal(signal.SIGTERM) is before
        gate.open.set()
        (await request).release()


async def test_a_port_that_is_taken_is_a_configuration_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=str(port)):
            await serve(Starlette(), "127.0.0.1", port, asyncio.Event(), 1)


@pytest.mark.parametrize(("length", "status"), [(0, 200), (10, 200), (11, 413), (5_000, 413)])
@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_is_read_up_to_its_limit(length: int, status: int, *, announced: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(length):
            yield b"x"

    async with served() as (client, _, _server):
        data = b"x" * length if announced else chunks()
        async with client.post("/body", data=data) as response:
            assert response.status == status
            if status == 200:
                assert await response.text() == str(length)
            else:
                assert response.content_type == PROBLEM


async def test_a_body_that_never_ends_is_a_time_out() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    async with served() as (client, _, _server), client.post("/body", data=chunks()) as response:
        assert response.status == 408
        assert response.content_type == PROBLEM


@pytest.mark.parametrize(
    ("path", "status", "type_"),
    [
        ("/busy", 503, "urn:onceproof:problem:temporarily-unavailable"),
        ("/unknown", 500, "urn:onceproof:problem:outcome-unknown"),
        ("/teapot", 418, "urn:onceproof:problem:teapot"),
        ("/missing", 404, "about:blank"),
    ],
)
async def test_errors_become_problem_documents(path: str, status: int, type_: str) -> None:
    async with served() as (client, _, _server), client.get(path) as response:
        document = json.loads(await response.read())
        assert response.content_type == PROBLEM
        assert (response.status, document["status"], document["type"]) == (status, status, type_)
        assert "secret" not in json.dumps(document)
        if path == "/busy":
            assert response.headers["Retry-After"] == "3"
        if path == "/teapot":
            assert response.headers["X-Pot"] == "1"
            assert document["detail"] == "\ud800"
