"""Kafka for a run: topics of its own, and a client that looks on without taking part.

A client that joined the pipeline's group would be given partitions, and the pipeline's consumers would
not see them. So the depth of a topic is asked of the group's offsets, and the DLQ is read in a group of
its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Final

from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka.admin import AdminClient

from onceproof.brokers.kafka import KafkaBroker, KafkaSettings, TopicPolicy, stage_group
from onceproof.ports import Outgoing, SendResult, Subscriber

PARTITIONS: Final = 6
"""More than a run has consumers, so that each has some."""
_POLL_S: Final = 0.1
_ANSWER_S: Final = 10.0


class OnLooker:
    """The pipeline's topics as their group has them, and the DLQ by itself.

    Args:
        readers: clients by topic, each with the group that reads it.
        looker: client with another group, for any other topic.
    """

    def __init__(self, readers: Mapping[str, KafkaBroker], looker: KafkaBroker) -> None:
        self._readers = readers
        self._looker = looker

    def subscriber(self, queue: str) -> Subscriber:
        """A subscriber; that of a DLQ leaves everything where it is."""
        return self._readers.get(queue, self._looker).subscriber(queue)

    async def send(self, destination: str, messages: Sequence[Outgoing]) -> list[SendResult]:
        """Send, as the pipeline would."""
        return await self._looker.send(destination, messages)


@asynccontextmanager
async def look_on(
    kafka: KafkaSettings, topic: str, requests: str | None = None
) -> AsyncIterator[OnLooker]:
    """An onlooker at a run's topics.

    Args:
        kafka: of the cluster, with the consumers' group.
        topic: of the orders.
        requests: topic of the payment requests, where a stage makes them of the orders.
    """
    group = kafka.group
    groups = {requests: group, topic: stage_group(group)} if requests else {topic: group}
    async with AsyncExitStack() as stack:

        async def client(group: str, *of: str) -> KafkaBroker:
            policies = {name: TopicPolicy.of(name) for name in of}
            return await stack.enter_async_context(
                KafkaBroker.connect(replace(kafka, group=group), policies)
            )

        readers = {name: await client(group, name) for name, group in groups.items()}
        yield OnLooker(readers, await client(f"{group}-looker"))


@asynccontextmanager
async def topics(bootstrap: str, topic: str, *, retention_s: float) -> AsyncIterator[TopicPolicy]:
    """A topic with its retry and DLQ topic; deleted at the end."""
    policy = TopicPolicy.of(topic)
    async with KafkaBroker.connect(KafkaSettings(bootstrap)) as broker:
        await broker.ensure_topic(
            topic, partitions=PARTITIONS, retention_s=retention_s, policy=policy
        )
        try:
            yield policy
        finally:
            for name in (topic, policy.retry, policy.dead_letter):
                await broker.delete_topic(name or "")


async def until_shared(bootstrap: str, group: str, members: int, *, timeout_s: float) -> None:
    """Wait until a group's partitions are shared out and stay where they are.

    A member that joins later takes partitions from those who work on their records, which then come
    again: a fault that nobody injected.

    Args:
        bootstrap: of the cluster.
        group: the group.
        members: how many there must be, each with a partition.
        timeout_s: seconds at most.

    Raises:
        TimeoutError: they were not by then.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap})

    def shared() -> bool:
        try:
            found = admin.describe_consumer_groups([group])[group].result(_ANSWER_S)
        except KafkaException:  # its coordinator is just being found
            return False
        with_some = [member for member in found.members if member.assignment.topic_partitions]
        return found.state is ConsumerGroupState.STABLE and len(with_some) == members

    async with asyncio.timeout(timeout_s):
        while not await asyncio.to_thread(shared):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(_POLL_S)
