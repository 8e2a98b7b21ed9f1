"""Stop receiving while the database is away: each delivery that must fail costs one of its attempts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from onceproof.errors import TransientError

logger = logging.getLogger(__name__)


class Gate:
    """Open while the database answers.

    Args:
        probe: asks the database; raises a `TransientError` while it is away.
        interval_s: seconds between probes while closed.
        on_change: told the reason when it closes and None when it opens; feeds `/readyz`.
    """

    def __init__(
        self,
        probe: Callable[[], Awaitable[None]],
        *,
        interval_s: float,
        on_change: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        self._probe = probe
        self._interval_s = interval_s
        self._on_change = on_change
        self._open = asyncio.Event()
        self._open.set()
        self._closed = asyncio.Event()

    def close(self, reason: str) -> None:
        """Stop who waits at the gate until the database answers again."""
        if self._open.is_set():
            logger.warning("no messages are received until the database answers: %s", reason)
        self._open.clear()
        self._closed.set()
        self._on_change(reason)

    async def passed(self) -> None:
        """Wait until the gate is open."""
        await self._open.wait()

    async def run(self) -> None:
        """Probe while closed, and open; until cancelled."""
        while True:
            await self._closed.wait()
            try:
                await self._probe()
            except TransientError as error:
                self._on_change(str(error))
                await asyncio.sleep(self._interval_s)
                continue
            logger.info("the database answers again")
            self._closed.clear()
            self._open.set()
            self._on_change(None)
