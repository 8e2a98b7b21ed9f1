"""The relays: ours as the service that is deployed, and its peers, with defaults and tuned."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from benchmarks.bench import Bench
from benchmarks.contest import NotRunError
from benchmarks.elasticmq import CREDENTIALS, REGION
from benchmarks.outbox_table import EVENT_ID_OF_N, PAYLOAD_OF_N
from benchmarks.peers.process import driver, run_driver
from benchmarks.peers.relays import Target, require_tcp, stopped
from benchmarks.peers.toolchain import go_program, python_driver
from benchmarks.ports import free_port
from benchmarks.service_process import service
from onceproof.outbox.wakeup import CHANNEL

_ROWS: Final = "FROM generate_series(1, $1::int) AS n"


class OnceproofRelay:
    """`onceproof-relay` with its defaults."""

    name = "onceproof relay"
    table = "onceproof.outbox"
    channel: str | None = CHANNEL
    fill = f"""
        INSERT INTO onceproof.outbox (id, destination, key, type, payload)
        SELECT {EVENT_ID_OF_N}, $3, 'o-' || n, 'onceproof.order.placed', {PAYLOAD_OF_N} {_ROWS}
    """

    async def build(self, at: Bench) -> None:
        """Nothing to build."""

    @asynccontextmanager
    async def running(self, at: Bench, to: Target) -> AsyncIterator[Mapping[str, int]]:
        """The service."""
        environment = {
            **CREDENTIALS,
            "ONCEPROOF_DATABASE_URL": at.where.library_url(),
            "ONCEPROOF_SQS_ENDPOINT_URL": to.endpoint,
            "ONCEPROOF_SQS_REGION": REGION,
            "ONCEPROOF_QUEUE": to.queue,
        }
        async with service("onceproof_relay", free_port(), environment) as pid:
            yield {"relay": pid}


class FaststreamOutbox:
    """faststream-outbox with a handler that sends to SQS: it has no SQS sink of its own.

    Args:
        tuned: with the settings that its documentation names for throughput.
    """

    table = "faststream_outbox"
    channel: str | None = "outbox_faststream_outbox"
    fill = f"""
        INSERT INTO faststream_outbox (queue, payload, headers)
        SELECT 'orders', convert_to({PAYLOAD_OF_N}, 'UTF8'),
               jsonb_build_object('content-type', 'text/plain', 'destination', $3::text)
        {_ROWS}
    """

    def __init__(self, *, tuned: bool) -> None:
        self.name = "faststream-outbox, tuned" if tuned else "faststream-outbox"
        self._tuned = tuned
        self._command: list[str] = []

    async def build(self, at: Bench) -> None:
        """Its virtual environment and its table."""
        self._command = await python_driver("faststream_outbox")
        if "faststream_outbox" not in at.installed:
            await run_driver([*self._command, "setup"], self._environment(at))
            at.installed.add("faststream_outbox")

    @asynccontextmanager
    async def running(self, at: Bench, to: Target) -> AsyncIterator[Mapping[str, int]]:
        """Its driver."""
        environment = {
            **self._environment(at),
            **CREDENTIALS,
            "BENCH_SQS_ENDPOINT": to.endpoint,
            "BENCH_QUEUE_URL": to.url,
        }
        async with driver([*self._command, "relay"], environment) as running:
            yield {"relay": running.pid}

    def _environment(self, at: Bench) -> dict[str, str]:
        return {
            "BENCH_DSN": at.where.library_url(),
            "BENCH_TUNED": "1" if self._tuned else "0",
        }


class Outboxer:
    """`outboxer`, a relay in Go that deletes what it has sent.

    Args:
        tuned: with the settings that its documentation names for throughput.
    """

    PROGRAM: Final = "github.com/fvdsn/outboxer/cmd/outboxer@latest"
    table = "events"
    channel: str | None = None
    fill = f"""
        INSERT INTO events (id, payload, destination)
        SELECT {EVENT_ID_OF_N}, {PAYLOAD_OF_N}, NULLIF($3, '') {_ROWS}
    """

    def __init__(self, *, tuned: bool) -> None:
        self.name = "outboxer, tuned" if tuned else "outboxer"
        self._tuned = tuned
        self._command: list[str] = []

    async def build(self, at: Bench) -> None:
        """The program, and the table that its documentation gives."""
        self._command = await go_program(self.PROGRAM)
        await at.where.connection.execute(
            "CREATE TABLE IF NOT EXISTS events (id text PRIMARY KEY, "
            "timestamp timestamptz DEFAULT now(), payload text NOT NULL, destination text, "
            "options jsonb)"
        )

    @asynccontextmanager
    async def running(self, at: Bench, to: Target) -> AsyncIterator[Mapping[str, int]]:
        """The program, ready when its health endpoint is open."""
        host, port = require_tcp(at)
        health = free_port()
        settings = {
            "pg-host": host, "pg-port": port, "pg-user": at.where.url.username or "postgres",
            "pg-database": at.where.url.database, "default-sqs-queue-url": to.url,
            "sqs-api-endpoint": to.endpoint, "aws-region": REGION, "health-port": health,
            "event-destination": "disabled", "event-target": "disabled",
            **({"sqs-send-concurrency": 16, "poll-interval-ms": 1} if self._tuned else {}),
        }  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            *self._command, "--sqs-enabled", *(f"--{name}={value}" for name, value in settings.items()),
            env=CREDENTIALS, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            await _listening(health, process)
            yield {"relay": process.pid}
        finally:
            await stopped(process)


async def _listening(
    port: int, process: asyncio.subprocess.Process, within_s: float = 30.0
) -> None:
    try:
        async with asyncio.timeout(within_s):
            while process.returncode is None:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return
    except TimeoutError:
        pass
    raise NotRunError("it did not get ready")
