"""Records without delay: the client's batch call waits until the batch is full or its time over."""

from __future__ import annotations

from confluent_kafka import Message
from confluent_kafka.aio import AIOConsumer


async def fetch(consumer: AIOConsumer, most: int, wait_s: float) -> list[Message]:
    """Wait for a first record, and take with it what is there already.

    Args:
        consumer: the client.
        most: records.
        wait_s: seconds for the first one.

    Raises:
        KafkaException: the client cannot go on by itself.
    """
    first = await consumer.poll(wait_s)
    return [] if first is None else [first, *await consumer.consume(most - 1, 0)]
