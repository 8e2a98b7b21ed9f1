"""The pods that a drill aims at: which they are, arming them, and taking that back.

Only pods that the selector matches in the operator's own namespace, that run a component which passes
the crash point, and whose owner agreed to chaos.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Final, NoReturn

from onceproof.crashpoints import Action
from onceproof.variants import parse_variant
from onceproof_chaos.admin_client import (
    AdminError,
    AdminGoneError,
    ChaosDisabledError,
    ReachedPoint,
)
from onceproof_chaos.plan import Fault
from onceproof_operator.api import ClusterError
from onceproof_operator.cluster import Pod
from onceproof_operator.drill_spec import DrillSpec
from onceproof_operator.world import World

logger = logging.getLogger(__name__)

_LONG_POLL_S: Final = 20.0


class RefusedError(Exception):
    """The drill cannot go on. `reason` is one word for the condition."""

    def __init__(self, step: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.step = step
        self.reason = reason


class Target:
    """The pods of one drill.

    Args:
        spec: whose selector and fault they get.
        world: cluster and admin ports.
    """

    def __init__(self, spec: DrillSpec, world: World) -> None:
        self._spec = spec
        self._world = world
        self.fault: Fault = spec.fault(world.settings.visibility_s + 2)

    async def pods(self) -> list[Pod]:
        """Every pod that the selector matches, whatever its state.

        Raises:
            RefusedError: the API server does not take the selector.
        """
        try:
            return await self._world.cluster.pods(self._spec.selector)
        except ClusterError as error:
            if error.status != HTTPStatus.BAD_REQUEST:
                raise
            raise RefusedError(
                "Selected", "SelectorInvalid", f"the selector is no label selector: {error}"
            ) from error

    async def usable(self) -> list[Pod]:
        """Pods that run and may be armed; none when the selector matches nothing.

        Raises:
            RefusedError: one of them did not agree to chaos, or never passes the crash point.
        """
        found = await self.pods()
        for pod in found:
            if not pod.chaos_enabled:
                self._refuse_chaos(pod)
        fixes = parse_variant(self._world.settings.variant)
        roles = self._spec.roles(fixes)
        others = sorted({pod.component for pod in found} - roles)
        if others:
            raise RefusedError(
                "Selected",
                "WrongComponent",
                f"the selector matches {', '.join(others)}, which never passes {self._spec.point} "
                f"in variant {self._world.settings.variant}; select {', '.join(sorted(roles))}",
            )
        return [pod for pod in found if pod.phase == "Running" and pod.ip and not pod.leaving]

    async def arm(self, pod: Pod) -> bool:
        """Arm a pod; False when its admin port does not answer yet, or any more."""
        admin = self._world.admin
        try:
            await admin.arm(pod.admin_url, [self.fault])
        except AdminGoneError:
            return False  # it is starting or ending; the next look decides
        except ChaosDisabledError:
            self._refuse_chaos(pod)
        return True

    async def watch(self, pod: Pod) -> ReachedPoint | None:
        """Wait until this pod reaches the fault; None when the pod is gone."""
        last = 0
        while True:
            try:
                events = await self._world.admin.reached(
                    pod.admin_url, after=last, wait_s=_LONG_POLL_S
                )
            except AdminGoneError:
                return None
            for event in events:
                if event.fault == self._spec.fault_id:
                    return event
                last = event.seq  # of another drill

    async def take_back(self, *, spare: str = "") -> None:
        """Disarm every pod, also those armed by an earlier operator, and end those that are parked.

        Args:
            spare: uid of a pod that is left alone.
        """
        pods = await self.pods()
        await asyncio.gather(
            *(
                self._disarm(pod)
                for pod in pods
                if pod.chaos_enabled and pod.ip and pod.uid != spare
            )
        )

    async def _disarm(self, pod: Pod) -> None:
        admin, fault = self._world.admin, self._spec.fault_id
        try:
            await admin.disarm(pod.admin_url, [fault])
            parked = self._spec.action is Action.KILL and any(
                event.fault == fault for event in await admin.reached(pod.admin_url)
            )
        except AdminError as error:
            if not isinstance(error, AdminGoneError | ChaosDisabledError):
                logger.warning("%s may stay armed: %s", pod.name, error)
            return
        if parked:
            # It would stand there until its park ends, and then go on with what it held.
            await self._world.cluster.delete_pod(pod)

    def _refuse_chaos(self, pod: Pod) -> NoReturn:
        raise RefusedError(
            "Selected",
            "ChaosDisabled",
            f"pod {pod.name} does not have chaos enabled; in a test environment set chaos.enabled=true "
            "in the chart's values",
        )
