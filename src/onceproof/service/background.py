"""Duties that run beside a service's main work, and the one that all have: is the database there?

`/readyz` must tell about the database without asking it on each probe: a probe that hangs because
the database does helps nobody.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from onceproof.admin import Health
from onceproof.errors import DatabaseUnavailableError, TransientError
from onceproof.postgres import translated

logger = logging.getLogger(__name__)

DATABASE: Final = "database"
_READ_ONLY: Final = text("SELECT current_setting('transaction_read_only')::bool")


@asynccontextmanager
async def alongside(*duties: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `duties`, which never end by themselves, until the block is left."""
    tasks = [asyncio.create_task(duty) for duty in duties]
    for task in tasks:
        task.add_done_callback(_report)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def watch_database(
    engine: AsyncEngine,
    health: Health,
    *,
    interval_s: float = 5.0,
    retry_s: float = 0.5,
    timeout_s: float = 5.0,
) -> None:
    """Report to `health` whether the database answers, until cancelled.

    Args:
        engine: the database; the watch takes one connection of its pool for a moment.
        health: what `/readyz` reports.
        interval_s: seconds between looks, give or take a fifth.
        retry_s: seconds until the next look while it is away; doubles up to `interval_s`.
        timeout_s: seconds without an answer that count as away.
    """
    pause_s = interval_s
    while True:
        try:
            with translated():
                async with asyncio.timeout(timeout_s), engine.connect() as connection:
                    # A standby answers, but no service can work on it until it is promoted.
                    if await connection.scalar(_READ_ONLY):
                        raise DatabaseUnavailableError("the database is read-only")
        except TransientError as error:
            pause_s = min(interval_s, pause_s * 2 if DATABASE in health.reasons else retry_s)
            # The driver's words may name hosts and users; they belong in the log.
            logger.warning("%s", error)
            health.not_ready(DATABASE, "the database does not answer")
        else:
            pause_s = interval_s
            health.ready(DATABASE)
        await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311 - jitter


async def clean_up(
    delete: Callable[[], Awaitable[int]], *, every_s: float, what: str, jitter: float = 0.0
) -> None:
    """Delete what has been kept for long enough, again and again, until cancelled.

    Args:
        delete: deletes, and returns how many; a `TransientError` leaves them to the next round.
        every_s: seconds between two rounds.
        what: is deleted, for the log.
        jitter: share by which a pause differs, up or down.
    """
    while True:
        try:
            deleted = await delete()
        except TransientError as error:
            logger.warning("%s not cleaned up, trying again later: %s", what, error)
        else:
            if deleted:
                logger.info("%s: deleted %d", what, deleted)
        await asyncio.sleep(every_s * random.uniform(1 - jitter, 1 + jitter))  # noqa: S311


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("a background duty ended", exc_info=error)
