"""Where a record is, and how it is called."""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import TopicPartition

Place = tuple[str, int]
"""Topic and partition."""


def places_of(partitions: Iterable[TopicPartition]) -> set[Place]:
    """The client's partitions as places."""
    return {(each.topic, each.partition) for each in partitions}


def record_id(topic: str | None, partition: int | None, offset: int | None) -> str:
    """What stands for a broker's message id: a record has none but where it is."""
    return f"{topic}-{partition}@{offset}"
