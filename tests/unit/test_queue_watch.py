"""What the consumer tells the metrics about its queue and the DLQ."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import REGISTRY

from onceproof.brokers import MemoryBroker
from onceproof.errors import BrokerUnavailableError
from onceproof.ports import Outgoing
from onceproof_consumer.queue_watch import observe_queue, watch_queue

DAY_S = 86400.0


@pytest.fixture
def broker() -> MemoryBroker:
    broker = MemoryBroker()
    broker.create_queue("orders-dlq", retention_s=14 * DAY_S)
    broker.create_queue(
        "orders", retention_s=4 * DAY_S, max_receive_count=5, dead_letter="orders-dlq"
    )
    return broker


def gauge(name: str) -> float | None:
    return REGISTRY.get_sample_value(f"onceproof_{name}")


async def test_depths_of_queue_and_dlq(broker):
    await broker.send("orders", [Outgoing(str(n), b"{}") for n in range(5)])
    await broker.send("orders-dlq", [Outgoing(str(n), b"{}") for n in range(3)])
    await broker.subscriber("orders").receive(max_messages=2, wait_s=0, visibility_s=60)
    await observe_queue(broker.subscriber, "orders", inbox_retention_s=None)
    assert gauge("queue_messages") == 5
    assert gauge("dead_letters") == 3
    await observe_queue(broker.subscriber, "orders-dlq", inbox_retention_s=None)
    assert gauge("queue_messages") == 3


async def test_the_window_that_the_inbox_must_cover(broker):
    await observe_queue(broker.subscriber, "orders", inbox_retention_s=20 * DAY_S)
    assert gauge("inbox_retention_seconds") == 20 * DAY_S
    assert gauge("dedup_window_seconds") == (4 + 14 + 4) * DAY_S


async def test_an_unknown_window_and_a_missing_inbox_compare_nothing(broker):
    await observe_queue(broker.subscriber, "orders", inbox_retention_s=20 * DAY_S)
    broker.create_queue("silent", retention_s=float("inf"))
    await observe_queue(broker.subscriber, "silent", inbox_retention_s=1.0)
    await observe_queue(broker.subscriber, "orders", inbox_retention_s=None)
    assert gauge("inbox_retention_seconds") == 20 * DAY_S


async def test_a_broker_that_is_away_does_not_end_the_watch(broker, caplog):
    looks = asyncio.Queue[str]()

    def subscriber_of(name: str):
        looks.put_nowait(name)
        if looks.qsize() < 3:
            raise BrokerUnavailableError("no answer")
        seen.set()
        return broker.subscriber(name)

    seen = asyncio.Event()
    watch = asyncio.create_task(
        watch_queue(subscriber_of, "orders", inbox_retention_s=None, interval_s=0.001)
    )
    async with asyncio.timeout(5):
        await seen.wait()
    watch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watch
    assert "no answer" in caplog.text
