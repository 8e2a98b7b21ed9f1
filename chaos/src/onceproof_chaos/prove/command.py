"""Runs any command as the consumer: it is told what it needs in its environment, and nothing else.

So it may be written in any language. It counts as ready when it runs, because nothing is known about it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from onceproof_chaos.backend import BackendError, Instance, Role
from onceproof_chaos.plan import Fault

_STOP_TIMEOUT_S: Final = 5.0

# Its input ends with the harness, however that ends: a command that outlived it would go on for ever.
_WATCHER: Final = ("/bin/sh", "-c", 'read -r _; kill -KILL -- "-$1"', "onceproof-command-watcher")


@dataclass(frozen=True, slots=True)
class _Running:
    instance: Instance
    process: Process
    watcher: Process


class CommandBackend:
    """Runs a command line, each time as a process group of its own; see `backend.Backend`.

    Args:
        command: split as a shell would, but no shell runs it.
        folder: in which it runs.
        variables: added to the environment.
        logs: folder of the logs; restarts append.
    """

    def __init__(
        self, command: str, folder: Path, variables: Mapping[str, str], logs: Path
    ) -> None:
        self._words = shlex.split(command)
        self._folder = folder
        self._variables = variables
        self._logs = logs
        self._running: dict[str, _Running] = {}

    def instances(self, role: Role | None = None) -> list[Instance]:
        """What runs now."""
        every = [running.instance for running in self._running.values()]
        return [instance for instance in every if role in {None, instance.role}]

    async def start(self, role: Role, name: str, armed: Sequence[Fault]) -> Instance:
        """Start the command; nothing can be armed in it."""
        if armed:
            raise BackendError("a command has no crash points to arm")
        with (self._logs / f"{name}.log").open("ab") as log:
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._words,
                    cwd=self._folder,
                    env={**os.environ, **self._variables},
                    stdin=DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            except OSError as error:
                raise BackendError(f"{self._words[0]} cannot be started: {error}") from error
        watcher = await asyncio.create_subprocess_exec(
            *_WATCHER, str(process.pid), stdin=PIPE, start_new_session=True
        )
        instance = Instance(role, name, process.pid, admin_url="")
        before = self._running.get(name)
        self._running[name] = _Running(instance, process, watcher)
        if before is not None:
            await _clear_away(before)
        return instance

    async def kill(self, instance: Instance) -> int:
        """SIGKILL to the command and whatever it started."""
        running = self._of(instance)
        _signal(running, signal.SIGKILL)
        return await running.process.wait()

    async def died(self, instance: Instance) -> int:
        """Wait until it has ended."""
        return await self._of(instance).process.wait()

    async def stop(self) -> None:
        """SIGTERM to all, SIGKILL to who does not go."""
        await asyncio.gather(*(_stop(running) for running in self._running.values()))
        self._running.clear()

    def _of(self, instance: Instance) -> _Running:
        running = self._running[instance.name]
        if running.instance.pid != instance.pid:
            # Its successor lives, so to wait for its end would be to wait for ever.
            raise BackendError(f"{instance.name} (pid {instance.pid}) was replaced already")
        return running


async def _stop(running: _Running) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if running.process.returncode is not None:
            break
        _signal(running, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await running.process.wait()
    await _clear_away(running)


async def _clear_away(ended: _Running) -> None:
    """End what a command that has ended left behind: a child would go on to consume."""
    _signal(ended, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        ended.watcher.kill()
    await ended.watcher.wait()


def _signal(running: _Running, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.instance.pid, number)


__all__ = ["CommandBackend"]
