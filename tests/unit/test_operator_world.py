"""Everything else that a drill or a campaign works with, as fakes: traces, drain, settings."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, cast

from tests.unit.test_operator_fakes import NAMESPACE, FakeCluster

from onceproof.telemetry import CRASH_POINT, CRASH_POINT_SPAN, DEDUP_HIT
from onceproof_chaos.admin_client import AdminClient, ReachedPoint
from onceproof_chaos.spans import Span
from onceproof_operator.cluster import Cluster
from onceproof_operator.kill import DRILL, KILL_SPAN, POD_UID, Kill
from onceproof_operator.settings import OperatorSettings
from onceproof_operator.world import World


class FakeTraces:
    """The spans of one order."""

    def __init__(self) -> None:
        self.found: list[Span] = []
        self.failing: Exception | None = None

    def add(self, name: str, at: float, **attributes: Any) -> None:
        span_id = attributes.pop("span_id", f"{len(self.found):016x}")
        self.found.append(
            Span(name, "ab" * 16, span_id, at, at, instance="consumer-9", attributes=attributes)
        )

    def crash(self, point: ReachedPoint) -> None:
        """What the service flushes before anybody may kill it."""
        attributes = {CRASH_POINT: point.point}
        self.add(CRASH_POINT_SPAN, point.at, span_id=point.span_id, **attributes)

    def handled(self, *, hit: bool = False, at: float | None = None) -> None:
        attributes = {"messaging.operation.type": "process", DEDUP_HIT: hit}
        self.add("process orders", at or time.time(), **attributes)

    def killed(self, kill: Kill) -> None:
        self.add(KILL_SPAN, kill.started_at, **{DRILL: kill.drill, POD_UID: kill.uid})

    async def of_order(self, order: str, *, since: float) -> list[Span]:
        assert order
        if self.failing:
            raise self.failing
        return [span for span in self.found if span.start >= since]

    async def spans(self, start: float, end: float) -> list[Span]:
        if self.failing:
            raise self.failing
        return [span for span in self.found if start <= span.start <= end]


class FakeDrain:
    """Quiet as soon as the test says so."""

    def __init__(self) -> None:
        self.quiet = asyncio.Event()
        self.reason: str | None = None
        self.failing: Exception | None = None
        self.began = 0

    async def until_quiet(self, **_: Any) -> str | None:
        self.began += 1
        await self.quiet.wait()
        if self.failing:
            raise self.failing
        return self.reason

    async def dead_letters(self) -> list[dict[str, Any]]:
        return []


def settings(**changes: Any) -> OperatorSettings:
    values: dict[str, Any] = {
        "namespace": NAMESPACE,
        "release": "rel",
        "database_url": "postgresql://app:s3cret@db:5432/onceproof",
        "provider_database_url": "postgresql://pay:t0psecret@db:5432/provider",
        "visibility_s": 1.0,
    }
    return OperatorSettings(**values | changes)


@dataclass
class FakeWorld:
    settings: OperatorSettings = field(default_factory=settings)
    cluster: FakeCluster = field(default_factory=FakeCluster)
    traces: FakeTraces = field(default_factory=FakeTraces)
    quiet: FakeDrain = field(default_factory=FakeDrain)
    admission: asyncio.Lock = field(default_factory=asyncio.Lock)
    database_url: str = "postgresql://db/onceproof"
    provider_database_url: str = "postgresql://db/provider"

    @property
    def admin(self) -> FakeCluster:
        return self.cluster

    def drain(self) -> FakeDrain:
        return self.quiet

    def real(self) -> World:
        return cast("World", self)


def as_cluster(cluster: FakeCluster) -> Cluster:
    return cast("Cluster", cluster)


def as_admin(cluster: FakeCluster) -> AdminClient:
    return cast("AdminClient", cluster)


async def test_spans_are_found_by_time() -> None:
    traces = FakeTraces()
    traces.handled(at=5)
    traces.handled(at=7, hit=True)
    assert [span.start for span in await traces.spans(6, 8)] == [7]
    assert [span.start for span in await traces.of_order("o-1", since=5)] == [5, 7]
