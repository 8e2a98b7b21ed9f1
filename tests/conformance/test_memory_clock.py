"""The in-memory broker under a clock that the test moves."""

from __future__ import annotations

import asyncio

from onceproof.brokers import MemoryBroker
from onceproof.ports import Outgoing


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_visibility_and_retention_follow_the_injected_clock() -> None:
    clock = Clock()
    broker = MemoryBroker(clock)
    broker.create_queue("q", retention_s=3600)
    await broker.send("q", [Outgoing("e1", b"body")])
    subscriber = broker.subscriber("q")
    (first,) = await subscriber.receive(max_messages=1, wait_s=0, visibility_s=30)
    assert first.visible_until == 1030.0
    clock.now += 29.9
    assert await subscriber.receive(max_messages=1, wait_s=0, visibility_s=30) == []
    clock.now += 0.1
    (second,) = await subscriber.receive(max_messages=1, wait_s=0, visibility_s=30)
    assert second.attempt == 2
    clock.now += 3600
    assert (await subscriber.depth()).total == 0


async def test_moving_the_clock_wakes_a_long_poll() -> None:
    clock = Clock()
    broker = MemoryBroker(clock)
    broker.create_queue("q")
    await broker.send("q", [Outgoing("e1", b"body")])
    subscriber = broker.subscriber("q")
    await subscriber.receive(max_messages=1, wait_s=0, visibility_s=600)
    polling = asyncio.create_task(subscriber.receive(max_messages=1, wait_s=30, visibility_s=600))
    done, _ = await asyncio.wait([polling], timeout=0.05)
    assert not done
    clock.now += 600
    broker.clock_moved()
    (message,) = await asyncio.wait_for(polling, 5)
    assert message.attempt == 2


async def test_cancelled_long_poll_loses_nothing() -> None:
    broker = MemoryBroker()
    broker.create_queue("q")
    subscriber = broker.subscriber("q")
    polling = asyncio.create_task(subscriber.receive(max_messages=1, wait_s=30, visibility_s=600))
    await asyncio.wait([polling], timeout=0.01)
    await broker.send("q", [Outgoing("e1", b"body")])
    polling.cancel()
    await asyncio.wait([polling])
    (message,) = await subscriber.receive(max_messages=1, wait_s=0, visibility_s=600)
    assert message.attempt == 1
