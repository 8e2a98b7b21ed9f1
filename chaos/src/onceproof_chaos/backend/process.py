"""Each service is an operating system's process: a SIGKILL is a SIGKILL.

Processes are forked from a server that has imported the services already (`multiprocessing`'s
forkserver), because a run restarts dozens of them and a cold start takes seconds of CPU. They
die with the harness, whatever ends it, so an aborted run leaves nothing behind that would consume the
next run's messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import signal
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Final

import aiohttp

from onceproof_chaos.backend.base import BackendError, Instance, Role
from onceproof_chaos.backend.child import become
from onceproof_chaos.plan import Fault
from onceproof_chaos.ports import free_port

PROVIDER_NAME: Final = f"{Role.PROVIDER}-0"
_HAS_API: Final = frozenset({Role.PRODUCER, Role.PROVIDER})
_READY_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.02
MODULES: Final = {role: f"onceproof_{role}" for role in Role}
"""Which is run for each role."""
CDC_MODULE: Final = "onceproof_relay.cdc"
"""The relay where Debezium reads the outbox."""

_forkserver: Final = multiprocessing.get_context("forkserver")
_forkserver.set_forkserver_preload(
    [
        "onceproof.cli",
        *(f"{module}.__main__" for module in MODULES.values()),
        f"{CDC_MODULE}.__main__",
        "onceproof_chaos.prove.service",
    ]
)


@dataclass(slots=True)
class _Running:
    instance: Instance
    process: ForkServerProcess
    ended: asyncio.Event

    @property
    def exit_code(self) -> int | None:
        return self.process.exitcode if self.ended.is_set() else None


class ProcessBackend:
    """Runs `python -m onceproof_<role>` with its configuration in the environment.

    Args:
        environment: variables per role, e.g. `ONCEPROOF_DATABASE_URL`.
        logs: folder that gets a `<name>.log` per service; restarts append.
        http: client for the readiness probe.
        modules: module to run per role, where it is not the one by the role's name.
    """

    def __init__(
        self,
        environment: Mapping[Role, Mapping[str, str]],
        logs: Path,
        http: aiohttp.ClientSession,
        *,
        modules: Mapping[Role, str] = MODULES,
    ) -> None:
        self._environment = environment
        self._logs = logs
        self._http = http
        self._modules = modules
        self._running: dict[str, _Running] = {}
        self._ports: dict[str, tuple[int, int]] = {}

    def instances(self, role: Role | None = None) -> list[Instance]:
        """What runs now, of one role or all."""
        return [
            running.instance
            for running in self._running.values()
            if role in (None, running.instance.role)
        ]

    async def start(self, role: Role, name: str, armed: Sequence[Fault]) -> Instance:
        """Start a service and wait until it is ready; a restart keeps its ports."""
        admin_port, http_port = self._ports_of(name)
        environment = {
            **self._environment[role],
            "ONCEPROOF_SERVICE_NAME": role.value,
            "ONCEPROOF_ADMIN_HOST": "127.0.0.1",
            "ONCEPROOF_ADMIN_PORT": str(admin_port),
            "ONCEPROOF_CHAOS_ENABLED": "true",
            "ONCEPROOF_CRASH_POINTS": json.dumps([fault.as_json() for fault in armed]),
            "ONCEPROOF_HTTP_HOST": "127.0.0.1",
            "ONCEPROOF_HTTP_PORT": str(http_port),
            "ONCEPROOF_PROVIDER_URL": f"http://127.0.0.1:{self._ports_of(PROVIDER_NAME)[1]}",
        }
        process = _forkserver.Process(
            target=become,
            args=(self._modules[role], environment, str(self._log(name))),
            name=name,
            daemon=True,
        )
        await asyncio.to_thread(forkserver.ensure_running)  # imports everything, the first time
        with _no_main_module():
            process.start()
        instance = Instance(
            role=role,
            name=name,
            pid=process.pid or 0,
            admin_url=f"http://127.0.0.1:{admin_port}",
            http_url=f"http://127.0.0.1:{http_port}" if role in _HAS_API else None,
        )
        running = _Running(instance, process, asyncio.Event())
        self._running[name] = running
        _watch_end(running)
        await self._until_ready(running)
        return instance

    async def kill(self, instance: Instance) -> int:
        """Send SIGKILL and wait for the end."""
        running = self._of(instance)
        with contextlib.suppress(ProcessLookupError):
            os.kill(instance.pid, signal.SIGKILL)
        await running.ended.wait()
        return running.process.exitcode or 0

    async def died(self, instance: Instance) -> int:
        """Wait until it has ended."""
        running = self._of(instance)
        await running.ended.wait()
        return running.process.exitcode or 0

    async def stop(self) -> None:
        """SIGTERM to all, SIGKILL to who does not go."""
        await asyncio.gather(*(_stop(running) for running in self._running.values()))
        self._running.clear()

    def _of(self, instance: Instance) -> _Running:
        running = self._running.get(instance.name)
        if running is None or running.instance.pid != instance.pid:
            raise BackendError(f"{instance.name} (pid {instance.pid}) was replaced already")
        return running

    def _ports_of(self, name: str) -> tuple[int, int]:
        """Admin and API port; a restart keeps them."""
        return self._ports.setdefault(name, (free_port(), free_port()))

    async def _until_ready(self, running: _Running) -> None:
        url = f"{running.instance.admin_url}/readyz"
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S):
                while not running.ended.is_set():
                    with contextlib.suppress(aiohttp.ClientError):
                        async with self._http.get(url) as response:
                            if response.status == 200:
                                return
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            pass
        code = running.exit_code
        what = "is not ready" if code is None else f"ended with exit code {code}"
        log = self._log(running.instance.name)
        raise BackendError(f"{running.instance.name} {what}; the end of {log}:\n{_tail(log)}")

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"


@contextlib.contextmanager
def _no_main_module() -> Iterator[None]:
    """Keep `multiprocessing` from importing the caller's main module into each child.

    It would do so to unpickle what is defined there, which nothing is; and a script without an
    `if __name__ == "__main__"` would start itself again in every service.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _watch_end(running: _Running) -> None:
    """Set `ended` when the process is gone; its sentinel becomes readable then."""
    loop = asyncio.get_running_loop()
    sentinel = running.process.sentinel

    def gone() -> None:
        loop.remove_reader(sentinel)
        running.process.join()
        running.ended.set()

    loop.add_reader(sentinel, gone)


async def _stop(running: _Running) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if running.ended.is_set():
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.instance.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await running.ended.wait()


def _tail(path: Path, lines: int = 15) -> str:
    if not path.exists():
        return "(nothing was logged)"
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
