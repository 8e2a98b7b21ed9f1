"""Delivery: what comes, how often, in which order, and when."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from onceproof.ports import Outgoing

if TYPE_CHECKING:
    from tests.conformance.conftest import Harness, Receiving


async def test_round_trip_keeps_bytes_and_attributes(
    harness: Harness, receiving: type[Receiving]
) -> None:
    queue = await harness.queue()
    body = ' {"name": "Zoë — 😀",\t"quote": "\\"<&>\\"",\r\n"n": 1e400} '.encode()
    attributes = {"traceparent": "00-abc-01", "note": "ümlaut <&>"}
    (result,) = await harness.publisher.send(queue, [Outgoing("e1", body, "k", attributes)])
    assert result.ok
    assert result.id == "e1"
    before = time.monotonic()
    (message,) = await receiving.until(harness.subscriber(queue), 1, visibility_s=20)
    assert message.body == body
    assert message.attributes == attributes
    assert message.message_id == result.message_id
    assert message.attempt == 1
    assert before + 15 < message.visible_until <= time.monotonic() + 20
    assert message.sent_at is not None
    assert abs(message.sent_at.timestamp() - time.time()) < 30


async def test_lapsed_visibility_delivers_again_with_a_higher_attempt(
    harness: Harness, receiving: type[Receiving]
) -> None:
    queue = await harness.queue()
    await harness.publisher.send(queue, [Outgoing("e1", b"body")])
    subscriber = harness.subscriber(queue)
    receipts = set()
    for attempt in (1, 2, 3):
        (message,) = await receiving.until(subscriber, 1, visibility_s=1)
        assert (message.attempt, message.body) == (attempt, b"body")
        receipts.add(message.receipt)
    assert len(receipts) == 3


async def test_a_message_in_flight_is_hidden(harness: Harness, receiving: type[Receiving]) -> None:
    queue = await harness.queue()
    await harness.publisher.send(queue, [Outgoing("e1", b"body")])
    await receiving.until(harness.subscriber(queue), 1)
    await receiving.nothing(harness.subscriber(queue))


async def test_the_suite_notices_a_broker_without_visibility(
    forgetful: Harness, receiving: type[Receiving]
) -> None:
    with pytest.raises(AssertionError):
        await test_a_message_in_flight_is_hidden(forgetful, receiving)


async def test_batch_larger_than_a_request(harness: Harness, receiving: type[Receiving]) -> None:
    queue = await harness.queue()
    messages = [Outgoing(f"e{i}", f"body {i}".encode()) for i in range(25)]
    results = await harness.publisher.send(queue, messages)
    assert [result.id for result in results] == [message.id for message in messages]
    assert all(result.ok for result in results)
    assert len({result.message_id for result in results}) == 25
    received = await receiving.until(harness.subscriber(queue), 25)
    assert {m.body for m in received} == {m.body for m in messages}
    assert {m.message_id for m in received} == {r.message_id for r in results}


async def test_bodies_that_fill_several_requests(
    harness: Harness, receiving: type[Receiving]
) -> None:
    queue = await harness.queue()
    messages = [Outgoing(f"e{i}", b"%d" % i * 100_000) for i in range(5)]
    assert all(result.ok for result in await harness.publisher.send(queue, messages))
    received = await receiving.until(harness.subscriber(queue), 5)
    assert {m.body for m in received} == {m.body for m in messages}


async def test_order_of_a_key(harness: Harness, receiving: type[Receiving]) -> None:
    queue = await harness.queue()
    sent = [Outgoing(f"e{i}", f"{i % 3}:{i:02}".encode(), f"key {i % 3}") for i in range(24)]
    assert all(result.ok for result in await harness.publisher.send(queue, sent))
    subscriber = harness.subscriber(queue)
    # Given back once, so that the order must also survive a redelivery.
    first = await receiving.until(subscriber, 3)
    await subscriber.release(first, 0)
    by_key = defaultdict(list)
    for _ in sent:
        (message,) = await receiving.until(subscriber, 1)
        by_key[message.body[:1]].append(message.body)
        assert (await subscriber.ack([message]))[0].ok
    assert sum(map(len, by_key.values())) == 24
    assert (await subscriber.describe()).keeps_order is harness.features.keeps_order
    if harness.features.keeps_order:
        assert all(bodies == sorted(bodies) for bodies in by_key.values())


async def test_long_poll_wakes_on_send(harness: Harness) -> None:
    queue = await harness.queue()
    subscriber = harness.subscriber(queue)
    polling = asyncio.create_task(subscriber.receive(max_messages=10, wait_s=8, visibility_s=30))
    done, _ = await asyncio.wait([polling], timeout=0.3)
    assert not done
    started = time.monotonic()
    await harness.publisher.send(queue, [Outgoing("e1", b"body")])
    (message,) = await polling
    assert message.body == b"body"
    assert time.monotonic() - started < 4


async def test_long_poll_wakes_when_visibility_lapses(
    harness: Harness, receiving: type[Receiving]
) -> None:
    queue = await harness.queue()
    await harness.publisher.send(queue, [Outgoing("e1", b"body")])
    subscriber = harness.subscriber(queue)
    await receiving.until(subscriber, 1, visibility_s=1)
    started = time.monotonic()
    messages = await subscriber.receive(max_messages=1, wait_s=8, visibility_s=30)
    assert [message.attempt for message in messages] == [2]
    assert time.monotonic() - started < 5


async def test_long_poll_ends_empty(harness: Harness) -> None:
    queue = await harness.queue()
    started = time.monotonic()
    subscriber = harness.subscriber(queue)
    assert await subscriber.receive(max_messages=10, wait_s=1, visibility_s=30) == []
    assert 0.9 < time.monotonic() - started < 4
