"""The consumer on a real Postgres and the in-memory broker: one effect for each event."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from onceproof.brokers.dead_letter import REASON
from onceproof.errors import PermanentError, TransientError
from onceproof.ports import Delivery, Message, Outgoing, SettleResult
from onceproof.variants import parse_variant

if TYPE_CHECKING:
    from tests.integration.conftest import Rig


async def test_each_event_has_one_effect_and_is_acked_in_batches(rig: Rig, path: str) -> None:
    await rig.send(*(rig.order(n) for n in range(40)))
    async with rig.running(rig.consumer(path, ack_linger_s=0.05)):
        await rig.drained()
    assert await rig.charges() == sorted((f"o-{n}", 1) for n in range(40))
    assert sum(map(len, rig.subscriber.acks)) == 40
    assert len(rig.subscriber.acks) <= 20
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_duplicate_under_a_new_message_id_is_rolled_back_acked_and_counted(
    rig: Rig, path: str
) -> None:
    before = rig.count("onceproof_dedup_hits_total")
    duplicates = rig.count("onceproof_messages_processed_total", outcome="duplicate")
    event = rig.order(1)
    async with rig.running(rig.consumer(path)):
        await rig.send(event)
        await rig.drained()
        await rig.send(event, event)
        await rig.drained()
    assert await rig.charges() == [("o-1", 1)]
    assert len(rig.seen) == (path != "effect")
    assert rig.count("onceproof_dedup_hits_total") - before == 2
    assert rig.count("onceproof_messages_processed_total", outcome="duplicate") - duplicates == 2


async def test_two_consumers_share_an_event_that_was_sent_twice(rig: Rig, path: str) -> None:
    events = [rig.order(n) for n in range(30)]
    await rig.send(*events, *events)
    async with rig.running(rig.consumer(path), rig.consumer(path)):
        await rig.drained()
    assert await rig.charges() == sorted((f"o-{n}", 1) for n in range(30))


async def test_without_the_inbox_a_duplicate_charges_twice(rig: Rig, path: str) -> None:
    event = rig.order(1)
    await rig.send(event, event)
    async with rig.running(rig.consumer(path, fixes=parse_variant("hardened-inbox"))):
        await rig.drained()
    assert await rig.charges() == [("o-1", 1)] * 2


async def test_a_failed_attempt_leaves_neither_effect_nor_claim(rig: Rig, path: str) -> None:
    await rig.refuse_charges("NEW.delivery_attempt = 1", "40001")
    await rig.send(rig.order(1))
    async with rig.running(rig.consumer(path)):
        await rig.drained()
    assert await rig.charges() == [("o-1", 2)]


async def test_the_backoff_grows_and_has_jitter(rig: Rig) -> None:
    async def fail(delivery: Delivery) -> None:
        if delivery.attempt < 5:
            raise TransientError("not now")

    rig.behave = fail
    await rig.send(*(rig.order(n) for n in range(10)))
    async with rig.running(rig.consumer(backoff_s=0.05, backoff_max_s=10)):
        await rig.drained()
    delays = sorted(delay for _, delay in rig.subscriber.extensions)
    for doubling in range(4):
        ceiling = 0.05 * 2**doubling
        of_attempt = [delay for delay in delays if ceiling / 2 <= delay <= ceiling]
        assert len(of_attempt) >= 10
        assert len(set(of_attempt)) > 5


async def test_a_wish_for_a_delay_is_granted(rig: Rig) -> None:
    async def fail(delivery: Delivery) -> None:
        if delivery.attempt == 1:
            raise TransientError("throttled", retry_after_s=0.3)

    rig.behave = fail
    await rig.send(rig.order(1))
    async with rig.running(rig.consumer()):
        await rig.drained()
    ((_, delay),) = rig.subscriber.extensions
    assert 0.3 <= delay <= 0.36


async def test_a_permanent_error_goes_to_the_dlq_with_its_reason(rig: Rig) -> None:
    async def refuse(_: Delivery) -> None:
        raise PermanentError("card was stolen")

    rig.behave = refuse
    await rig.send(rig.order(1))
    async with rig.running(rig.consumer()):
        await rig.drained()
    (dead,) = await rig.dead()
    assert dead.attributes[REASON] == "card was stolen"
    assert len(rig.seen) == 1
    assert await rig.charges() == []


@pytest.mark.parametrize(
    "body", [b"", b"\xff\x00", b"[]", b'{"specversion":"1.0","id":"x"}', b"9" * 10_000]
)
async def test_what_is_not_an_event_goes_to_the_dlq_and_the_rest_goes_on(
    rig: Rig, body: bytes, path: str
) -> None:
    await rig.broker.send("orders", [Outgoing("x", body)])
    await rig.send(rig.order(1))
    async with rig.running(rig.consumer(path)):
        await rig.drained()
    (dead,) = await rig.dead()
    assert dead.body == body
    assert "not" in dead.attributes[REASON]
    assert await rig.charges() == [("o-1", 1)]


async def test_an_unknown_error_is_retried_until_the_redrive_policy_has_enough(
    rig: Rig, path: str
) -> None:
    await rig.refuse_charges("true")
    await rig.send(rig.order(1))
    async with rig.running(rig.consumer(path)):
        await rig.drained()
    assert rig.subscriber.received == 5
    assert len(await rig.dead()) == 1
    assert await rig.charges() == []


async def test_concurrency_and_prefetch_are_bounds(rig: Rig) -> None:
    release = asyncio.Event()
    at_work = most = 0

    async def wait(_: Delivery) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await release.wait()
        at_work -= 1

    rig.behave = wait
    await rig.send(*(rig.order(n) for n in range(50)))
    async with rig.running(rig.consumer(concurrency=3, prefetch=4)):
        await rig.until(lambda: at_work == 3 and rig.subscriber.received == 7)
        depth = await rig.subscriber.depth()
        assert (depth.in_flight, depth.visible) == (7, 43)
        release.set()
        await rig.drained()
    assert most == 3
    assert len(await rig.charges()) == 50


async def test_several_receives_are_in_flight_only_while_they_come_back_full(rig: Rig) -> None:
    receive, open_, most = rig.subscriber.receive, 0, 0

    async def counted(**wanted: Any) -> list[Message]:
        nonlocal open_, most
        open_ += 1
        most = max(most, open_)
        try:
            return await receive(**wanted)
        finally:
            open_ -= 1

    rig.subscriber.receive = counted  # type: ignore[method-assign]
    await rig.send(*(rig.order(n) for n in range(200)))
    async with rig.running(rig.consumer("effect", receives=3, wait_s=0.1)):
        await rig.drained()
        assert most == 3
        await rig.until(lambda: open_ == 1)  # those of the helpers end with their long poll
        most = 0
        await rig.send(rig.order(200))
        await rig.drained()
        assert most == 1
    assert len(await rig.charges()) == 201


async def test_the_heartbeat_keeps_a_slow_message_hidden(rig: Rig) -> None:
    async def slow(_: Delivery) -> None:
        await asyncio.sleep(2.5)

    rig.behave = slow
    await rig.send(rig.order(1))
    async with rig.running(
        rig.consumer(visibility_s=1, heartbeat_s=0.7), rig.consumer(visibility_s=1)
    ):
        await rig.drained()
    assert await rig.charges() == [("o-1", 1)]
    assert len(rig.seen) == 1


async def test_without_heartbeat_the_second_delivery_waits_at_the_inbox(
    rig: Rig, path: str
) -> None:
    hits = rig.count("onceproof_dedup_hits_total")
    late = rig.count("onceproof_stale_acks_total")
    fixes = parse_variant("hardened-visibility_heartbeat")
    async with rig.running(rig.consumer(path, visibility_s=1, fixes=fixes)):
        await rig.until(lambda: rig.subscriber.receives > 0)  # its checks would wait as well
        async with rig.charges_held_back():
            await rig.send(rig.order(1))
            await rig.until(lambda: rig.subscriber.received >= 2)
            await rig.waiting(2)  # the zombie for its charge, its successor for the key
        await rig.drained()
    assert await rig.charges() == [("o-1", 1)]
    assert rig.count("onceproof_dedup_hits_total") - hits == rig.subscriber.received - 1
    assert rig.count("onceproof_stale_acks_total") - late >= 1


async def test_a_message_that_lapsed_in_the_prefetch_is_not_started(rig: Rig) -> None:
    release = asyncio.Event()

    async def wait(_: Delivery) -> None:
        await release.wait()

    rig.behave = wait
    stale = rig.count("onceproof_messages_processed_total", outcome="stale")
    await rig.send(rig.order(1), rig.order(2))
    # The one beat comes too late for both.
    consumer = rig.consumer(concurrency=1, prefetch=1, visibility_s=1, heartbeat_s=0.99)
    rig.subscriber.extend = _refuse  # type: ignore[method-assign]
    async with rig.running(consumer):
        await rig.until(lambda: rig.subscriber.received == 2)
        await asyncio.sleep(1.1)  # the visibility of both
        release.set()
        await rig.drained()
    assert await rig.charges() == [("o-1", 1), ("o-2", 2)]
    assert rig.count("onceproof_messages_processed_total", outcome="stale") - stale >= 1


async def _refuse(messages: Sequence[Message], visibility_s: float) -> list[SettleResult]:
    return [SettleResult(m.message_id, error=f"no {visibility_s}") for m in messages]


async def test_a_handler_that_hangs_is_cancelled_and_retried(rig: Rig) -> None:
    async def hang_once(delivery: Delivery) -> None:
        if delivery.attempt == 1:
            await asyncio.Event().wait()

    rig.behave = hang_once
    await rig.send(rig.order(1))
    async with rig.running(rig.consumer(handler_timeout_s=0.5)):
        await rig.drained()
    assert await rig.charges() == [("o-1", 2)]


async def test_an_event_with_an_odd_time_or_key_is_settled_like_any_other(rig: Rig) -> None:
    odd = (
        b'{"specversion":"1.0","id":"1","source":"s","type":"t","time":"0001-01-01T00:00:00+23:59"}',
        b'{"specversion":"1.0","id":"2","source":"s","type":"t","time":"9999-12-31T23:59:59-23:59"}',
    )

    async def charge_nothing(session: AsyncSession, delivery: Delivery) -> None:
        rig.seen.append(delivery)
        await session.execute(text("SELECT 1"))

    rig.handle = charge_nothing  # type: ignore[method-assign]
    await rig.broker.send("orders", [Outgoing(str(n), body) for n, body in enumerate(odd)])
    async with rig.running(rig.consumer()):
        await rig.drained()
    assert len(rig.seen) == 2
