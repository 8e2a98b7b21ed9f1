from __future__ import annotations

import asyncio
import time

from onceproof.consumer.inflight import InFlight, InHand
from onceproof.events import Event
from onceproof.ports import Delivery, Message


def in_hand(visible_for_s: float = 30.0) -> InHand:
    event = Event(type="t", data=None)
    until = time.monotonic() + visible_for_s
    message = Message(event.encode(), "m", "r", 1, until)
    return InHand(Delivery(event, message, event.id), until)


async def test_there_is_room_until_the_capacity_and_again_after_a_removal() -> None:
    in_flight = InFlight(2)
    assert await in_flight.room() == 2
    first, second = in_hand(), in_hand()
    in_flight.add(first)
    assert await in_flight.room() == 1
    in_flight.add(second)
    waiting = asyncio.create_task(in_flight.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    in_flight.remove(first)
    in_flight.remove(first)  # twice is harmless
    assert await asyncio.wait_for(waiting, 1) == 1
    assert list(in_flight) == [second]


async def test_a_broker_that_gives_more_than_asked_for_does_not_make_room_negative() -> None:
    in_flight = InFlight(1)
    items = [in_hand() for _ in range(3)]
    for item in items:
        in_flight.add(item)
    assert in_flight.free == 0
    for item in items[:2]:
        in_flight.remove(item)
    waiting = asyncio.create_task(in_flight.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    in_flight.remove(items[2])
    assert await asyncio.wait_for(waiting, 1) == 1


async def test_it_may_change_while_it_is_walked_through() -> None:
    in_flight = InFlight(5)
    for _ in range(3):
        in_flight.add(in_hand())
    for item in in_flight:
        in_flight.remove(item)
    assert len(in_flight) == 0


def test_two_deliveries_of_one_message_are_two() -> None:
    item = in_hand()
    in_flight = InFlight(5)
    in_flight.add(item)
    in_flight.add(InHand(item.delivery, item.visible_until))
    assert len(in_flight) == 2


def test_lapsed() -> None:
    assert in_hand(0).lapsed
    assert not in_hand(30).lapsed
