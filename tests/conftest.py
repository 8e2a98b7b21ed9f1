"""Servers for the tests: started once a session, databases and queues fresh for each test.

A template database is migrated once; a test gets a copy of it, which takes some 30 ms.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from onceproof.brokers.sqs import SqsBroker
from onceproof.postgres import upgrade
from onceproof_chaos.embedded import EmbeddedKafka, EmbeddedPostgres, EmbeddedSqs, kafka_jars

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what is in the background with interrupts ignored, and some tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)

DATABASE_VARIABLE = "ONCEPROOF_TEST_DATABASE_URL"
KAFKA_VARIABLE = "ONCEPROOF_TEST_KAFKA"
PIPELINE_COMPONENTS = ("onceproof", "producer", "consumer")
PROVIDER_COMPONENTS = ("provider",)


class DatabaseServer(Protocol):
    async def create_database(self, name: str, *, template: str | None = None) -> str: ...

    async def drop_database(self, name: str) -> None: ...


@dataclass
class ExternalPostgres:
    """A server that somebody else runs; the account may create databases."""

    url: str

    async def create_database(self, name: str, *, template: str | None = None) -> str:
        await self._execute(
            f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}"' if template else "")
        )
        return make_url(self.url).set(database=name).render_as_string(hide_password=False)

    async def drop_database(self, name: str) -> None:
        await self._execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@dataclass
class PostgresForTests:
    """Databases for tests, copied from templates that are migrated when first asked for."""

    server: DatabaseServer
    run: str = field(default_factory=lambda: uuid4().hex[:8])
    templates: dict[tuple[str, ...], str] = field(default_factory=dict)

    async def create(self, *components: str) -> tuple[str, str]:
        """A database with the components' newest schema, or an empty one; name and URL."""
        template = await self._template(components) if components else None
        name = f"onceproof_test_{self.run}_{uuid4().hex[:12]}"
        return name, await self.server.create_database(name, template=template)

    async def _template(self, components: tuple[str, ...]) -> str:
        if components not in self.templates:
            name = f"onceproof_template_{self.run}_{len(self.templates)}"
            await upgrade(await self.server.create_database(name), *components)
            self.templates[components] = name
        return self.templates[components]


@pytest.fixture(scope="session")
def server_directory() -> Iterator[Path]:
    # Not pytest's own directory: that is closed to the account that Postgres runs under.
    directory = Path(tempfile.mkdtemp(prefix="onceproof-test-"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(server_directory: Path) -> Iterator[PostgresForTests]:
    """The embedded Postgres, or the one of ONCEPROOF_TEST_DATABASE_URL."""
    url = os.environ.get(DATABASE_VARIABLE)
    if url:
        yield PostgresForTests(ExternalPostgres(url))
        return
    with EmbeddedPostgres(server_directory / "pg", logical=True) as server:
        yield PostgresForTests(server)


@pytest.fixture
async def database_url(postgres_server: PostgresForTests) -> AsyncIterator[str]:
    """A fresh database with the tables of library, producer and consumer."""
    name, url = await postgres_server.create(*PIPELINE_COMPONENTS)
    yield url
    await postgres_server.server.drop_database(name)


@pytest.fixture
async def provider_database_url(postgres_server: PostgresForTests) -> AsyncIterator[str]:
    """A fresh database with the payment provider's ledger."""
    name, url = await postgres_server.create(*PROVIDER_COMPONENTS)
    yield url
    await postgres_server.server.drop_database(name)


@pytest.fixture
async def empty_database_url(postgres_server: PostgresForTests) -> AsyncIterator[str]:
    """A fresh database without any table."""
    name, url = await postgres_server.create()
    yield url
    await postgres_server.server.drop_database(name)


@pytest.fixture(scope="session")
def sqs_endpoint(server_directory: Path) -> Iterator[str]:
    """URL of the embedded SQS; credentials for it are in the environment meanwhile."""
    server = EmbeddedSqs(server_directory / "sqs")
    with pytest.MonkeyPatch.context() as patch, server:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server.endpoint_url


@pytest.fixture(scope="session")
def kafka_jars_installed() -> None:
    """Skips where no Kafka can be started."""
    if kafka_jars.installed() is None:
        pytest.skip(f"no Kafka: {kafka_jars.why_not()}")


@pytest.fixture(scope="session")
def kafka_bootstrap(request: pytest.FixtureRequest, server_directory: Path) -> Iterator[str]:
    """The embedded Kafka, or the one of ONCEPROOF_TEST_KAFKA; skips where there is neither."""
    if given := os.environ.get(KAFKA_VARIABLE):
        yield given
        return
    request.getfixturevalue("kafka_jars_installed")
    with EmbeddedKafka(server_directory / "kafka") as server:
        yield server.bootstrap


@pytest.fixture
async def sqs_broker(sqs_endpoint: str) -> AsyncIterator[SqsBroker]:
    """A client of the embedded SQS."""
    async with SqsBroker.connect(endpoint_url=sqs_endpoint, region=EmbeddedSqs.region) as broker:
        yield broker


@dataclass(frozen=True)
class TestQueue:
    """A queue of one test; `dead_letter` is the name of its DLQ."""

    __test__ = False

    name: str
    dead_letter: str


QueueFactory = Callable[..., Awaitable[TestQueue]]


@pytest.fixture
def queue_factory(sqs_broker: SqsBroker) -> QueueFactory:
    """Creates a queue with a DLQ on the embedded SQS; settings as of `SqsBroker.ensure_queue`."""

    async def create(
        *,
        fifo: bool = False,
        visibility_timeout_s: float = 30.0,
        retention_s: float = 345_600.0,
        max_receive_count: int = 5,
        dead_letter_retention_s: float = 1_209_600.0,
    ) -> TestQueue:
        suffix = ".fifo" if fifo else ""
        name = f"test-{uuid4().hex[:12]}"
        queue = TestQueue(f"{name}{suffix}", f"{name}-dlq{suffix}")
        await sqs_broker.ensure_queue(queue.dead_letter, retention_s=dead_letter_retention_s)
        await sqs_broker.ensure_queue(
            queue.name,
            visibility_timeout_s=visibility_timeout_s,
            retention_s=retention_s,
            max_receive_count=max_receive_count,
            dead_letter=queue.dead_letter,
        )
        return queue

    return create
