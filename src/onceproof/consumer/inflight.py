"""The messages in hand, with the moment up to which each is ours.

The moment is counted from before the request that set it, so it is never later than the broker's. It
is an early warning and no fence: the fence is the inbox row in the handler's transaction.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass

from onceproof.ports import Delivery, Message


@dataclass(slots=True, eq=False)
class InHand:
    """A delivery that is waiting or in work; `visible_until` moves with each extension."""

    delivery: Delivery
    visible_until: float

    @property
    def message(self) -> Message:
        """The message as received."""
        return self.delivery.message

    @property
    def lapsed(self) -> bool:
        """Whether another consumer may have the message by now."""
        return self.visible_until <= time.monotonic()


class InFlight:
    """All messages in hand, with room for `capacity` of them."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: set[InHand] = set()
        self._room = asyncio.Event()
        self._room.set()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[InHand]:
        return iter(tuple(self._items))

    @property
    def free(self) -> int:
        """How many more messages may be received."""
        return max(self._capacity - len(self._items), 0)

    async def room(self) -> int:
        """Wait until there is room; how much."""
        await self._room.wait()
        return self.free

    def add(self, item: InHand) -> None:
        """Take a message in hand."""
        self._items.add(item)
        if not self.free:
            self._room.clear()

    def remove(self, item: InHand) -> None:
        """Let go of a message."""
        self._items.discard(item)
        if self.free:
            self._room.set()
