"""Campaigns that break or are broken off: each gets a verdict, and leaves nothing armed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.unit.test_operator_campaign import Stage
from tests.unit.test_operator_fakes import eventually
from tests.unit.test_operator_scene import said
from tests.unit.test_operator_workload import log, pod_of

from onceproof_chaos.backend import Role
from onceproof_chaos.traces import TraceStoreError
from onceproof_chaos.verdict import Verdict
from onceproof_operator import backend as backend_module
from onceproof_operator import campaign as module
from onceproof_operator.api import ClusterError
from onceproof_operator.tasks import Tasks


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stage:
    return Stage(monkeypatch, tmp_path)


@pytest.mark.parametrize("phase", ["Loading", "Draining", "Checking"])
async def test_an_operator_that_died_in_the_middle(stage: Stage, phase: str) -> None:
    made = stage.make()
    made["status"] = {"phase": phase}
    work = stage.work(made)
    stage.cluster.jobs[work._job.name] = None
    for pod in stage.pods.values():
        pod.armed = {"c0000000-kill-01": None}  # type: ignore[dict-item]
    await work.run()
    assert (made["status"]["phase"], made["status"]["verdict"]) == ("Finished", "inconclusive")
    assert said(made, "Verified") == ("False", "OperatorRestarted")
    assert stage.cluster.jobs == {}
    assert all(pod.armed == {} for pod in stage.pods.values())


@pytest.mark.parametrize("name", ["job_finished", "pods", "objects"])
async def test_an_interrupted_campaign_ends_also_when_nothing_can_be_taken_back(
    stage: Stage, name: str
) -> None:
    made = stage.make()
    made["status"] = {"phase": "Loading"}
    stage.cluster.fail(name, ClusterError("away"))
    assert (await stage.run(made))["phase"] == "Finished"


@pytest.mark.parametrize("phase", ["Refused", "Finished"])
async def test_what_is_over_stays_over(stage: Stage, phase: str) -> None:
    made = stage.make()
    made["status"] = {"phase": phase}
    await stage.run(made)
    assert (made["status"], stage.cluster.written) == ({"phase": phase}, [])


@pytest.mark.parametrize("where", ["objects", "write_status"])
async def test_an_acceptance_that_breaks_is_an_end(stage: Stage, where: str) -> None:
    stage.cluster.fail(where, ClusterError("HTTP 410"))
    made = stage.make()
    status = await stage.run(made)
    assert (status["phase"], status["verdict"]) == ("Finished", "inconclusive")
    assert said(made, "Verified") == ("False", "OperatorError")


async def test_a_conclusion_that_breaks_is_no_pass(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def conclude(*_: object, **__: object) -> Verdict:
        raise RuntimeError("a bug")

    monkeypatch.setattr(module, "conclude", conclude)
    made = stage.make()
    task, work = await stage.placing(made)
    stage.placed(work)
    await task
    assert (made["status"]["phase"], made["status"]["verdict"]) == ("Finished", "inconclusive")
    assert "a bug" in made["status"]["message"]


async def test_a_conclusion_does_not_take_for_ever(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def conclude(*_: object, **__: object) -> Verdict:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(module, "conclude", conclude)
    monkeypatch.setattr(module, "_CONCLUDE_S", 0.05)
    made = stage.make()
    task, work = await stage.placing(made)
    stage.placed(work)
    await task
    assert made["status"]["verdict"] == "inconclusive"


async def test_the_deadline_ends_the_clients_and_disarms(stage: Stage) -> None:
    made = stage.make(deadlineSeconds=0.3)
    task, _ = await stage.placing(made)
    await task
    assert stage.concluded[0]["drain_reason"] == "the deadline of 0 s has passed"
    assert said(made, "Drained") == ("False", "NotQuiet")
    assert stage.cluster.jobs == {}
    assert stage.pods[Role.CONSUMER].armed == {}


async def test_a_time_out_of_its_own_is_no_deadline(stage: Stage) -> None:
    stage.cluster.fail("create_job", TimeoutError("pod consumer-1 still runs"))
    made = stage.make()
    await stage.run(made)
    assert stage.concluded[0]["drain_reason"] == "the run was aborted: pod consumer-1 still runs"
    assert stage.pods[Role.CONSUMER].armed == {}


async def test_a_workload_that_fails_is_an_aborted_run_with_its_log(stage: Stage) -> None:
    made = stage.make()
    task, work = await stage.placing(made)
    stage.cluster.jobs[work._job.name] = False
    await task
    assert "the workload failed" in stage.concluded[0]["drain_reason"]
    assert stage.cluster.deleted == []
    assert stage.pods[Role.CONSUMER].armed == {}


async def test_pods_that_were_armed_but_never_ready_are_disarmed_too(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = stage.make()
    task, work = await stage.placing(made)
    monkeypatch.setattr(backend_module, "_READY_TIMEOUT_S", 0.05)
    late = stage.cluster.add("consumer", ready=False)
    stage.cluster.remove(stage.pods[Role.CONSUMER])
    await eventually(lambda: late.armed)
    await task
    assert "no pod has taken the place" in stage.concluded[0]["drain_reason"]
    assert late.armed == {}
    assert work._job.name in stage.cluster.deleted


async def test_missing_traces_are_a_reason_for_doubt(stage: Stage) -> None:
    stage.world.traces.failing = TraceStoreError("jaeger is away")
    made = stage.make()
    task, work = await stage.placing(made)
    stage.placed(work)
    await task
    assert "jaeger is away" in stage.concluded[0]["drain_reason"]


async def test_progress_survives_a_status_that_cannot_be_written(stage: Stage) -> None:
    made = stage.make()
    task, work = await stage.placing(made)
    stage.cluster.fail("write_status", ClusterError("HTTP 422"))
    pod_of(stage.cluster, work._job, log(2))
    await eventually(lambda: made["status"].get("orders") == 2)
    stage.cluster.jobs[work._job.name] = True
    await task
    assert made["status"]["verdict"] == "pass"


async def test_a_deleted_campaign_takes_its_job_and_its_faults_with_it(stage: Stage) -> None:
    made, tasks = stage.make(), Tasks()
    work = stage.work(made)
    tasks.start("uid", lambda: work)
    await eventually(lambda: stage.cluster.jobs)
    stage.cluster.custom["campaigns"].remove(made)
    await tasks.deleted("uid")
    assert stage.cluster.jobs == {}
    assert all(pod.armed == {} for pod in stage.pods.values())


async def test_an_operator_that_stops_leaves_it_for_the_next(stage: Stage) -> None:
    made, tasks = stage.make(), Tasks()
    tasks.start("uid", lambda: stage.work(made))
    await eventually(lambda: stage.cluster.jobs)
    await tasks.stop()
    assert made["status"]["phase"] == "Loading"
    assert "verdict" not in made["status"]
    assert (await stage.run(made))["phase"] == "Finished"
