"""Drills from their creation to a verdict, in a cluster of fakes."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from tests.unit.test_operator_fakes import eventually
from tests.unit.test_operator_scene import Scene, said, until_said
from tests.unit.test_operator_world import settings

from onceproof_operator.drill import STEPS
from onceproof_operator.verification import Ledgers


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


async def test_a_kill_from_selection_to_verdict(scene: Scene) -> None:
    victim, other = scene.cluster.add(), scene.cluster.add()
    bystander = scene.cluster.add("relay")
    made = scene.make()
    task = scene.start(made)
    await until_said(made, "Armed")
    assert len(victim.armed) == len(other.armed) == 1
    assert bystander.ever_armed == []
    assert made["status"]["message"] == "2 pods wait for order o-1: place it now"
    point = scene.reach(victim)
    await until_said(made, "Killed")
    assert scene.cluster.deleted == [victim.pod.name]
    assert other.armed == {}
    scene.traces.handled(hit=True)
    await until_said(made, "Redelivered")
    scene.quiet.set()
    await task
    status = made["status"]
    assert (status["verdict"], status["step"], status["captures"]) == ("pass", "Verified", 1)
    assert "failedStep" not in status
    assert [c["type"] for c in status["conditions"]] == list(STEPS)
    assert {c["status"] for c in status["conditions"]} == {"True"}
    assert status["pod"]["uid"] == victim.pod.uid
    assert (status["traceId"], status["spanId"]) == (point.trace_id, point.span_id)
    [kill] = scene.kills
    assert (kill.uid, kill.span_id, kill.drill) == (victim.pod.uid, point.span_id, "d")
    times = [
        status[name] for name in ("armedAt", "reachedAt", "killedAt", "redeliveredAt", "endedAt")
    ]
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("point", "component", "counts"),
    [
        (
            "producer.after_commit",
            "producer",
            True,
        ),  # committed is handed over, to a fast relay too
        ("relay.before_publish", "relay", False),
        ("relay.after_publish", "relay", False),
    ],
)
async def test_what_was_handled_before_the_fault(
    scene: Scene, point: str, component: str, counts: bool
) -> None:
    made = await handled_before(scene, component, crashPoint=point, action="drop")
    assert said(made, "Redelivered")[0] == ("True" if counts else "False")


async def handled_before(scene: Scene, component: str, **spec: Any) -> dict[str, Any]:
    """A drill without a kill, whose order was handled before its fault; it is over."""
    pod = scene.cluster.add(component)
    labels = {"app.kubernetes.io/component": component}
    made = scene.make(labels=labels, created=time.time() - 5, **spec)
    task = scene.start(made)
    await until_said(made, "Armed")
    scene.traces.handled(at=time.time() - 1)
    scene.reach(pod)
    await until_said(made, "Killed", "False")
    scene.quiet.set()
    await task
    return made


@pytest.mark.parametrize(("relay", "counts"), [("polling", False), ("cdc", True)])
async def test_what_a_relay_sent_before_it_stands_still_comes_again_from_another_only(
    scene: Scene, relay: str, counts: bool
) -> None:
    scene.world.settings = settings(relay=relay)
    made = await handled_before(
        scene, "relay", crashPoint="relay.after_publish", action="stall", stallSeconds=0.1
    )
    assert said(made, "Redelivered")[0] == ("True" if counts else "False")
    assert made["status"]["verdict"] == ("pass" if counts else "inconclusive")


async def test_the_kill_is_told_when_the_process_is_gone_not_the_object(scene: Scene) -> None:
    victim = scene.cluster.add()
    scene.still_runs = {victim.pod.uid}
    made = scene.make()
    task = scene.start(made)
    await until_said(made, "Armed")
    scene.reach(victim)
    await eventually(lambda: scene.cluster.deleted)
    assert said(made, "Killed") == ("Unknown", "Deleting")
    scene.still_runs = set()
    await until_said(made, "Killed")
    assert made["status"]["pod"]["goneAt"] >= made["status"]["killedAt"]
    scene.quiet.set()
    await task


@pytest.mark.parametrize(("action", "expected"), [("drop", 0.0), ("stall", 0.2)])
async def test_without_a_kill_nothing_is_deleted(
    scene: Scene, action: str, expected: float
) -> None:
    pod, other = scene.cluster.add(), scene.cluster.add()
    spec: dict[str, Any] = {"stallSeconds": 0.2} if action == "stall" else {}
    made = scene.make(action=action, **spec)
    task = scene.start(made)
    await until_said(made, "Armed")
    scene.reach(pod)
    reached_at = time.monotonic()
    await eventually(lambda: scene.world.quiet.began)
    assert time.monotonic() - reached_at >= expected
    scene.traces.handled(hit=True)
    scene.quiet.set()
    await task
    assert made["status"]["verdict"] == "pass"
    assert said(made, "Killed") == ("False", "NoKillWanted")
    assert scene.cluster.deleted == []
    assert (scene.kills, pod.armed, other.armed) == ([], {}, {})


async def test_waiting_writes_nothing(scene: Scene) -> None:
    scene.cluster.add()
    made = scene.make()
    task = scene.start(made)
    await until_said(made, "Armed")
    written, listed = len(scene.cluster.written), scene.cluster.listed
    await eventually(lambda: scene.cluster.listed > listed + 20)
    assert len(scene.cluster.written) == written
    assert made["status"]["step"] == "Armed"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_pods_that_come_later_are_armed_and_a_step_never_goes_back(scene: Scene) -> None:
    made = scene.make()
    task = scene.start(made)
    await until_said(made, "Selected", "False")
    assert said(made, "Selected") == ("False", "NoPodsMatched")
    starting = scene.cluster.add(ready=False, ip="", phase="Pending")
    await until_said(made, "Selected")
    assert said(made, "Armed") == ("", "")
    scene.cluster.change(starting, ip="10.0.0.9", phase="Running")
    await until_said(made, "Armed")
    later = scene.cluster.add()
    await eventually(lambda: "2 pods wait" in made["status"]["message"])
    assert made["status"]["step"] == "Armed"
    scene.reach(later)
    await until_said(made, "Killed")
    assert scene.cluster.deleted == [later.pod.name]
    scene.quiet.set()
    await task


async def test_a_pod_that_goes_away_while_armed_is_replaced(scene: Scene) -> None:
    first = scene.cluster.add()
    made = scene.make()
    task = scene.start(made)
    await until_said(made, "Armed")
    scene.cluster.remove(first)
    second = scene.cluster.add()
    await eventually(lambda: second.armed)
    scene.reach(second)
    await until_said(made, "Killed")
    assert made["status"]["pod"]["uid"] == second.pod.uid
    scene.quiet.set()
    await task


async def test_a_container_that_starts_again_is_armed_again(scene: Scene) -> None:
    pod = scene.cluster.add()
    made = scene.make()
    task = scene.start(made)
    await until_said(made, "Armed")
    pod.armed, pod.answers = {}, False
    await eventually(lambda: scene.cluster.unanswered > 1)
    pod.answers = True
    await eventually(lambda: pod.armed)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_pod_that_is_leaving_is_not_armed(scene: Scene) -> None:
    leaving, stays = scene.cluster.add(leaving=True), scene.cluster.add()
    made = scene.make()
    task = scene.start(made)
    await until_said(made, "Armed")
    assert (leaving.ever_armed, len(stays.ever_armed)) == ([], 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_another_drills_fault_in_the_same_pod_is_not_ours(scene: Scene) -> None:
    pod = scene.cluster.add()
    other, made = scene.make("other", match={"order": "o-2"}), scene.make()
    tasks = [scene.start(other), scene.start(made)]
    await until_said(made, "Armed")
    await until_said(other, "Armed")
    point = scene.cluster.reach(pod, fault="drill-other-uid-0000")
    await until_said(other, "Reached")
    assert said(made, "Reached") == ("", "")
    assert point.order == "o-2"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(
    ("ledgers", "verdict"),
    [(Ledgers(1, 2, 2, 0), "fail"), (Ledgers(0, 0, 0, 0), "inconclusive")],
)
async def test_the_verdict_is_that_of_the_ledgers(
    scene: Scene, ledgers: Ledgers, verdict: str
) -> None:
    pod, made = scene.cluster.add(), scene.make()
    scene.ledgers = ledgers
    task = scene.start(made)
    await until_said(made, "Armed")
    scene.reach(pod)
    scene.quiet.set()
    await task
    assert made["status"]["verdict"] == verdict
    assert said(made, "Redelivered") == ("False", "NothingCame")
    assert made["status"].get("failedStep") == ("Verified" if verdict == "inconclusive" else None)
