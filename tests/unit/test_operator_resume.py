"""An operator that dies in the middle of a drill: the next one loses no step and kills nobody twice."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from tests.unit.test_operator_fakes import FakePod, eventually
from tests.unit.test_operator_scene import Scene, said, until_said

from onceproof_chaos.admin_client import ReachedPoint
from onceproof_operator.conditions import timestamp, unix


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


async def die(task: asyncio.Task[None]) -> None:
    """As a process does: without a word."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def finish(scene: Scene, task: asyncio.Task[None]) -> None:
    scene.traces.handled(hit=True)
    scene.quiet.set()
    async with asyncio.timeout(5):
        await task


async def parked(scene: Scene, pod: FakePod, made: dict[str, Any]) -> ReachedPoint:
    """The pod stands at the crash point, and the operator that armed it is dead."""
    task = scene.start(made)
    await until_said(made, "Armed")
    await die(task)
    return scene.reach(pod)


def stands(
    made: dict[str, Any],
    pod: FakePod,
    point: ReachedPoint,
    *steps: str,
    deleting: float | None = None,
    since: float | None = None,
) -> None:
    """What the dead operator has written: these steps, and perhaps that it deletes the pod."""
    conditions = [
        {
            "type": step,
            "status": "True",
            "reason": "Done",
            "message": "m",
            "lastTransitionTime": timestamp(since),
        }
        for step in ("Selected", "Armed", "Reached", *steps)
    ]
    if deleting is not None:
        conditions.append(
            conditions[0]
            | {"type": "Killed", "status": "Unknown", "reason": "Deleting"}
            | {"lastTransitionTime": timestamp(deleting)}
        )
    made["status"] = {
        "step": conditions[-1]["type"],
        "conditions": conditions,
        "pod": {"name": pod.pod.name, "uid": pod.pod.uid},
        "attempt": point.attempt,
        "eventId": point.event_id,
        "traceId": point.trace_id,
        "spanId": point.span_id,
        "reachedAt": timestamp(point.at),
    }


async def test_while_it_waits(scene: Scene) -> None:
    pod, made = scene.cluster.add(), scene.make()
    first = scene.start(made)
    await until_said(made, "Armed")
    armed_at = made["status"]["armedAt"]
    await die(first)
    assert pod.armed, "what is armed stays armed for the next operator"
    second = scene.start(made)
    await eventually(lambda: len(pod.ever_armed) == 2)
    scene.reach(pod)
    await finish(scene, second)
    assert (made["status"]["verdict"], made["status"]["armedAt"]) == ("pass", armed_at)
    assert scene.cluster.deleted == [pod.pod.name]


async def test_while_the_order_came(scene: Scene) -> None:
    pod, other, made = scene.cluster.add(), scene.cluster.add(), scene.make()
    await parked(scene, pod, made)
    task = scene.start(made)
    await until_said(made, "Killed")
    await finish(scene, task)
    assert made["status"]["verdict"] == "pass"
    assert (scene.cluster.deleted, other.armed) == ([pod.pod.name], {})


async def test_before_it_meant_to_kill(scene: Scene) -> None:
    pod, made = scene.cluster.add(), scene.make()
    point = await parked(scene, pod, made)
    stands(made, pod, point)
    await finish(scene, scene.start(made))
    assert (made["status"]["verdict"], len(scene.kills)) == ("pass", 1)
    assert scene.cluster.deleted == [pod.pod.name]


async def test_before_it_meant_to_kill_and_somebody_else_did(scene: Scene) -> None:
    pod, made = scene.cluster.add(), scene.make()
    point = await parked(scene, pod, made)
    stands(made, pod, point)
    scene.cluster.remove(pod)
    await finish(scene, scene.start(made))
    assert (made["status"]["verdict"], made["status"]["failedStep"]) == ("inconclusive", "Killed")
    assert said(made, "Killed") == ("False", "NotOurs")
    assert scene.kills == []


async def test_between_the_intention_and_the_deletion(scene: Scene) -> None:
    pod, made = scene.cluster.add(), scene.make()
    point = await parked(scene, pod, made)
    stands(made, pod, point, deleting=time.time())
    await finish(scene, scene.start(made))
    assert (made["status"]["verdict"], len(scene.kills)) == ("pass", 1)
    assert scene.cluster.deleted == [pod.pod.name]


async def test_between_the_deletion_and_its_report(scene: Scene) -> None:
    # At this point only what is handled after the kill counts: it may have been handled before, too.
    pod = scene.cluster.add("relay")
    made = scene.make(
        crashPoint="relay.after_publish",
        labels={"app.kubernetes.io/component": "relay"},
        created=time.time() - 30,
    )
    point = await parked(scene, pod, made)
    deleted_at = time.time() - 8
    stands(made, pod, point, deleting=deleted_at)
    scene.cluster.remove(pod)
    scene.traces.handled(hit=True, at=deleted_at + 3)
    scene.quiet.set()
    async with asyncio.timeout(5):
        await scene.start(made)
    assert made["status"]["verdict"] == "pass"
    assert unix(made["status"]["killedAt"]) == pytest.approx(deleted_at, abs=1e-3)
    assert unix(made["status"]["redeliveredAt"]) == pytest.approx(deleted_at + 3, abs=1e-3)
    assert (scene.cluster.deleted, len(scene.kills)) == ([], 1)


async def test_after_the_kill(scene: Scene) -> None:
    pod, replacement, made = scene.cluster.add(), scene.cluster.add(), scene.make()
    task = scene.start(made)
    await until_said(made, "Armed")
    scene.reach(pod)
    await until_said(made, "Killed")
    await die(task)
    written = made["status"]
    scene.traces.handled(hit=True)
    await finish(scene, scene.start(made))
    assert made["status"]["verdict"] == "pass"
    assert made["status"]["killedAt"] == written["killedAt"]
    assert (scene.cluster.deleted, len(scene.kills)) == ([pod.pod.name], 1)
    assert len(replacement.ever_armed) == 1


async def test_after_the_redelivery(scene: Scene) -> None:
    pod, made = scene.cluster.add(), scene.make()
    task = scene.start(made)
    await until_said(made, "Armed")
    scene.reach(pod)
    await until_said(made, "Killed")
    scene.traces.handled(hit=True)
    await until_said(made, "Redelivered")
    await die(task)
    redelivered_at = made["status"]["redeliveredAt"]
    await finish(scene, scene.start(made))
    assert made["status"]["verdict"] == "pass"
    assert made["status"]["redeliveredAt"] == redelivered_at
    assert scene.world.quiet.began == 2


@pytest.mark.parametrize("action", ["kill", "stall", "drop"])
async def test_after_the_drain_also_when_the_deadline_has_passed(scene: Scene, action: str) -> None:
    pod = scene.cluster.add()
    made = scene.make(action=action, created=time.time() - 61)
    point = ReachedPoint(1, "f", "p", "kill", "o-1", 1, "e", time.time() - 50, "ab", "cd" * 8)  # type: ignore[arg-type]
    scene.traces.add(
        "crash_point.reached", point.at, **{"onceproof.crash_point": "consumer.after_commit"}
    )
    scene.traces.handled(hit=True)
    stands(made, pod, point, "Redelivered", "Drained")
    if action == "kill":
        stands(made, pod, point, "Killed", "Redelivered", "Drained")
        scene.traces.add(
            "pod.kill", point.at, **{"onceproof.drill": "d", "k8s.pod.uid": pod.pod.uid}
        )
    await scene.run(made)
    assert made["status"]["verdict"] == "pass"
    assert (scene.world.quiet.began, scene.cluster.deleted) == (0, [])


async def test_after_the_verdict(scene: Scene) -> None:
    pod, made = scene.cluster.add(), scene.make()
    made["status"] = {"verdict": "fail"}
    await scene.run(made)
    assert (made["status"], pod.ever_armed, scene.cluster.written) == ({"verdict": "fail"}, [], [])


async def test_the_deadline_counts_from_the_creation(scene: Scene) -> None:
    pod, made = scene.cluster.add(), scene.make(created=time.time() - 61)
    status = await scene.run(made)
    assert (status["verdict"], pod.armed) == ("inconclusive", {})
    assert said(made, status["failedStep"])[1] == "DeadlineExceeded"


async def test_a_stall_is_waited_for_to_its_end(scene: Scene) -> None:
    pod, made = scene.cluster.add(), scene.make(action="stall", stallSeconds=0.4)
    task = scene.start(made)
    await until_said(made, "Armed")
    scene.reach(pod)
    await until_said(made, "Killed", "False")
    await die(task)
    [reached] = [c for c in made["status"]["conditions"] if c["type"] == "Reached"]
    woken_at = unix(reached["lastTransitionTime"]) + 0.4
    task = scene.start(made)
    await eventually(lambda: scene.world.quiet.began)
    assert time.time() >= woken_at, "the drain would have been quiet before the zombie woke"
    await finish(scene, task)
    assert made["status"]["verdict"] == "pass"


async def test_a_pod_that_went_on_is_not_killed_for_nothing(scene: Scene) -> None:
    pod, made = scene.cluster.add(), scene.make(deadlineSeconds=3600, created=time.time() - 400)
    point = await parked(scene, pod, made)
    stands(made, pod, point, since=time.time() - 301)
    await finish(scene, scene.start(made))
    assert made["status"]["verdict"] == "inconclusive"
    assert said(made, "Killed") == ("False", "WentOn")
