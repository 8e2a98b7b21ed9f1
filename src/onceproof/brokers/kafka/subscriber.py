"""Receiving from one topic as a member of a group, with the manners of a queue.

Visibility, giving back, and receipts are this process's own: the group gives a partition to one member,
so nobody else can have its records. What a queue keeps for a message a crash of this process keeps with
the offset (`deliveries`). What failed waits in the retry topic, so that its partition goes on meanwhile;
it is the one way out of a key's order.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress

from onceproof.brokers.dead_letter import dead_letter_attributes
from onceproof.brokers.kafka import headers
from onceproof.brokers.kafka.member import Member
from onceproof.brokers.kafka.partition import Partition, Record
from onceproof.brokers.kafka.sender import KafkaSender
from onceproof.brokers.kafka.settings import KafkaSettings, TopicPolicy
from onceproof.brokers.kafka.topics import KafkaTopics
from onceproof.errors import BrokerUnavailableError, ConfigurationError, QueueNotFoundError
from onceproof.ports import Message, Outgoing, QueueDepth, QueueInfo, SettleResult

_STALE = "the receipt is no longer valid"
_LOOK_S = 1.0
"""Between two looks at whether the broker is there."""


class KafkaSubscriber:
    """One topic; implements `onceproof.ports.Subscriber`. Made by `KafkaBroker.subscriber`.

    Args:
        settings: of cluster and group.
        topics: answers questions about topics.
        sender: sends to the retry and the dead-letter topic.
        topic: its name.
        policy: what belongs to it.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topics: KafkaTopics,
        sender: KafkaSender,
        topic: str,
        policy: TopicPolicy,
    ) -> None:
        self._settings = settings
        self._topics = topics
        self._sender = sender
        self._name = topic
        self._policy = policy
        self._member: Member | None = None
        self._joining = asyncio.Lock()

    @property
    def queue(self) -> str:
        """Name of the topic."""
        return self._name

    async def close(self) -> None:
        """Leave the group, if it was joined."""
        if self._member is not None:
            await self._member.close()
            self._member = None

    async def join(self) -> None:
        """Join the group now, and wait until it has given partitions; the first receive does so, too.

        Raises:
            QueueNotFoundError: the topic does not exist.
            BrokerUnavailableError: the cluster did not answer.
        """
        member = await self._joined()
        await member.assigned.wait()

    async def receive(
        self, *, max_messages: int, wait_s: float, visibility_s: float
    ) -> list[Message]:
        """Wait for records; see `onceproof.ports.Subscriber.receive`. The first call joins the group.

        A record that is not settled or extended within `visibility_s` is handed out again.

        Raises:
            QueueNotFoundError: the topic does not exist.
            BrokerUnavailableError: nothing was received; try again later.
        """
        deadline = time.monotonic() + wait_s
        member = await self._joined()
        while True:
            taken = self._take(member, max_messages, time.monotonic() + visibility_s)
            remaining = deadline - time.monotonic()
            if taken:
                return taken
            if member.away is not None:
                raise BrokerUnavailableError(f"Kafka topic {self._name!r}: {member.away}")
            if remaining <= 0:
                return taken
            await member.changed(max_messages, min(remaining, _LOOK_S))

    async def ack(self, messages: Sequence[Message]) -> list[SettleResult]:
        """Settle records and wait for the commit; see `onceproof.ports.Subscriber.ack`."""
        results: list[SettleResult | None] = []
        for message in messages:
            found = self._find(message)
            if isinstance(found, SettleResult):
                results.append(found)
            else:
                found[0].settle(found[1])
                results.append(None)
        error = None
        if self._member is not None and None in results:
            error = await self._member.committed()
        return [
            result or SettleResult(message.message_id, error=error)
            for message, result in zip(messages, results, strict=True)
        ]

    async def extend(self, messages: Sequence[Message], visibility_s: float) -> list[SettleResult]:
        """Keep records in hand for longer; see `onceproof.ports.Subscriber.extend`."""
        until = time.monotonic() + visibility_s
        results = []
        for message in messages:
            found = self._find(message)
            if isinstance(found, SettleResult):
                results.append(found)
                continue
            partition, record = found
            if visibility_s <= 0:
                partition.give_back(record)
            record.visible_until = until
            results.append(SettleResult(message.message_id))
        return results

    async def release(self, messages: Sequence[Message], delay_s: float) -> list[SettleResult]:
        """Give records back; see `onceproof.ports.Subscriber.release`.

        With a delay they go to the retry topic, where there is one, and are settled here; what cannot
        be sent there waits here. Without one they are handed out again in their order.
        """
        retry = self._policy.retry
        if delay_s <= 0 or retry is None:
            return await self.extend(messages, delay_s)
        at_s = time.time() + delay_s
        sent = await self._sender.send(
            retry,
            [
                Outgoing(m.message_id, m.body, _key(found[1]), headers.for_retry(m, at_s))
                for m in messages
                if not isinstance(found := self._find(m), SettleResult)
            ],
        )
        stay = {result.id for result in sent if not result.ok}
        gone = await self.ack([m for m in messages if m.message_id not in stay])
        kept = await self.extend([m for m in messages if m.message_id in stay], delay_s)
        by_id = {result.message_id: result for result in [*gone, *kept]}
        return [by_id[message.message_id] for message in messages]

    async def reject(self, message: Message, reason: str) -> None:
        """Move a record to the dead-letter topic; see `onceproof.ports.Subscriber.reject`."""
        target = self._policy.dead_letter
        if target is None:
            raise ConfigurationError(
                f"topic {self._name!r} has no dead-letter queue; name a topic for it in its policy"
            )
        attributes = dead_letter_attributes(message.attributes, message.message_id, reason)
        found = self._find(message)
        key = None if isinstance(found, SettleResult) else _key(found[1])
        outgoing = Outgoing(message.message_id, message.body, key, attributes)
        (sent,) = await self._sender.send(target, [outgoing])
        if not sent.ok:
            raise BrokerUnavailableError(f"not moved to {target!r}: {sent.error}")
        (result,) = await self.ack([message])
        if not result.ok and not result.stale:
            raise BrokerUnavailableError(
                f"copied to {target!r}, but not settled in {self._name!r}: {result.error}"
            )

    async def describe(self) -> QueueInfo:
        """Settings of the topic and of its dead-letter topic."""
        return await self._topics.describe(self._name, self._policy)

    async def depth(self) -> QueueDepth:
        """Records that the group has not settled, in the retry topic too."""
        lag = await self._topics.lag(self._name)
        if self._policy.retry is not None:
            with suppress(QueueNotFoundError):
                lag += await self._topics.lag(self._policy.retry)
        in_hand = sum(p.in_hand for p in self._member.partitions.values()) if self._member else 0
        in_flight = min(in_hand, lag)
        return QueueDepth(lag - in_flight, in_flight, 0)

    async def _joined(self) -> Member:
        async with self._joining:
            if self._member is not None and self._member.ended:
                await self.close()
            if self._member is None:
                await self._topics.partitions(self._name)  # or nobody would say that it is missing
                retry = self._policy.retry
                if retry is not None and not await self._topics.exists(retry):
                    retry = None
                self._member = Member(
                    self._settings,
                    [self._name, *([retry] if retry else [])],
                    max_receive_count=self._policy.max_receive_count,
                    bury=self._bury if self._policy.dead_letter else None,
                )
                self._member.start()
        return self._member

    def _take(self, member: Member, most: int, visible_until: float) -> list[Message]:
        """What is ready. The member sees to it that no partition waits for a busier one."""
        taken: list[Message] = []
        for partition in member.handing_out():
            taken += partition.take(most - len(taken), visible_until)
        return taken

    def _find(self, message: Message) -> tuple[Partition, Record] | SettleResult:
        """The record that a message stands for, or why there is none."""
        parts = message.receipt.split("/")
        if len(parts) != 4 or not parts[1].isdigit() or not parts[2].isdigit():
            return SettleResult(message.message_id, error="not a receipt of this subscriber")
        place = (parts[0], int(parts[1]))
        partition = self._member.partitions.get(place) if self._member else None
        record = partition.find(message.receipt) if partition else None
        if partition is None or record is None:
            return SettleResult(message.message_id, error=_STALE, stale=True)
        return partition, record

    async def _bury(self, partition: Partition, records: list[Record]) -> list[Record]:
        """Move what was delivered too often, without a reason: nobody said one."""
        assert self._policy.dead_letter is not None  # noqa: S101 - `_joined` looks
        sent = await self._sender.send(
            self._policy.dead_letter,
            [
                Outgoing(partition.id_of(record), record.body, _key(record), record.attributes)
                for record in records
            ],
        )
        return [record for record, result in zip(records, sent, strict=True) if result.ok]


def _key(record: Record) -> str | None:
    return None if record.key is None else record.key.decode(errors="replace")
