"""The admin client against a service's own admin port, and against what is no admin port."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import aiohttp
import pytest
from aiohttp import web

from onceproof.admin import AdminServer, Health
from onceproof.crashpoints import CONSUMER_AFTER_CHARGE, Action, CrashPoints
from onceproof.errors import InjectedDropError
from onceproof_chaos.admin_client import (
    AdminClient,
    AdminError,
    AdminGoneError,
    ChaosDisabledError,
)
from onceproof_chaos.plan import Fault

DROP = Fault("f", CONSUMER_AFTER_CHARGE, Action.DROP, ("o-1",))


@pytest.fixture
async def client() -> AsyncIterator[AdminClient]:
    async with aiohttp.ClientSession() as http:
        yield AdminClient(http)


@pytest.fixture
def points() -> CrashPoints:
    return CrashPoints()


@pytest.fixture
def url(points: CrashPoints) -> Iterator[str]:
    server = AdminServer("127.0.0.1", 0, Health(), chaos=True, points=points)
    server.start()
    yield f"http://127.0.0.1:{server.port}"
    server.stop()


async def test_arm_list_and_disarm_by_id(client: AdminClient, url: str) -> None:
    await client.arm(url, [DROP, Fault("g", CONSUMER_AFTER_CHARGE, Action.DROP)])
    assert sorted(await client.armed(url)) == ["f", "g"]
    await client.disarm(url, ["f", "unknown"])
    assert await client.armed(url) == ["g"]
    await client.disarm(url)
    assert await client.armed(url) == []


async def test_more_ids_than_a_request_line_holds(client: AdminClient, url: str) -> None:
    faults = [Fault(f"{'x' * 100}-{i}", CONSUMER_AFTER_CHARGE, Action.DROP) for i in range(700)]
    await client.arm(url, faults)
    await client.disarm(url, [fault.id for fault in faults])
    assert await client.armed(url) == []


async def test_a_long_poll_ends_when_a_point_is_reached(
    client: AdminClient, url: str, points: CrashPoints
) -> None:
    await client.arm(url, [DROP])

    def pass_by() -> None:
        with pytest.raises(InjectedDropError):
            points.hit(CONSUMER_AFTER_CHARGE, "o-1", 2, "e-1")

    poll = asyncio.create_task(client.reached(url, wait_s=30))
    thread = threading.Thread(target=pass_by)
    thread.start()
    [reached] = await poll
    thread.join()
    assert (reached.fault, reached.action, reached.order) == ("f", Action.DROP, "o-1")
    assert (reached.attempt, reached.event_id, reached.seq) == (2, "e-1", 1)
    assert await client.reached(url, after=1) == []


async def test_chaos_off_is_another_error_than_gone(
    client: AdminClient, unused_tcp_port: int
) -> None:
    server = AdminServer("127.0.0.1", 0, Health())
    server.start()
    try:
        off = f"http://127.0.0.1:{server.port}"
        for ask in (client.armed(off), client.arm(off, [DROP]), client.reached(off)):
            with pytest.raises(ChaosDisabledError, match="chaos is not enabled"):
                await ask
    finally:
        server.stop()
    with pytest.raises(AdminGoneError, match="cannot be reached"):
        await client.disarm(f"http://127.0.0.1:{unused_tcp_port}")


Serve = Callable[[int, str], Awaitable[str]]


@pytest.fixture
async def answering() -> AsyncIterator[Serve]:
    runners: list[web.AppRunner] = []

    async def serve(status: int, text: str) -> str:
        async def answer(_: web.Request) -> web.Response:
            return web.Response(status=status, text=text)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield serve
    for runner in runners:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "text", "match"),
    [
        (500, "broken", "HTTP 500: broken"),
        (200, "<html>", "did not answer with JSON"),
        (200, "{}", "list of objects"),
        (200, '[{"seq": 1}]', "no reached crash point"),
    ],
)
async def test_an_answer_that_cannot_be_used_says_what_it_was(
    client: AdminClient, answering: Serve, status: int, text: str, match: str
) -> None:
    with pytest.raises(AdminError, match=match) as caught:
        await client.reached(await answering(status, text))
    assert type(caught.value) is AdminError


async def test_a_fault_that_a_service_refuses_is_an_error(client: AdminClient, url: str) -> None:
    with pytest.raises(AdminError, match="unknown crash point"):
        await client.arm(url, [Fault("f", "consumer.nowhere", Action.DROP)])
