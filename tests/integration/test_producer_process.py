"""Producer as a process: start, become ready, serve, drain, and refuse what cannot work."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from sqlalchemy.engine import make_url


@asynccontextmanager
async def process(
    database_url: str, http_port: int, admin_port: int, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    inherited = {name: value for name, value in os.environ.items() if "ONCEPROOF" not in name}
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "onceproof_producer",
        stderr=asyncio.subprocess.PIPE,
        env=inherited
        | {
            "ONCEPROOF_DATABASE_URL": database_url,
            "ONCEPROOF_HTTP_HOST": "127.0.0.1",
            "ONCEPROOF_HTTP_PORT": str(http_port),
            "ONCEPROOF_ADMIN_HOST": "127.0.0.1",
            "ONCEPROOF_ADMIN_PORT": str(admin_port),
        }
        | environment,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
            await started.communicate()


async def status_becomes(client: aiohttp.ClientSession, url: str, status: int) -> str:
    async with asyncio.timeout(30):
        while True:
            try:
                async with client.get(url) as response:
                    text = await response.text()
                    if response.status == status:
                        return text
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.05)


async def test_it_serves_and_ends_on_sigterm(
    database_url: str, unused_tcp_port_factory: Callable[[], int]
) -> None:
    http_port, admin_port = unused_tcp_port_factory(), unused_tcp_port_factory()
    order = {"order_id": f"o-{uuid.uuid4().hex}", "amount": 1, "currency": "EUR"}
    async with (
        process(database_url, http_port, admin_port) as started,
        aiohttp.ClientSession() as client,
    ):
        await status_becomes(client, f"http://127.0.0.1:{admin_port}/readyz", 200)
        url = f"http://127.0.0.1:{http_port}/orders"
        await status_becomes(client, f"{url}/none", 404)
        async with client.post(
            url, json=order, headers={"Idempotency-Key": uuid.uuid4().hex}
        ) as response:
            assert response.status == 201
        started.send_signal(signal.SIGTERM)
        _, log = await asyncio.wait_for(started.communicate(), 15)
        assert started.returncode == 0, log.decode()
        assert b"Traceback" not in log, log.decode()


async def test_a_database_that_is_away_is_waited_for(
    unused_tcp_port_factory: Callable[[], int],
) -> None:
    http_port, admin_port, nothing = (unused_tcp_port_factory() for _ in range(3))
    url = f"postgresql://someone:hunter2@127.0.0.1:{nothing}/x"
    async with (
        process(url, http_port, admin_port) as started,
        aiohttp.ClientSession() as client,
    ):
        reason = await status_becomes(client, f"http://127.0.0.1:{admin_port}/readyz", 503)
        assert "database" in reason
        started.send_signal(signal.SIGTERM)
        _, log = await asyncio.wait_for(started.communicate(), 15)
        assert started.returncode == 0, log.decode()
        assert b"hunter2" not in log


async def test_a_schema_that_is_behind_is_refused_with_what_to_do(
    database_url: str, unused_tcp_port_factory: Callable[[], int]
) -> None:
    # The maintenance database has none of our tables.
    empty = make_url(database_url).set(database="postgres").render_as_string(hide_password=False)
    async with process(empty, unused_tcp_port_factory(), unused_tcp_port_factory()) as started:
        _, log = await asyncio.wait_for(started.communicate(), 30)
    assert started.returncode == 78
    assert b"onceproof schema upgrade" in log


@pytest.mark.parametrize(
    ("name", "value"),
    [("HTTP_PORT", "70000"), ("POOL_SIZE", "0"), ("QUEUE", ""), ("VARIANT", "hardened-hope")],
)
async def test_settings_that_cannot_work_are_refused(name: str, value: str) -> None:
    environment = {f"ONCEPROOF_{name}": value}
    async with process("postgresql://u:hunter2@h/x", 0, 0, **environment) as started:
        _, log = await asyncio.wait_for(started.communicate(), 30)
    assert started.returncode == 78
    assert name.encode() in log
    assert b"hunter2" not in log
