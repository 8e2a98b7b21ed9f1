"""Settling: ack, extension, release, rejection, and what a late one of them does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from onceproof.brokers.dead_letter import MAX_REASON_CHARS, ORIGINAL_ID, REASON
from onceproof.errors import ConfigurationError
from onceproof.ports import Message, Outgoing

if TYPE_CHECKING:
    from tests.conformance.conftest import Harness, Receiving


async def test_ack_removes(harness: Harness, receiving: type[Receiving]) -> None:
    queue = await harness.queue()
    await harness.publisher.send(queue, [Outgoing(f"e{i}", b"body") for i in range(25)])
    subscriber = harness.subscriber(queue)
    messages = await receiving.until(subscriber, 25)
    results = await subscriber.ack(messages)
    assert [result.message_id for result in results] == [m.message_id for m in messages]
    assert all(result.ok and not result.stale for result in results)
    assert (await subscriber.depth()).total == 0


async def test_the_suite_notices_a_broker_that_forgets_acks(
    forgetful: Harness, receiving: type[Receiving]
) -> None:
    with pytest.raises(AssertionError):
        await test_ack_removes(forgetful, receiving)


async def test_release_makes_available_at_once(
    harness: Harness, receiving: type[Receiving]
) -> None:
    queue = await harness.queue()
    await harness.publisher.send(queue, [Outgoing("e1", b"body")])
    subscriber = harness.subscriber(queue)
    messages = await receiving.until(subscriber, 1, visibility_s=600)
    assert [result.ok for result in await subscriber.release(messages, 0)] == [True]
    (again,) = await receiving.until(subscriber, 1)
    assert (again.message_id, again.attempt) == (messages[0].message_id, 2)


async def test_extend_keeps_hidden(harness: Harness, receiving: type[Receiving]) -> None:
    queue = await harness.queue()
    await harness.publisher.send(queue, [Outgoing(f"e{i}", b"body") for i in range(12)])
    subscriber = harness.subscriber(queue)
    messages = await receiving.until(subscriber, 12, visibility_s=2)
    extended, left = messages[:11], messages[11:]
    assert all(result.ok for result in await subscriber.extend(extended, 30))
    # The one that was not extended comes again: by then the others would have come as well.
    (again,) = await receiving.until(subscriber, 1)
    assert again.message_id == left[0].message_id
    await receiving.nothing(subscriber)
    assert all(result.ok for result in await subscriber.ack(extended))


async def test_stale_ack_and_extension_do_not_raise(
    harness: Harness, receiving: type[Receiving]
) -> None:
    queue = await harness.queue()
    await harness.publisher.send(queue, [Outgoing("e1", b"body")])
    subscriber = harness.subscriber(queue)
    (zombie,) = await receiving.until(subscriber, 1, visibility_s=1)
    (successor,) = await receiving.until(subscriber, 1)
    assert successor.attempt == 2
    (acked,) = await subscriber.ack([zombie])
    (extended,) = await subscriber.extend([zombie], 0)
    assert acked.message_id == extended.message_id == zombie.message_id
    if harness.features.refuses_stale_receipts:
        assert acked.stale
        assert not acked.ok
        assert extended.stale
        await receiving.nothing(subscriber)
        assert (await subscriber.depth()).total == 1
    assert (await subscriber.ack([successor]))[0].ok


async def test_receipt_that_was_never_given(harness: Harness, receiving: type[Receiving]) -> None:
    queue = await harness.queue()
    await harness.publisher.send(queue, [Outgoing("e1", b"body")])
    subscriber = harness.subscriber(queue)
    (good,) = await receiving.until(subscriber, 1)
    bad = Message(b"", "m-0", "no such receipt", 1, 0.0)
    bad_result, good_result = await subscriber.ack([bad, good])
    assert not bad_result.ok
    assert bad_result.message_id == "m-0"
    assert good_result.ok


async def test_redrive_after_too_many_deliveries(
    harness: Harness, receiving: type[Receiving]
) -> None:
    dead_letter = await harness.queue()
    queue = await harness.queue(dead_letter=dead_letter, max_receive_count=2)
    await harness.publisher.send(queue, [Outgoing("e1", b"poison", None, {"a": "b"})])
    subscriber = harness.subscriber(queue)
    for attempt in (1, 2):
        (message,) = await receiving.until(subscriber, 1)
        assert message.attempt == attempt
        await subscriber.release([message], 0)
    deadline = time.monotonic() + 10
    moved: list[Message] = []
    while not moved and time.monotonic() < deadline:
        await receiving.nothing(subscriber)
        moved = await harness.subscriber(dead_letter).receive(
            max_messages=1, wait_s=1, visibility_s=30
        )
    assert [(m.body, m.attributes) for m in moved] == [(b"poison", {"a": "b"})]
    assert (await subscriber.depth()).total == 0


async def test_reject_moves_to_the_dead_letter_queue_with_its_reason(
    harness: Harness, receiving: type[Receiving]
) -> None:
    dead_letter = await harness.queue()
    queue = await harness.queue(dead_letter=dead_letter)
    attributes = {f"a{i}": str(i) for i in range(10)}
    await harness.publisher.send(queue, [Outgoing("e1", b"not ours", None, attributes)])
    subscriber = harness.subscriber(queue)
    (message,) = await receiving.until(subscriber, 1)
    await subscriber.reject(message, "not JSON: <&>\n" + "x" * 5000)
    assert (await subscriber.depth()).total == 0
    (rejected,) = await receiving.until(harness.subscriber(dead_letter), 1)
    assert rejected.body == b"not ours"
    assert rejected.attributes[REASON].startswith("not JSON: <&>\nxxx")
    assert len(rejected.attributes[REASON]) == MAX_REASON_CHARS
    assert rejected.attributes[ORIGINAL_ID] == message.message_id
    assert rejected.attributes["a0"] == "0"


@pytest.mark.parametrize("reason", ["", "nul \x00 and \ud800", "  "])
async def test_reject_with_a_reason_that_cannot_be_carried(
    harness: Harness, receiving: type[Receiving], reason: str
) -> None:
    dead_letter = await harness.queue()
    queue = await harness.queue(dead_letter=dead_letter)
    await harness.publisher.send(queue, [Outgoing("e1", b"not ours")])
    (message,) = await receiving.until(harness.subscriber(queue), 1)
    await harness.subscriber(queue).reject(message, reason)
    (rejected,) = await receiving.until(harness.subscriber(dead_letter), 1)
    assert rejected.attributes[REASON]


async def test_reject_without_a_dead_letter_queue(
    harness: Harness, receiving: type[Receiving]
) -> None:
    queue = await harness.queue()
    await harness.publisher.send(queue, [Outgoing("e1", b"not ours")])
    subscriber = harness.subscriber(queue)
    (message,) = await receiving.until(subscriber, 1)
    with pytest.raises(ConfigurationError, match="dead-letter queue"):
        await subscriber.reject(message, "why")
    assert (await subscriber.depth()).total == 1
