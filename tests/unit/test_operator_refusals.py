"""Drills that cannot be carried out: each says why, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.test_operator_fakes import custom_object
from tests.unit.test_operator_scene import LABELS, Scene, said, until_said


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


async def test_no_pod_until_the_deadline(scene: Scene) -> None:
    made = scene.make(deadlineSeconds=0.2)
    status = await scene.run(made)
    assert (status["verdict"], status["failedStep"]) == ("inconclusive", "Selected")
    assert said(made, "Selected") == ("False", "DeadlineExceeded")
    assert "no pod in namespace test matches" in status["message"]


async def test_an_order_that_never_comes(scene: Scene) -> None:
    pod, made = scene.cluster.add(), scene.make(deadlineSeconds=0.2)
    status = await scene.run(made)
    assert (status["verdict"], status["failedStep"]) == ("inconclusive", "Reached")
    assert "1 pods wait for order o-1" in status["message"]
    assert (pod.armed, scene.cluster.deleted) == ({}, [])


@pytest.mark.parametrize(
    ("reason", "pod"),
    [
        ("ChaosDisabled", {"labels": {"onceproof.dev/chaos": "disabled"}}),
        ("WrongComponent", {"component": "relay", "labels": {"extra": "yes"}}),
    ],
)
async def test_pods_that_must_be_left_alone(scene: Scene, reason: str, pod: dict[str, Any]) -> None:
    good = scene.cluster.add(labels={"extra": "yes"})
    bad = scene.cluster.add(**pod)
    labels = {"extra": "yes"} if "component" in pod else LABELS
    made = scene.make(labels=labels)
    status = await scene.run(made)
    assert (status["verdict"], status["failedStep"]) == ("inconclusive", "Selected")
    assert said(made, "Selected") == ("False", reason)
    assert (good.ever_armed, bad.ever_armed, scene.cluster.deleted) == ([], [], [])


async def test_chaos_that_is_off_in_the_process_only(scene: Scene) -> None:
    good, bad = scene.cluster.add(), scene.cluster.add()
    bad.chaos_off = True
    made = scene.make()
    status = await scene.run(made)
    assert status["verdict"] == "inconclusive"
    assert said(made, "Selected") == ("False", "ChaosDisabled")
    assert good.armed == {}


async def test_relays_faults_are_the_producers_where_there_is_no_outbox(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene(monkeypatch)
    scene.world.settings = scene.world.settings.model_copy(update={"variant": "naive"})
    pod = scene.cluster.add("producer")
    labels = {"app.kubernetes.io/component": "producer"}
    made = scene.make(crashPoint="relay.before_publish", labels=labels)
    task = scene.start(made)
    await until_said(made, "Armed")
    assert pod.armed
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_selector_that_is_none(scene: Scene) -> None:
    made = scene.make(labels={"a": "!!"})
    status = await scene.run(made)
    assert (status["verdict"], status["failedStep"]) == ("inconclusive", "Selected")
    assert said(made, "Selected") == ("False", "SelectorInvalid")
    assert "unable to parse" in status["message"]


async def test_two_drills_on_one_order_begin_one_at_a_time(scene: Scene) -> None:
    pod = scene.cluster.add()
    older, younger = scene.make("older"), scene.make("younger")
    finished = scene.make("finished")
    finished["status"] = {"verdict": "pass", "conditions": []}
    first, second = scene.start(older), scene.start(younger)
    await second
    assert said(younger, "Selected") == ("False", "OrderTaken")
    assert (younger["status"]["verdict"], younger["status"]["failedStep"]) == (
        "inconclusive",
        "Selected",
    )
    assert "drill older is at work on order o-1" in younger["status"]["message"]
    await until_said(older, "Armed")
    assert set(pod.ever_armed) == {"drill-older-uid-0000"}
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


@pytest.mark.parametrize("phase", ["Loading", "Draining", "Checking"])
async def test_no_drill_while_a_campaign_runs(scene: Scene, phase: str) -> None:
    campaign = custom_object("c", {}, status={"phase": phase})
    scene.cluster.custom["campaigns"].append(campaign)
    made = scene.make()
    assert (await scene.run(made))["verdict"] == "inconclusive"
    assert said(made, "Selected") == ("False", "CampaignRunning")
    campaign["status"]["phase"] = "Finished"
    again = scene.make("again")
    scene.cluster.add()
    task = scene.start(again)
    await until_said(again, "Armed")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_queue_that_does_not_get_quiet(scene: Scene) -> None:
    pod, made = scene.cluster.add(), scene.make()
    scene.world.quiet.reason = "not quiet after 60 s: 3 messages in the queue"
    task = scene.start(made)
    await until_said(made, "Armed")
    scene.reach(pod)
    scene.quiet.set()
    await task
    assert (made["status"]["verdict"], made["status"]["failedStep"]) == ("inconclusive", "Drained")
    assert said(made, "Drained") == ("False", "NotQuiet")
