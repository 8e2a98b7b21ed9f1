"""A stall shows something only when the consumer comes back as a zombie: another one has its messages.

Where that one starts late, or the messages stay hidden for longer, the stalled consumer would go on as
if nothing had happened, and every invariant would hold.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from onceproof.errors import ConfigurationError
from onceproof.ports import Subscriber
from onceproof_chaos.prove.doors import Doors
from onceproof_chaos.prove.settings import ProveSettings

_REPLACE_S: Final = 60.0
"""For another consumer to get the messages of one that stands still: it must start first."""
_WORK_S: Final = 2.0
"""For it to work on them, where it got them late."""
_POLL_S: Final = 0.1


class Zombie:
    """A consumer that is about to stand still.

    Args:
        doors: what stands around it.
        subscriber: of its queue.
        settings: of the proof.

    Raises:
        ConfigurationError: nobody else would get its messages meanwhile.
    """

    def __init__(self, doors: Doors, subscriber: Subscriber, settings: ProveSettings) -> None:
        hidden_s = doors.longest_visibility_s
        if hidden_s > settings.visibility_s:
            raise ConfigurationError(
                f"the consumer asks the queue to hide its messages for {hidden_s} s, so nobody else "
                f"would get them while it stands still for {settings.stall_s:.0f} s; have it ask for "
                f"less, or give --visibility {hidden_s}"
            )
        self._doors = doors
        self._subscriber = subscriber
        self._redelivered = doors.redelivered

    async def until_replaced(self) -> None:
        """Wait until another consumer has its messages, and has had time to work on them.

        To be called when the visibility timeout has passed.

        Raises:
            ConfigurationError: no other consumer gets them.
        """
        deadline, late = time.monotonic() + _REPLACE_S, False
        while not await self._is_replaced():
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    "while the consumer stood still, no other one got its messages within "
                    f"{_REPLACE_S:.0f} s, so it came back as no zombie; does another one start?"
                )
            late = True
            await asyncio.sleep(_POLL_S)
        if late:
            await asyncio.sleep(_WORK_S)

    async def _is_replaced(self) -> bool:
        depth = await self._subscriber.depth()
        if depth.total == 0:
            return True  # worked off, or acked before the stall
        if self._redelivered is None:
            # All that it had is visible again, until another consumer takes it.
            return depth.visible == 0
        return self._doors.redelivered != self._redelivered


__all__ = ["Zombie"]
