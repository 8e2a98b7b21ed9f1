"""Pods as a backend: taken once, armed before they are ready, and a death is somebody's or nobody's."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.unit.test_operator_fakes import FakeCluster, eventually
from tests.unit.test_operator_world import as_admin, as_cluster

from onceproof.crashpoints import Action
from onceproof_chaos.admin_client import ChaosDisabledError
from onceproof_chaos.backend import BackendError, Role
from onceproof_chaos.plan import Fault
from onceproof_operator import backend as module
from onceproof_operator.api import ClusterError
from onceproof_operator.backend import KubernetesBackend

FAULT = Fault("12345678-kill", "consumer.after_commit", Action.KILL, ("o-1",))
SELECTOR = "app.kubernetes.io/instance=rel,onceproof.dev/chaos=enabled"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.001)
    monkeypatch.setattr(module, "_ARM_EVERY_S", 0.001)
    return FakeCluster()


@pytest.fixture
def backend(cluster: FakeCluster) -> KubernetesBackend:
    return KubernetesBackend(as_cluster(cluster), SELECTOR, as_admin(cluster))


async def test_two_starts_never_take_the_same_pod(
    cluster: FakeCluster, backend: KubernetesBackend
) -> None:
    pods = [cluster.add() for _ in range(3)]
    cluster.add("relay")
    cluster.add(labels={"app.kubernetes.io/instance": "another"})
    cluster.add(leaving=True)
    cluster.add(phase="Succeeded")
    starts = [backend.start(Role.CONSUMER, f"consumer-{i}", [FAULT]) for i in range(3)]
    instances = await asyncio.gather(*starts)
    assert {instance.uid for instance in instances} == {pod.pod.uid for pod in pods}
    assert all(pod.ever_armed == [FAULT.id] for pod in pods)
    assert {i.uid for i in backend.instances(Role.CONSUMER)} == {pod.pod.uid for pod in pods}
    assert backend.instances(Role.RELAY) == []


async def test_a_replacement_is_armed_before_it_is_ready(
    cluster: FakeCluster, backend: KubernetesBackend
) -> None:
    task = asyncio.create_task(backend.start(Role.CONSUMER, "consumer-0", [FAULT]))
    await eventually(lambda: cluster.listed > 2)
    pod = cluster.add(ready=False, phase="Pending")
    pod.answers = False
    await eventually(lambda: cluster.listed > 5)
    assert not task.done()
    pod.answers = True
    await eventually(lambda: pod.armed)
    await eventually(lambda: cluster.listed > 8)
    assert not task.done()
    cluster.change(pod, ready=True, phase="Running")
    instance = await task
    assert (instance.name, instance.uid, instance.pid) == (pod.pod.name, pod.pod.uid, 0)
    assert instance.admin_url == pod.pod.admin_url


async def test_a_container_that_starts_again_while_it_gets_ready_is_armed_again(
    cluster: FakeCluster, backend: KubernetesBackend
) -> None:
    pod = cluster.add(ready=False)
    task = asyncio.create_task(backend.start(Role.CONSUMER, "consumer-0", [FAULT]))
    await eventually(lambda: pod.armed)
    pod.armed = {}
    cluster.change(pod, restarts=1)
    await eventually(lambda: pod.armed)
    cluster.change(pod, ready=True)
    assert (await task).uid == pod.pod.uid


async def test_a_pod_that_goes_before_it_is_ready_is_not_waited_for(
    cluster: FakeCluster, backend: KubernetesBackend
) -> None:
    first = cluster.add(ready=False)
    task = asyncio.create_task(backend.start(Role.CONSUMER, "consumer-0", [FAULT]))
    await eventually(lambda: first.armed)
    cluster.change(first, leaving=True)
    second = cluster.add()
    assert (await task).uid == second.pod.uid


async def test_no_pod_is_an_error_that_says_where_to_look(
    cluster: FakeCluster, backend: KubernetesBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_READY_TIMEOUT_S", 0.02)
    cluster.add("relay")
    with pytest.raises(BackendError, match=r"kubectl -n test get pods -l .*=consumer"):
        await backend.start(Role.CONSUMER, "consumer-0", [FAULT])


async def test_a_pod_whose_process_has_chaos_off_is_an_error(
    cluster: FakeCluster, backend: KubernetesBackend
) -> None:
    cluster.add().chaos_off = True
    with pytest.raises(ChaosDisabledError):
        await backend.start(Role.CONSUMER, "consumer-0", [FAULT])


async def test_a_kill_is_its_own_deletion(cluster: FakeCluster, backend: KubernetesBackend) -> None:
    pod = cluster.add()
    instance = await backend.start(Role.CONSUMER, "consumer-0", [FAULT])
    assert await backend.kill(instance) == -9
    assert (cluster.deleted, backend.instances()) == ([pod.pod.name], [])


async def test_a_kill_that_found_it_gone_is_nobodys(
    cluster: FakeCluster, backend: KubernetesBackend
) -> None:
    pod = cluster.add()
    instance = await backend.start(Role.CONSUMER, "consumer-0", [FAULT])
    cluster.remove(pod)
    assert await backend.kill(instance) == 255
    assert cluster.deleted == []


async def test_a_kill_that_came_too_late_is_nobodys(
    cluster: FakeCluster, backend: KubernetesBackend
) -> None:
    cluster.add()
    instance = await backend.start(Role.CONSUMER, "consumer-0", [FAULT])
    cluster.gone_already = True
    assert await backend.kill(instance) == 255


async def test_a_container_that_ended_by_itself_is_not_killed(
    cluster: FakeCluster, backend: KubernetesBackend
) -> None:
    pod = cluster.add()
    instance = await backend.start(Role.CONSUMER, "consumer-0", [FAULT])
    cluster.change(pod, restarts=1, exit_code=137)
    assert await backend.kill(instance) == 137
    assert cluster.deleted == []


async def test_who_took_the_name_is_not_killed(
    cluster: FakeCluster, backend: KubernetesBackend
) -> None:
    pod = cluster.add()
    instance = await backend.start(Role.CONSUMER, "consumer-0", [FAULT])
    cluster.remove(pod)
    cluster.add(name=pod.pod.name, exit_code=0)
    assert await backend.kill(instance) == 255
    assert cluster.deleted == []


async def test_a_container_that_starts_again_has_died_and_is_its_own_replacement(
    cluster: FakeCluster, backend: KubernetesBackend
) -> None:
    pod = cluster.add()
    instance = await backend.start(Role.CONSUMER, "consumer-0", [FAULT])
    death = asyncio.create_task(backend.died(instance))
    listed = cluster.listed
    await eventually(lambda: cluster.listed > listed + 3)
    assert not death.done()
    cluster.change(pod, restarts=1, exit_code=3)
    assert await death == 3
    again = await backend.start(Role.CONSUMER, "consumer-0", [])
    assert again.uid == instance.uid


@pytest.mark.parametrize(("phase", "code"), [("Failed", 1), ("Succeeded", 0)])
async def test_a_pod_that_is_over_has_died_and_is_not_taken_again(
    cluster: FakeCluster,
    backend: KubernetesBackend,
    monkeypatch: pytest.MonkeyPatch,
    phase: str,
    code: int,
) -> None:
    pod = cluster.add()
    instance = await backend.start(Role.CONSUMER, "consumer-0", [FAULT])
    cluster.change(pod, phase=phase, exit_code=code)
    assert await backend.died(instance) == code
    monkeypatch.setattr(module, "_READY_TIMEOUT_S", 0.02)
    with pytest.raises(BackendError):
        await backend.start(Role.CONSUMER, "consumer-0", [FAULT])


async def test_a_pod_that_is_gone_has_died(
    cluster: FakeCluster, backend: KubernetesBackend
) -> None:
    pod = cluster.add()
    instance = await backend.start(Role.CONSUMER, "consumer-0", [FAULT])
    cluster.remove(pod)
    assert await backend.died(instance) == 255
    assert backend.instances() == []


async def test_all_who_wait_share_one_look(
    cluster: FakeCluster, backend: KubernetesBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        cluster.add()
    instances = [await backend.start(Role.CONSUMER, "c", [FAULT]) for _ in range(5)]
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.05)
    deaths = [asyncio.create_task(backend.died(instance)) for instance in instances]
    before, began = cluster.listed, time.monotonic()
    await eventually(lambda: cluster.listed > before + 3)
    assert time.monotonic() - began > 0.1
    for death in deaths:
        death.cancel()
    await asyncio.gather(*deaths, return_exceptions=True)


async def test_an_api_server_that_stays_away_is_told(
    cluster: FakeCluster, backend: KubernetesBackend
) -> None:
    cluster.add()
    instance = await backend.start(Role.CONSUMER, "consumer-0", [FAULT])
    backend._seen_at = 0
    cluster.fail("pods", ClusterError("list pods: the API server: refused"))
    with pytest.raises(ClusterError):
        await backend.died(instance)


async def test_when_it_is_over_nobody_arms_a_pod_any_more(
    cluster: FakeCluster, backend: KubernetesBackend
) -> None:
    waiting = asyncio.create_task(backend.start(Role.CONSUMER, "consumer-0", [FAULT]))
    await eventually(lambda: cluster.listed)
    await backend.stop()
    pod = cluster.add()
    with pytest.raises(BackendError, match="over"):
        await waiting
    assert (pod.ever_armed, cluster.deleted) == ([], [])
