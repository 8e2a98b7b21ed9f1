"""The consumer while what it depends on goes away, and while it is told to stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from onceproof.consumer import Consumer, ConsumerSettings
from onceproof.consumer import consumer as consumer_module
from onceproof.crashpoints import (
    CONSUMER_AFTER_CHARGE,
    CONSUMER_AFTER_COMMIT,
    CONSUMER_BEFORE_CHARGE,
    Armed,
    crash_points,
)
from onceproof.errors import ConfigurationError, TransientError
from onceproof.ports import Delivery, Message, Outgoing, SettleResult

if TYPE_CHECKING:
    from tests.integration.conftest import Rig


@asynccontextmanager
async def administrator(database_url: str) -> AsyncIterator[Any]:
    url = make_url(database_url).set(database="postgres")
    connection = await asyncpg.connect(url.render_as_string(hide_password=False))
    try:
        yield connection
    finally:
        await connection.close()


async def end_sessions(admin: Any, database_url: str) -> None:
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1",
        make_url(database_url).database,
    )


async def test_a_database_that_goes_away_closes_the_gate_and_nothing_is_lost(
    rig: Rig, path: str, database_url: str
) -> None:
    name = make_url(database_url).database
    consumer = rig.consumer(path, concurrency=4, prefetch=4, unavailable_backoff_s=0.05)
    async with administrator(database_url) as admin, rig.running(consumer):
        await rig.until(lambda: rig.subscriber.receives > 0)  # its check would wait as well
        with suppress(DBAPIError):  # this session is ended like all others
            async with rig.charges_held_back():
                await rig.send(*(rig.order(n) for n in range(40)))
                await rig.waiting(1)
                await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
                await end_sessions(admin, database_url)
        await rig.until(lambda: any(d == "database" and r for d, r in rig.health))
        await asyncio.sleep(0.4)  # what is in hand or was asked for has come to rest
        received, handled = rig.subscriber.received, len(rig.seen)
        await asyncio.sleep(0.5)
        assert rig.subscriber.received == received
        assert len(rig.seen) == handled
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await rig.drained()
    assert [reason for dependency, reason in rig.health if dependency == "database"][-1] is None
    charges = await rig.charges()
    assert sorted(order for order, _ in charges) == sorted(f"o-{n}" for n in range(40))
    assert max(attempt for _, attempt in charges) <= 3
    assert await rig.dead() == []


async def test_terminated_backends_cost_no_message(rig: Rig, path: str, database_url: str) -> None:
    async def work(_: Delivery) -> None:
        await asyncio.sleep(0.01)

    rig.behave = work
    rig.broker.create_queue("orders", max_receive_count=20, dead_letter="dlq")
    await rig.send(*(rig.order(n) for n in range(150)))
    consumer = rig.consumer(path, unavailable_backoff_s=0.02)
    async with administrator(database_url) as admin, rig.running(consumer):
        for _ in range(6):
            await asyncio.sleep(0.05)
            await end_sessions(admin, database_url)
        await rig.drained()
    assert sorted(order for order, _ in await rig.charges()) == sorted(f"o-{n}" for n in range(150))


async def test_a_read_only_database_is_a_database_that_is_away(
    rig: Rig, path: str, database_url: str
) -> None:
    name = make_url(database_url).database
    async with administrator(database_url) as admin:
        await admin.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        await rig.send(rig.order(1))
        async with rig.running(rig.consumer(path, unavailable_backoff_s=0.02)):
            await rig.until(lambda: any(d == "database" and r for d, r in rig.health))
            await asyncio.sleep(0.3)
            attempts = rig.subscriber.received
            assert attempts <= 2
            await admin.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
            await end_sessions(admin, database_url)
            await rig.drained()
    assert [order for order, _ in await rig.charges()] == ["o-1"]


async def test_a_lost_reply_to_the_commit_is_decided_by_the_redelivery(rig: Rig) -> None:
    lost: list[bool] = []

    @event.listens_for(rig.engine.sync_engine, "commit")
    def lose(connection: Any) -> None:
        if not lost:
            lost.append(True)
            # Committed by the server, and the client learns of it by a dead connection.
            connection.exec_driver_sql("COMMIT")
            connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    hits = rig.count("onceproof_dedup_hits_total")
    await rig.send(rig.order(1))
    async with rig.running(rig.consumer()):
        await rig.drained()
    assert lost
    assert await rig.charges() == [("o-1", 1)]
    assert rig.count("onceproof_dedup_hits_total") - hits == 1


def drop_once(point: str) -> None:
    fault = {"id": str(uuid4()), "point": point, "action": "drop", "attempt": 1}
    crash_points.arm([Armed.from_json(fault)])


@pytest.mark.parametrize("point", [CONSUMER_BEFORE_CHARGE, CONSUMER_AFTER_CHARGE])
async def test_what_is_dropped_before_the_commit_never_was(rig: Rig, path: str, point: str) -> None:
    drop_once(point)
    await rig.send(rig.order(1))
    async with rig.running(rig.consumer(path)):
        await rig.drained()
    assert await rig.charges() == [("o-1", 2)]
    assert not crash_points.armed()


async def test_a_dropped_ack_comes_again_as_a_duplicate(rig: Rig, path: str) -> None:
    drop_once(CONSUMER_AFTER_COMMIT)
    hits = rig.count("onceproof_dedup_hits_total")
    lost = rig.count("onceproof_messages_processed_total", outcome="ack_lost")
    await rig.send(rig.order(1))
    async with rig.running(rig.consumer(path, visibility_s=1)):
        await rig.drained()
    assert await rig.charges() == [("o-1", 1)]
    assert rig.subscriber.received == 2
    assert rig.count("onceproof_dedup_hits_total") - hits == 1
    assert rig.count("onceproof_messages_processed_total", outcome="ack_lost") - lost == 1


async def test_a_broker_that_is_away_is_asked_slowly_and_reported(rig: Rig) -> None:
    rig.broker.set_unavailable("maintenance")
    async with rig.running(rig.consumer(unavailable_backoff_s=0.1)):
        await rig.until(lambda: rig.subscriber.receives >= 1)
        before = rig.subscriber.receives
        await asyncio.sleep(0.55)
        assert 1 <= rig.subscriber.receives - before <= 7
        assert ("broker", "broker unavailable: maintenance") in rig.health
        rig.broker.set_unavailable(None)
        await rig.send(rig.order(1))
        await rig.drained()
    assert rig.health[-1] == ("broker", None)
    assert await rig.charges() == [("o-1", 1)]


async def test_an_empty_queue_without_long_poll_is_not_a_spin(rig: Rig) -> None:
    async with rig.running(rig.consumer(wait_s=0)):
        await rig.until(lambda: rig.subscriber.receives >= 1)
        before = rig.subscriber.receives
        await asyncio.sleep(0.5)
        assert rig.subscriber.receives - before <= 10


async def test_stop_finishes_what_is_in_work_and_gives_back_the_rest(rig: Rig) -> None:
    release = asyncio.Event()
    at_work: list[str] = []

    async def wait(delivery: Delivery) -> None:
        at_work.append(str(delivery.event.key))
        await release.wait()

    rig.behave = wait
    await rig.send(*(rig.order(n) for n in range(10)))
    async with rig.running(rig.consumer(concurrency=2, prefetch=5)) as stop:
        await rig.until(lambda: len(at_work) == 2 and rig.subscriber.received == 7)
        stop.set()
        async with asyncio.timeout(2):  # at once, not when the handlers are done
            while True:
                depth = await rig.subscriber.depth()
                if depth.visible == 8:
                    break
                await asyncio.sleep(0.01)
        assert depth.in_flight == 2
        release.set()
    assert len(at_work) == 2  # none of the waiting ones was started
    assert len(await rig.charges()) == 2
    assert (await rig.subscriber.depth()).total == 8
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_drain_is_bounded_and_the_message_comes_again_at_once(rig: Rig) -> None:
    async def hang(_: Delivery) -> None:
        await asyncio.Event().wait()

    rig.behave = hang
    await rig.send(rig.order(1))
    async with rig.running(rig.consumer(drain_timeout_s=0.3)) as stop:
        await rig.until(lambda: len(rig.seen) == 1)
        began = time.monotonic()
        stop.set()
    assert 0.3 <= time.monotonic() - began < 2
    assert await rig.charges() == []
    assert (await rig.subscriber.depth()).visible == 1


async def test_an_ack_in_flight_at_the_stop_is_not_lost(rig: Rig) -> None:
    asked = asyncio.Event()
    ack = rig.subscriber.ack

    async def slow_ack(messages: Sequence[Message]) -> list[SettleResult]:
        asked.set()
        await asyncio.sleep(0.2)
        return await ack(messages)

    rig.subscriber.ack = slow_ack  # type: ignore[method-assign]
    await rig.send(rig.order(1))
    async with rig.running(rig.consumer()) as stop:
        await asyncio.wait_for(asked.wait(), 10)
        stop.set()
    assert (await rig.subscriber.depth()).total == 0


async def test_stop_while_the_broker_is_away(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "_LAST_CALL_S", 0.2)
    release = asyncio.Event()

    async def wait(_: Delivery) -> None:
        await release.wait()

    async def never(*_: object) -> list[SettleResult]:
        await asyncio.Event().wait()
        return []

    rig.behave = wait
    await rig.send(*(rig.order(n) for n in range(8)))
    async with rig.running(rig.consumer(concurrency=2, prefetch=6, drain_timeout_s=0.5)) as stop:
        await rig.until(lambda: len(rig.seen) == 2 and rig.subscriber.received == 8)
        rig.subscriber.extend = never  # type: ignore[method-assign, assignment]
        rig.subscriber.ack = never  # type: ignore[method-assign, assignment]
        release.set()
        began = time.monotonic()
        stop.set()
    assert time.monotonic() - began < 2
    assert len(await rig.charges()) == 2
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_stop_while_the_database_is_away_gives_back_what_waits_at_the_gate(
    rig: Rig, database_url: str
) -> None:
    name = make_url(database_url).database
    async with administrator(database_url) as admin:
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await rig.send(*(rig.order(n) for n in range(10)))
        async with rig.running(
            rig.consumer(concurrency=2, prefetch=8, backoff_s=0.01, backoff_max_s=0.01)
        ) as stop:
            await rig.until(lambda: any(d == "database" and r for d, r in rig.health))
            began = time.monotonic()
            stop.set()
        assert time.monotonic() - began < 4
        async with asyncio.timeout(2):
            while True:
                if (await rig.subscriber.depth()).visible == 10:
                    break
                await asyncio.sleep(0.01)
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


async def test_a_stop_during_a_rejection_gives_back_the_good_ones(rig: Rig) -> None:
    rejecting = asyncio.Event()

    async def never(_message: Message, _reason: str) -> None:
        rejecting.set()
        await asyncio.Event().wait()

    async def wait(_: Delivery) -> None:
        await asyncio.Event().wait()

    rig.behave = wait
    rig.subscriber.reject = never  # type: ignore[method-assign, assignment]
    await rig.broker.send("orders", [Outgoing("x", b"not an event")])
    await rig.send(rig.order(1), rig.order(2))
    async with rig.running(rig.consumer(concurrency=1, drain_timeout_s=0.1)) as stop:
        await asyncio.wait_for(rejecting.wait(), 10)
        stop.set()
    depth = await rig.subscriber.depth()
    assert (depth.visible, depth.in_flight) == (2, 1)


async def test_a_duty_that_fails_ends_the_run_with_its_error_and_leaves_no_task(rig: Rig) -> None:
    async def broken(**_: object) -> list[Message]:
        raise ZeroDivisionError("a bug in an adapter")

    rig.subscriber.receive = broken  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(rig.consumer().run(asyncio.Event()), 10)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_cancelled_run_leaves_no_task_and_no_charge(rig: Rig) -> None:
    async def hang(_: Delivery) -> None:
        await asyncio.Event().wait()

    rig.behave = hang
    await rig.send(rig.order(1))
    task = asyncio.create_task(rig.consumer().run(asyncio.Event()))
    await rig.until(lambda: len(rig.seen) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert await rig.charges() == []


async def test_a_handler_whose_connection_died_is_retried(rig: Rig) -> None:
    async def die_once(session: AsyncSession, delivery: Delivery) -> None:
        rig.seen.append(delivery)
        if delivery.attempt == 1:
            pid = await session.scalar(text("SELECT pg_backend_pid()"))
            async with rig.engine.connect() as other:
                await other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            raise TransientError("something else")

    rig.handle = die_once  # type: ignore[method-assign]
    await rig.send(rig.order(1))
    async with rig.running(rig.consumer(unavailable_backoff_s=0.02)):
        await rig.drained()
    assert [delivery.attempt for delivery in rig.seen] == [1, 2]


async def test_a_handler_that_is_cancelled_from_within_fails_and_ends_no_worker(rig: Rig) -> None:
    async def cancelled_once(delivery: Delivery) -> None:
        if delivery.attempt == 1:
            raise asyncio.CancelledError

    rig.behave = cancelled_once
    await rig.send(rig.order(1))
    async with rig.running(rig.consumer()):
        await rig.drained()
    assert [delivery.attempt for delivery in rig.seen] == [1, 2]
    assert len(await rig.charges()) == 1


async def test_what_a_customer_sent_is_in_no_log(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    async def wrong_once(session: AsyncSession, delivery: Delivery) -> None:
        rig.seen.append(delivery)
        if delivery.attempt == 1:
            await session.execute(text("SELECT CAST(:card AS int)"), {"card": "card 4111"})

    rig.handle = wrong_once  # type: ignore[method-assign]
    await rig.send(rig.order(1))
    async with rig.running(rig.consumer()):
        await rig.drained()
    assert "failed at attempt 1" in caplog.text
    assert "[parameters:" not in caplog.text
    assert len(rig.seen) == 2


async def test_a_consumer_without_what_it_needs_is_refused(rig: Rig) -> None:
    settings = ConsumerSettings("c")
    sessions = async_sessionmaker[AsyncSession]()
    with pytest.raises(ConfigurationError, match="needs handle"):
        Consumer(rig.subscriber, sessions, settings=settings)
    with pytest.raises(ConfigurationError, match="runs on"):
        Consumer(rig.subscriber, sessions, effect=rig.effect, settings=settings)
    with pytest.raises(ConfigurationError, match="gets a session"):
        Consumer(rig.subscriber, rig.connections, rig.handle, settings=settings)
    with pytest.raises(ConfigurationError, match="either an effect or handlers"):
        Consumer(rig.subscriber, rig.connections, rig.handle, effect=rig.effect, settings=settings)
