"""All contests, in their order: without a broker, through one, at scale, peers, Kafka, capture."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.contest import Contest
from benchmarks.contests import cdc, kafka, peers, scale, through_broker, without_broker


@dataclass(frozen=True)
class Sizes:
    """How much the contests about size take.

    Args:
        memory_messages: messages that the consumer's memory is watched over.
        outbox_rows: rows of a large outbox.
        inbox_rows: rows of a large inbox.
        burst: orders of a burst.
    """

    memory_messages: int = 20_000
    outbox_rows: int = 200_000
    inbox_rows: int = 1_000_000
    burst: int = 50_000


def contests(sizes: Sizes) -> list[Contest]:
    """All of them."""
    return [
        *without_broker.contests(),
        *through_broker.contests(sizes.memory_messages),
        *scale.contests(outbox_rows=sizes.outbox_rows, inbox_rows=sizes.inbox_rows),
        *peers.contests(),
        *kafka.contests(),
        *cdc.contests(sizes.burst),
    ]
