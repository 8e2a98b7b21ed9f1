"""How long events stay away when a part is killed under a steady load, and starts again at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import psutil

from benchmarks.bench import Bench
from benchmarks.cdc.relays import CDC, EACH_SECOND, WOKEN, Kind, Running, relay_of
from benchmarks.cdc.round import WITHIN_S, around, require_each
from benchmarks.contest import NotRunError
from benchmarks.figures import Sample
from benchmarks.metering import POSTGRES

_PER_S: Final = 50
_BEFORE_S: Final = 2.0
_AFTER_S: Final = 10.0

POD: Final = "its pod"
ONE_OF_TWO: Final = "one of two pods"
DEBEZIUM: Final = "Debezium alone"
SERVER: Final = "Postgres' backends"


@dataclass(frozen=True, slots=True)
class Killed:
    """A relay, and which part of it is killed."""

    kind: Kind
    part: str

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.kind.name}: {self.part}"


CASES: Final = (
    Killed(WOKEN, ONE_OF_TWO), Killed(WOKEN, POD), Killed(EACH_SECOND, POD), Killed(CDC, POD),
    Killed(CDC, DEBEZIUM), Killed(WOKEN, SERVER), Killed(CDC, SERVER),
)  # fmt: skip


class Recovery:
    """One case.

    Args:
        at: the servers.
        client: of the queue server.
        case: what is killed.
    """

    def __init__(self, at: Bench, client: Any, case: Killed) -> None:  # noqa: ANN401 - no types
        self.name = case.name
        self._at = at
        self._client = client
        self._case = case

    async def prepare(self) -> None:
        """Nothing: each run warms its relay up."""

    async def measure(self, repeat: int) -> Sample:
        """One kill; `repeat` changes nothing.

        Raises:
            InvalidRunError: an event was lost.
        """
        del repeat
        started = time.perf_counter()
        async with (
            around(self._at, self._client, self._case.kind) as this,
            AsyncExitStack() as stack,
        ):
            if self._case.part == ONE_OF_TWO:
                other = relay_of(self._at, self._case.kind, this.to)
                await (await stack.enter_async_context(other)).start()
            warm = len(this.arrivals.at)
            offered = asyncio.create_task(this.offering.offer(_PER_S, _BEFORE_S + _AFTER_S))
            await asyncio.sleep(_BEFORE_S)
            killed = time.perf_counter()
            await self._kill(this.running())
            committed = await offered
            await self._at.where.reconnect()
            await this.arrivals.until(warm + len(committed), WITHIN_S)
            require_each(set(committed), this.arrivals, again=True)
            delays = [this.arrivals.at[one] - when for one, when in committed.items()]
            values = {
                "silence_s": _silence(this.arrivals.at.values(), killed),
                "worst_s": max(delays),
                "late_orders": float(sum(delay > 1 for delay in delays)),
                "duplicates": float(this.arrivals.seen.total() - len(this.arrivals.seen)),
            }
        return Sample(len(committed), time.perf_counter() - started, 0, 0, values=values)

    async def _kill(self, relay: Running) -> None:
        if self._case.part in (POD, ONE_OF_TWO):
            await relay.kill()
        elif self._case.part == DEBEZIUM:
            relay.kill_debezium()
        else:
            self._kill_server()

    def _kill_server(self) -> None:
        """Kill a backend: the postmaster ends all the others, recovers from the WAL and goes on."""
        postmaster = self._at.where.meter.servers().get(POSTGRES)
        if postmaster is None:
            raise NotRunError("Postgres runs on another machine")
        backends = [each for each in postmaster.children() if _is_backend(each)]
        if not backends:
            raise NotRunError("Postgres has no backend to kill")
        backends[0].kill()


def _is_backend(process: psutil.Process) -> bool:
    """Of a client; the server's own helpers would do as well, but not each of them."""
    return any("onceproof_bench_" in part for part in process.cmdline())


def _silence(arrivals: Iterable[float], since: float) -> float:
    """The longest time without an arrival, from `since` on, in seconds."""
    known = [since, *sorted(at for at in arrivals if at >= since)]
    return max((later - sooner for sooner, later in pairwise(known)), default=0)
