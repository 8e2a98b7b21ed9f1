"""The Kafka client of a process: one sender, and one member of the group for each topic received."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

from confluent_kafka import KafkaException

from onceproof.brokers.kafka.sender import KafkaSender
from onceproof.brokers.kafka.settings import KafkaSettings, TopicPolicy
from onceproof.brokers.kafka.subscriber import KafkaSubscriber
from onceproof.brokers.kafka.topics import KafkaTopics
from onceproof.errors import ConfigurationError
from onceproof.ports import Outgoing, SendResult


class KafkaBroker:
    """One cluster; implements `onceproof.ports.Publisher`. Open it with `connect`.

    Args:
        settings: of cluster and group.
        policies: what belongs to a topic; those that are not named have no retry or dead-letter topic.
    """

    def __init__(
        self, settings: KafkaSettings, policies: Mapping[str, TopicPolicy] | None = None
    ) -> None:
        self._settings = settings
        self._policies = dict(policies or {})
        self._topics = KafkaTopics(settings)
        self._sender = KafkaSender(settings)
        self._subscribers: dict[str, KafkaSubscriber] = {}

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, settings: KafkaSettings, policies: Mapping[str, TopicPolicy] | None = None
    ) -> AsyncGenerator[KafkaBroker]:
        """A client of the cluster; nothing is asked yet. At the end it leaves its groups.

        Raises:
            ConfigurationError: the client does not take the settings.
        """
        try:
            broker = cls(settings, policies)
        except (KafkaException, TypeError, ValueError) as error:
            raise ConfigurationError(f"no Kafka client can be made: {error}") from error
        try:
            yield broker
        finally:
            await broker.close()

    async def close(self) -> None:
        """Commit what is settled, leave the groups, and wait for what is being sent."""
        await asyncio.gather(*(each.close() for each in self._subscribers.values()))
        await asyncio.gather(self._sender.close(), self._topics.close())

    def subscriber(self, topic: str) -> KafkaSubscriber:
        """The subscriber of a topic: the same each time, since a process is one member of its group."""
        if topic not in self._subscribers:
            policy = self._policies.get(topic, TopicPolicy())
            self._subscribers[topic] = KafkaSubscriber(
                self._settings, self._topics, self._sender, topic, policy
            )
        return self._subscribers[topic]

    async def send(self, destination: str, messages: Sequence[Outgoing]) -> list[SendResult]:
        """Send to a topic, by key; see `onceproof.ports.Publisher.send`.

        An error that begins with "outcome unknown: " may have been written.
        """
        return await self._sender.send(destination, messages)

    async def ensure_topic(
        self,
        name: str,
        *,
        partitions: int = 6,
        retention_s: float = 345_600.0,
        policy: TopicPolicy | None = None,
    ) -> None:
        """Create a topic with one replica, unless it exists; for tests, demos and local use.

        Args:
            name: of the topic.
            partitions: as many members of a group can share it.
            retention_s: how long records are kept.
            policy: what belongs to it, for this client; its topics are created as well.

        Raises:
            BrokerUnavailableError: the cluster did not answer, or refused.
        """
        if policy is not None:
            self._policies[name] = policy
            for other in (policy.retry, policy.dead_letter):
                if other is not None:
                    await self._topics.ensure(other, partitions=partitions, retention_s=retention_s)
        await self._topics.ensure(name, partitions=partitions, retention_s=retention_s)

    async def delete_topic(self, name: str) -> None:
        """Delete a topic with its records; for tests, demos and local use.

        Raises:
            BrokerUnavailableError: the cluster did not answer.
        """
        await self._topics.delete(name)
