"""Debezium Server: reads the outbox table's inserts from the WAL, and sends them with its SQS sink.

Its sink sends one message a request, one after the other, and has no setting for more; what can be
tuned is how often and how much is read from the WAL, and the log line that it writes for each message.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp

from benchmarks.bench import Bench
from benchmarks.contest import NotRunError
from benchmarks.elasticmq import CREDENTIALS, REGION
from benchmarks.figures import InvalidRunError
from benchmarks.outbox_table import EVENT_ID_OF_N, PAYLOAD_OF_N
from benchmarks.peers.relays import Target, require_tcp, stopped
from benchmarks.ports import free_port
from onceproof.errors import ConfigurationError
from onceproof_chaos.embedded import debezium

_READY_S: Final = 180.0
_SLOT: Final = "bench_debezium"

# Its Kubernetes client reads a kubeconfig where it finds one, and lacks the YAML parser for it.
_NO_CLUSTER: Final = {"KUBERNETES_AUTH_TRYKUBECONFIG": "false"}

_TUNED: Final = {
    "debezium.source.max.batch.size": "8192",
    "debezium.source.max.queue.size": "32768",
    "debezium.source.poll.interval.ms": "10",
    "quarkus.log.level": "WARN",
}


class DebeziumServer:
    """Debezium Server with its outbox event router.

    Args:
        tuned: with larger batches, a shorter poll, and no log line for each message.
    """

    table = "debezium_outbox"
    channel: str | None = None
    fill = f"""
        INSERT INTO debezium_outbox (id, aggregatetype, aggregateid, type, payload)
        SELECT ({EVENT_ID_OF_N})::uuid, coalesce($3, ''), 'o-' || n, 'onceproof.order.placed',
               {PAYLOAD_OF_N}
        FROM generate_series(1, $1::int) AS n
    """

    def __init__(self, *, tuned: bool) -> None:
        self.name = "debezium server, tuned" if tuned else "debezium server"
        self._tuned = tuned
        self._home = Path()
        self._java = ""

    async def build(self, at: Bench) -> None:
        """The distribution, and the table that the outbox event router expects."""
        require_tcp(at)
        if at.where.settings.get("wal_level") != "logical":
            raise NotRunError("needs a server with wal_level = logical")
        try:
            self._java = debezium.java()
            self._home = await asyncio.to_thread(debezium.fetch)
        except ConfigurationError as error:
            raise NotRunError(str(error)) from None
        await at.where.connection.execute(
            "CREATE TABLE IF NOT EXISTS debezium_outbox (id uuid PRIMARY KEY, "
            "aggregatetype text NOT NULL, aggregateid text NOT NULL, type text NOT NULL, "
            "payload text NOT NULL)"
        )

    @asynccontextmanager
    async def running(self, at: Bench, to: Target) -> AsyncIterator[Mapping[str, int]]:
        """The server, ready when it streams from its slot."""
        with tempfile.TemporaryDirectory(prefix="onceproof-debezium-") as directory:
            # Where Quarkus looks by itself.
            configuration = Path(directory) / "config" / "application.properties"
            configuration.parent.mkdir()
            port = free_port()
            lines = self._properties(at, to, directory, port)
            configuration.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
            runner = next(self._home.glob("debezium-server-*runner.jar"))
            with tempfile.TemporaryFile() as log:
                process = await asyncio.create_subprocess_exec(
                    self._java, "--add-opens=java.base/java.lang=ALL-UNNAMED",
                    "-cp", f"{runner}:{self._home}/lib/*", "io.debezium.server.Main",
                    cwd=directory,
                    env={**os.environ, **CREDENTIALS, **_NO_CLUSTER},
                    stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                )  # fmt: skip
                try:
                    if not await _streaming(at, process, port):
                        log.seek(0)
                        why = causes(log.read().decode(errors="replace"))
                        raise InvalidRunError(f"Debezium Server did not get ready: {why}")
                    yield {"relay": process.pid}
                finally:
                    await stopped(process)
                    await _drop_slot(at)

    def _properties(self, at: Bench, to: Target, directory: str, port: int) -> dict[str, str]:
        host, database_port = require_tcp(at)
        return {
            "debezium.sink.type": "sqs",
            "debezium.sink.sqs.region": REGION,
            "debezium.sink.sqs.endpoint": to.endpoint,
            "debezium.sink.sqs.queue.url": to.url,
            "debezium.source.connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "debezium.source.offset.storage.file.filename": f"{directory}/offsets.dat",
            "debezium.source.offset.flush.interval.ms": "60000",
            "debezium.source.database.hostname": host,
            "debezium.source.database.port": str(database_port),
            "debezium.source.database.user": at.where.url.username or "postgres",
            "debezium.source.database.password": str(at.where.url.password or ""),
            "debezium.source.database.dbname": str(at.where.url.database),
            "debezium.source.topic.prefix": "bench",
            "debezium.source.table.include.list": "public.debezium_outbox",
            "debezium.source.plugin.name": "pgoutput",
            "debezium.source.slot.name": _SLOT,
            "debezium.source.publication.name": _SLOT,
            "debezium.source.publication.autocreate.mode": "filtered",
            "debezium.source.snapshot.mode": "no_data",
            "debezium.format.value": "simplestring",
            "debezium.format.key": "simplestring",
            "debezium.transforms": "outbox",
            "debezium.transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
            "quarkus.http.port": str(port),
            "quarkus.log.level": "INFO",
            "quarkus.log.console.json": "false",
            **(_TUNED if self._tuned else {}),
        }


def causes(log: str) -> str:
    """What a Java log says about a failure: its errors and causes, without the frames."""
    told = [line.strip() for line in log.splitlines() if "ERROR" in line or "Caused by" in line]
    return " | ".join(told)[-800:] or " ".join(log.split())[-800:]


async def _streaming(at: Bench, process: asyncio.subprocess.Process, port: int) -> bool:
    """Whether it answers and its slot is in use, before it ended or took too long."""
    url = f"http://127.0.0.1:{port}/q/health/ready"
    try:
        async with asyncio.timeout(_READY_S), aiohttp.ClientSession() as http:
            while process.returncode is None:
                active = await at.where.connection.fetchval(
                    "SELECT active FROM pg_replication_slots WHERE slot_name = $1", _SLOT
                )
                try:
                    async with http.get(url) as answer:
                        if active and answer.status < 500:
                            return True
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.1)
    except TimeoutError:
        pass
    return False


async def _drop_slot(at: Bench) -> None:
    """A slot that nobody reads keeps all WAL from then on."""
    connection = at.where.connection
    for _ in range(100):
        active = await connection.fetchval(
            "SELECT active FROM pg_replication_slots WHERE slot_name = $1", _SLOT
        )
        if active is None:
            break
        if not active:
            await connection.execute("SELECT pg_drop_replication_slot($1)", _SLOT)
            break
        await asyncio.sleep(0.1)
    await connection.execute(f"DROP PUBLICATION IF EXISTS {_SLOT}")
