"""What the DLQ tool needs of a broker, so that it can be tested in memory and moved to another one.

Semantics: `take` holds messages, and nobody else gets them meanwhile as far as the broker can promise
that; a process that dies lets go of all of them. `resend` is at least once. `remove` deletes for good
and is asked only for what `resend` confirmed. Nothing here says visibility timeout: that is how
`onceproof.dlq.held` keeps the promise on SQS; on Kafka it would be an assignment and an offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from onceproof.ports import Message, Outgoing, QueueDepth, QueueInfo, SendResult, SettleResult


class DeadLetters(Protocol):
    """The dead-letter queue of one queue, and the way back into that queue."""

    @property
    def source(self) -> QueueInfo:
        """The queue that the messages came from; its `dead_letter` is the one looked at."""
        ...

    @property
    def name(self) -> str:
        """Name of the dead-letter queue."""
        ...

    @property
    def held(self) -> int:
        """How many messages are held now."""
        ...

    async def take(self, limit: int) -> list[Message]:
        """Up to about `limit` messages that are not held yet; they are held from now on.

        None means that there is nothing to be had at the moment: the rest is held by somebody else.

        Raises:
            BrokerUnavailableError: nothing was taken; try again later.
        """
        ...

    def holds(self, message: Message) -> bool:
        """Whether a taken message is still ours for long enough to do something with it."""
        ...

    async def give_back(self, messages: Sequence[Message]) -> None:
        """Let go of messages; whoever looks next gets them. Never raises."""
        ...

    async def resend(self, messages: Sequence[Outgoing]) -> list[SendResult]:
        """Send to the source queue; one result for each, in order. Never raises."""
        ...

    async def remove(self, messages: Sequence[Message]) -> list[SettleResult]:
        """Delete messages for good; one result for each, in order. Never raises."""
        ...

    async def depth(self) -> QueueDepth:
        """How many messages there are, as far as the broker knows."""
        ...
