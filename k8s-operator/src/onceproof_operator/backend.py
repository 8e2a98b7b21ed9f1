"""The pods of an installation as the nemesis' backend: it deletes them, their Deployments replace them.

A replacement is armed as soon as its admin port answers, which is before it is ready and before it
takes its first order.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from onceproof_chaos.admin_client import AdminClient, AdminGoneError
from onceproof_chaos.backend import Instance, Role
from onceproof_chaos.backend.base import BackendError
from onceproof_chaos.plan import Fault
from onceproof_operator.cluster import Cluster, Pod

_LOOK_EVERY_S: Final = 0.25
_ARM_EVERY_S: Final = 0.1
_READY_TIMEOUT_S: Final = 180.0
_OVER: Final = frozenset({"Succeeded", "Failed"})
_UNKNOWN_EXIT: Final = 255


@dataclass(frozen=True, slots=True)
class _Tracked:
    instance: Instance
    pod: Pod


class KubernetesBackend:
    """Pods of one release that agreed to chaos; see `onceproof_chaos.backend.Backend`.

    Args:
        cluster: where they run.
        selector: label selector of the pipeline's pods.
        admin: client for their admin ports.
    """

    def __init__(self, cluster: Cluster, selector: str, admin: AdminClient) -> None:
        self._cluster = cluster
        self._selector = selector
        self._admin = admin
        self._tracked: dict[str, _Tracked] = {}
        self._taken: set[str] = set()
        self._looking = asyncio.Lock()
        self._seen: list[Pod] = []
        self._seen_at = 0.0
        self._stopped = False

    def instances(self, role: Role | None = None) -> list[Instance]:
        """What runs now, of one role or all."""
        return [
            tracked.instance
            for tracked in self._tracked.values()
            if role in (None, tracked.instance.role)
        ]

    async def start(self, role: Role, name: str, armed: Sequence[Fault]) -> Instance:
        """Wait for a pod of the role that nobody has in hand yet, and arm it."""
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S):
                while True:
                    for pod in await self._pods():
                        if pod.component == role and self._take(pod):
                            if (instance := await self._prepare(role, pod, armed)) is not None:
                                return instance
                            self._taken.discard(pod.uid)
                    await asyncio.sleep(_LOOK_EVERY_S)
        except TimeoutError:
            raise BackendError(
                f"no pod has taken the place of {name} within {_READY_TIMEOUT_S:.0f} s; look at "
                f"kubectl -n {self._cluster.namespace} get pods -l app.kubernetes.io/component={role}"
            ) from None

    async def kill(self, instance: Instance) -> int:
        """Delete the pod with grace period 0; -SIGKILL when nothing else ended it.

        Its process is parked until the node ends it some two seconds later. That is not waited for:
        the replacement is started meanwhile, and must be armed before it takes its first order.
        """
        tracked = self._tracked[instance.uid]
        now = await self._cluster.pod(instance.name)
        if now is None or self._ended(tracked, now):
            return self._forget(instance, now)
        ours = await self._cluster.delete_pod(tracked.pod)
        code = self._forget(instance, None)
        return -signal.SIGKILL if ours else code

    async def died(self, instance: Instance) -> int:
        """Wait until the pod is gone, or its container has ended."""
        tracked = self._tracked[instance.uid]
        while True:
            now = next((pod for pod in await self._pods() if pod.uid == instance.uid), None)
            if now is None or self._ended(tracked, now):
                return self._forget(instance, now)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def stop(self) -> None:
        """Pods outlive a campaign; but nobody waits for one any more, to arm it."""
        self._stopped = True

    def _take(self, pod: Pod) -> bool:
        """Reserve a pod; no await between the look and the reservation."""
        if pod.uid in self._taken or pod.leaving or not pod.ip or pod.phase in _OVER:
            return False
        self._taken.add(pod.uid)
        return True

    async def _prepare(self, role: Role, pod: Pod, armed: Sequence[Fault]) -> Instance | None:
        """Arm a pod and wait until it is ready; None when it is gone before that."""
        instance = Instance(role=role, name=pod.name, pid=0, admin_url=pod.admin_url, uid=pod.uid)
        waiting_for_port = True
        while True:
            if waiting_for_port:
                try:
                    await self._admin.arm(pod.admin_url, armed)
                    waiting_for_port = False
                except AdminGoneError:
                    await asyncio.sleep(_ARM_EVERY_S)
            now = next((seen for seen in await self._pods() if seen.uid == pod.uid), None)
            if now is None or now.leaving or now.phase in _OVER:
                return None
            if now.restarts != pod.restarts:
                return None  # a new container knows nothing of what the one before was armed with
            if now.ready and not waiting_for_port:
                self._tracked[pod.uid] = _Tracked(instance, now)
                return instance
            await asyncio.sleep(_ARM_EVERY_S)

    def _ended(self, tracked: _Tracked, now: Pod) -> bool:
        return (
            now.uid != tracked.pod.uid or now.phase in _OVER or now.restarts != tracked.pod.restarts
        )

    def _forget(self, instance: Instance, last: Pod | None) -> int:
        self._tracked.pop(instance.uid, None)
        if last is None or last.uid != instance.uid:
            return _UNKNOWN_EXIT
        if last.phase not in _OVER:
            # The same pod with a new container is the replacement.
            self._taken.discard(instance.uid)
        return _UNKNOWN_EXIT if last.exit_code is None else last.exit_code

    async def _pods(self) -> list[Pod]:
        """The pods as they were a moment ago: all who wait share one look."""
        async with self._looking:
            if self._stopped:
                raise BackendError("the campaign is over")
            if time.monotonic() - self._seen_at >= _LOOK_EVERY_S:
                self._seen = await self._cluster.pods(self._selector)
                self._seen_at = time.monotonic()
            return self._seen
