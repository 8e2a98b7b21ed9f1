"""A broker in memory that behaves like SQS, for unit tests of handlers, relays and consumers.

It exists because what goes wrong with a queue is timing: a visibility that lapses, a receipt that is
no longer valid, an entry of a batch that fails. Here a test decides when each of them happens: the
clock is a parameter, and `fail_next_send` and `set_unavailable` inject the broker's own faults.

Delivery is at least once and in no promised order. One event loop only; nothing is stored on disk.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from uuid import uuid4

from onceproof.brokers.dead_letter import dead_letter_attributes
from onceproof.brokers.memory_queue import MemoryQueue, StoredMessage
from onceproof.errors import BrokerUnavailableError, ConfigurationError, QueueNotFoundError
from onceproof.ports import Message, Outgoing, QueueDepth, QueueInfo, SendResult, SettleResult


class MemoryBroker:
    """Queues in this process; implements `onceproof.ports.Publisher`.

    Args:
        clock: seconds, never going back. Visibility and retention are counted on it. After moving
            an injected clock call `clock_moved`, so that waiting receivers look again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._queues: dict[str, MemoryQueue] = {}
        self._failures: dict[str, deque[str]] = {}
        self._unavailable: str | None = None

    def create_queue(
        self,
        name: str,
        *,
        visibility_timeout_s: float = 30.0,
        retention_s: float = 345_600.0,
        max_receive_count: int | None = None,
        dead_letter: str | None = None,
    ) -> None:
        """Create a queue, or replace an existing one by an empty one.

        Args:
            name: name of the queue.
            visibility_timeout_s: what `describe` reports; a receive names its own.
            retention_s: seconds after which a message is gone.
            max_receive_count: deliveries after which a message goes to `dead_letter`.
            dead_letter: name of an existing queue.

        Raises:
            ConfigurationError: only one of `max_receive_count` and `dead_letter` was given.
            QueueNotFoundError: `dead_letter` does not exist.
        """
        if (max_receive_count is None) != (dead_letter is None):
            raise ConfigurationError("max_receive_count and dead_letter belong together")
        self._queues[name] = MemoryQueue(
            name=name,
            visibility_timeout_s=visibility_timeout_s,
            retention_s=retention_s,
            max_receive_count=max_receive_count,
            dead_letter=None if dead_letter is None else self._queue(dead_letter),
        )

    def subscriber(self, queue: str) -> MemorySubscriber:
        """A subscriber to a queue, which need not exist yet."""
        return MemorySubscriber(queue, find=self._queue, clock=self._clock)

    async def send(self, destination: str, messages: Sequence[Outgoing]) -> list[SendResult]:
        """Send messages; see `onceproof.ports.Publisher.send`."""
        await asyncio.sleep(0)
        results = [self._send(destination, message) for message in messages]
        if destination in self._queues:
            self._queues[destination].wake()
        return results

    def fail_next_send(self, ids: Iterable[str], error: str = "injected failure") -> None:
        """Make the next send of each of these entries fail. Nothing is stored for them."""
        for entry in ids:
            self._failures.setdefault(entry, deque()).append(error)

    def set_unavailable(self, reason: str | None) -> None:
        """Fail every call with this reason until it is set to None again."""
        self._unavailable = reason
        self.clock_moved()

    def clock_moved(self) -> None:
        """Let waiting receivers look again, after an injected clock was moved."""
        for queue in self._queues.values():
            queue.wake()

    def _send(self, destination: str, message: Outgoing) -> SendResult:
        if self._unavailable is not None:
            return SendResult(message.id, error=f"broker unavailable: {self._unavailable}")
        if destination not in self._queues:
            return SendResult(message.id, error=f"queue {destination!r} does not exist")
        failures = self._failures.get(message.id)
        if failures:
            return SendResult(message.id, error=failures.popleft())
        message_id = str(uuid4())
        self._queues[destination].put(
            StoredMessage(message_id, message.body, dict(message.attributes), self._clock())
        )
        return SendResult(message.id, message_id=message_id)

    def _queue(self, name: str) -> MemoryQueue:
        if self._unavailable is not None:
            raise BrokerUnavailableError(f"broker unavailable: {self._unavailable}")
        if name not in self._queues:
            raise QueueNotFoundError(f"queue {name!r} does not exist; create it first")
        return self._queues[name]


class MemorySubscriber:
    """Receives from one queue; implements `onceproof.ports.Subscriber`."""

    def __init__(
        self, queue: str, *, find: Callable[[str], MemoryQueue], clock: Callable[[], float]
    ) -> None:
        self._name = queue
        self._find = find
        self._clock = clock

    @property
    def queue(self) -> str:
        """Name of the queue."""
        return self._name

    async def receive(
        self, *, max_messages: int, wait_s: float, visibility_s: float
    ) -> list[Message]:
        """Long-poll; see `onceproof.ports.Subscriber.receive`. Safe to cancel: nothing is lost.

        `wait_s` is counted in real time, also under an injected clock.
        """
        deadline = time.monotonic() + wait_s
        await asyncio.sleep(0)
        while True:
            queue = self._find(self._name)
            now = self._clock()
            messages = queue.take(max_messages, visibility_s, now)
            remaining = deadline - time.monotonic()
            if messages or remaining <= 0:
                return messages
            await queue.wait(min(remaining, queue.next_change(now)))

    async def ack(self, messages: Sequence[Message]) -> list[SettleResult]:
        """Delete messages; see `onceproof.ports.Subscriber.ack`."""
        await asyncio.sleep(0)
        return [self._settle(message, None) for message in messages]

    async def extend(self, messages: Sequence[Message], visibility_s: float) -> list[SettleResult]:
        """Hide messages longer; see `onceproof.ports.Subscriber.extend`."""
        await asyncio.sleep(0)
        return [self._settle(message, visibility_s) for message in messages]

    async def release(self, messages: Sequence[Message], delay_s: float) -> list[SettleResult]:
        """Hide messages until they are to come again; see `onceproof.ports.Subscriber.release`."""
        return await self.extend(messages, delay_s)

    async def reject(self, message: Message, reason: str) -> None:
        """Move a message to the DLQ; see `onceproof.ports.Subscriber.reject`."""
        await asyncio.sleep(0)
        queue = self._find(self._name)
        if queue.dead_letter is None:
            raise ConfigurationError(
                f"queue {self._name!r} has no dead-letter queue; "
                "create it with max_receive_count and dead_letter"
            )
        attributes = dead_letter_attributes(message.attributes, message.message_id, reason)
        now = self._clock()
        queue.dead_letter.put(StoredMessage(str(uuid4()), message.body, attributes, now))
        queue.dead_letter.wake()
        self._settle(message, None)

    async def describe(self) -> QueueInfo:
        """How the queue was created."""
        await asyncio.sleep(0)
        return self._find(self._name).info()

    async def depth(self) -> QueueDepth:
        """Exact number of messages by state; `delayed` is always 0."""
        await asyncio.sleep(0)
        queue = self._find(self._name)
        queue.sweep(self._clock())
        return QueueDepth(visible=len(queue.ready), in_flight=len(queue.hidden), delayed=0)

    def _settle(self, message: Message, visibility_s: float | None) -> SettleResult:
        try:
            queue = self._find(self._name)
        except (BrokerUnavailableError, QueueNotFoundError) as error:
            return SettleResult(message.message_id, error=str(error))
        stored = queue.find(message.receipt)
        if stored is None:
            return SettleResult(
                message.message_id, error="the receipt is no longer valid", stale=True
            )
        queue.remove(stored)
        if visibility_s is not None:
            stored.visible_at = self._clock() + visibility_s
            queue.put(stored)
            queue.wake()
        return SettleResult(message.message_id)
