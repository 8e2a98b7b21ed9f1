from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from opentelemetry.trace import INVALID_SPAN_CONTEXT

from onceproof.brokers.memory import MemoryBroker, MemorySubscriber
from onceproof.consumer import acker as acker_module
from onceproof.consumer.acker import BATCH, Ack, Acker
from onceproof.consumer.inflight import InHand
from onceproof.events import Event
from onceproof.ports import Delivery, Message, Outgoing, SettleResult


class Recording(MemorySubscriber):
    def __init__(self, broker: MemoryBroker) -> None:
        inner = broker.subscriber("q")
        super().__init__("q", find=inner._find, clock=inner._clock)
        self.batches: list[int] = []
        self.hold: asyncio.Event | None = None

    async def ack(self, messages: Sequence[Message]) -> list[SettleResult]:
        self.batches.append(len(messages))
        if self.hold is not None:
            await self.hold.wait()
        return await super().ack(messages)


async def queue(number: int) -> tuple[Recording, list[Ack]]:
    broker = MemoryBroker()
    broker.create_queue("q")
    event = Event(type="t", data=None)
    await broker.send("q", [Outgoing(str(n), event.encode()) for n in range(number)])
    subscriber = Recording(broker)
    messages = await subscriber.receive(max_messages=number, wait_s=0, visibility_s=30)
    items = [InHand(Delivery(event, m, event.id), m.visible_until) for m in messages]
    return subscriber, [Ack(item, INVALID_SPAN_CONTEXT) for item in items]


@asynccontextmanager
async def running(acker: Acker) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(acker.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def empty(subscriber: Recording) -> None:
    async with asyncio.timeout(5):
        while True:
            if (await subscriber.depth()).total == 0:
                return
            await asyncio.sleep(0.001)


async def test_a_lone_ack_waits_for_company_no_longer_than_it_may() -> None:
    subscriber, acks = await queue(3)
    acker = Acker(subscriber, linger_s=0.05, system="memory")
    async with running(acker):
        for ack in acks:
            acker.add(ack)
        await empty(subscriber)
    assert subscriber.batches == [3]


async def test_a_full_batch_does_not_wait() -> None:
    subscriber, acks = await queue(BATCH)
    acker = Acker(subscriber, linger_s=60, system="memory")
    began = time.monotonic()
    async with running(acker):
        for ack in acks:
            acker.add(ack)
        await empty(subscriber)
    assert time.monotonic() - began < 5


async def test_what_comes_during_a_request_goes_with_the_next() -> None:
    subscriber, acks = await queue(3)
    subscriber.hold = asyncio.Event()
    acker = Acker(subscriber, linger_s=0, system="memory")
    async with running(acker):
        acker.add(acks[0])
        async with asyncio.timeout(5):
            while True:
                if subscriber.batches:
                    break
                await asyncio.sleep(0)
        acker.add(acks[1])
        acker.add(acks[2])
        subscriber.hold.set()
        await empty(subscriber)
    assert subscriber.batches == [1, 2]


async def test_a_request_that_a_stop_cut_off_is_repeated_by_the_last_flush() -> None:
    subscriber, acks = await queue(2)
    subscriber.hold = asyncio.Event()
    acker = Acker(subscriber, linger_s=0, system="memory")
    async with running(acker):
        acker.add(acks[0])
        async with asyncio.timeout(5):
            while True:
                if subscriber.batches:
                    break
                await asyncio.sleep(0)
    acker.add(acks[1])
    subscriber.hold = None
    await acker.flush()
    assert subscriber.batches == [1, 2]
    assert (await subscriber.depth()).total == 0
    await acker.flush()
    assert subscriber.batches == [1, 2]  # nothing left, no request


async def test_several_requests_are_in_flight_at_once_and_a_stop_sends_what_was_cut_off() -> None:
    subscriber, acks = await queue(BATCH * 3 + 3)
    subscriber.hold = asyncio.Event()
    acker = Acker(subscriber, linger_s=60, system="memory")
    async with running(acker):
        for some in (acks[: BATCH * 2], acks[BATCH * 2 :]):
            asked = len(subscriber.batches)
            for ack in some:
                acker.add(ack)
            async with asyncio.timeout(5):
                while True:
                    if len(subscriber.batches) > asked:
                        break
                    await asyncio.sleep(0)
        assert subscriber.batches == [BATCH * 2, BATCH]  # the rest waits for company
        assert len(acker.unacked) == len(acks)
    assert len(acker.unacked) == len(acks)
    subscriber.hold = None
    await acker.flush()
    assert subscriber.batches == [BATCH * 2, BATCH, len(acks)]
    assert acker.unacked == []
    assert (await subscriber.depth()).total == 0


async def test_while_too_much_waits_it_does_not_keep_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acker_module, "_BACKLOG", 12)
    subscriber, acks = await queue(12)
    acker = Acker(subscriber, linger_s=0, system="memory")
    for ack in acks[:-1]:
        acker.add(ack)
    await asyncio.wait_for(acker.keeps_up(), 1)
    acker.add(acks[-1])
    waiting = asyncio.create_task(acker.keeps_up())
    await asyncio.sleep(0)
    assert not waiting.done()
    async with running(acker):
        await asyncio.wait_for(waiting, 5)
        await empty(subscriber)
