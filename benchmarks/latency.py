"""Latencies of single orders: percentiles of a run, and how two sides that alternate compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles

from benchmarks.figures import Spread


@dataclass(frozen=True, slots=True)
class Latency:
    """Latencies of one run in milliseconds."""

    orders: int
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Of at least two latencies in seconds."""
        cuts = quantiles(seconds, n=100, method="inclusive")
        return cls(len(seconds), cuts[49] * 1000, cuts[98] * 1000)


@dataclass(frozen=True, slots=True)
class LatencyComparison:
    """Our runs and those of the other side, in the order in which they alternated."""

    name: str
    ours: Sequence[Latency]
    theirs: Sequence[Latency]

    def p50_ratio(self) -> Spread:
        """Our median by the other side's, pair by pair."""
        return Spread.of(a.p50_ms / b.p50_ms for a, b in self._pairs())

    def added_p50_ms(self) -> Spread:
        """By how much our median is longer, pair by pair."""
        return Spread.of(a.p50_ms - b.p50_ms for a, b in self._pairs())

    def added_p99_ms(self) -> Spread:
        """By how much our 99th percentile is longer, pair by pair."""
        return Spread.of(a.p99_ms - b.p99_ms for a, b in self._pairs())

    def _pairs(self) -> Sequence[tuple[Latency, Latency]]:
        return list(zip(self.ours, self.theirs, strict=True))
