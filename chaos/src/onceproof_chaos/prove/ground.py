"""Where the runs of a proof take place: the user's tables, made once and copied for each run.

The tables come from the user's own SQL, beside the library's schema `onceproof` and a schema `prove` for
what an invariant may want to know: every published event, and every effect in the other system. A
database is copied from a template in some 30 ms, so each run starts from the same state and sees nothing
of another.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg
from sqlalchemy.engine import make_url

from onceproof.brokers.sqs import SqsBroker
from onceproof.errors import ConfigurationError
from onceproof.postgres import upgrade
from onceproof_chaos.environment import QUEUE_RETENTION_S, Servers, Stage, asyncpg_url, connect
from onceproof_chaos.prove.commit_trap import install_commit_points
from onceproof_chaos.prove.messages import Published
from onceproof_chaos.prove.settings import ProveSettings

APPLICATION: Final = "onceproof-prove"
"""Name of our own connections, which say nothing about the consumer."""
_CONNECTIONS: Final = 30
"""That one run may open: two consumers, each with a pool of ours and perhaps one of its own."""

_SCHEMA: Final = """
    CREATE SCHEMA prove;
    CREATE TABLE prove.published (
        event_id text PRIMARY KEY, key text, type text NOT NULL, data jsonb NOT NULL);
    CREATE TABLE prove.effects (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, path text NOT NULL,
        idempotency_key text, body jsonb NOT NULL,
        recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        UNIQUE (path, idempotency_key));
"""
# A dump of a service that runs with the library has it already, without the row of its revision.
_NO_LIBRARY: Final = """
    DROP SCHEMA IF EXISTS onceproof CASCADE; DROP TABLE IF EXISTS public.onceproof_schema_version;
"""
_TABLES: Final = """
    SELECT format('%I.%I', n.nspname, c.relname)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
     ORDER BY 1
"""
_META_COMMAND: Final = re.compile(r"^\\.*$", re.MULTILINE)
"""Of psql, as in the first and last lines of a new `pg_dump`."""
_DUMP_ADVICE: Final = (
    "Fit for it is what 'pg_dump --schema-only --no-owner --no-privileges' gives, and any INSERT"
)


@dataclass(frozen=True, slots=True)
class Place:
    """What one run works on."""

    servers: Servers
    database_url: str
    queue: str
    dead_letter_queue: str
    tables: tuple[str, ...]

    def as_stage(self) -> Stage:
        """The same for code that knows a pipeline's two databases."""
        url = self.database_url
        return Stage(self.servers, url, url, self.queue, self.dead_letter_queue, "")


@dataclass(frozen=True, slots=True)
class Ground:
    """The servers, a template database, and a client for the queues.

    Args:
        servers: Postgres and SQS.
        broker: client of the harness.
        name: of the proof; what it creates is called so.
        tables: the user's, as `schema.table`.
        postgres_version: the server's own word.
        parallel: runs at the same time: what was asked for, as far as the connections go.
        settings: of the proof.
    """

    servers: Servers
    broker: SqsBroker
    name: str
    tables: tuple[str, ...]
    postgres_version: str
    parallel: int
    settings: ProveSettings

    @asynccontextmanager
    async def place(self, number: int) -> AsyncIterator[Place]:
        """A database and a queue with its DLQ for one run; removed at the end."""
        name = f"{self.name}_{number}"
        queue, dead = (f"{name}{suffix}".replace("_", "-") for suffix in ("", "-dlq"))
        try:
            await _execute(
                self.servers.database_url, f'CREATE DATABASE "{name}" TEMPLATE "{self.name}"'
            )
            await self.broker.ensure_queue(dead, retention_s=QUEUE_RETENTION_S)
            await self.broker.ensure_queue(
                queue,
                visibility_timeout_s=self.settings.visibility_s,
                retention_s=QUEUE_RETENTION_S,
                max_receive_count=self.settings.max_receive_count,
                dead_letter=dead,
            )
            url = _with_database(self.servers.database_url, name)
            yield Place(self.servers, url, queue, dead, self.tables)
        finally:
            try:
                await self.broker.delete_queue(queue)
                await self.broker.delete_queue(dead)
            finally:
                await _drop(self.servers.database_url, name)

    @property
    def template_url(self) -> str:
        """URL of the template, in which nothing has happened."""
        return _with_database(self.servers.database_url, self.name)


@asynccontextmanager
async def open_ground(where: Servers, name: str, settings: ProveSettings) -> AsyncIterator[Ground]:
    """Create the template database; removed at the end.

    Args:
        where: the servers.
        name: lower-case letters, digits and underscores.
        settings: of the proof.

    Raises:
        ConfigurationError: the servers cannot be used, or the schema is wrong.
    """
    version, connections = await _server(where.database_url)
    parallel = max(1, min(settings.parallel, connections // _CONNECTIONS))
    try:
        await _create(where.database_url, name)
        url = _with_database(where.database_url, name)
        tables = await _build(url, settings)
        async with connect(where) as broker:
            yield Ground(where, broker, name, tables, version, parallel, settings)
    finally:
        await _drop(where.database_url, name)


async def _build(url: str, settings: ProveSettings) -> tuple[str, ...]:
    """The user's tables first, so that ours are not taken for theirs."""
    connection = await asyncpg.connect(asyncpg_url(url))
    try:
        for path in settings.schema:
            await _run_script(connection, path)
        await connection.execute("RESET ALL")  # a dump leaves an empty search_path behind
        await connection.execute(_NO_LIBRARY)
        tables = tuple(row[0] for row in await connection.fetch(_TABLES))
        await connection.execute(_SCHEMA)
        if not settings.kind.in_library:
            await install_commit_points(connection, tables)
    finally:
        await connection.close()
    await upgrade(url, "onceproof")
    return tables


async def _run_script(connection: asyncpg.Connection, path: Path) -> None:
    try:
        script = await asyncio.to_thread(path.read_text, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the schema {path} cannot be read: {error}") from None
    try:
        await connection.execute(_META_COMMAND.sub("", script))
    except asyncpg.PostgresError as error:
        raise ConfigurationError(
            f"the schema {path} is refused by Postgres: {error}. {_DUMP_ADVICE}"
        ) from error


async def _server(url: str) -> tuple[str, int]:
    """The server's version and how many connections it takes."""
    try:
        connection = await asyncpg.connect(asyncpg_url(url), timeout=10)
    except (OSError, asyncpg.PostgresError) as error:
        raise ConfigurationError(f"the database cannot be reached: {error}") from error
    try:
        version = str(await connection.fetchval("SHOW server_version"))
        return version, int(await connection.fetchval("SHOW max_connections"))
    finally:
        await connection.close()


async def _create(url: str, name: str) -> None:
    try:
        await _execute(url, f'CREATE DATABASE "{name}"')
    except asyncpg.InsufficientPrivilegeError:
        raise ConfigurationError(
            "the database user may not create databases; every run needs one of its own. "
            "Grant it: ALTER ROLE ... CREATEDB"
        ) from None


async def _drop(url: str, name: str) -> None:
    await _execute(url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(asyncpg_url(url), timeout=10)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _with_database(url: str, database: str) -> str:
    return make_url(url).set(database=database).render_as_string(hide_password=False)


async def record_published(place: Place, messages: Sequence[Published]) -> None:
    """Write `prove.published`, for the invariants."""
    connection = await asyncpg.connect(
        asyncpg_url(place.database_url), server_settings={"application_name": APPLICATION}
    )
    try:
        await connection.executemany(
            "INSERT INTO prove.published (event_id, key, type, data) VALUES ($1, $2, $3, $4)",
            [message.row for message in messages],
        )
    finally:
        await connection.close()


__all__ = ["APPLICATION", "Ground", "Place", "open_ground", "record_published"]
