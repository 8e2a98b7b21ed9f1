"""One asyncio task per object: started once, cancelled when the object is deleted or the operator stops.

kopf's daemons would do the same, but they put a finalizer on each object, and a finalizer blocks the
deletion of the namespace when the operator is gone. Raw watch events need none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

logger = logging.getLogger(__name__)

_GIVE_UP_S: Final = 30.0


class Work(Protocol):
    """What is done for one object."""

    async def run(self) -> None:
        """Do it."""
        ...

    async def abandon(self) -> None:
        """The object is gone: take back what was done in its name."""
        ...


@dataclass(frozen=True, slots=True)
class _Started:
    work: Work
    task: asyncio.Task[None]


class Tasks:
    """The work in progress by the object's uid. Each uid is started once in a process's life."""

    def __init__(self) -> None:
        self._started: dict[str, _Started | None] = {}
        """None when it has come to its end."""

    def start(self, uid: str, make: Callable[[], Work]) -> None:
        """Start the work of an object, unless that was done already."""
        if uid in self._started:
            return
        work = make()
        task = asyncio.create_task(work.run(), name=f"work-{uid}")
        self._started[uid] = _Started(work, task)
        task.add_done_callback(lambda _: self._ended(uid, task))

    async def deleted(self, uid: str) -> None:
        """The object is gone: end its work, unless it has come to its end, and have it clean up."""
        started = self._started.pop(uid, None)
        if started is None:
            return
        started.task.cancel()
        await asyncio.gather(started.task, return_exceptions=True)
        try:
            async with asyncio.timeout(_GIVE_UP_S):
                await started.work.abandon()
        except Exception:
            logger.exception("cleaning up after a deleted object")

    async def stop(self) -> None:
        """The operator stops: end all work where it stands, for the next operator to go on."""
        tasks = [started.task for started in self._started.values() if started is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, uid: str, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            # What it did in the object's name is still to be taken back when that is deleted.
            logger.error("%s ended", task.get_name(), exc_info=error)
        elif uid in self._started:
            self._started[uid] = None
