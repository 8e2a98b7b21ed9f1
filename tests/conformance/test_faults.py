"""Faults and set-up: a broken entry, a missing queue, a broker that is away, and what describe says."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

import pytest

from onceproof.errors import BrokerUnavailableError, QueueNotFoundError
from onceproof.ports import Message, Outgoing, QueueInfo

if TYPE_CHECKING:
    from tests.conformance.conftest import Harness, Receiving


async def test_a_bad_entry_fails_alone(harness: Harness, receiving: type[Receiving]) -> None:
    queue = await harness.queue()
    good = [Outgoing(f"good-{i}", f"{i}".encode()) for i in range(12)]
    bad = harness.spoiled(Outgoing("bad", b"bad"))
    mixed = [*good[:3], *bad, *good[3:]]
    results = await harness.publisher.send(queue, mixed)
    assert [result.id for result in results] == [message.id for message in mixed]
    assert {r.id for r in results if r.ok} == {m.id for m in good}
    assert all(r.error and r.message_id is None for r in results if not r.ok)
    received = await receiving.until(harness.subscriber(queue), len(good))
    assert {m.body for m in received} == {m.body for m in good}
    assert (await harness.subscriber(queue).depth()).total == len(good)


async def test_behind_a_failed_entry_its_key_waits(harness: Harness) -> None:
    queue = await harness.queue()
    sent = [Outgoing(f"e{i}", b"body", "key") for i in range(15)]
    bad = harness.spoiled(Outgoing("bad", b"bad", "key"))[0]
    bad = replace(bad, key="key")
    failed, *others = await harness.publisher.send(queue, [bad, *sent])
    assert not failed.ok
    held = harness.features.keeps_order
    assert [result.ok for result in others] == [not held] * 15
    assert (await harness.subscriber(queue).depth()).total == (0 if held else 15)


async def test_nothing_to_do(harness: Harness) -> None:
    queue = await harness.queue()
    assert await harness.publisher.send(queue, []) == []
    assert await harness.subscriber(queue).ack([]) == []
    assert await harness.subscriber(queue).extend([], 1) == []


async def test_describe(harness: Harness) -> None:
    dead_letter = await harness.queue(visibility_timeout_s=7, retention_s=7200)
    queue = await harness.queue(
        visibility_timeout_s=11, retention_s=3600, max_receive_count=4, dead_letter=dead_letter
    )
    order = harness.features.keeps_order
    known = harness.features.reports_retention
    per_queue = harness.features.visibility_per_queue
    assert await harness.subscriber(queue).describe() == QueueInfo(
        name=queue,
        visibility_timeout_s=11 if per_queue else 30,
        retention_s=3600 if known else inf,
        max_receive_count=4,
        dead_letter=QueueInfo(
            dead_letter, 7 if per_queue else 30, 7200 if known else inf, keeps_order=order
        ),
        keeps_order=order,
    )


async def test_depth(harness: Harness, receiving: type[Receiving]) -> None:
    queue = await harness.queue()
    await harness.publisher.send(queue, [Outgoing(f"e{i}", b"body") for i in range(5)])
    subscriber = harness.subscriber(queue)
    await receiving.until(subscriber, 2)
    depth = await subscriber.depth()
    assert (depth.visible, depth.in_flight, depth.delayed, depth.total) == (3, 2, 0, 5)


async def test_missing_queue(harness: Harness) -> None:
    name = harness.new_name()
    (result,) = await harness.publisher.send(name, [Outgoing("e1", b"body")])
    assert result.error is not None
    assert name in result.error
    subscriber = harness.subscriber(name)
    with pytest.raises(QueueNotFoundError, match=name):
        await subscriber.receive(max_messages=1, wait_s=0, visibility_s=1)
    with pytest.raises(QueueNotFoundError, match=name):
        await subscriber.describe()
    (settled,) = await subscriber.ack([Message(b"", "m", "receipt", 1, 0.0)])
    assert not settled.ok


async def test_unavailable_broker(harness: Harness) -> None:
    queue = await harness.queue()
    message = Message(b"", "m", "receipt", 1, 0.0)
    async with harness.unavailable() as broker:
        results = await broker.send(queue, [Outgoing(f"e{i}", b"body") for i in range(12)])
        assert [result.id for result in results] == [f"e{i}" for i in range(12)]
        assert all("unavailable" in (result.error or "") for result in results)
        subscriber = broker.subscriber(queue)
        with pytest.raises(BrokerUnavailableError):
            await subscriber.receive(max_messages=1, wait_s=1, visibility_s=1)
        with pytest.raises(BrokerUnavailableError):
            await subscriber.describe()
        with pytest.raises(BrokerUnavailableError):
            await subscriber.reject(message, "why")
        for results_of in (
            subscriber.ack([message]),
            subscriber.extend([message], 1),
            subscriber.release([message], 0),
        ):
            (settled,) = await results_of
            assert not settled.ok
            assert not settled.stale
