"""The nemesis against a backend like Kubernetes: replacements have new names and take their time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import cast

import pytest

from onceproof.crashpoints import CONSUMER_AFTER_CHARGE, PRODUCER_AFTER_COMMIT, Action
from onceproof.variants import Fixes
from onceproof_chaos.admin_client import AdminClient, AdminGoneError, ReachedPoint
from onceproof_chaos.backend import Instance, Role
from onceproof_chaos.faultlog import FaultEvent, FaultEventKind
from onceproof_chaos.nemesis import Nemesis
from onceproof_chaos.plan import Fault, Plan

KILL = Fault("r1-kill", CONSUMER_AFTER_CHARGE, Action.KILL, ("o-1-000000",))
OTHER = Fault("r1-other", PRODUCER_AFTER_COMMIT, Action.KILL, ("o-1-000001",))
STALL = Fault("r1-stall", CONSUMER_AFTER_CHARGE, Action.STALL, ("o-1-000002",), park_s=0.05)


class Pods:
    """Backend and admin ports in one; a test says what happens in which pod."""

    def __init__(self) -> None:
        self.running: dict[str, Instance] = {}
        self.armed: dict[str, set[str]] = {}
        self.ends: dict[str, asyncio.Future[int]] = {}
        self.reports: dict[str, list[ReachedPoint]] = {}
        self.changed = asyncio.Condition()
        self.kill_code = -9
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.killed: list[str] = []
        self.died_calls: list[str] = []

    def instances(self, role: Role | None = None) -> list[Instance]:
        return [i for i in self.running.values() if role in (None, i.role)]

    async def start(self, role: Role, _name: str, armed: Sequence[Fault]) -> Instance:
        await self.may_start.wait()
        number = len(self.armed)
        pod = Instance(
            role, f"{role}-pod{number}", 0, f"http://{role}-pod{number}", uid=f"u{number}"
        )
        self.running[pod.name] = pod
        self.armed[pod.name] = {fault.id for fault in armed}
        self.ends[pod.name] = asyncio.get_running_loop().create_future()
        self.reports[pod.name] = []
        return pod

    async def kill(self, instance: Instance) -> int:
        self.killed.append(instance.name)
        self.end(instance.name, self.kill_code)
        return self.kill_code

    async def died(self, instance: Instance) -> int:
        assert instance.name not in self.died_calls, "what has ended is forgotten"
        code = await asyncio.shield(self.ends[instance.name])
        self.died_calls.append(instance.name)
        return code

    async def stop(self) -> None: ...

    def end(self, name: str, code: int) -> None:
        self.running.pop(name, None)
        self.ends[name].set_result(code)

    async def reach(self, name: str, fault: Fault) -> None:
        report = self.reports[name]
        report.append(
            ReachedPoint(
                len(report) + 1,
                fault.id,
                fault.point,
                fault.action,
                "o-1-000000",
                1,
                "e",
                5.0,
                "t",
                "s",
            )
        )
        async with self.changed:
            self.changed.notify_all()

    async def reached(self, url: str, *, after: int = 0, **_: float) -> list[ReachedPoint]:
        name = url.removeprefix("http://")
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.reports[name]) > after)
        return self.reports[name][after:]

    async def disarm(self, url: str, ids: Sequence[str] = ()) -> None:
        name = url.removeprefix("http://")
        if name not in self.running:
            raise AdminGoneError(name)
        assert ids, "without ids it would disarm the faults of others"
        self.armed[name] -= set(ids)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while True:
            if condition():
                return
            await asyncio.sleep(0)


class Scene:
    def __init__(self, *faults: Fault) -> None:
        self.pods = Pods()
        self.events: list[FaultEvent] = []
        self.nemesis = Nemesis(
            Plan(1, 10, faults), self.pods, Fixes(), cast("AdminClient", self.pods), self.listen
        )

    def listen(self, event: FaultEvent) -> None:
        self.events.append(event)

    def of(self, kind: FaultEventKind) -> list[FaultEvent]:
        return [event for event in self.events if event.event is kind]

    async def until(self, kind: FaultEventKind, count: int = 1) -> FaultEvent:
        await eventually(lambda: len(self.of(kind)) >= count)
        return self.of(kind)[-1]


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene(KILL, OTHER, STALL)
    await scene.nemesis.start({Role.CONSUMER: 2, Role.PRODUCER: 1})
    yield scene
    await scene.nemesis.stop()


async def test_a_replacement_with_another_name_leaves_nothing_behind(scene: Scene) -> None:
    await scene.pods.reach("consumer-pod0", KILL)
    restarted = await scene.until(FaultEventKind.RESTARTED)
    [killed] = scene.of(FaultEventKind.KILLED)
    assert (killed.instance, killed.uid, killed.exit_code, killed.pid) == (
        "consumer-pod0",
        "u0",
        -9,
        None,
    )
    assert (restarted.instance, restarted.uid) == ("consumer-pod3", "u3")
    assert KILL.id not in scene.pods.armed["consumer-pod1"]
    assert scene.pods.armed["consumer-pod3"] == {STALL.id}
    await eventually(lambda: scene.nemesis.idle)


async def test_the_replacement_is_watched_in_its_turn(scene: Scene) -> None:
    await scene.pods.reach("consumer-pod0", KILL)
    await scene.until(FaultEventKind.RESTARTED)
    scene.pods.end("consumer-pod3", 137)
    died = await scene.until(FaultEventKind.DIED_UNEXPECTEDLY)
    assert (died.instance, died.exit_code, died.fault) == ("consumer-pod3", 137, None)


async def test_others_are_watched_while_a_replacement_takes_its_time(scene: Scene) -> None:
    scene.pods.may_start.clear()
    await scene.pods.reach("consumer-pod0", KILL)
    await scene.until(FaultEventKind.KILLED)
    await scene.pods.reach("producer-pod2", OTHER)
    await scene.until(FaultEventKind.KILLED, 2)
    assert not scene.nemesis.idle
    assert scene.pods.killed == ["consumer-pod0", "producer-pod2"]
    scene.pods.may_start.set()
    await scene.until(FaultEventKind.RESTARTED, 2)


async def test_what_was_reached_meanwhile_does_not_stay_armed_in_the_replacement(
    scene: Scene,
) -> None:
    scene.pods.may_start.clear()
    await scene.pods.reach("consumer-pod0", KILL)
    await scene.until(FaultEventKind.KILLED)
    await scene.pods.reach("consumer-pod1", STALL)
    await scene.until(FaultEventKind.RESUMED)
    scene.pods.may_start.set()
    await scene.until(FaultEventKind.RESTARTED)
    assert scene.pods.armed["consumer-pod3"] == set()


async def test_a_kill_that_cannot_be_proved_is_nobodys(scene: Scene) -> None:
    scene.pods.kill_code = 255
    await scene.pods.reach("consumer-pod0", KILL)
    died = await scene.until(FaultEventKind.DIED_UNEXPECTEDLY)
    assert (died.fault, died.exit_code) == (KILL.id, 255)
    assert scene.of(FaultEventKind.KILLED) == []


async def test_who_died_first_is_not_killed_again(scene: Scene) -> None:
    scene.pods.end("consumer-pod0", -9)
    await scene.pods.reach("consumer-pod0", KILL)
    await scene.until(FaultEventKind.DIED_UNEXPECTEDLY)
    await scene.until(FaultEventKind.RESTARTED)
    assert scene.pods.killed == []


async def test_faults_of_others_are_left_alone(scene: Scene) -> None:
    foreign = Fault("drill-7", CONSUMER_AFTER_CHARGE, Action.KILL)
    scene.pods.armed["consumer-pod1"].add(foreign.id)
    await scene.pods.reach("consumer-pod0", foreign)
    await scene.pods.reach("consumer-pod0", STALL)
    await scene.until(FaultEventKind.RESUMED)
    assert scene.pods.killed == []
    assert {event.fault for event in scene.of(FaultEventKind.REACHED)} == {STALL.id}
    await scene.nemesis.disarm()
    assert scene.pods.armed["consumer-pod1"] == {foreign.id}
    assert {event.fault for event in scene.of(FaultEventKind.DISARMED)} == {KILL.id, OTHER.id}


async def test_a_stalled_pod_is_busy_until_it_goes_on(scene: Scene) -> None:
    await scene.pods.reach("consumer-pod0", STALL)
    await scene.until(FaultEventKind.REACHED)
    assert not scene.nemesis.idle
    await scene.until(FaultEventKind.RESUMED)
    await eventually(lambda: scene.nemesis.idle)


async def test_a_plan_without_faults_disarms_nothing(scene: Scene) -> None:
    none = Scene()
    await none.nemesis.start({Role.CONSUMER: 1})
    await none.nemesis.disarm()
    assert none.pods.killed == []
    await none.nemesis.stop()
    assert scene.nemesis.pending == [KILL, OTHER, STALL]
