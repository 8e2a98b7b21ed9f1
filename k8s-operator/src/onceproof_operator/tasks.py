"""One asyncio task per object: started once, cancelled when the object is deleted or the operator stops.

kopf's daemons would do the same, but they put a finalizer on each object, and a finalizer blocks the
deletion of the namespace when the operator is gone. Raw watch events need none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from onceproof_operator.api import ForbiddenError

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


class Tasks:
    """The work in progress by the object's uid. Each uid is started once in a process's life."""

    def __init__(self) -> None:
        self._work: dict[str, Work] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, uid: str, make: Callable[[], Work]) -> None:
        """Start the work of an object, unless that was done already."""
        if uid in self._tasks:
            return
        work = self._work[uid] = make()
        task = self._tasks[uid] = asyncio.create_task(work.run(), name=f"work-{uid}")
        task.add_done_callback(_report)

    async def deleted(self, uid: str) -> None:
        """The object is gone: end its work and have it clean up."""
        task, work = self._tasks.pop(uid, None), self._work.pop(uid, None)
        if task is None or work is None:
            return
        unfinished = not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if unfinished:
            await _within(work.abandon(), "cleaning up after a deleted object")

    async def stop(self) -> None:
        """The operator stops: end all work where it stands, for the next operator to go on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _within(work: Awaitable[None], what: str) -> None:
    try:
        async with asyncio.timeout(_GIVE_UP_S):
            await work
    except (TimeoutError, ForbiddenError):
        logger.exception("%s", what)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("%s ended", task.get_name(), exc_info=error)
