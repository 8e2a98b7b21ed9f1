"""What breaks while a drill runs: never a pass, never a hang, and nothing stays armed or parked."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.test_operator_fakes import FakePod, eventually
from tests.unit.test_operator_resume import stands
from tests.unit.test_operator_scene import Scene, said, until_said

from onceproof_chaos.admin_client import AdminError
from onceproof_operator import kill as kill_module
from onceproof_operator import verification
from onceproof_operator.api import ClusterError, ForbiddenError
from onceproof_operator.tasks import Tasks


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


async def armed(scene: Scene, **spec: Any) -> tuple[FakePod, dict[str, Any], asyncio.Task[None]]:
    pod, made = scene.cluster.add(), scene.make(**spec)
    task = scene.start(made)
    await until_said(made, "Armed")
    return pod, made, task


async def ended(made: dict[str, Any], task: asyncio.Task[None]) -> tuple[str, str]:
    """Verdict and failed step."""
    async with asyncio.timeout(5):
        await task
    return made["status"]["verdict"], made["status"]["failedStep"]


async def test_no_right_to_list_pods(scene: Scene) -> None:
    made = scene.make()
    scene.cluster.fail("pods", ForbiddenError("may not list pods", 403))
    status = await scene.run(made)
    assert (status["verdict"], status["failedStep"]) == ("inconclusive", "Selected")
    assert said(made, "Selected") == ("False", "Forbidden")
    assert status["message"] == "may not list pods"


async def test_no_right_to_delete_pods(scene: Scene) -> None:
    pod, made, task = await armed(scene)
    scene.cluster.fail("delete_pod", *[ForbiddenError("may not delete pods", 403)] * 2)
    scene.reach(pod)
    assert await ended(made, task) == ("inconclusive", "Killed")
    assert said(made, "Killed") == ("False", "Forbidden")
    # It stands there still, and its user must know.
    assert "not everything could be taken back: may not delete pods" in made["status"]["message"]


async def test_a_pod_that_somebody_else_deleted(scene: Scene) -> None:
    pod, made, task = await armed(scene)
    scene.cluster.gone_already = True
    scene.reach(pod)
    assert await ended(made, task) == ("inconclusive", "Killed")
    assert said(made, "Killed") == ("False", "NotOurs")
    assert scene.kills == []


async def test_a_process_that_does_not_die(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kill_module, "_GONE_TIMEOUT_S", 0.02)
    pod, made, task = await armed(scene)
    scene.still_runs = {pod.pod.uid}
    scene.reach(pod)
    assert await ended(made, task) == ("inconclusive", "Killed")
    assert said(made, "Killed") == ("False", "StillThere")
    assert f"pod {pod.pod.name} still runs" in made["status"]["message"]


async def test_a_drain_that_breaks(scene: Scene) -> None:
    pod, made, task = await armed(scene)
    scene.world.quiet.failing = ConnectionRefusedError("no database")
    scene.quiet.set()
    scene.reach(pod)
    assert await ended(made, task) == ("inconclusive", "Redelivered")
    assert said(made, "Redelivered") == ("False", "OperatorError")
    assert "no database" in made["status"]["message"]


async def test_a_time_out_of_its_own_is_no_deadline(scene: Scene) -> None:
    pod, made, task = await armed(scene)
    scene.world.quiet.failing = TimeoutError()
    scene.quiet.set()
    scene.reach(pod)
    await task
    assert said(made, "Redelivered") == ("False", "OperatorError")


async def test_a_verification_that_breaks_is_no_pass(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(verification, "_read", read)
    pod, made, task = await armed(scene)
    scene.reach(pod)
    scene.quiet.set()
    assert await ended(made, task) == ("inconclusive", "Verified")
    assert said(made, "Verified") == ("False", "OperatorError")


async def test_a_verdict_that_cannot_be_written_is_no_pass(scene: Scene) -> None:
    pod, made, task = await armed(scene)
    scene.reach(pod)
    await until_said(made, "Killed")
    scene.traces.handled(hit=True)
    await until_said(made, "Redelivered")
    scene.cluster.fail("write_status", None, ClusterError("patch: HTTP 422: too long", 422))
    scene.quiet.set()
    assert await ended(made, task) == ("inconclusive", "Verified")
    assert "too long" in made["status"]["message"]


async def test_a_service_that_answers_nonsense(scene: Scene) -> None:
    pod, made = scene.cluster.add(), scene.make()
    scene.cluster.fail("arm", AdminError("PUT: HTTP 500"))
    status = await scene.run(made)
    assert (status["verdict"], status["failedStep"]) == ("inconclusive", "Armed")
    assert pod.armed == {}


@pytest.mark.parametrize(
    "error", [AdminError("HTTP 500"), ClusterError("list pods: HTTP 410", 410)]
)
async def test_a_verdict_comes_also_when_nothing_can_be_taken_back(
    scene: Scene, error: Exception
) -> None:
    _, made, task = await armed(scene, deadlineSeconds=0.7)
    scene.cluster.failing["disarm" if isinstance(error, AdminError) else "pods"] = [error] * 1000
    verdict, _ = await ended(made, task)
    assert verdict == "inconclusive"


async def test_the_trace_store_away_is_missing_evidence(scene: Scene) -> None:
    pod, made, task = await armed(scene)
    scene.reach(pod)
    await until_said(made, "Killed")
    scene.traces.found.clear()
    scene.quiet.set()
    await task
    assert (made["status"]["verdict"], said(made, "Verified")[1]) == (
        "inconclusive",
        "EvidenceMissing",
    )


async def test_a_deleted_drill_is_disarmed_everywhere(scene: Scene) -> None:
    pods = [scene.cluster.add() for _ in range(3)]
    pods[2].answers = False
    made, tasks = scene.make(), Tasks()
    tasks.start("uid", lambda: scene.work(made))
    await eventually(lambda: all(pod.armed for pod in pods[:2]))
    foreign = dict.fromkeys(["somebody-elses"], next(iter(pods[0].armed.values())))
    pods[0].armed |= foreign
    scene.cluster.custom["crashdrills"].remove(made)
    await tasks.deleted("uid")
    assert (pods[0].armed, pods[1].armed, scene.cluster.deleted) == (foreign, {}, [])


@pytest.mark.parametrize("known", [True, False])
async def test_a_deleted_drill_ends_the_pod_that_is_parked_for_it_and_no_other(
    scene: Scene, known: bool
) -> None:
    parked, made, task = await armed(scene)
    other, foreign = scene.cluster.add(), scene.cluster.add()
    await eventually(lambda: other.armed and foreign.armed)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    point = scene.reach(parked)
    foreign.reached.append(replace(point, fault="drill-of-another"))
    if known:
        stands(made, parked, point)
    await scene.work(made).abandon()
    assert scene.cluster.deleted == [parked.pod.name]
    assert (other.armed, foreign.armed) == ({}, {})


@pytest.mark.parametrize("action", ["stall", "drop"])
async def test_nothing_is_deleted_for_a_drill_that_kills_nothing(scene: Scene, action: str) -> None:
    pod, made, task = await armed(scene, action=action)
    scene.reach(pod)
    await until_said(made, "Killed", "False")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await scene.work(made).abandon()
    assert scene.cluster.deleted == []
