"""Go through a dead-letter queue once, and know at the end whether that was all of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Final

from onceproof.dlq.port import DeadLetters
from onceproof.ports import Message

_MOST_EMPTY: Final = 3
"""A queue that says it has visible messages and gives none is believed this often."""
_PAUSE_S: Final = 0.05


class Sweep:
    """One pass over everything that can be had.

    Args:
        letters: the queue.
        patience_s: how long to wait for what somebody else holds. A command that was killed holds
            its messages until their visibility lapses.
        stop: ends the pass early.
    """

    def __init__(
        self, letters: DeadLetters, *, patience_s: float = 0.0, stop: asyncio.Event | None = None
    ) -> None:
        self._letters = letters
        self._patience_s = patience_s
        self._stop = stop or asyncio.Event()
        self.elsewhere = 0
        """After the pass: messages that exist and could not be had, approximate on SQS."""
        self.finished = False
        """Whether the pass came to its end, and was not stopped."""

    @property
    def complete(self) -> bool:
        """Whether every message was seen."""
        return self.finished and self.elsewhere == 0

    async def batches(self, size: int) -> AsyncGenerator[list[Message]]:
        """Batches of about `size` messages, none of them twice.

        Raises:
            BrokerUnavailableError: of the queue.
        """
        empty = 0
        waiting_since: float | None = None
        while not self._stop.is_set():
            batch = await self._letters.take(size)
            if batch:
                empty, waiting_since = 0, None
                yield batch
                continue
            empty += 1
            depth = await self._letters.depth()
            self.elsewhere = max(0, depth.total - self._letters.held)
            now = time.monotonic()
            waiting_since = waiting_since or now
            patient = self.elsewhere > 0 and now - waiting_since < self._patience_s
            if not patient and (depth.visible == 0 or empty >= _MOST_EMPTY):
                self.finished = True
                return
            await asyncio.sleep(_PAUSE_S)  # a broker without a long poll must not become a spin
