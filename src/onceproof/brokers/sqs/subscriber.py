"""Receiving from one SQS queue and settling what was received.

SQS counts visibility and waiting in whole seconds; both are rounded up. A receipt handle belongs to
one delivery, and what SQS says about an old one differs: FIFO queues and ElasticMQ refuse it, a
standard queue on AWS may accept it and keep the message. An ack that was confirmed is therefore no
proof that nobody else works on the message.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from onceproof.brokers.dead_letter import dead_letter_attributes
from onceproof.brokers.sqs.encoding import (
    MAX_BATCH_ENTRIES,
    UnsendableError,
    entry,
    outgoing_copy,
    string_attributes,
)
from onceproof.brokers.sqs.failures import (
    CALL_FAILURES,
    UNKNOWN,
    code_and_reason,
    error_text,
    is_stale,
    translated,
)
from onceproof.brokers.sqs.queues import SqsQueues
from onceproof.errors import BrokerUnavailableError, ConfigurationError, OnceproofError
from onceproof.ports import Message, QueueDepth, QueueInfo, SettleResult

MAX_WAIT_S: Final = 20
_MAX_VISIBILITY_S: Final = 43_200
_SYSTEM_ATTRIBUTES: Final = [
    "ApproximateFirstReceiveTimestamp",
    "ApproximateReceiveCount",
    "SentTimestamp",
]


class SqsSubscriber:
    """One queue; implements `onceproof.ports.Subscriber`. Made by `SqsBroker.subscriber`."""

    def __init__(
        self,
        client: Any,  # noqa: ANN401 - aiobotocore ships no types
        queues: SqsQueues,
        queue: str,
        in_flight: asyncio.Semaphore,
    ) -> None:
        self._client = client
        self._queues = queues
        self._name = queue
        self._in_flight = in_flight

    @property
    def queue(self) -> str:
        """Name of the queue."""
        return self._name

    async def receive(
        self, *, max_messages: int, wait_s: float, visibility_s: float
    ) -> list[Message]:
        """Long-poll; see `onceproof.ports.Subscriber.receive`.

        At most 10 messages, and at most 20 seconds. The wait is also cut to half of the visibility
        (but not below a second), because `visible_until` counts from the start of the request: a
        message that comes at the end of a long wait must not look lapsed already.

        A cancelled receive may lose messages that were on their way: they are hidden until their
        visibility lapses, and then come again with a higher attempt.

        Raises:
            QueueNotFoundError: the queue does not exist.
            BrokerUnavailableError: nothing was received; try again later.
        """
        url = await self._queues.url(self._name)
        visibility = _whole_seconds(visibility_s)
        wait = min(math.ceil(wait_s), MAX_WAIT_S, max(1, visibility // 2))
        started = time.monotonic()
        try:
            reply = await self._client.receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=min(max_messages, MAX_BATCH_ENTRIES),
                WaitTimeSeconds=wait,
                VisibilityTimeout=visibility,
                # ElasticMQ knows the older name only, AWS takes both.
                AttributeNames=_SYSTEM_ATTRIBUTES,
                MessageSystemAttributeNames=_SYSTEM_ATTRIBUTES,
                MessageAttributeNames=["All"],
            )
        except CALL_FAILURES as error:
            self._queues.forget_if_missing(self._name, error)
            raise translated(error, self._name) from error
        return [_message(item, started + visibility) for item in reply.get("Messages", [])]

    async def ack(self, messages: Sequence[Message]) -> list[SettleResult]:
        """Delete messages; see `onceproof.ports.Subscriber.ack`."""
        return await self._settle("delete_message_batch", messages, {})

    async def extend(self, messages: Sequence[Message], visibility_s: float) -> list[SettleResult]:
        """Hide messages longer; see `onceproof.ports.Subscriber.extend`."""
        parameters = {"VisibilityTimeout": _whole_seconds(visibility_s)}
        return await self._settle("change_message_visibility_batch", messages, parameters)

    async def release(self, messages: Sequence[Message], delay_s: float) -> list[SettleResult]:
        """Hide messages until they are to come again; see `onceproof.ports.Subscriber.release`.

        At most 12 hours from the receive, which is the longest visibility that SQS knows.
        """
        return await self.extend(messages, delay_s)

    async def reject(self, message: Message, reason: str) -> None:
        """Send a message to the DLQ and delete it here; see `onceproof.ports.Subscriber.reject`.

        The copy has a broker id of its own; reason and original id are in its attributes. When the
        delete fails, the message comes again and is rejected again.
        """
        info = await self.describe()
        if info.dead_letter is None:
            raise ConfigurationError(
                f"queue {self._name!r} has no dead-letter queue; create one and name it in the "
                f"queue's RedrivePolicy with a maxReceiveCount"
            )
        target = info.dead_letter.name
        attributes = dead_letter_attributes(message.attributes, message.message_id, reason)
        try:
            parameters = entry(outgoing_copy(message, attributes), fifo=target.endswith(".fifo"))
            await self._client.send_message(QueueUrl=await self._queues.url(target), **parameters)
        except UnsendableError as error:
            # Only by size. The redrive policy moves it, without a reason, when its attempts are up.
            raise BrokerUnavailableError(f"not moved to {target!r}: {error}") from error
        except CALL_FAILURES as error:
            self._queues.forget_if_missing(target, error)
            raise translated(error, target) from error
        (result,) = await self.ack([message])
        if not result.ok and not result.stale:
            raise BrokerUnavailableError(
                f"copied to {target!r}, but not deleted from {self._name!r}: {result.error}"
            )

    async def describe(self) -> QueueInfo:
        """Settings of queue and DLQ; see `onceproof.ports.Subscriber.describe`."""
        return await self._queues.describe(self._name)

    async def depth(self) -> QueueDepth:
        """Approximate numbers of messages, as the broker gives them."""
        return await self._queues.depth(self._name)

    async def _settle(
        self, operation: str, messages: Sequence[Message], parameters: dict[str, Any]
    ) -> list[SettleResult]:
        try:
            url = await self._queues.url(self._name)
        except OnceproofError as error:
            return [SettleResult(message.message_id, error=str(error)) for message in messages]
        chunks = [
            messages[start : start + MAX_BATCH_ENTRIES]
            for start in range(0, len(messages), MAX_BATCH_ENTRIES)
        ]
        done = await asyncio.gather(
            *(self._settle_batch(operation, url, chunk, parameters) for chunk in chunks)
        )
        return [result for results in done for result in results]

    async def _settle_batch(
        self, operation: str, url: str, messages: Sequence[Message], parameters: dict[str, Any]
    ) -> list[SettleResult]:
        entries = [
            {"Id": str(index), "ReceiptHandle": message.receipt, **parameters}
            for index, message in enumerate(messages)
        ]
        async with self._in_flight:
            try:
                reply = await getattr(self._client, operation)(QueueUrl=url, Entries=entries)
            except CALL_FAILURES as error:
                self._queues.forget_if_missing(self._name, error)
                stale = is_stale(*code_and_reason(error))
                text = error_text(error, self._name)
                return [SettleResult(m.message_id, error=text, stale=stale) for m in messages]
        confirmed = {item["Id"] for item in reply.get("Successful", [])}
        refused = {item["Id"]: item for item in reply.get("Failed", [])}
        results = []
        for index, message in enumerate(messages):
            if str(index) in confirmed:
                results.append(SettleResult(message.message_id))
            elif str(index) in refused:
                code = str(refused[str(index)].get("Code"))
                reason = str(refused[str(index)].get("Message") or "no message")
                results.append(
                    SettleResult(
                        message.message_id,
                        error=f"{code}: {reason}",
                        stale=is_stale(code, reason),
                    )
                )
            else:
                text = f"{UNKNOWN}the broker's reply does not mention the entry"
                results.append(SettleResult(message.message_id, error=text))
        return results


def _whole_seconds(visibility_s: float) -> int:
    return min(math.ceil(visibility_s), _MAX_VISIBILITY_S)


def _message(item: dict[str, Any], visible_until: float) -> Message:
    system = item.get("Attributes", {})
    return Message(
        # A body is text without surrogates; a server that sends one must not stop the consumer.
        body=item["Body"].encode(errors="replace"),
        message_id=item["MessageId"],
        receipt=item["ReceiptHandle"],
        attempt=max(1, int(system.get("ApproximateReceiveCount", 1))),
        visible_until=visible_until,
        sent_at=_moment(system.get("SentTimestamp")),
        first_received_at=_moment(system.get("ApproximateFirstReceiveTimestamp")),
        attributes=string_attributes(item.get("MessageAttributes", {})),
    )


def _moment(milliseconds: str | None) -> datetime | None:
    """A time of SQS; None where it gave none, which some servers write as 0."""
    if milliseconds is None or int(milliseconds) == 0:
        return None
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)
