"""A broker that costs nothing, so that what is measured is the library and Postgres.

It hands out messages that were made before the clock started, ten at a time as SQS does, and answers
at once. Anything but an ack is counted: a benchmark has no failures, so the run is refused then.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Final

from onceproof.events import ORDER_PLACED, Event
from onceproof.ports import (
    Message,
    Outgoing,
    QueueDepth,
    QueueInfo,
    SendResult,
    SettleResult,
)

ORDER_BYTES: Final = 200
"""Size of an order as JSON, before the event's envelope."""
DUPLICATE_EVERY: Final = 20
"""One delivery more for every so many orders: 5 %."""
_TWIN_DISTANCE: Final = 100
"""Orders between a delivery and its duplicate, so that the first is committed by then."""
_TRACEPARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_MOST_AT_ONCE: Final = 10


def order_event(number: int, size: int = ORDER_BYTES) -> Event:
    """The event of an order whose JSON has `size` bytes."""
    order_id = f"o-{number:012d}"
    bare = f'{{"order_id":"{order_id}","amount":1999,"currency":"EUR","note":""}}'
    return Event(
        type=ORDER_PLACED,
        source="/onceproof/orders",
        key=order_id,
        traceparent=_TRACEPARENT,
        data={
            "order_id": order_id,
            "amount": 1999,
            "currency": "EUR",
            "note": "x" * (size - len(bare)),
        },
    )


def deliveries(orders: int, first: int = 0, size: int = ORDER_BYTES) -> list[Message]:
    """One delivery for each order, numbered from `first`, and a second one for every twentieth."""
    messages: list[Message] = []
    twins: list[tuple[int, bytes]] = []
    for number in range(first, first + orders):
        body = order_event(number, size).encode()
        messages.append(_message(f"m-{number}", body, 1))
        if number % DUPLICATE_EVERY == 0:
            twins.append((number + _TWIN_DISTANCE, body))
        if twins and twins[0][0] <= number:
            messages.append(_message(f"m-{number}-again", twins.pop(0)[1], 2))
    return messages + [_message(f"m-{due}-again", body, 2) for due, body in twins]


def _message(message_id: str, body: bytes, attempt: int) -> Message:
    return Message(body, message_id, message_id, attempt, visible_until=math.inf)


class NullSubscriber:
    """Hands out prepared messages; `finished` is set when all are acked or one is not.

    Args:
        messages: what to hand out.
    """

    queue: Final = "benchmark"

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages
        self._handed_out = 0
        self.acked = 0
        self.given_back = 0
        self.finished = asyncio.Event()
        self.finished_at = 0.0

    async def receive(
        self, *, max_messages: int, wait_s: float, visibility_s: float
    ) -> list[Message]:
        """Up to ten at once; the long poll at the end lasts until everything is acked."""
        del wait_s, visibility_s
        start = self._handed_out
        self._handed_out = min(start + min(max_messages, _MOST_AT_ONCE), len(self._messages))
        if start == self._handed_out:
            await self.finished.wait()
        return list(self._messages[start : self._handed_out])

    async def ack(self, messages: Sequence[Message]) -> list[SettleResult]:
        """Count."""
        self.acked += len(messages)
        if self.acked == len(self._messages):
            self._finish()
        return [SettleResult(message.message_id) for message in messages]

    async def extend(self, messages: Sequence[Message], visibility_s: float) -> list[SettleResult]:
        """No visibility runs here."""
        del visibility_s
        return [SettleResult(message.message_id) for message in messages]

    async def release(self, messages: Sequence[Message], delay_s: float) -> list[SettleResult]:
        """Count."""
        del delay_s
        self.given_back += len(messages)
        self._finish()
        return [SettleResult(message.message_id) for message in messages]

    async def reject(self, message: Message, reason: str) -> None:
        """Count."""
        del message, reason
        self.given_back += 1
        self._finish()

    async def describe(self) -> QueueInfo:
        """A queue without a DLQ."""
        return QueueInfo(self.queue, visibility_timeout_s=30, retention_s=3600)

    async def depth(self) -> QueueDepth:
        """What was not handed out, and what was not acked."""
        visible = len(self._messages) - self._handed_out
        return QueueDepth(visible, self._handed_out - self.acked, 0)

    def _finish(self) -> None:
        if not self.finished.is_set():
            self.finished_at = time.perf_counter()
            self.finished.set()


class NullPublisher:
    """Confirms every message at once."""

    def __init__(self) -> None:
        self.sent = 0

    async def send(self, destination: str, messages: Sequence[Outgoing]) -> list[SendResult]:
        """Count; the message id has the length that SQS gives it."""
        del destination
        self.sent += len(messages)
        return [SendResult(message.id, message_id=message.id) for message in messages]
