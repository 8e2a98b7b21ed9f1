"""A world with CrashDrills in it, and a test of its own that it tells drills apart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import pytest
from tests.unit.test_operator_fakes import FakePod, custom_object, eventually
from tests.unit.test_operator_world import FakeWorld

from onceproof_chaos.admin_client import ReachedPoint
from onceproof_operator import drill as drill_module
from onceproof_operator import kill as kill_module
from onceproof_operator import verification
from onceproof_operator.cluster import Pod
from onceproof_operator.handlers import _drill
from onceproof_operator.kill import Kill
from onceproof_operator.tasks import Work
from onceproof_operator.verification import Ledgers

LABELS = {"app.kubernetes.io/component": "consumer"}


class Scene:
    """One world, and drills in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = FakeWorld()
        self.cluster = self.world.cluster
        self.traces = self.world.traces
        self.quiet = self.world.quiet.quiet
        self.kills: list[Kill] = []
        self.ledgers = Ledgers(orders=1, captures=1, charges=1, pending=0)
        self.still_runs: set[str] = set()
        self.monkeypatch = monkeypatch
        for module, name in (
            (drill_module, "_POLL_S"),
            (drill_module, "_TRACES_POLL_S"),
            (kill_module, "_POLL_S"),
        ):
            monkeypatch.setattr(module, name, 0.001)
        monkeypatch.setattr(drill_module, "record", self._record)
        monkeypatch.setattr(kill_module, "_is_open", self._is_open)
        monkeypatch.setattr(verification, "_read", self._read)

    def _record(self, kill: Kill) -> None:
        self.kills.append(kill)
        self.traces.killed(kill)

    async def _is_open(self, pod: Pod) -> bool:
        return pod.uid in self.still_runs

    async def _read(self, *_: object) -> Ledgers:
        return self.ledgers

    def make(self, name: str = "d", *, created: float = 0.0, **spec: Any) -> dict[str, Any]:
        """A CrashDrill as its user made it."""
        labels = spec.pop("labels", LABELS)
        wanted: dict[str, Any] = {
            "target": {"selector": {"matchLabels": labels}},
            "crashPoint": "consumer.after_commit",
            "action": "kill",
            "match": {"order": "o-1"},
            "deadlineSeconds": 60,
        }
        made = custom_object(name, wanted | spec, created=created or time.time())
        self.cluster.custom["crashdrills"].append(made)
        return made

    def work(self, made: Mapping[str, Any]) -> Work:
        """As an operator that sees it now, with the status that it has now."""
        return _drill(self.world.real(), made)

    def start(self, made: Mapping[str, Any]) -> asyncio.Task[None]:
        return asyncio.create_task(self.work(made).run())

    async def run(self, made: Mapping[str, Any]) -> Mapping[str, Any]:
        """To its end; its status."""
        async with asyncio.timeout(5):
            await self.work(made).run()
        status: Mapping[str, Any] = made["status"]
        return status

    def reach(self, pod: FakePod) -> ReachedPoint:
        """The order comes, and meets the fault."""
        point = self.cluster.reach(pod)
        self.traces.crash(point)
        return point


def said(made: Mapping[str, Any], kind: str) -> tuple[str, str]:
    """Status and reason of a condition."""
    conditions = made["status"].get("conditions", ())
    found: Mapping[str, Any] = next((c for c in conditions if c["type"] == kind), {})
    return found.get("status", ""), found.get("reason", "")


async def until_said(made: Mapping[str, Any], kind: str, state: str = "True") -> None:
    await eventually(lambda: said(made, kind)[0] == state)


async def test_each_drill_has_a_status_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    first, second = scene.make("first", labels={"a": "!!"}), scene.make("second")
    await scene.run(first)
    assert said(first, "Selected") == ("False", "SelectorInvalid")
    assert said(second, "Selected") == ("", "")
