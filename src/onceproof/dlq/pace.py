"""Hold a redrive to a rate, so that the consumer and whatever failed before is not flooded."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

_MOST_AT_ONCE: Final = 10


class Pace:
    """Messages per second, without a burst to catch up after a pause.

    Args:
        rate_per_s: messages per second.
        clock: seconds, never going back.
    """

    def __init__(self, rate_per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate_per_s
        self._clock = clock
        self._next = clock()

    @property
    def at_once(self) -> int:
        """How many messages to send together: at most one second's worth."""
        return max(1, min(_MOST_AT_ONCE, int(self._rate)))

    async def wait(self, messages: int, stop: asyncio.Event) -> bool:
        """Wait until `messages` may be sent; False when `stop` was set meanwhile."""
        now = self._clock()
        due, self._next = self._next, max(now, self._next) + messages / self._rate
        if due > now:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), due - now)
        return not stop.is_set()
