"""What a broker must do for the outbox relay and the consumer, and what nobody may expect of it.

Delivery semantics: at least once. A message is delivered again when its visibility lapses before it
was acked, whoever still works on it; order holds only where an adapter's features say so. Everything
stronger is built above these ports, never below them. Every adapter passes `tests/conformance`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from onceproof.events import Event

HealthListener = Callable[[str, str | None], None]
"""Told a dependency (`database`, `broker`) and why it is away, or None when it is back."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to send. `id` is the event's id and names the entry in the result."""

    id: str
    body: bytes
    key: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SendResult:
    """What became of one entry of a batch.

    `message_id` is the broker's id when the broker confirmed the entry, else None and `error` says
    why. An error does not prove that nothing was sent: a lost reply looks the same.
    """

    id: str
    message_id: str | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the broker confirmed the entry."""
        return self.error is None


@dataclass(frozen=True, slots=True)
class Message:
    """One delivery as the broker made it; the body is not parsed yet.

    `visible_until` is on the clock of `time.monotonic()`, counted from before the receive request
    was sent, so that it is never later than the broker's own deadline. `first_received_at` is when the
    broker first gave the message to anybody, who may have died before reading it; None where the broker
    does not say.
    """

    body: bytes
    message_id: str
    receipt: str
    attempt: int
    visible_until: float
    sent_at: datetime | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    first_received_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a handler gets: the event, and which attempt at it this is (1 = first delivery)."""

    event: Event
    message: Message
    dedup_key: str

    @property
    def attempt(self) -> int:
        """Delivery count of the broker, from 1."""
        return self.message.attempt


@dataclass(frozen=True, slots=True)
class SettleResult:
    """What became of one ack or extension; `stale` when the receipt was no longer the valid one."""

    message_id: str
    error: str | None = None
    stale: bool = False

    @property
    def ok(self) -> bool:
        """Whether the broker confirmed it."""
        return self.error is None


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """How a queue is set up. Times in seconds; `dead_letter` is None where there is no DLQ."""

    name: str
    visibility_timeout_s: float
    retention_s: float
    max_receive_count: int | None = None
    dead_letter: QueueInfo | None = None
    keeps_order: bool = False


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """Approximate number of messages by state."""

    visible: int
    in_flight: int
    delayed: int

    @property
    def total(self) -> int:
        """All messages that are not deleted yet."""
        return self.visible + self.in_flight + self.delayed


class Publisher(Protocol):
    """Sends batches, at least once."""

    async def send(self, destination: str, messages: Sequence[Outgoing]) -> list[SendResult]:
        """Send any number of messages; one result for each, in the order of `messages`.

        Never raises for what the broker or the network did: that is in the results.
        """
        ...


class Subscriber(Protocol):
    """Receives from one queue under a visibility timeout."""

    @property
    def queue(self) -> str:
        """Name of the queue."""
        ...

    async def receive(
        self, *, max_messages: int, wait_s: float, visibility_s: float
    ) -> list[Message]:
        """Long-poll for up to `max_messages` (the adapter may give fewer, and none after `wait_s`).

        Raises:
            BrokerUnavailableError: nothing was received; try again later.
        """
        ...

    async def ack(self, messages: Sequence[Message]) -> list[SettleResult]:
        """Delete messages that are done; results in the order of `messages`. Never raises."""
        ...

    async def extend(self, messages: Sequence[Message], visibility_s: float) -> list[SettleResult]:
        """Keep messages for `visibility_s` more seconds from now. Never raises.

        Best effort, and no fence: an extension may come too late.
        """
        ...

    async def release(self, messages: Sequence[Message], delay_s: float) -> list[SettleResult]:
        """Give messages back, to be delivered again after `delay_s` seconds, here or elsewhere.

        Never raises: what is not given back comes again when its visibility lapses.
        """
        ...

    async def reject(self, message: Message, reason: str) -> None:
        """Move a message to the DLQ with its reason, at least once, and ack it here.

        Raises:
            BrokerUnavailableError: it stays in the queue and comes again.
            ConfigurationError: there is no DLQ.
        """
        ...

    async def describe(self) -> QueueInfo:
        """How queue and DLQ are set up.

        Raises:
            QueueNotFoundError: the queue does not exist.
            BrokerUnavailableError: the broker did not answer.
        """
        ...

    async def depth(self) -> QueueDepth:
        """How many messages wait, are in flight, or are delayed."""
        ...
