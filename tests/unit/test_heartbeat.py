from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from onceproof.brokers.memory import MemoryBroker
from onceproof.consumer.heartbeat import extend_due
from onceproof.consumer.inflight import InFlight, InHand
from onceproof.events import Event
from onceproof.ports import Delivery, Message, Outgoing, SettleResult


async def taken(visibility_s: float = 30.0) -> tuple[MemoryBroker, InHand]:
    broker = MemoryBroker()
    broker.create_queue("q")
    event = Event(type="t", data=None)
    await broker.send("q", [Outgoing(event.id, event.encode())])
    (message,) = await broker.subscriber("q").receive(
        max_messages=1, wait_s=0, visibility_s=visibility_s
    )
    return broker, InHand(Delivery(event, message, event.id), message.visible_until)


async def test_what_was_just_received_needs_nothing() -> None:
    broker, item = await taken()
    in_flight = InFlight(5)
    in_flight.add(item)
    extended = await extend_due(broker.subscriber("q"), in_flight, visibility_s=30, interval_s=10)
    assert extended == 0


@pytest.mark.parametrize("interval_s", [1.0, 10.0, 15.0, 20.0, 25.0, 29.0])
@pytest.mark.parametrize("age_share", [0.0, 0.3, 0.49, 0.51, 0.9, 1.0])
async def test_nothing_lapses_between_two_beats(interval_s: float, age_share: float) -> None:
    broker, item = await taken()
    item.visible_until = time.monotonic() + 30 - age_share * interval_s
    in_flight = InFlight(5)
    in_flight.add(item)
    subscriber = broker.subscriber("q")
    await extend_due(subscriber, in_flight, visibility_s=30, interval_s=interval_s)
    assert item.visible_until - time.monotonic() > interval_s


async def test_what_lapsed_is_not_extended_and_what_is_stale_counts_as_lapsed() -> None:
    broker, lapsed = await taken()
    lapsed.visible_until = time.monotonic() - 1
    _, stale = await taken()  # of another broker: this one does not know the receipt
    stale.visible_until = time.monotonic() + 1
    in_flight = InFlight(5)
    in_flight.add(lapsed)
    in_flight.add(stale)
    extended = await extend_due(broker.subscriber("q"), in_flight, visibility_s=30, interval_s=10)
    assert extended == 0
    assert stale.lapsed


async def test_a_failed_extension_is_tried_again_at_the_next_beat() -> None:
    broker, item = await taken()
    item.visible_until = time.monotonic() + 15
    in_flight = InFlight(5)
    in_flight.add(item)
    subscriber = broker.subscriber("q")
    extend = subscriber.extend

    async def fail(messages: Sequence[Message], visibility_s: float) -> list[SettleResult]:
        return [SettleResult(m.message_id, error=f"not {visibility_s}") for m in messages]

    subscriber.extend = fail  # type: ignore[method-assign]
    assert await extend_due(subscriber, in_flight, visibility_s=30, interval_s=10) == 0
    subscriber.extend = extend  # type: ignore[method-assign]
    assert await extend_due(subscriber, in_flight, visibility_s=30, interval_s=10) == 1
    assert item.visible_until - time.monotonic() > 29
