"""One queue of the in-memory broker: which message is ready, which is hidden, and until when.

Kept apart from the broker so that the rules of visibility, receipts and redrive can be read in one
place. Nothing here looks at a clock by itself: the caller passes `now`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from onceproof.ports import Message, QueueInfo


@dataclass(eq=False, slots=True)
class StoredMessage:
    """A message with its state; `sent_at` and `visible_at` are on the broker's clock."""

    message_id: str
    body: bytes
    attributes: Mapping[str, str]
    sent_at: float
    sent_time: datetime = field(default_factory=lambda: datetime.now(UTC))
    visible_at: float = 0.0
    receive_count: int = 0
    receipt: str = ""


@dataclass(eq=False)
class MemoryQueue:
    """Messages of one queue by id, in the order in which they became ready."""

    name: str
    visibility_timeout_s: float
    retention_s: float
    max_receive_count: int | None
    dead_letter: MemoryQueue | None
    ready: dict[str, StoredMessage] = field(default_factory=dict)
    hidden: dict[str, StoredMessage] = field(default_factory=dict)
    _waiting: set[asyncio.Future[None]] = field(default_factory=set)

    def put(self, stored: StoredMessage) -> None:
        """Add a message; one that was delivered before stays hidden until its visibility lapses."""
        # A released message goes to `hidden` first: `sweep` decides by the clock what is ready.
        (self.hidden if stored.receive_count else self.ready)[stored.message_id] = stored

    def remove(self, stored: StoredMessage) -> None:
        """Forget a message."""
        self.hidden.pop(stored.message_id, None)
        self.ready.pop(stored.message_id, None)

    def find(self, receipt: str) -> StoredMessage | None:
        """The message whose latest delivery has this receipt."""
        message_id = receipt.partition("/")[0]
        stored = self.hidden.get(message_id) or self.ready.get(message_id)
        return stored if stored is not None and stored.receipt == receipt else None

    def take(self, limit: int, visibility_s: float, now: float) -> list[Message]:
        """Deliver up to `limit` ready messages and hide them."""
        self.sweep(now)
        taken = []
        for stored in list(self.ready.values())[:limit]:
            stored.receive_count += 1
            stored.receipt = f"{stored.message_id}/{stored.receive_count}"
            stored.visible_at = now + visibility_s
            self.hidden[stored.message_id] = self.ready.pop(stored.message_id)
            taken.append(
                Message(
                    body=stored.body,
                    message_id=stored.message_id,
                    receipt=stored.receipt,
                    attempt=stored.receive_count,
                    visible_until=stored.visible_at,
                    sent_at=stored.sent_time,
                    attributes=stored.attributes,
                )
            )
        return taken

    def sweep(self, now: float) -> None:
        """Apply what time did: lapsed visibility, redrive, retention."""
        for stored in [s for s in self.hidden.values() if s.visible_at <= now]:
            self.hidden.pop(stored.message_id)
            if (
                self.dead_letter is not None
                and self.max_receive_count is not None
                and stored.receive_count >= self.max_receive_count
            ):
                stored.receive_count, stored.receipt = 0, ""
                self.dead_letter.put(stored)
                self.dead_letter.wake()
            else:
                self.ready[stored.message_id] = stored
        for stored in [s for s in self.ready.values() if s.sent_at + self.retention_s <= now]:
            del self.ready[stored.message_id]

    def next_change(self, now: float) -> float:
        """Seconds until the next visibility lapses; infinity when nothing is hidden."""
        return min((s.visible_at - now for s in self.hidden.values()), default=float("inf"))

    def info(self) -> QueueInfo:
        """How the queue is set up."""
        return QueueInfo(
            name=self.name,
            visibility_timeout_s=self.visibility_timeout_s,
            retention_s=self.retention_s,
            max_receive_count=self.max_receive_count,
            dead_letter=self.dead_letter.info() if self.dead_letter else None,
        )

    async def wait(self, timeout_s: float) -> None:
        """Wait until `wake`, or until the time is over."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            # At least a moment: a frozen injected clock must not turn the wait into a spin.
            await asyncio.wait((future,), timeout=max(timeout_s, 0.001))
        finally:
            self._waiting.discard(future)

    def wake(self) -> None:
        """Let everybody in `wait` look again."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
