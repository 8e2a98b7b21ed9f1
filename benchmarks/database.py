"""A database of its own for the benchmark, on a server whose commits are durable.

With `fsync` or `synchronous_commit` off a commit costs nothing, and every overhead of ours would look
larger, and every rate better, than in production. Such a server is refused.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg
import psutil
from sqlalchemy.engine import URL, make_url

from benchmarks.metering import Meter
from onceproof.errors import ConfigurationError
from onceproof.postgres import normalise_url, upgrade
from onceproof_chaos.embedded import EmbeddedPostgres

_SETTINGS: Final = (
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_sync_method",
    "commit_delay",
    "wal_level",
    "shared_buffers",
    "max_wal_size",
    "max_connections",
    "autovacuum",
)
_DURABLE: Final = ("fsync", "synchronous_commit", "full_page_writes")
_RECONNECTS: Final = 100
_RECONNECT_S: Final = 0.2
_MEMORY: Final = frozenset({"tmpfs", "ramfs"})


@dataclass(slots=True)
class Database:
    """The benchmark's database, and a connection for what is not timed."""

    url: URL
    connection: asyncpg.Connection
    version: str
    settings: dict[str, str]
    meter: Meter
    tcp: tuple[str, int] | None
    """Host and port, for clients that know no Unix sockets; None where there is only a socket."""

    def library_url(self) -> str:
        """For `onceproof.postgres.create_engine`."""
        return self.url.render_as_string(hide_password=False)

    def libpq_url(self) -> str:
        """For libpq's programs, without the password: arguments can be read by everybody."""
        return self.url.set(drivername="postgresql", password=None).render_as_string()

    def libpq_environment(self) -> dict[str, str]:
        """Environment for libpq's programs."""
        password = self.url.password
        return {**os.environ, **({"PGPASSWORD": str(password)} if password else {})}

    async def counts(self, query: str) -> dict[str, int]:
        """The only row of a query that counts. It checks a run, so the run is over: the meter stops."""
        await self.meter.stop()
        return {name: int(value) for name, value in (await self.connection.fetchrow(query)).items()}

    async def reconnect(self) -> None:
        """Open the own connections anew, when the server was restarted; nothing where it was not.

        Raises:
            ConfigurationError: it does not come back.
        """
        if not self.connection.is_closed():
            return
        for again in itertools.count():
            try:
                self.connection = await _connect(self.url)
                break
            except ConfigurationError:
                if again > _RECONNECTS:
                    raise
                await asyncio.sleep(_RECONNECT_S)
        self.meter.reconnected(await _connect(self.url))

    async def settle(self, *tables: str) -> None:
        """Have each run start from fresh statistics and without dirty pages of the one before.

        This is the last step before a run, so the meter starts.
        """
        for table in tables:
            await self.connection.execute(f"ANALYZE {table}")
        # Only members of pg_checkpoint may; without it a run is noisier, not wrong.
        with suppress(asyncpg.InsufficientPrivilegeError):
            await self.connection.execute("CHECKPOINT")
        await self.meter.start()


@asynccontextmanager
async def database(url: str | None) -> AsyncIterator[Database]:
    """A new database with all tables, removed at the end.

    Args:
        url: of any database on a server; None starts an embedded one.

    Raises:
        ConfigurationError: the server cannot be reached, or its commits are not durable.
    """
    if url is not None:
        given = make_url(url)
        tcp = (given.host, given.port or 5432) if given.host else None
        async with _on_server(url, tcp) as found:
            yield found
        return
    # The path of a Unix socket has about 100 characters, which a longer TMPDIR would use up.
    short = "/tmp" if Path("/tmp").is_dir() else None  # noqa: ASYNC240, S108 - TemporaryDirectory makes it ours
    with tempfile.TemporaryDirectory(prefix="onceproof-", dir=short) as directory:
        await asyncio.to_thread(Path(directory).chmod, 0o755)  # Postgres may run as another user
        refuse_memory(await asyncio.to_thread(file_system_of, Path(directory)), directory)
        server = EmbeddedPostgres(Path(directory), logical=True, tcp=True)
        await asyncio.to_thread(server.start)
        try:
            async with _on_server(server.url(), server.tcp) as found:
                yield found
        finally:
            await asyncio.to_thread(server.stop)


def refuse_memory(file_system: str | None, directory: str) -> None:
    """Refuse a file system on which nothing is durable.

    Raises:
        ConfigurationError: it is one.
    """
    if file_system in _MEMORY:
        raise ConfigurationError(
            f"{directory} is on {file_system}: a commit costs nothing there, and figures mean nothing. "
            "Set TMPDIR to a folder on a disk, or give --database-url"
        )


def file_system_of(path: Path) -> str | None:
    """Type of the file system that holds `path`, e.g. `ext4`; None where it cannot be told."""
    path = path.resolve()
    mounted = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    return next((mounted[at] for at in (path, *path.parents) if at in mounted), None)


@asynccontextmanager
async def _on_server(server_url: str, tcp: tuple[str, int] | None) -> AsyncIterator[Database]:
    name = f"onceproof_bench_{os.getpid()}"
    admin = await _connect(make_url(server_url))
    try:
        settings = {item: str(await admin.fetchval(f"SHOW {item}")) for item in _SETTINGS}
        lax = [item for item in _DURABLE if settings[item] != "on"]
        if lax:
            raise ConfigurationError(
                f"the server has {', '.join(lax)} not on; figures without durable commits mean nothing"
            )
        version = str(await admin.fetchval("SHOW server_version"))
        await admin.execute(f'CREATE DATABASE "{name}"')
        try:
            own = make_url(server_url).set(database=name)
            await upgrade(
                own.render_as_string(hide_password=False), "onceproof", "producer", "consumer"
            )
            where = Database(
                own, await _connect(own), version, settings,
                await Meter.connect(await _connect(own)), tcp,
            )  # fmt: skip
            try:
                yield where
            finally:
                await where.meter.close()
                await where.connection.close()
        finally:
            if admin.is_closed():
                admin = await _connect(make_url(server_url))
            await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    finally:
        await admin.close()


async def _connect(url: URL) -> asyncpg.Connection:
    plain = normalise_url(url.render_as_string(hide_password=False)).set(drivername="postgresql")
    try:
        return await asyncpg.connect(plain.render_as_string(hide_password=False), timeout=10)
    except (OSError, asyncpg.PostgresError) as error:
        raise ConfigurationError(f"the database cannot be reached: {error}") from error
