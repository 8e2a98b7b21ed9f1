"""Kafka for a run: topics of its own, and a client that looks on without taking part.

A client that joined the pipeline's group would be given partitions, and the pipeline's consumers would
not see them. So the depth of a topic is asked of the group's offsets, and the DLQ is read in a group of
its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from onceproof.brokers.kafka import KafkaBroker, KafkaSettings, TopicPolicy
from onceproof.ports import Outgoing, SendResult, Subscriber

PARTITIONS: Final = 6
"""More than a run has consumers, so that each has some."""


class OnLooker:
    """The pipeline's topics as their group has them, and the DLQ by itself.

    Args:
        pipeline: client with the group of the pipeline's consumers.
        looker: client with another group.
        dead_letter: name of the DLQ topic.
    """

    def __init__(self, pipeline: KafkaBroker, looker: KafkaBroker, dead_letter: str) -> None:
        self._pipeline = pipeline
        self._looker = looker
        self._dead_letter = dead_letter

    def subscriber(self, queue: str) -> Subscriber:
        """A subscriber; that of the DLQ leaves everything where it is."""
        broker = self._looker if queue == self._dead_letter else self._pipeline
        return broker.subscriber(queue)

    async def send(self, destination: str, messages: Sequence[Outgoing]) -> list[SendResult]:
        """Send, as the pipeline would."""
        return await self._pipeline.send(destination, messages)


@asynccontextmanager
async def look_on(bootstrap: str, topic: str) -> AsyncIterator[OnLooker]:
    """An onlooker at a topic whose group has its name.

    Args:
        bootstrap: of the cluster.
        topic: of the pipeline.
    """
    policy = TopicPolicy.of(topic)
    async with AsyncExitStack() as stack:
        pipeline, looker = [
            await stack.enter_async_context(
                KafkaBroker.connect(KafkaSettings(bootstrap, group=group), {topic: policy})
            )
            for group in (topic, f"{topic}-looker")
        ]
        yield OnLooker(pipeline, looker, policy.dead_letter or "")


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
