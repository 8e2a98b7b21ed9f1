"""The relays that are compared, as processes that can be killed and are started again, as pods are."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from benchmarks.bench import Bench
from benchmarks.contest import NotRunError
from benchmarks.elasticmq import CREDENTIALS, REGION
from benchmarks.peers.relays import Target, require_tcp
from benchmarks.ports import free_port
from benchmarks.service_process import service
from onceproof.errors import ConfigurationError
from onceproof_chaos.embedded import debezium
from onceproof_chaos.environment import Servers, captured

RELAY: Final = "relay"
DEBEZIUM: Final = "debezium"


@dataclass(frozen=True, slots=True)
class Kind:
    """A relay under comparison.

    Args:
        name: unique.
        woken: whether the writer sends a notification after its commits.
        poll_s: seconds between the polling relay's looks; None: its default.
        captures: whether it reads the WAL.
        deletes: whether the writer deletes each row in the transaction that inserted it.
        runs: whether there is a relay at all.
    """

    name: str
    woken: bool = False
    poll_s: float | None = None
    captures: bool = False
    deletes: bool = False
    runs: bool = True


WOKEN: Final = Kind("polling, woken", woken=True)
EACH_SECOND: Final = Kind("polling each second", poll_s=1.0)
EACH_TENTH: Final = Kind("polling each 0.1 s", poll_s=0.1)
CDC: Final = Kind("cdc", captures=True)
CDC_DELETED: Final = Kind("cdc, insert and delete", captures=True, deletes=True)
NOBODY: Final = Kind("nobody", runs=False)


@dataclass(slots=True)
class Running:
    """A relay that is there, once it was started.

    Args:
        launch: starts its process, which is in `stack` then; its process id.
        stack: what is running.
        slot: through which it reads the outbox; None: it polls.
        pid: of its process.
    """

    launch: Callable[[], Awaitable[int]]
    stack: AsyncExitStack
    slot: str | None
    pid: int = 0

    async def start(self) -> None:
        """Start it, until it is ready."""
        self.pid = await self.launch()

    def processes(self) -> dict[str, int]:
        """Its process ids by role; Debezium apart from what starts it."""
        found = {RELAY: self.pid}
        java = self._debezium()
        return found | ({DEBEZIUM: java.pid} if java is not None else {})

    def kill_debezium(self) -> None:
        """Kill the JVM; its parent starts another one."""
        java = self._debezium()
        if java is None:
            raise NotRunError("there is no Debezium to kill")
        java.kill()

    async def kill(self) -> None:
        """Kill all of it at once, as the end of its pod does, and start it again."""
        process = psutil.Process(self.pid)
        for each in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        await self.stack.aclose()
        await self.start()

    def _debezium(self) -> psutil.Process | None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.pid).children(recursive=True):
                if child.name() == "java":
                    return child
        return None


@asynccontextmanager
async def relay_of(at: Bench, kind: Kind, to: Target) -> AsyncIterator[Running]:
    """A relay that is not started yet; where it reads the WAL, its slot keeps that from now on.

    Raises:
        NotRunError: what it needs is not here.
    """
    async with AsyncExitStack() as outer, AsyncExitStack() as processes:
        module, environment = "onceproof_relay", _environment(at, kind, to)
        if kind.captures:
            module = "onceproof_relay.cdc"
            environment |= await outer.enter_async_context(_capture(at, to.queue))

        async def launch() -> int:
            return await processes.enter_async_context(service(module, free_port(), environment))

        yield Running(launch, processes, environment.get("ONCEPROOF_SLOT"))


def _environment(at: Bench, kind: Kind, to: Target) -> dict[str, str]:
    return {
        **CREDENTIALS,
        "ONCEPROOF_DATABASE_URL": at.where.library_url(),
        "ONCEPROOF_SQS_ENDPOINT_URL": to.endpoint,
        "ONCEPROOF_SQS_REGION": REGION,
        "ONCEPROOF_QUEUE": to.queue,
        "ONCEPROOF_LOG_LEVEL": "WARNING",
        **({"ONCEPROOF_POLL_S": str(kind.poll_s)} if kind.poll_s else {}),
    }


@asynccontextmanager
async def _capture(at: Bench, queue: str) -> AsyncIterator[Mapping[str, str]]:
    """The slot, its role, and where Debezium is."""
    require_tcp(at)
    if at.where.settings.get("wal_level") != "logical":
        raise NotRunError("needs a server with wal_level = logical")
    try:
        home = await asyncio.to_thread(debezium.fetch)
    except ConfigurationError as error:
        raise NotRunError(str(error)) from None
    where = Servers(at.where.library_url(), None, {}, tcp=at.where.tcp)
    database = str(at.where.url.database)
    with tempfile.TemporaryDirectory(prefix="onceproof-debezium-") as directory:
        async with captured(where, database, queue, home) as capture:
            yield {
                "ONCEPROOF_SLOT": capture.slot,
                "ONCEPROOF_CDC_DATABASE_URL": capture.url,
                "ONCEPROOF_DEBEZIUM_HOME": str(capture.home),
                "ONCEPROOF_JAVA": capture.java,
                "ONCEPROOF_DEBEZIUM_DIRECTORY": str(Path(directory)),
                "ONCEPROOF_DEBEZIUM_PORT": str(free_port()),
                "ONCEPROOF_DOOR_PORT": str(free_port()),
            }
