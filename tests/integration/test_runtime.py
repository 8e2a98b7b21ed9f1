"""The life of a service: what it waits for, what it refuses, how it ends, and what it never prints."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest
from pydantic import SecretStr

from onceproof.errors import (
    ConfigurationError,
    QueueNotFoundError,
    SchemaBehindError,
    TransientError,
)
from onceproof.service import Runtime, ServiceSettings, StopRequestedError, run_service
from onceproof_chaos.embedded import EmbeddedSqs

if TYPE_CHECKING:
    from tests.conftest import TestQueue

URL = "postgresql://app:s3cret@127.0.0.1:1/db"


@pytest.fixture
def runtime() -> Runtime[ServiceSettings]:
    return Runtime(ServiceSettings(database_url=SecretStr(URL)))


async def test_it_waits_with_a_growing_pause_and_says_why(
    runtime: Runtime[ServiceSettings],
) -> None:
    seen: list[str] = []
    calls: list[float] = []

    async def check() -> str:
        calls.append(time.monotonic())
        seen.append(runtime.health.reasons["database"])
        if len(calls) < 3:
            raise TransientError(f"refused {len(calls)}")
        return "here"

    assert await runtime.until_ready("database", check) == "here"
    assert seen == ["not checked yet", "refused 1", "refused 2"]
    assert runtime.health.reasons == {"startup": "starting"}
    runtime.started()
    assert runtime.health.reasons == {}
    assert all(later - earlier >= 0.2 for earlier, later in itertools.pairwise(calls))


@pytest.mark.parametrize("error", [SchemaBehindError("old"), QueueNotFoundError("no topic")])
async def test_what_a_roll_out_makes_meanwhile_is_waited_for(
    runtime: Runtime[ServiceSettings], error: Exception
) -> None:
    runtime.settings = runtime.settings.model_copy(update={"schema_wait_s": 30.0})
    calls = 0

    async def check() -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise error
        return "here"

    assert await asyncio.wait_for(runtime.until_ready("broker", check), 10) == "here"


@pytest.mark.parametrize(
    "error",
    [ConfigurationError("no DLQ"), SchemaBehindError("old"), QueueNotFoundError("no queue")],
)
async def test_what_waiting_cannot_help_is_raised_at_once(
    runtime: Runtime[ServiceSettings], error: Exception
) -> None:
    async def check() -> None:
        raise error

    with pytest.raises(type(error)):
        await asyncio.wait_for(runtime.until_ready("database", check), 1)


async def test_a_stop_ends_the_wait(runtime: Runtime[ServiceSettings]) -> None:
    async def check() -> None:
        asyncio.get_running_loop().call_soon(runtime.stop.set)
        raise TransientError("away")

    began = time.monotonic()
    with pytest.raises(StopRequestedError):
        await runtime.until_ready("database", check)
    assert time.monotonic() - began < 0.5


def test_what_is_printed_holds_no_secret() -> None:
    class Settings(ServiceSettings):
        provider_url: str = "https://user:s3cret@provider:8443/v1?api_key=s3cret&page=2"
        broken_url: str = "http://u:s3cret@host:port/"

    settings = Settings(
        database_url=SecretStr("postgresql://app:s3cret@db/orders?password=s3cret&sslmode=require"),
        otlp_endpoint="http://u:s3cret@collector:4318",
    )
    printed = json.dumps(settings.printable())
    assert "s3cret" not in printed
    assert "s3cret" not in repr(ServiceSettings(database_url=SecretStr(URL)))
    for part in ("app", "db/orders", "sslmode=require", "provider:8443/v1", "page=2", "collector"):
        assert part in printed


@asynccontextmanager
async def process(module: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    inherited = {name: value for name, value in os.environ.items() if "ONCEPROOF" not in name}
    defaults = {
        "ONCEPROOF_ADMIN_HOST": "127.0.0.1",
        "ONCEPROOF_ADMIN_PORT": "0",
        "ONCEPROOF_DATABASE_URL": URL,
    }
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        stderr=asyncio.subprocess.PIPE,
        env=inherited | defaults | environment,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
            await started.communicate()


async def logged(started: asyncio.subprocess.Process, words: str) -> str:
    assert started.stderr is not None
    seen = ""
    async with asyncio.timeout(30):
        while words not in seen:
            line = await started.stderr.readline()
            assert line, f"ended without {words!r}: {seen}"
            seen += line.decode()
    return seen


async def _never_run(_: Runtime[ServiceSettings]) -> None:
    raise AssertionError("started with a configuration that cannot work")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("DATABASE_URL", "postgresql://u:s3cret@h:port/db", "cannot be parsed"),
        ("ADMIN_PORT", "70000", "ONCEPROOF_ADMIN_PORT"),
        ("VARIANT", "sloppy", "hardened-inbox"),
        ("CRASH_POINTS", "not json", "crash_points"),
        ("LOG_LEVEL", "loud", "ONCEPROOF_LOG_LEVEL"),
        ("DRAIN_TIMEOUT_S", "-1", "ONCEPROOF_DRAIN_TIMEOUT_S"),
    ],
)
def test_settings_that_are_not_valid_are_named(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    words: str,
) -> None:
    monkeypatch.setenv("ONCEPROOF_DATABASE_URL", URL)
    monkeypatch.setenv(f"ONCEPROOF_{name}", value)
    assert run_service(ServiceSettings, _never_run) == 78
    printed = capsys.readouterr().err
    assert words in printed
    assert "s3cret" not in printed


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("DATABASE_URL", "mysql://u:s3cret@h/db", "only postgresql"),
        ("CRASH_POINTS", '[{"id": "f"}]', "ONCEPROOF_CHAOS_ENABLED"),
        ("SPANS_FILE", "/nonexistent/spans.jsonl", "ONCEPROOF_SPANS_FILE"),
    ],
)
async def test_a_configuration_that_cannot_work_is_refused(
    name: str, value: str, words: str
) -> None:
    async with process("onceproof_relay", **{f"ONCEPROOF_{name}": value}) as started:
        _, stderr = await asyncio.wait_for(started.communicate(), 30)
    assert started.returncode == 78, stderr.decode()
    assert words in stderr.decode()
    assert "Traceback" not in stderr.decode()
    assert "s3cret" not in stderr.decode()


async def test_an_admin_port_that_is_taken_is_refused(
    unused_tcp_port_factory: Callable[[], int],
) -> None:
    port = unused_tcp_port_factory()
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
    async with taken, process("onceproof_relay", ONCEPROOF_ADMIN_PORT=str(port)) as started:
        _, stderr = await asyncio.wait_for(started.communicate(), 30)
    assert started.returncode == 78
    assert f"admin port {port}" in stderr.decode()


@pytest.mark.parametrize("module", ["onceproof_relay", "onceproof_consumer"])
async def test_a_service_that_waits_for_its_database_ends_on_sigterm(module: str) -> None:
    async with process(module) as started:
        seen = await logged(started, "database is not ready, trying again")
        began = time.monotonic()
        started.send_signal(signal.SIGTERM)
        _, rest = await asyncio.wait_for(started.communicate(), 30)
    assert started.returncode == 0, rest.decode()
    assert time.monotonic() - began < 5
    assert "s3cret" not in seen + rest.decode()
    assert "Traceback" not in seen + rest.decode()


@pytest.mark.parametrize("module", ["onceproof_relay", "onceproof_consumer"])
async def test_a_working_service_ends_on_sigterm(
    module: str,
    database_url: str,
    sqs_endpoint: str,
    queue_factory: Callable[[], Awaitable[TestQueue]],
) -> None:
    queue = await queue_factory()
    async with process(
        module,
        ONCEPROOF_DATABASE_URL=database_url,
        ONCEPROOF_SQS_ENDPOINT_URL=sqs_endpoint,
        ONCEPROOF_SQS_REGION=EmbeddedSqs.region,
        ONCEPROOF_QUEUE=queue.name,
    ) as started:
        await logged(started, "admin port")
        await _at_work(database_url)
        began = time.monotonic()
        started.send_signal(signal.SIGTERM)
        _, rest = await asyncio.wait_for(started.communicate(), 30)
    assert started.returncode == 0, rest.decode()
    assert time.monotonic() - began < 5


async def _at_work(database_url: str) -> None:
    """Past the checks, which take one connection: the duties beside the main work have theirs."""
    connection = await asyncpg.connect(database_url)
    try:
        async with asyncio.timeout(30):
            while True:
                connections = await connection.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND application_name LIKE 'onceproof-%'"
                )
                if connections >= 2:
                    return
                await asyncio.sleep(0.02)
    finally:
        await connection.close()
