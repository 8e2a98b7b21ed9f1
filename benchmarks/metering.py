"""What a run costs beside time: CPU seconds by process, WAL bytes, fsyncs, memory.

A throughput alone hides who paid for it. Through a real broker it is HTTP that binds, not the
database, so the same rate at half of the CPU is the better pipeline.

Postgres' CPU is that of the postmaster, of its children that live, and of those that have ended, which
the kernel adds to the postmaster's account: no backend's time is lost when it disconnects. Backends
report their share of `pg_stat_io` at most once a second, and all of it when they end; so fsyncs are
read by `collect`, after the clients have gone, and CPU and WAL position by `stop`, at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import asyncpg
import psutil

from benchmarks.figures import Resources

POSTGRES: Final = "postgres"
BROKER: Final = "broker"
_REPORT_S: Final = 0.3
"""For the last backends to end after their clients, and for the WAL writer to report."""

# Postgres 18 counts fsyncs of the WAL in pg_stat_io, older ones in pg_stat_wal.
_FSYNCS: Final = {
    True: "SELECT sum(fsyncs)::bigint FROM pg_stat_io WHERE object = 'wal'",
    False: "SELECT wal_sync FROM pg_stat_wal",
}
_POSITION: Final = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint"


class Meter:
    """Measures one run after the other; open it with `connect`.

    Args:
        connection: to the server, of its own, as a superuser or a member of pg_monitor.
        postmaster: the server's process, None where it runs elsewhere.
    """

    def __init__(self, connection: asyncpg.Connection, postmaster: psutil.Process | None) -> None:
        self._connection = connection
        self._postmaster = postmaster
        self._always: dict[str, int] = {}
        self._processes: dict[str, psutil.Process] = {}
        self._cpu: dict[str, float] = {}
        self._fsyncs: int | None = None
        self._position = 0
        self._stopped: Resources | None = None
        self.running = False

    @classmethod
    async def connect(cls, connection: asyncpg.Connection) -> Meter:
        """A meter for the server of this connection."""
        backend = int(await connection.fetchval("SELECT pg_backend_pid()"))
        return cls(connection, await asyncio.to_thread(_postmaster_of, backend))

    def reconnected(self, connection: asyncpg.Connection) -> None:
        """Go on with another connection, when the server was restarted."""
        self._connection = connection

    async def close(self) -> None:
        """Close its connection."""
        await self._connection.close()

    def watch_always(self, name: str, pid: int | None) -> None:
        """Add a process to every run from now on, or take it out again: the broker."""
        if pid is None:
            self._always.pop(name, None)
        else:
            self._always[name] = pid

    def servers(self) -> dict[str, psutil.Process]:
        """Postgres, and what is watched always, as far as they run on this machine."""
        found = {name: psutil.Process(pid) for name, pid in self._always.items()}
        return found | ({POSTGRES: self._postmaster} if self._postmaster is not None else {})

    async def start(self, processes: Mapping[str, int] | None = None) -> None:
        """Begin a run.

        Args:
            processes: the contender's own by role; each with its children.
        """
        self._processes = {
            name: psutil.Process(pid) for name, pid in {**self._always, **(processes or {})}.items()
        }
        if self._postmaster is not None:
            self._processes[POSTGRES] = self._postmaster
        self._fsyncs = await self._count_fsyncs()
        self._position = await self._connection.fetchval(_POSITION)
        self._stopped = None
        self.running = True
        self._cpu = cpu_of(self._processes)

    async def stop(self) -> None:
        """End the timed part; the processes must still be there."""
        if not self.running:
            return
        self.running = False
        now = cpu_of(self._processes)
        position = await self._connection.fetchval(_POSITION)
        self._stopped = Resources(
            cpu_s={name: now[name] - self._cpu[name] for name in now if name in self._cpu},
            wal_bytes=position - self._position,
            peak_rss_mb={
                name: peak
                for name, process in self._processes.items()
                if name != POSTGRES and (peak := peak_rss_mb(process.pid)) is not None
            },
        )

    async def collect(self) -> Resources:
        """What the run used. Call it when the contender's connections are closed."""
        await self.stop()
        known = self._stopped or Resources()
        await asyncio.sleep(_REPORT_S)
        fsyncs = await self._count_fsyncs()
        return Resources(
            cpu_s=known.cpu_s,
            wal_bytes=known.wal_bytes,
            fsyncs=None if fsyncs is None or self._fsyncs is None else fsyncs - self._fsyncs,
            peak_rss_mb=known.peak_rss_mb,
        )

    async def _count_fsyncs(self) -> int | None:
        newer = self._connection.get_server_version().major >= 18
        try:
            found = await self._connection.fetchval(_FSYNCS[newer])
        except asyncpg.PostgresError:
            return None
        return None if found is None else int(found)


def cpu_of(parts: Mapping[str, psutil.Process]) -> dict[str, float]:
    """CPU seconds by part, without those that are gone.

    What a process started is counted with it, unless it is a part of its own.
    """
    own = {process.pid for process in parts.values()}
    found = {}
    for name, process in parts.items():
        with contextlib.suppress(psutil.Error):
            others = [each for each in process.children(recursive=True) if each.pid in own]
            found[name] = cpu_s(process) - sum(map(cpu_s, others))
    return found


def cpu_s(process: psutil.Process) -> float:
    """CPU seconds of a process with all of its children, those that have ended included."""
    times = process.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            of_child = child.cpu_times()
            total += of_child.user + of_child.system
            total += of_child.children_user + of_child.children_system
    return float(total)


def peak_rss_mb(pid: int) -> float | None:
    """The largest resident memory that a process had, in MB; now's, where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    with contextlib.suppress(psutil.Error):
        return float(psutil.Process(pid).memory_info().rss / 1e6)
    return None


def _postmaster_of(backend: int) -> psutil.Process | None:
    """The postmaster, if that process id means a Postgres of this machine and not of another."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(backend)
        parent = process.parent()
        if parent is not None and "postgres" in process.name() and "postgres" in parent.name():
            return parent
    return None
