"""What an operator takes back at its start: faults that nobody waits for, and no others."""

from __future__ import annotations

import pytest
from tests.unit.test_operator_fakes import custom_object
from tests.unit.test_operator_world import FakeWorld

from onceproof.crashpoints import Action
from onceproof_chaos.admin_client import AdminError
from onceproof_chaos.plan import Fault
from onceproof_operator.sweep import disarm_orphans


def fault(name: str) -> Fault:
    return Fault(name, "consumer.after_commit", Action.KILL, ("o-1",))


@pytest.fixture
def world() -> FakeWorld:
    world = FakeWorld()
    world.cluster.custom["crashdrills"] = [
        custom_object("running", {}, uid="running"),
        custom_object("finished", {}, uid="finished", status={"verdict": "pass"}),
    ]
    return world


async def test_only_an_unfinished_drills_fault_stays(world: FakeWorld) -> None:
    pod, off = world.cluster.add(), world.cluster.add(labels={"onceproof.dev/chaos": "disabled"})
    names = ("drill-running", "drill-finished", "drill-deleted", "12345678-kill-consumer-01")
    for armed in (pod, off):
        armed.armed = {name: fault(name) for name in names}
    await disarm_orphans(world.real())
    assert list(pod.armed) == ["drill-running"]
    assert list(off.armed) == list(names), "it never agreed to be touched"
    assert world.cluster.deleted == []


async def test_a_pod_that_cannot_be_asked_does_not_keep_it_from_the_others(
    world: FakeWorld,
) -> None:
    starting = world.cluster.add(ip="")
    gone, off, broken, last = (world.cluster.add() for _ in range(4))
    gone.answers, off.chaos_off = False, True
    world.cluster.fail("armed", None, None, AdminError("HTTP 500"))
    broken.armed, last.armed = {"a": fault("a")}, {"b": fault("b")}
    await disarm_orphans(world.real())
    assert (list(broken.armed), list(last.armed), starting.armed) == (["a"], [], {})
