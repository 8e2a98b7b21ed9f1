"""The arithmetic of a benchmark, and its refusal: a run that charged wrongly has no speed.

Ratios rather than orders per second alone, because a rate says as much about the machine as about the
code; see `benchmarks.contest` for how they are taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median


class InvalidRunError(Exception):
    """The run did not do what it was timed for, so its time means nothing."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What a run used beside time.

    Args:
        cpu_s: CPU seconds by process: the contender's own by their roles, `postgres` for the server
            with all of its backends, `broker`. What runs elsewhere is missing.
        wal_bytes: written by the server during the run, whoever caused them; None where unknown.
        fsyncs: of the WAL; None where the server does not tell.
        peak_rss_mb: largest resident memory by process in MB (10^6 bytes), of the contender's own.
    """

    cpu_s: Mapping[str, float] = field(default_factory=dict)
    wal_bytes: int | None = None
    fsyncs: int | None = None
    peak_rss_mb: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sample:
    """One timed run.

    Args:
        orders: distinct orders that were done.
        seconds: wall-clock time for them.
        cpu_s: CPU seconds of the client process (ours or pgbench), without those of Postgres.
        transactions: committed for these orders; pgbench counts those of duplicates with them. 0
            where they are not counted.
        resources: what else it used, where that was measured.
        sqs_requests: to the queue for these orders, by operation; None where they were not counted.
        values: further figures of the run by name, each with its unit in the name.
    """

    orders: int
    seconds: float
    cpu_s: float
    transactions: int
    resources: Resources | None = None
    sqs_requests: Mapping[str, int] | None = None
    values: Mapping[str, float] = field(default_factory=dict)

    @property
    def orders_per_s(self) -> float:
        """Throughput."""
        return self.orders / self.seconds

    @property
    def cpu_s_per_1000(self) -> float:
        """CPU seconds of the client for 1000 orders."""
        return self.cpu_s * 1000 / self.orders

    @property
    def orders_per_transaction(self) -> float:
        """How well a batch was filled; 0 where transactions were not counted."""
        return self.orders / self.transactions if self.transactions else 0.0

    @property
    def sqs_requests_per_order(self) -> float | None:
        """Requests of every operation together."""
        return sum(self.sqs_requests.values()) / self.orders if self.sqs_requests else None

    def value(self, measure: str) -> float | None:
        """A figure by its name: a property of this class or one of `values`; None if it has none."""
        if measure in self.values:
            return self.values[measure]
        found = getattr(self, measure, None)
        return float(found) if isinstance(found, int | float) else None


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, smallest and largest of several values."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of at least one value."""
        known = sorted(values)
        if not known:
            raise ValueError("a spread needs at least one value")
        return cls(median(known), known[0], known[-1])


def require_charged_once(*, asked: int, charges: int, charged_orders: int, given_back: int) -> None:
    """Refuse a run in which an order was lost, charged twice, or tried again.

    Args:
        asked: distinct orders in the input.
        charges: rows in `charges`.
        charged_orders: distinct orders in `charges`.
        given_back: deliveries that were released or rejected instead of acked.

    Raises:
        InvalidRunError: with what is wrong.
    """
    if charges == charged_orders == asked and not given_back:
        return
    raise InvalidRunError(
        f"{asked} distinct orders gave {charges} charges for {charged_orders} orders; "
        f"{given_back} deliveries were given back"
    )


def require_published_once(*, asked: int, published: int, attempts: int, sent: int) -> None:
    """Refuse a run in which a row was left, or claimed or sent more than once.

    Args:
        asked: rows that were pending.
        published: rows that are marked as published.
        attempts: claims of all rows together.
        sent: messages that the publisher was given.

    Raises:
        InvalidRunError: with what is wrong.
    """
    if published == attempts == sent == asked:
        return
    raise InvalidRunError(
        f"{asked} pending rows: {published} published, {attempts} claims, {sent} messages sent"
    )
