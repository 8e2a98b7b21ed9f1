"""Relays, each moving the same pending events from a table of its own to a queue on the same servers.

The relay is running and idle when the rows are committed, in one statement; the clock runs from that
commit until all of them are in the queue. Then the queue is read to the last message, and the run
counts only if each event is there once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from benchmarks.bench import Bench
from benchmarks.contest import NotRunError
from benchmarks.figures import Sample
from benchmarks.outbox_table import event_template
from benchmarks.queue_content import fresh_queue, require_each_once, sqs_client, until_filled

_STUCK_S: Final = 120.0
_WARM_UP: Final = 50
"""Few, because a peer with its defaults may do ten a second."""
_LONG_WARM_UP: Final = 1000


@dataclass(frozen=True, slots=True)
class Target:
    """Where a relay sends to."""

    endpoint: str
    queue: str
    url: str


class RelayKind(Protocol):
    """What differs between relays."""

    @property
    def name(self) -> str:
        """Unique within the contest."""
        ...

    @property
    def table(self) -> str:
        """Its outbox table, with its schema."""
        ...

    @property
    def fill(self) -> str:
        """Inserts `$1` rows; `$2` is the event's JSON with `EVENT_ID` for its id, `$3` the queue."""
        ...

    @property
    def channel(self) -> str | None:
        """Notified after the commit, if the relay listens."""
        ...

    async def build(self, at: Bench) -> None:
        """Get ready for any number of runs.

        Raises:
            NotRunError: it cannot be run here.
        """
        ...

    def running(self, at: Bench, to: Target) -> AbstractAsyncContextManager[Mapping[str, int]]:
        """Run it, idle; its process ids by role."""
        ...


class RelayPeer:
    """A relay as a contender.

    Args:
        at: the servers.
        kind: the relay.
        client: an SQS client for filling, counting and reading.
    """

    def __init__(self, at: Bench, kind: RelayKind, client: Any) -> None:  # noqa: ANN401 - no types
        self.name = kind.name
        self._at = at
        self._kind = kind
        self._client = client
        self._rows = _WARM_UP

    async def prepare(self) -> None:
        """Build it, and find out how many rows fill the time of a run."""
        await self._kind.build(self._at)
        warm = await self.run(_WARM_UP)
        if warm.orders_per_s > _LONG_WARM_UP / 10:
            warm = await self.run(_LONG_WARM_UP)
        self._rows = max(round(warm.orders_per_s * self._at.scale.seconds / 10) * 10, _WARM_UP)

    async def measure(self, repeat: int) -> Sample:
        """Relay; `repeat` changes nothing."""
        del repeat
        return await self.run(self._rows)

    async def run(
        self, rows: int, *, meddle: Callable[[Any, str], Awaitable[object]] | None = None
    ) -> Sample:
        """Relay `rows` rows.

        Args:
            rows: how many.
            meddle: for the negative control: given the client and the queue's URL when all are sent.

        Raises:
            InvalidRunError: not every event was in the queue exactly once.
        """
        server = await self._at.queue_server()
        where, kind = self._at.where, self._kind
        await where.connection.execute(f"TRUNCATE {kind.table}")
        async with fresh_queue(self._client) as (queue, url):
            target = Target(server.endpoint, queue, url)
            async with kind.running(self._at, target) as processes:
                await where.settle(kind.table)
                await where.meter.start(processes)
                await where.connection.execute(kind.fill, rows, event_template(), queue)
                started = time.perf_counter()
                if kind.channel is not None:
                    await where.connection.execute("SELECT pg_notify($1, '')", kind.channel)
                await until_filled(self._client, url, rows, _STUCK_S)
                seconds = time.perf_counter() - started
                await where.meter.stop()
            resources = await where.meter.collect()
            if meddle is not None:
                await meddle(self._client, url)
            await require_each_once(self._client, url, rows)
        own = sum(resources.cpu_s.get(name, 0.0) for name in processes)
        return Sample(rows, seconds, own, 0, resources)


@asynccontextmanager
async def relay_contenders(at: Bench, kinds: Sequence[RelayKind]) -> AsyncIterator[list[RelayPeer]]:
    """Relays on one queue server.

    Raises:
        NotRunError: there is no queue server.
    """
    server = await at.queue_server()
    async with sqs_client(server.endpoint) as client:
        yield [RelayPeer(at, kind, client) for kind in kinds]


async def stopped(process: asyncio.subprocess.Process, within_s: float = 20.0) -> None:
    """End a process: SIGTERM, and SIGKILL if that does not help."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(within_s):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def require_tcp(at: Bench) -> tuple[str, int]:
    """Host and port of the server.

    Raises:
        NotRunError: it has only a Unix socket.
    """
    if at.where.tcp is None:
        raise NotRunError("needs Postgres on a port, and this one has only a Unix socket")
    return at.where.tcp
