"""The consumer processes of one run: started, killed, stalled, and started again when they end.

Whatever ends is started again, as any supervisor in production does. An end that was not ours is
recorded: in the library's consumer nothing should end by itself, while a loop may well exit when its
queue or database hangs up on it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from onceproof_chaos.backend import Backend, BackendError, Instance, Role
from onceproof_chaos.faultlog import FaultEvent, FaultEventKind
from onceproof_chaos.plan import Fault

_MAX_ENDS: Final = 10
"""Ends by itself after which a consumer is not started again: it cannot work here."""
_RESTART_PAUSE_S: Final = 0.1


class Crew:
    """Consumers of one run.

    Args:
        backend: runs them.
        group: of the tasks that watch them; what they raise ends the run.
        listener: gets every event, for the run's log.
        logs: folder of their logs, to be named in errors.
    """

    def __init__(
        self,
        backend: Backend,
        group: asyncio.TaskGroup,
        listener: Callable[[FaultEvent], None],
        logs: Path,
    ) -> None:
        self._backend = backend
        self._group = group
        self._listener = listener
        self._logs = logs
        self._watchers: list[asyncio.Task[None]] = []
        self._ours: set[int] = set()
        self.ends: list[str] = []
        """What ended without us, and how."""

    async def start(self, armed: Sequence[Fault] = ()) -> Instance:
        """Start one more consumer, and watch it.

        Raises:
            BackendError: it did not get ready; the message has the end of its log.
        """
        name = f"{Role.CONSUMER}-{len(self._watchers)}"
        instance = await self._backend.start(Role.CONSUMER, name, armed)
        self._watchers.append(self._group.create_task(self._watch(instance)))
        return instance

    async def kill(self, instance: Instance) -> None:
        """SIGKILL; a new one is started."""
        self._ours.add(instance.pid)
        code = await self._backend.kill(instance)
        killed = code == -signal.SIGKILL
        if not killed:
            self.ends.append(f"{instance.name} had ended already, with exit code {code}")
        kind = FaultEventKind.KILLED if killed else FaultEventKind.DIED_UNEXPECTEDLY
        self._log(kind, instance, code)

    async def stall(
        self, instance: Instance, seconds: float, taken_over: Callable[[], Awaitable[None]]
    ) -> None:
        """Have the whole process stand still, while another one is there.

        Args:
            instance: which one.
            seconds: how long at least.
            taken_over: waits until the other one has got the work.
        """
        os.killpg(instance.pid, signal.SIGSTOP)
        try:
            await self.start()
            await asyncio.sleep(seconds)
            await taken_over()
        finally:
            os.killpg(instance.pid, signal.SIGCONT)
        self._log(FaultEventKind.RESUMED, instance, None)

    async def stop(self) -> None:
        """Stop watching, then all consumers in an orderly way."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        await self._backend.stop()

    async def _watch(self, instance: Instance) -> None:
        while True:
            code = await self._backend.died(instance)
            if instance.pid not in self._ours:
                self.ends.append(f"{instance.name} ended by itself with exit code {code}")
                self._log(FaultEventKind.DIED_UNEXPECTEDLY, instance, code)
                if len(self.ends) >= _MAX_ENDS:
                    raise BackendError(
                        f"the consumer ended by itself {_MAX_ENDS} times, at last with exit code "
                        f"{code}; its log is in {self._logs}"
                    )
                await asyncio.sleep(_RESTART_PAUSE_S * len(self.ends))
            instance = await self._backend.start(Role.CONSUMER, instance.name, ())
            self._log(FaultEventKind.RESTARTED, instance, None)

    def _log(self, kind: FaultEventKind, instance: Instance, code: int | None) -> None:
        self._listener(
            FaultEvent(
                kind,
                time.time(),
                service=instance.role.value,
                instance=instance.name,
                pid=instance.pid or None,
                exit_code=code,
            )
        )


__all__ = ["Crew"]
