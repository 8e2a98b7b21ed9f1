"""A dead-letter queue on a broker with visibility timeouts, read without taking anything away.

To look at a message on SQS is to receive it, and to receive it is to hide it. So everything that was
looked at is held until the end of the command: a message that became visible in the middle would be
counted twice, and one of a redrive would be sent twice. A keeper extends what is held, and the end of
the block gives all of it back at once. A process that is killed gives nothing back, so the visibility
is short: after `hold_s` seconds the messages are there again by themselves.

SQS lets a queue have 120,000 messages in flight, a FIFO queue 20,000, and gives of a FIFO queue's group
nothing while one of its messages is held. Beyond that a look is incomplete, and says so; a redrive is
not concerned, because it lets go of what it has sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

from onceproof.errors import ConfigurationError
from onceproof.ports import (
    Message,
    Outgoing,
    Publisher,
    QueueDepth,
    QueueInfo,
    SendResult,
    SettleResult,
    Subscriber,
)

HOLD_S: Final = 60.0
"""Default visibility of what is held, in seconds."""
_WAIT_S: Final = 1.0
"""A long poll asks every partition of a queue; a short one may find nothing where there is something."""
_PER_RECEIVE: Final = 10
_MOST_RECEIVES: Final = 4
_SAFE_S: Final = 1.0
"""What must be left of the visibility for a message to be acted upon."""
_GIVE_BACK_S: Final = 45.0


@dataclass(slots=True)
class _Held:
    message: Message
    until: float


class HeldDeadLetters:
    """Implements `onceproof.dlq.port.DeadLetters`. Open it with `open_dead_letters`.

    Args:
        subscriber: to the dead-letter queue.
        publisher: sends to the source queue.
        source: the source queue as its broker describes it.
        hold_s: seconds after which a message is visible again when this process dies.
        wait_s: length of a long poll in seconds.
        clock: the one of `Message.visible_until`.
    """

    def __init__(
        self,
        subscriber: Subscriber,
        publisher: Publisher,
        source: QueueInfo,
        *,
        hold_s: float = HOLD_S,
        wait_s: float = _WAIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._subscriber = subscriber
        self._publisher = publisher
        self._source = source
        self._hold_s = hold_s
        self._wait_s = wait_s
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._requests = 1

    @property
    def source(self) -> QueueInfo:
        """See `onceproof.dlq.port.DeadLetters.source`."""
        return self._source

    @property
    def name(self) -> str:
        """Name of the dead-letter queue."""
        return self._subscriber.queue

    @property
    def held(self) -> int:
        """How many messages are held now."""
        return len(self._held)

    async def take(self, limit: int) -> list[Message]:
        """See `onceproof.dlq.port.DeadLetters.take`; requests run side by side for a large limit."""
        while True:
            requests = min(-(-limit // _PER_RECEIVE), self._requests)
            received = await self._receive(requests, min(limit, _PER_RECEIVE))
            # A request that finds nothing waits: several only while there is plenty.
            plenty = len(received) * 2 >= requests * _PER_RECEIVE
            self._requests = min(requests * 2, _MOST_RECEIVES) if plenty else 1
            fresh = [message for message in received if self._hold(message)]
            if fresh or not received:
                return fresh
            # Only what had lapsed and is held anew: there may be more behind it.

    async def _receive(self, requests: int, most: int) -> list[Message]:
        calls = [
            self._subscriber.receive(
                max_messages=most, wait_s=self._wait_s, visibility_s=self._hold_s
            )
            for _ in range(requests)
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        received = [m for answer in answers if isinstance(answer, list) for m in answer]
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        # What another request of the same moment got is held, not thrown away with the error.
        if failures and not received:
            raise failures[0]
        return received

    def holds(self, message: Message) -> bool:
        """Whether enough of the visibility is left; see `onceproof.dlq.port.DeadLetters.holds`."""
        held = self._held.get(message.message_id)
        return held is not None and held.until - self._clock() > min(_SAFE_S, self._hold_s / 4)

    async def give_back(self, messages: Sequence[Message]) -> None:
        """Make messages visible at once; what had lapsed is visible already."""
        ours = [
            self._held.pop(m.message_id).message for m in messages if m.message_id in self._held
        ]
        if ours:
            await self._subscriber.release(ours, 0)

    async def resend(self, messages: Sequence[Outgoing]) -> list[SendResult]:
        """Send to the source queue."""
        return await self._publisher.send(self._source.name, messages)

    async def remove(self, messages: Sequence[Message]) -> list[SettleResult]:
        """Delete from the dead-letter queue, under the receipt of the latest delivery."""
        current = [
            self._held[m.message_id].message if m.message_id in self._held else m for m in messages
        ]
        results = await self._subscriber.ack(current)
        for message, result in zip(current, results, strict=True):
            if result.ok:
                self._held.pop(message.message_id, None)
        return results

    async def depth(self) -> QueueDepth:
        """Number of messages by state, approximate on SQS."""
        return await self._subscriber.depth()

    async def keep(self) -> None:
        """Extend what is held, until cancelled."""
        while True:
            await asyncio.sleep(self._hold_s / 3)
            await self.extend_due()

    async def extend_due(self) -> None:
        """Extend what has lost a third of its visibility."""
        now = self._clock()
        due = [held for held in self._held.values() if held.until - now < self._hold_s * 0.7]
        if not due:
            return
        results = await self._subscriber.extend([held.message for held in due], self._hold_s)
        for held, result in zip(due, results, strict=True):
            if result.ok:
                held.until = now + self._hold_s
            elif result.stale:
                held.until = now

    async def give_back_all(self) -> None:
        """Give everything back; bounded, because a broker that is away does it by itself in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GIVE_BACK_S):
                await self.give_back([held.message for held in self._held.values()])

    def _hold(self, message: Message) -> bool:
        """Hold a delivery; whether the message was not held before."""
        known = self._held.get(message.message_id)
        # Without its body: ten thousand of them may be held, and a receipt is all that settling needs.
        receipt = replace(message, body=b"", attributes={})
        self._held[message.message_id] = _Held(receipt, message.visible_until)
        return known is None


@asynccontextmanager
async def open_dead_letters(
    source: Subscriber,
    subscriber_to: Callable[[str], Subscriber],
    publisher: Publisher,
    *,
    hold_s: float = HOLD_S,
    wait_s: float = _WAIT_S,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncGenerator[HeldDeadLetters]:
    """The dead-letter queue that the redrive policy of `source` names; all is given back at the end.

    Args:
        source: a subscriber to the queue that the messages came from; nothing is received from it.
        subscriber_to: makes a subscriber to a queue.
        publisher: sends to `source`.
        hold_s: see `HeldDeadLetters`.
        wait_s: see `HeldDeadLetters`.
        clock: see `HeldDeadLetters`.

    Raises:
        ConfigurationError: there is no DLQ, or looking into it would change it.
        QueueNotFoundError: a queue does not exist.
        BrokerUnavailableError: the broker did not answer.
    """
    info = await source.describe()
    if info.dead_letter is None:
        raise ConfigurationError(
            f"queue {info.name!r} has no dead-letter queue: its redrive policy names none. "
            "Is this the right queue, region and endpoint?"
        )
    if info.dead_letter.max_receive_count is not None:
        raise ConfigurationError(
            f"{info.dead_letter.name!r} has a redrive policy of its own, so that every look at a "
            "message counts as a delivery and moves it on in the end. Remove that policy first"
        )
    letters = HeldDeadLetters(
        subscriber_to(info.dead_letter.name),
        publisher,
        info,
        hold_s=hold_s,
        wait_s=wait_s,
        clock=clock,
    )
    keeper = asyncio.create_task(letters.keep(), name="dlq-keeper")
    try:
        yield letters
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await letters.give_back_all()
