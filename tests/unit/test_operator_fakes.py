"""A cluster of pods with admin ports, for the operator's tests, and proof that it is strict.

Every status that is written is merged as the API server does it, and held against the CRD.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from tests.unit.test_operator_crds import problems, schema

from onceproof.crashpoints import Action
from onceproof_chaos.admin_client import (
    AdminGoneError,
    ChaosDisabledError,
    ReachedPoint,
)
from onceproof_chaos.plan import Fault
from onceproof_operator.api import ClusterError
from onceproof_operator.cluster import Pod
from onceproof_operator.conditions import timestamp

NAMESPACE = "test"


async def eventually(condition: Callable[[], Any]) -> None:
    """Until it holds; lets other tasks run meanwhile."""
    async with asyncio.timeout(5):
        while True:
            if condition():
                return
            await asyncio.sleep(0.001)


@dataclass
class FakePod:
    """A pod: its object, its process, and the admin port of that."""

    pod: Pod
    armed: dict[str, Fault] = field(default_factory=dict)
    ever_armed: list[str] = field(default_factory=list)
    reached: list[ReachedPoint] = field(default_factory=list)
    answers: bool = True
    chaos_off: bool = False


class FakeCluster:
    """As `Cluster` and as `AdminClient`: who has the URL of a pod may talk to it."""

    namespace = NAMESPACE

    def __init__(self) -> None:
        self.running: dict[str, FakePod] = {}
        self.custom: dict[str, list[dict[str, Any]]] = {"crashdrills": [], "campaigns": []}
        self.written: list[tuple[str, dict[str, Any]]] = []
        self.deleted: list[str] = []
        self.failing: dict[str, list[Exception | None]] = {}
        self.listed = 0
        self.unanswered = 0
        self.jobs: dict[str, bool | None] = {}
        self.manifests: list[Mapping[str, Any]] = []
        self.logs: dict[str, str] = {}
        self.gone_already = False
        self._number = 0

    def fail(self, name: str, *errors: Exception | None) -> None:
        """Have the next calls raise these; None lets one through."""
        self.failing[name] = list(errors)

    async def _asked(self, name: str) -> None:
        await asyncio.sleep(0)  # others have their turn meanwhile
        self._called(name)

    def _called(self, name: str) -> None:
        errors = self.failing.get(name)
        if errors and (error := errors.pop(0)) is not None:
            raise error

    def add(self, component: str = "consumer", **changes: Any) -> FakePod:
        """A ready pod of the release `rel`."""
        self._number += 1
        labels = {
            "app.kubernetes.io/component": component,
            "app.kubernetes.io/instance": "rel",
            "onceproof.dev/chaos": "enabled",
        }
        labels |= changes.pop("labels", {})
        pod = Pod(
            name=f"{component}-{self._number}",
            uid=f"uid-{self._number}",
            ip=f"10.0.0.{self._number}",
            labels=labels,
            phase="Running",
            ready=True,
        )
        added = FakePod(replace(pod, **changes))
        self.running[added.pod.uid] = added
        return added

    def change(self, pod: FakePod, **changes: Any) -> None:
        pod.pod = replace(pod.pod, **changes)

    def remove(self, pod: FakePod) -> None:
        self.running.pop(pod.pod.uid, None)

    def reach(
        self, pod: FakePod, *, fault: str | None = None, at: float | None = None
    ) -> ReachedPoint:
        """Let an armed fault fire in a pod."""
        armed = pod.armed.pop(fault or next(iter(pod.armed)))
        point = ReachedPoint(
            seq=len(pod.reached) + 1,
            fault=armed.id,
            point=armed.point,
            action=armed.action,
            order=armed.orders[0],
            attempt=1,
            event_id="e-1",
            at=at or time.time(),
            trace_id="ab" * 16,
            span_id="cd" * 8,
        )
        pod.reached.append(point)
        return point

    async def pods(self, selector: str) -> list[Pod]:
        self.listed += 1
        await self._asked("pods")
        if "!!" in selector:
            raise ClusterError("list pods: HTTP 400: unable to parse requirement", 400)
        wanted = dict(part.split("=", 1) for part in selector.split(","))
        return [
            found.pod
            for found in self.running.values()
            if wanted.items() <= dict(found.pod.labels).items()
        ]

    async def pod(self, name: str) -> Pod | None:
        return next((p.pod for p in self.running.values() if p.pod.name == name), None)

    async def delete_pod(self, pod: Pod, *, grace_s: int = 0) -> bool:
        assert grace_s == 0
        await self._asked("delete_pod")
        if pod.uid not in self.running or self.gone_already:
            self.running.pop(pod.uid, None)
            return False
        del self.running[pod.uid]
        self.deleted.append(pod.name)
        return True

    async def objects(self, plural: str) -> list[dict[str, Any]]:
        await self._asked("objects")
        return list(self.custom[plural])

    async def write_status(self, plural: str, name: str, status: Mapping[str, Any]) -> None:
        await self._asked("write_status")
        found = next((o for o in self.custom[plural] if o["metadata"]["name"] == name), None)
        if found is None:
            return
        found["status"] = merged(found.get("status", {}), status)
        assert list(problems(found["status"], schema(plural, "status"))) == []
        self.written.append((name, found["status"]))

    async def create_job(self, manifest: Mapping[str, Any]) -> None:
        await self._asked("create_job")
        self.manifests.append(manifest)
        self.jobs.setdefault(manifest["metadata"]["name"], None)

    async def job_finished(self, name: str) -> bool | None:
        await self._asked("job_finished")
        return self.jobs.get(name, False)

    async def delete_job(self, name: str) -> None:
        self.jobs.pop(name, None)
        self.deleted.append(name)

    async def log(self, pod: str) -> str:
        await self._asked("log")
        return self.logs[pod]

    async def log_lines(self, pod: str) -> AsyncIterator[str]:
        for line in self.logs[pod].split("\n"):
            yield line
        self._called("log_lines")

    async def version(self) -> str:
        return "v1.34.0"

    def _at(self, url: str) -> FakePod:
        found = next((p for p in self.running.values() if p.pod.admin_url == url), None)
        if found is None or not found.answers:
            self.unanswered += 1
            raise AdminGoneError(f"{url} cannot be reached")
        if found.chaos_off:
            raise ChaosDisabledError(f"{url}: chaos is not enabled")
        return found

    async def arm(self, url: str, faults: Sequence[Fault]) -> None:
        self._called("arm")
        pod = self._at(url)
        fired = {point.fault for point in pod.reached}
        pod.armed |= {fault.id: fault for fault in faults if fault.id not in fired}
        pod.ever_armed += [fault.id for fault in faults]

    async def disarm(self, url: str, ids: Sequence[str] = ()) -> None:
        assert ids, "without ids it would disarm the faults of others"
        self._called("disarm")
        for fault in ids:
            self._at(url).armed.pop(fault, None)

    async def armed(self, url: str) -> list[str]:
        self._called("armed")
        return list(self._at(url).armed)

    async def reached(self, url: str, *, after: int = 0, wait_s: float = 0.0) -> list[ReachedPoint]:
        deadline = time.monotonic() + wait_s
        # Not an event: a pod may also be gone meanwhile.
        while not (found := self._at(url).reached[after:]) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        return found


def merged(stored: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """RFC 7386."""
    result = dict(stored)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            before = result.get(key)
            result[key] = merged(before if isinstance(before, Mapping) else {}, value)
        else:
            result[key] = value
    return result


def custom_object(name: str, spec: Mapping[str, Any], **meta: Any) -> dict[str, Any]:
    """As the API server stores it; `created` is Unix time in seconds."""
    created = meta.get("created", time.time())
    return {
        "metadata": {
            "name": name,
            "uid": meta.get("uid", f"{name}-uid-0000"),
            "creationTimestamp": timestamp(created),
        },
        "spec": dict(spec),
        "status": dict(meta.get("status", {})),
    }


def test_a_merge_patch_removes_only_what_it_names() -> None:
    stored = {"a": 1, "b": {"c": 1, "d": 2}, "e": [1, 2]}
    patch = {"a": None, "b": {"c": 3}, "e": [9]}
    assert merged(stored, patch) == {"b": {"c": 3, "d": 2}, "e": [9]}


async def test_a_status_that_would_be_cut_off_is_refused() -> None:
    cluster = FakeCluster()
    cluster.custom["crashdrills"].append(custom_object("d", {}))
    await cluster.write_status("crashdrills", "d", {"step": "Armed"})
    with pytest.raises(AssertionError, match="would be dropped"):
        await cluster.write_status("crashdrills", "d", {"steps": "Armed"})


async def test_a_fault_that_fired_stays_fired() -> None:
    cluster = FakeCluster()
    pod = cluster.add()
    fault = Fault("f", "consumer.after_commit", Action.KILL, ("o-1",))
    await cluster.arm(pod.pod.admin_url, [fault])
    cluster.reach(pod)
    await cluster.arm(pod.pod.admin_url, [fault])
    assert (await cluster.armed(pod.pod.admin_url), pod.ever_armed) == ([], ["f", "f"])
