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
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import aiohttp

from onceproof.crashpoints import Action
from onceproof.variants import Fixes
from onceproof_chaos.backend import Backend, Instance, Role
from onceproof_chaos.faultlog import FaultEvent, FaultEventKind
from onceproof_chaos.plan import Fault, Plan

logger = logging.getLogger(__name__)

_LONG_POLL_S: Final = 25.0
_RETRY_S: Final = 0.1
_GONE: Final = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError)
_REQUEST_TIMEOUT: Final = aiohttp.ClientTimeout(total=5.0)

KILLED: Final = FaultEventKind.KILLED
DIED: Final = FaultEventKind.DIED_UNEXPECTEDLY

Listener = Callable[[FaultEvent], None]


class Nemesis:
    """Carries out a plan against a backend.

    Args:
        plan: the faults.
        backend: where the services run.
        fixes: of the variant: without the outbox it is the producer that publishes.
        http: client for the admin ports.
        listener: gets every event, for the run's log and the progress display.
    """

    def __init__(
        self,
        plan: Plan,
        backend: Backend,
        fixes: Fixes,
        http: aiohttp.ClientSession,
        listener: Listener,
    ) -> None:
        self._backend = backend
        self._fixes = fixes
        self._http = http
        self._listener = listener
        self._pending: dict[str, Fault] = {fault.id: fault for fault in plan.faults}
        self._watchers: dict[str, asyncio.Task[None]] = {}
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
        """Take back every fault that was not reached."""
        for fault in self.pending:
            self._emit(FaultEventKind.DISARMED, fault=fault)
        self._pending.clear()
        await asyncio.gather(*(self._disarm(i) for i in self._backend.instances()))

    async def stop(self) -> None:
        """Stop watching; what runs goes on running."""
        for watcher in self._watchers.values():
            watcher.cancel()
        await asyncio.gather(*self._watchers.values(), return_exceptions=True)

    async def supervise(self) -> None:
        """Until cancelled; raises what ended a watcher, if anything did."""
        while True:
            done, _ = await asyncio.wait(self._watchers.values(), return_when=FIRST_COMPLETED)
            for watcher in done:
                watcher.result()

    def _role(self, fault: Fault) -> Role:
        role = Role(fault.point.partition(".")[0])
        return Role.PRODUCER if role is Role.RELAY and not self._fixes.outbox else role

    def _armed(self, role: Role) -> list[Fault]:
        return [fault for fault in self._pending.values() if self._role(fault) is role]

    def _watch(self, instance: Instance) -> None:
        self._watchers[instance.name] = asyncio.create_task(
            self._keep_watching(instance), name=f"watch-{instance.name}"
        )

    async def _keep_watching(self, instance: Instance) -> None:
        """Watch a service through all its incarnations."""
        while True:
            died = asyncio.create_task(self._backend.died(instance))
            reached = asyncio.create_task(self._first_kill(instance))
            try:
                await asyncio.wait({died, reached}, return_when=FIRST_COMPLETED)
            finally:
                died.cancel()
                reached.cancel()
                await asyncio.gather(died, reached, return_exceptions=True)
            self._busy.add(instance.name)
            try:
                if reached.done() and not reached.cancelled():
                    event = reached.result()
                    code = await self._backend.kill(instance)
                    # Any other exit code means that something else ended it first.
                    kind = KILLED if code == -signal.SIGKILL else DIED
                    self._log(kind, instance, event, exit_code=code)
                else:
                    code = await self._backend.died(instance)
                    self._log(DIED, instance, {}, exit_code=code)
                    event = {}
                instance = await self._replace(instance)
                self._log(FaultEventKind.RESTARTED, instance, event)
            finally:
                self._busy.discard(instance.name)

    async def _replace(self, instance: Instance) -> Instance:
        armed = self._armed(instance.role)
        replacement = await self._backend.start(instance.role, instance.name, armed)
        # Somebody else may have reached one of them while this one was starting.
        gone = [fault.id for fault in armed if fault.id not in self._pending]
        if gone:
            await self._disarm(replacement, gone)
        return replacement

    async def _first_kill(self, instance: Instance) -> dict[str, Any]:
        """Follow a service's reached crash points until one of them parks it for a kill."""
        after = 0
        while True:
            for event in await self._reached(instance, after):
                after = event["seq"]
                fault = self._pending.pop(event["fault"], None)
                self._log(FaultEventKind.REACHED, instance, event)
                if fault is not None:
                    await self._disarm_everywhere(fault)
                action = Action(event["action"])
                if action is Action.KILL:
                    return event
                if action is Action.STALL and fault is not None:
                    await self._until_resumed(instance, fault)
                    self._log(FaultEventKind.RESUMED, instance, event)

    async def _reached(self, instance: Instance, after: int) -> list[dict[str, Any]]:
        url = f"{instance.admin_url}/crash-points/reached"
        query = {"after": str(after), "wait": str(_LONG_POLL_S)}
        try:
            async with self._http.get(
                url, params=query, timeout=aiohttp.ClientTimeout(total=_LONG_POLL_S + 10)
            ) as response:
                response.raise_for_status()
                return list(await response.json())
        except _GONE:
            await asyncio.sleep(_RETRY_S)  # it is gone; who waits for its death will know
            return []

    async def _until_resumed(self, instance: Instance, fault: Fault) -> None:
        """A stalled process is a busy one until it goes on: the drain must not end before."""
        self._busy.add(instance.name)
        try:
            await asyncio.sleep(fault.park_s)
        finally:
            self._busy.discard(instance.name)

    async def _disarm_everywhere(self, fault: Fault) -> None:
        role = self._role(fault)
        await asyncio.gather(
            *(self._disarm(other, [fault.id]) for other in self._backend.instances(role))
        )

    async def _disarm(self, instance: Instance, ids: Iterable[str] = ()) -> None:
        url = f"{instance.admin_url}/crash-points"
        try:
            async with self._http.delete(
                url, params=[("id", fault_id) for fault_id in ids], timeout=_REQUEST_TIMEOUT
            ) as response:
                response.raise_for_status()
        except _GONE as error:
            # A process that is starting or ending: a starting one is disarmed by `_replace`.
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
        reached: Mapping[str, Any],
        *,
        exit_code: int | None = None,
    ) -> None:
        self._listener(
            FaultEvent(
                kind,
                reached["at"] if kind is FaultEventKind.REACHED else time.time(),
                fault=reached.get("fault"),
                point=reached.get("point"),
                action=reached.get("action"),
                order=reached.get("order"),
                attempt=reached.get("attempt"),
                event_id=reached.get("event_id"),
                trace_id=reached.get("trace_id"),
                span_id=reached.get("span_id"),
                service=instance.role.value,
                instance=instance.name,
                pid=instance.pid,
                exit_code=exit_code,
            )
        )


__all__ = ["Listener", "Nemesis"]
