"""Latency from an order's commit until its event is received, at steady rates, and what that takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

import psutil

from benchmarks.bench import Bench
from benchmarks.cdc.relays import Kind
from benchmarks.cdc.round import WITHIN_S, Round, around, require_each
from benchmarks.figures import Sample
from benchmarks.latency import Latency
from benchmarks.metering import cpu_of

RATES: Final = {10: 10.0, 100: 6.0, 1000: 5.0}
"""Orders per second, and for how many seconds."""
_IDLE_S: Final = 6.0


class Steady:
    """One relay at each rate in turn, started once.

    Args:
        at: the servers.
        client: of the queue server.
        kind: the relay.
    """

    def __init__(self, at: Bench, client: Any, kind: Kind) -> None:  # noqa: ANN401 - no types
        self.name = kind.name
        self._at = at
        self._client = client
        self._kind = kind

    async def prepare(self) -> None:
        """Nothing: each run warms its relay up."""

    async def measure(self, repeat: int) -> Sample:
        """All rates once; `repeat` changes nothing.

        Raises:
            InvalidRunError: an event was lost, or came twice.
        """
        del repeat
        values: dict[str, float] = {}
        started = time.perf_counter()
        async with around(self._at, self._client, self._kind) as this:
            relay = this.running()
            parts = _parts(self._at, relay.processes())
            committed: set[str] = set()
            for rate, seconds in RATES.items():
                values |= await self._at_rate(this, rate, seconds, parts, committed)
            before = cpu_of(parts)
            await asyncio.sleep(_IDLE_S)
            for name, used in _since(before, parts).items():
                values[f"{name}_idle_cpu_percent"] = 100 * used / _IDLE_S
            for name in relay.processes():
                values[f"{name}_rss_mb"] = parts[name].memory_info().rss / 1e6
            require_each(committed, this.arrivals)
        return Sample(len(committed), time.perf_counter() - started, 0, 0, values=values)

    async def _at_rate(
        self,
        this: Round,
        rate: int,
        seconds: float,
        parts: Mapping[str, psutil.Process],
        committed: set[str],
    ) -> dict[str, float]:
        before, arrived, began = cpu_of(parts), len(this.arrivals.at), time.perf_counter()
        at_commit = await this.offering.offer(rate, seconds)
        taken = time.perf_counter() - began
        await this.arrivals.until(arrived + len(at_commit), WITHIN_S)
        used = _since(before, parts)
        committed |= at_commit.keys()
        delays = [this.arrivals.at[one] - when for one, when in at_commit.items()]
        latency = Latency.of(delays)
        return {
            f"p50_ms_at_{rate}": latency.p50_ms,
            f"p99_ms_at_{rate}": latency.p99_ms,
            f"max_ms_at_{rate}": 1000 * max(delays),
            f"offered_per_s_at_{rate}": len(at_commit) / taken,
            **{
                f"{name}_cpu_ms_per_order_at_{rate}": 1000 * each / len(at_commit)
                for name, each in used.items()
            },
        }


def _parts(at: Bench, processes: Mapping[str, int]) -> dict[str, psutil.Process]:
    """Each part's process; Postgres and broker, where they run on this machine, too."""
    found = {name: psutil.Process(pid) for name, pid in processes.items()}
    return found | at.where.meter.servers()


def _since(before: Mapping[str, float], parts: Mapping[str, psutil.Process]) -> dict[str, float]:
    return {name: now - before[name] for name, now in cpu_of(parts).items()}
