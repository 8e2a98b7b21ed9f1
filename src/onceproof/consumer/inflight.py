"""The messages in hand, with the moment up to which each is ours.

The moment is counted from before the request that set it, so it is never later than the broker's. It
is an early warning and no fence: the fence is the inbox row in the handler's transaction.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from opentelemetry.trace import SpanContext

from onceproof.ports import Delivery, Message
from onceproof.telemetry import remote_context


class State(StrEnum):
    """How far a delivery is."""

    WAITING = "waiting"
    WORKING = "working"
    DONE = "done"


@dataclass(slots=True, eq=False)
class InHand:
    """A delivery that is waiting or in work; `visible_until` moves with each extension.

    `receive` is the number of the request that brought it.
    """

    delivery: Delivery
    visible_until: float
    state: State = State.WAITING
    receive: int = 0
    _created: SpanContext | Literal[False] | None = field(default=False, init=False)

    @property
    def created(self) -> SpanContext | None:
        """The span in which the event was made, parsed once for all spans about the delivery."""
        if self._created is False:
            self._created = remote_context(self.delivery.event.traceparent)
        return self._created

    @property
    def message(self) -> Message:
        """The message as received."""
        return self.delivery.message

    @property
    def lapsed(self) -> bool:
        """Whether another consumer may have the message by now."""
        return self.visible_until <= time.monotonic()


class InFlight:
    """All messages in hand, with room for `capacity` of them.

    Args:
        capacity: messages at most.
        refill: free places that count as room. More than one saves requests, which SQS charges for,
            because a request then asks for several messages.
    """

    def __init__(self, capacity: int, refill: int = 1) -> None:
        self._capacity = capacity
        self._refill = refill
        self._items: set[InHand] = set()
        self._expected = 0
        self._room = asyncio.Event()
        self._room.set()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[InHand]:
        return iter(tuple(self._items))

    @property
    def free(self) -> int:
        """How many more messages may be received."""
        return max(self._capacity - len(self._items) - self._expected, 0)

    async def room(self) -> int:
        """Wait until there is room; how much."""
        while not self._room.is_set():
            await self._room.wait()
        return self.free

    def expect(self, number: int) -> None:
        """Keep room for messages that were asked for; negative when the answer is there."""
        self._expected += number
        self._look()

    def add(self, item: InHand) -> None:
        """Take a message in hand."""
        self._items.add(item)
        self._look()

    def remove(self, item: InHand) -> None:
        """Let go of a message."""
        self._items.discard(item)
        self._look()

    def _look(self) -> None:
        if self.free < self._refill:
            self._room.clear()
        else:
            self._room.set()
