"""Campaigns: accepted or refused, carried out with real nemesis and fake pods, and ended in any case."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.unit.test_operator_fakes import FakePod, custom_object, eventually
from tests.unit.test_operator_scene import said
from tests.unit.test_operator_spec import campaign
from tests.unit.test_operator_workload import log, pod_of
from tests.unit.test_operator_world import FakeWorld, settings

from onceproof_chaos.backend import PIPELINE, Role
from onceproof_chaos.verdict import Result, Verdict
from onceproof_operator import backend as backend_module
from onceproof_operator import campaign as module
from onceproof_operator import campaign_progress, workload_job
from onceproof_operator.api import ForbiddenError
from onceproof_operator.campaign import CampaignWork
from onceproof_operator.kill import Kill

FAULTS = {"kills": {"consumer.after_commit": 1}}


def verdict(result: Result = Result.PASS, **changes: Any) -> Verdict:
    document: dict[str, Any] = dict.fromkeys(Verdict.__slots__[1:11], 0)
    document |= {
        "verdict": result.value,
        "dedup_hit_rate": 0.5,
        "kills": {"consumer.after_commit": 1},
        "reasons": [],
        "breaches": [],
    }
    return Verdict.from_json(document | {"orders": 2, "accepted": 2} | changes)


class Stage:
    """An installation with a pod of each role, and campaigns in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, runs: Path) -> None:
        self.world = FakeWorld(settings=settings(runs_dir=runs, image="operator:1"))
        self.cluster = self.world.cluster
        self.pods: dict[str, FakePod] = {role: self.cluster.add(role) for role in PIPELINE}
        self.concluded: list[Mapping[str, Any]] = []
        self.verdict = verdict()
        self.kills: list[Kill] = []
        self.world.quiet.quiet.set()
        for changed, name in (
            (backend_module, "_LOOK_EVERY_S"),
            (backend_module, "_ARM_EVERY_S"),
            (workload_job, "_POLL_S"),
            (workload_job, "_SAVE_S"),
            (campaign_progress, "_WRITE_EVERY_S"),
            (module, "_EXPORT_S"),
        ):
            monkeypatch.setattr(changed, name, 0.001)
        monkeypatch.setattr(module, "conclude", self._conclude)
        monkeypatch.setattr(module, "write_report", lambda *_: None)
        monkeypatch.setattr(campaign_progress, "record", self.kills.append)
        monkeypatch.setattr(CampaignWork, "_postgres_version", self._postgres_version)

    async def _conclude(self, *_: object, **given: Any) -> Verdict:
        self.concluded.append(given)
        return self.verdict

    async def _postgres_version(self, *_: object) -> str:
        return "17.0"

    def make(self, name: str = "c", **changes: Any) -> dict[str, Any]:
        spec = campaign(orders=2, faults=FAULTS).fields
        made = custom_object(name, {**spec, **changes}, uid=f"{name:0<8}-uid")
        self.cluster.custom["campaigns"].append(made)
        return made

    def work(self, made: Mapping[str, Any]) -> CampaignWork:
        return CampaignWork.of(self.world.real(), made)

    async def run(self, made: Mapping[str, Any]) -> Mapping[str, Any]:
        async with asyncio.timeout(5):
            await self.work(made).run()
        status: Mapping[str, Any] = made["status"]
        return status

    async def placing(self, made: Mapping[str, Any]) -> tuple[asyncio.Task[None], CampaignWork]:
        """It has begun, pods are armed, and the Job runs."""
        work = self.work(made)
        task = asyncio.create_task(work.run())
        await eventually(lambda: self.cluster.jobs)
        return task, work

    def placed(self, work: CampaignWork, orders: int = 2) -> None:
        pod_of(self.cluster, work._job, log(orders))
        self.cluster.jobs[work._job.name] = True


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stage:
    return Stage(monkeypatch, tmp_path)


async def test_from_acceptance_to_verdict(stage: Stage) -> None:
    made, victim = stage.make(), stage.pods[Role.CONSUMER]
    task, work = await stage.placing(made)
    assert made["status"]["phase"] == "Loading"
    assert said(made, "Accepted") == ("True", "Accepted")
    assert [len(pod.ever_armed) for pod in stage.pods.values()] == [0, 0, 1, 0]
    stage.cluster.reach(victim)
    await eventually(lambda: stage.cluster.deleted)
    replacement = stage.cluster.add("consumer")
    await eventually(lambda: made["status"].get("kills") == 1)
    assert made["status"]["faultsReached"] == 1
    stage.placed(work)
    await task
    status = made["status"]
    assert (status["verdict"], status["phase"], status["kills"]) == ("pass", "Finished", 1)
    assert {kind: said(made, kind) for kind in ("Loaded", "Drained", "Verified")} == {
        "Loaded": ("True", "AllPlaced"),
        "Drained": ("True", "Quiet"),
        "Verified": ("True", "Passed"),
    }
    assert stage.cluster.deleted == [victim.pod.name]
    assert replacement.armed == {}
    [kill] = stage.kills
    assert (kill.uid, kill.point) == (victim.pod.uid, "consumer.after_commit")
    [concluded] = stage.concluded
    assert concluded["drain_reason"] is None
    assert concluded["versions"]["kubernetes"] == "v1.34.0"
    run = stage.world.settings.runs_dir / status["run"]
    assert {"plan.json", "faults.jsonl", "history.jsonl", "spans.jsonl"} <= {
        path.name for path in run.iterdir()
    }


@pytest.mark.parametrize(
    ("result", "said_so"),
    [
        (verdict(Result.FAIL, lost=1), ("True", "Breach")),
        (verdict(Result.INCONCLUSIVE, reasons=["not reached"]), ("False", "Inconclusive")),
    ],
)
async def test_the_verdict_is_the_proving_grounds(
    stage: Stage, result: Verdict, said_so: tuple[str, str]
) -> None:
    made, stage.verdict = stage.make(), result
    task, work = await stage.placing(made)
    stage.placed(work)
    await task
    assert made["status"]["verdict"] == result.verdict.value
    assert said(made, "Verified") == said_so


async def test_another_variant_is_refused_with_what_to_do(stage: Stage) -> None:
    made = stage.make(variant="naive")
    status = await stage.run(made)
    assert (status["phase"], status["verdict"]) == ("Refused", "inconclusive")
    assert said(made, "Accepted") == ("False", "VariantMismatch")
    assert "helm upgrade --reuse-values --set variant=naive" in status["message"]
    assert status["reasons"] == [status["message"]]


@pytest.mark.parametrize("phase", ["Loading", "Draining", "Checking"])
async def test_one_at_a_time(stage: Stage, phase: str) -> None:
    stage.make("other")["status"] = {"phase": phase}
    made = stage.make()
    assert (await stage.run(made))["phase"] == "Refused"
    assert said(made, "Accepted") == ("False", "AnotherCampaignRuns")
    assert "campaign other is running" in made["status"]["message"]


async def test_of_two_that_come_at_once_one_begins(stage: Stage) -> None:
    first, second = stage.make("first"), stage.make("second")
    works = [stage.work(made) for made in (first, second)]
    tasks = [asyncio.create_task(work.run()) for work in works]
    await eventually(lambda: stage.cluster.jobs and second["status"].get("phase"))
    assert (first["status"]["phase"], second["status"]["phase"]) == ("Loading", "Refused")
    stage.placed(works[0])
    await asyncio.gather(*tasks)
    assert len(stage.cluster.manifests) == 1


async def test_not_while_a_drill_has_no_verdict(stage: Stage) -> None:
    drill = custom_object("d", {})
    stage.cluster.custom["crashdrills"].append(drill)
    made = stage.make()
    assert (await stage.run(made))["phase"] == "Refused"
    assert said(made, "Accepted") == ("False", "DrillRuns")
    drill["status"] = {"verdict": "pass"}
    task, work = await stage.placing(stage.make("again"))
    stage.placed(work)
    await task


async def test_more_faults_than_orders(stage: Stage) -> None:
    made = stage.make(orders=1, faults={"kills": {"consumer.after_commit": 2}})
    assert (await stage.run(made))["phase"] == "Refused"
    assert said(made, "Accepted") == ("False", "PlanDoesNotFit")


@pytest.mark.parametrize(
    "change", [{"ready": False}, {"leaving": True}, {"labels": {"onceproof.dev/chaos": "disabled"}}]
)
async def test_every_role_needs_a_pod_with_chaos(stage: Stage, change: dict[str, Any]) -> None:
    stage.cluster.change(stage.pods[Role.RELAY], **change)
    made = stage.make()
    assert (await stage.run(made))["phase"] == "Refused"
    assert said(made, "Accepted") == ("False", "NoPodsWithChaos")
    assert "relay" in made["status"]["message"]
    assert all(pod.ever_armed == [] for pod in stage.pods.values())


async def test_a_missing_right(stage: Stage) -> None:
    stage.cluster.fail("objects", ForbiddenError("may not list campaigns"))
    made = stage.make()
    assert (await stage.run(made))["phase"] == "Refused"
    assert said(made, "Accepted") == ("False", "Forbidden")


async def test_somebody_elses_orders_are_on_their_way(stage: Stage) -> None:
    stage.world.quiet.reason = "not quiet after 60 s: 3 messages in the queue"
    made = stage.make()
    assert (await stage.run(made))["phase"] == "Refused"
    assert said(made, "Accepted") == ("False", "NotQuiet")
    assert stage.cluster.manifests == []
