"""The nemesis: waits at every service's admin port for planned faults, and carries them out.

A kill is a conversation: the service says that it has reached the crash point and stands still, the
nemesis kills exactly that process, waits for its end, and starts a replacement that is armed with the
faults that are still to come. So every kill is at its crash point, and a replacement does not die of
the fault that killed its predecessor.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from asyncio import FIRST_COMPLETED
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from onceproof.crashpoints import Action
from onceproof.variants import Fixes
from onceproof_chaos.admin_client import AdminClient, AdminGoneError, ReachedPoint
from onceproof_chaos.backend import Backend, Instance, Role
from onceproof_chaos.faultlog import FaultEvent, FaultEventKind
from onceproof_chaos.plan import Fault, Plan

logger = logging.getLogger(__name__)

_LONG_POLL_S: Final = 25.0
_RETRY_S: Final = 0.1

KILLED: Final = FaultEventKind.KILLED
DIED: Final = FaultEventKind.DIED_UNEXPECTEDLY

Listener = Callable[[FaultEvent], None]


class Nemesis:
    """Carries out a plan against a backend.

    Args:
        plan: the faults.
        backend: where the services run.
        fixes: of the variant: without the outbox it is the producer that publishes.
        admin: client for the admin ports.
        listener: gets every event, for the run's log and the progress display.
    """

    def __init__(
        self,
        plan: Plan,
        backend: Backend,
        fixes: Fixes,
        admin: AdminClient,
        listener: Listener,
    ) -> None:
        self._backend = backend
        self._fixes = fixes
        self._admin = admin
        self._listener = listener
        self._pending: dict[str, Fault] = {fault.id: fault for fault in plan.faults}
        self._ids = frozenset(self._pending)
        self._watchers: list[asyncio.Task[None]] = []
        self._busy: set[str] = set()

    @property
    def pending(self) -> list[Fault]:
        """Planned faults that were not reached yet."""
        return list(self._pending.values())

    @property
    def idle(self) -> bool:
        """Whether no fault is being carried out: everything runs."""
        return not self._busy

    async def start(self, replicas: Mapping[Role, int]) -> None:
        """Start all services, armed, and watch them."""
        names = [(role, f"{role}-{i}") for role, count in replicas.items() for i in range(count)]
        for fault in self._pending.values():
            self._emit(FaultEventKind.ARMED, fault=fault)
        instances = await asyncio.gather(
            *(self._backend.start(role, name, self._armed(role)) for role, name in names)
        )
        for instance in instances:
            self._watch(instance)

    async def disarm(self) -> None:
        """Take back every fault that was not reached. Faults of others stay."""
        for fault in self.pending:
            self._emit(FaultEventKind.DISARMED, fault=fault)
        self._pending.clear()
        ids = sorted(self._ids)
        await asyncio.gather(*(self._disarm(i, ids) for i in self._backend.instances()))

    async def stop(self) -> None:
        """Stop watching; what runs goes on running."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)

    async def supervise(self) -> None:
        """Until cancelled; raises what ended a watcher, if anything did."""
        while True:
            done, _ = await asyncio.wait(self._watchers, return_when=FIRST_COMPLETED)
            for watcher in done:
                watcher.result()

    def _role(self, fault: Fault) -> Role:
        role = Role(fault.point.partition(".")[0])
        return Role.PRODUCER if role is Role.RELAY and not self._fixes.outbox else role

    def _armed(self, role: Role) -> list[Fault]:
        return [fault for fault in self._pending.values() if self._role(fault) is role]

    def _watch(self, instance: Instance) -> None:
        self._watchers.append(
            asyncio.create_task(self._keep_watching(instance), name=f"watch-{instance.name}")
        )

    async def _keep_watching(self, instance: Instance) -> None:
        """Watch a service through all its incarnations, whatever they are called."""
        place = instance.name
        while True:
            died = asyncio.create_task(self._backend.died(instance))
            reached = asyncio.create_task(self._first_kill(instance, place))
            try:
                await asyncio.wait({died, reached}, return_when=FIRST_COMPLETED)
            finally:
                died.cancel()
                reached.cancel()
                await asyncio.gather(died, reached, return_exceptions=True)
            self._busy.add(place)
            try:
                event = reached.result() if _finished(reached) else None
                if _finished(died):
                    self._log(DIED, instance, event, exit_code=died.result())
                else:
                    code = await self._backend.kill(instance)
                    # Any other exit code means that something else ended it first.
                    kind = KILLED if code == -signal.SIGKILL else DIED
                    self._log(kind, instance, event, exit_code=code)
                instance = await self._replace(instance)
                self._log(FaultEventKind.RESTARTED, instance, event)
            finally:
                self._busy.discard(place)

    async def _replace(self, instance: Instance) -> Instance:
        armed = self._armed(instance.role)
        replacement = await self._backend.start(instance.role, instance.name, armed)
        # Somebody else may have reached one of them while this one was starting.
        gone = [fault.id for fault in armed if fault.id not in self._pending]
        if gone:
            await self._disarm(replacement, gone)
        return replacement

    async def _first_kill(self, instance: Instance, place: str) -> ReachedPoint:
        """Follow a service's reached crash points until one of them parks it for a kill.

        It is busy from the moment at which one was reached until it goes on, after a kill until it
        was replaced: the drain must not end before.
        """
        after = 0
        while True:
            for event in await self._reached(instance, after):
                after = event.seq
                if event.fault not in self._ids:
                    continue  # somebody else's, or an earlier run's in a pod that outlived it
                fault = self._pending.pop(event.fault, None)
                self._busy.add(place)
                self._log(FaultEventKind.REACHED, instance, event)
                if fault is not None:
                    await self._disarm_everywhere(fault)
                if event.action is Action.KILL:
                    return event
                if event.action is Action.STALL and fault is not None:
                    await asyncio.sleep(fault.park_s)
                    self._log(FaultEventKind.RESUMED, instance, event)
                self._busy.discard(place)

    async def _reached(self, instance: Instance, after: int) -> list[ReachedPoint]:
        try:
            return await self._admin.reached(instance.admin_url, after=after, wait_s=_LONG_POLL_S)
        except AdminGoneError:
            await asyncio.sleep(_RETRY_S)  # who waits for its death will know
            return []

    async def _disarm_everywhere(self, fault: Fault) -> None:
        role = self._role(fault)
        await asyncio.gather(
            *(self._disarm(other, [fault.id]) for other in self._backend.instances(role))
        )

    async def _disarm(self, instance: Instance, ids: Sequence[str]) -> None:
        if not ids:
            return
        try:
            await self._admin.disarm(instance.admin_url, ids)
        except AdminGoneError as error:
            # A service that is starting or ending: a starting one is disarmed by `_replace`.
            logger.debug("%s not disarmed: %s", instance.name, error)

    def _emit(self, kind: FaultEventKind, *, fault: Fault) -> None:
        self._listener(
            FaultEvent(
                kind, time.time(), fault=fault.id, point=fault.point, action=fault.action.value
            )
        )

    def _log(
        self,
        kind: FaultEventKind,
        instance: Instance,
        reached: ReachedPoint | None,
        *,
        exit_code: int | None = None,
    ) -> None:
        event = FaultEvent(
            kind,
            time.time(),
            service=instance.role.value,
            instance=instance.name,
            pid=instance.pid or None,
            uid=instance.uid or None,
            exit_code=exit_code,
        )
        if reached is not None:
            event = replace(
                event,
                at=reached.at if kind is FaultEventKind.REACHED else event.at,
                fault=reached.fault,
                point=reached.point,
                action=reached.action.value,
                order=reached.order,
                attempt=reached.attempt,
                event_id=reached.event_id,
                trace_id=reached.trace_id,
                span_id=reached.span_id,
            )
        self._listener(event)


def _finished(task: asyncio.Task[Any]) -> bool:
    """Whether a task has a result, or an error of its own."""
    return task.done() and not task.cancelled()


__all__ = ["Listener", "Nemesis"]
