"""What a redrive sends, what it refuses, and how it ends; on the broker in memory."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from onceproof.brokers import MemoryBroker
from onceproof.brokers.dead_letter import ORIGINAL_ID, REASON
from onceproof.dlq import (
    CAME_AGAIN,
    AuditLogError,
    Fate,
    HeldDeadLetters,
    Horizon,
    Judge,
    Only,
    Redrive,
    RedriveSettings,
    Summary,
    Sweep,
    forecast,
    open_audit_log,
    open_dead_letters,
    read_trail,
)
from onceproof.dlq.pace import Pace
from onceproof.errors import BrokerUnavailableError, ConfigurationError
from onceproof.events import MAX_EVENT_BYTES, Event
from onceproof.ports import Message, Outgoing, SettleResult
from onceproof.telemetry import REDRIVE

DAY = 86400.0


class Rig:
    """A queue with a DLQ, an inbox, and a log."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.broker = MemoryBroker()
        self.broker.create_queue("dlq", retention_s=14 * DAY)
        self.broker.create_queue(
            "orders", max_receive_count=5, dead_letter="dlq", retention_s=4 * DAY
        )
        self.inbox: set[str] = set()
        self.asks_inbox = True
        self.retention_s: float | None = None

    def order(self, number: int, *, age_s: float = 60) -> Event:
        time = datetime.now(UTC) - timedelta(seconds=age_s)
        return Event(type="dev.test", data={"n": number}, key=f"o-{number}", time=time)

    async def dead_letter(self, *events: Event | bytes, **attributes: str) -> None:
        bodies = [e if isinstance(e, bytes) else e.encode() for e in events]
        results = await self.broker.send(
            "dlq", [Outgoing(f"m-{i}", body, None, attributes) for i, body in enumerate(bodies)]
        )
        assert all(result.ok for result in results)

    async def processed(self, event_ids) -> set[str]:
        return self.inbox & set(event_ids)

    @asynccontextmanager
    async def opened(self, **options) -> AsyncIterator[tuple[HeldDeadLetters, Judge]]:
        async with open_dead_letters(
            self.broker.subscriber("orders"), self.broker.subscriber, self.broker,
            **({"hold_s": 30, "wait_s": 0} | options),
        ) as letters:  # fmt: skip
            horizon = Horizon.of(letters.source, self.retention_s)
            yield letters, Judge(horizon, self.processed if self.asks_inbox else None)

    async def redrive(self, *, stop: asyncio.Event | None = None, **options) -> Summary:
        settings = RedriveSettings(
            **({"rate_per_s": 1e9, "patience_s": 0, "backoff_s": 0} | options)
        )
        with open_audit_log(self.log) as audit:
            async with self.opened() as (letters, judge):
                redrive = Redrive(letters, judge, audit, settings)
                return await redrive.run(stop or asyncio.Event())

    async def ids(self) -> list[str]:
        """Ids of the messages in the DLQ."""
        messages = await self.broker.subscriber("dlq").receive(
            max_messages=1000, wait_s=0, visibility_s=0
        )
        return [message.message_id for message in messages]

    async def received(self, queue: str) -> list[Message]:
        return await self.broker.subscriber(queue).receive(
            max_messages=1000, wait_s=0, visibility_s=600
        )


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "audit.jsonl")


async def test_the_same_bytes_go_back_without_the_reason_and_with_the_redrives_name(
    rig: Rig,
) -> None:
    event = rig.order(1)
    await rig.dead_letter(event, **{REASON: "refused", ORIGINAL_ID: "m-0", "tenant": "a"})
    summary = await rig.redrive()
    (message,) = await rig.received("orders")
    assert message.body == event.encode()
    assert message.attributes == {"tenant": "a", REDRIVE: summary.redrive}
    assert await rig.received("dlq") == []
    assert summary == Summary(summary.redrive, False, 1, 1, 0, 0)


async def test_the_name_is_left_out_where_it_does_not_fit(rig: Rig) -> None:
    attributes = {f"a{i}": str(i) for i in range(8)}
    await rig.dead_letter(rig.order(1), **attributes)
    padding = MAX_EVENT_BYTES - len(rig.order(2).encode()) - 20
    large = Event(type="dev.test", data="x" * (padding - 20), key="o-2")
    await rig.dead_letter(large)
    await rig.redrive()
    sent = {message.body: message.attributes for message in await rig.received("orders")}
    assert sent[large.encode()] == {}
    assert attributes in sent.values()


async def test_only_not_charged_leaves_the_charged_ones_and_makes_them_visible_again(
    rig: Rig,
) -> None:
    events = [rig.order(n) for n in range(20)]
    rig.inbox = {event.id for event in events[:7]}
    await rig.dead_letter(*events)
    summary = await rig.redrive(only=Only.NOT_CHARGED)
    assert (summary.sent, summary.left) == (13, {Fate.ALREADY_CHARGED: 7})
    left = {Event.decode(message.body).id for message in await rig.received("dlq")}
    assert left == rig.inbox


async def test_the_charged_ones_go_as_well_unless_told_otherwise(rig: Rig) -> None:
    event = rig.order(1)
    rig.inbox = {event.id}
    await rig.dead_letter(event)
    assert (await rig.redrive()).sent == 1
    assert '"fate":"already_charged"' in rig.log.read_text()


async def test_what_is_no_event_stays(rig: Rig) -> None:
    await rig.dead_letter(b"not json", rig.order(1))
    summary = await rig.redrive()
    assert (summary.sent, summary.left) == (1, {Fate.MALFORMED: 1})
    assert [message.body for message in await rig.received("dlq")] == [b"not json"]


@pytest.mark.parametrize("charged", [True, False])
async def test_an_event_that_the_inbox_may_have_forgotten_is_refused(
    rig: Rig, charged: bool
) -> None:
    young, old = rig.order(1, age_s=17.9 * DAY), rig.order(2, age_s=18.1 * DAY)
    if charged:
        rig.inbox = {old.id}
    await rig.dead_letter(young, old)
    summary = await rig.redrive()
    assert (summary.sent, summary.left) == (1, {Fate.PAST_WINDOW: 1})
    assert (await rig.redrive(past_dedup_window=True)).sent == 1
    sent = {Event.decode(message.body).id for message in await rig.received("orders")}
    assert sent == {young.id, old.id}


async def test_the_consumers_own_retention_moves_the_limit(rig: Rig) -> None:
    await rig.dead_letter(rig.order(1, age_s=30 * DAY))
    rig.retention_s = 33 * DAY  # less the four that it may wait in the queue
    assert (await rig.redrive()).left == {Fate.PAST_WINDOW: 1}
    rig.retention_s = 35 * DAY
    assert (await rig.redrive()).sent == 1


async def test_an_event_without_a_time_may_be_any_age(rig: Rig) -> None:
    await rig.dead_letter(b'{"specversion":"1.0","id":"e","source":"/x","type":"t"}')
    assert (await rig.redrive()).left == {Fate.PAST_WINDOW: 1}
    assert (await rig.redrive(past_dedup_window=True)).sent == 1


async def test_what_cannot_be_decided_is_refused_before_anything_is_done(rig: Rig) -> None:
    await rig.dead_letter(rig.order(1))
    rig.asks_inbox = False
    with pytest.raises(ConfigurationError, match="--database-url"):
        await rig.redrive(only=Only.NOT_CHARGED)
    rig.broker.create_queue(
        "orders", max_receive_count=5, dead_letter="dlq", retention_s=float("inf")
    )
    with pytest.raises(ConfigurationError, match="--inbox-retention"):
        await rig.redrive()
    assert not read_trail(rig.log).queue
    rig.retention_s = 35 * DAY
    assert (await rig.redrive()).sent == 1


async def test_what_fails_again_does_not_go_round(rig: Rig) -> None:
    await rig.dead_letter(*(rig.order(n) for n in range(30)))
    stop = asyncio.Event()

    async def reject_everything() -> None:
        subscriber = rig.broker.subscriber("orders")
        while not stop.is_set():
            for message in await subscriber.receive(max_messages=5, wait_s=0.05, visibility_s=30):
                await subscriber.reject(message, "still broken")

    consumer = asyncio.create_task(reject_everything())
    async with asyncio.timeout(20):
        summary = await rig.redrive(patience_s=0)
        stop.set()
        await consumer
    assert summary.sent == 30
    assert set(summary.left) <= {CAME_AGAIN}
    dead = await rig.received("dlq")
    assert len(dead) + len(await rig.received("orders")) == 30


async def test_a_second_copy_of_an_event_waits_for_the_next_redrive(rig: Rig) -> None:
    event = rig.order(1)
    await rig.dead_letter(event, event)
    summary = await rig.redrive()
    assert (summary.sent, summary.left) == (1, {CAME_AGAIN: 1})
    assert (await rig.redrive()).sent == 1


async def test_no_more_than_asked_for(rig: Rig) -> None:
    await rig.dead_letter(*(rig.order(n) for n in range(25)))
    summary = await rig.redrive(most=12)
    assert (summary.sent, summary.deleted, summary.stopped) == (12, 12, None)
    assert len(await rig.received("dlq")) == 13


async def test_a_queue_that_takes_nothing_stops_it_and_the_next_one_resumes(rig: Rig) -> None:
    await rig.dead_letter(*(rig.order(n) for n in range(40)))
    for message_id in await rig.ids():
        rig.broker.fail_next_send([message_id] * 3, "switched off")
    with pytest.raises(BrokerUnavailableError, match="'orders' takes nothing: switched off"):
        await rig.redrive()
    trail = read_trail(rig.log)
    assert trail.open is not None
    assert len(trail.not_sent) == 30  # three batches, and not all of them
    assert (await rig.broker.subscriber("dlq").depth()).visible == 40
    rig.broker._failures.clear()
    summary = await rig.redrive()
    assert (summary.resumed, summary.sent, summary.stopped) == (True, 40, None)


async def test_one_message_that_is_refused_for_good_does_not_stop_the_others(rig: Rig) -> None:
    await rig.dead_letter(*(rig.order(n) for n in range(12)))
    rig.broker.fail_next_send([(await rig.ids())[0]] * 3, "refused")
    summary = await rig.redrive()
    assert (summary.sent, summary.not_sent) == (11, 1)
    assert summary.stopped == "1 messages could not be sent"
    summary = await rig.redrive()
    assert (summary.resumed, summary.sent, summary.not_sent, summary.stopped) == (True, 12, 0, None)


class OneByOne(Pace):
    at_once = 1


async def test_a_queue_that_keeps_order_gets_nothing_past_a_message_that_failed(rig: Rig) -> None:
    events = [Event(type="t", data={"n": n}, key=f"k-{n % 2}") for n in range(6)]
    await rig.dead_letter(*events)
    rig.broker.fail_next_send([(await rig.ids())[0]] * 3, "refused")
    source = replace(await rig.broker.subscriber("orders").describe(), keeps_order=True)
    letters = HeldDeadLetters(rig.broker.subscriber("dlq"), rig.broker, source, hold_s=30, wait_s=0)
    settings = RedriveSettings(rate_per_s=1e9, patience_s=0, backoff_s=0)
    judge = Judge(Horizon.of(source, None), None)
    for sent in (3, 6):
        with open_audit_log(rig.log) as audit:
            redrive = Redrive(letters, judge, audit, settings, pace=OneByOne(1e9))
            assert (await redrive.run(asyncio.Event())).sent == sent
        await letters.give_back_all()
    received = [json.loads(m.body)["data"]["n"] for m in await rig.received("orders")]
    assert received == [1, 3, 5, 0, 2, 4]


class Undeletable(HeldDeadLetters):
    """Its broker does not confirm the first deletions."""

    failures = 2

    async def remove(self, messages: Sequence[Message]) -> list[SettleResult]:
        if self.failures:
            self.failures -= 1
            return [SettleResult(message.message_id, error="no answer") for message in messages]
        return await super().remove(messages)


@pytest.mark.parametrize(("failures", "unconfirmed"), [(2, 0), (99, 3)])
async def test_what_was_sent_and_not_deleted_is_deleted_and_not_sent_again(
    rig: Rig, failures: int, unconfirmed: int
) -> None:
    await rig.dead_letter(*(rig.order(n) for n in range(3)))
    source = await rig.broker.subscriber("orders").describe()
    letters = Undeletable(rig.broker.subscriber("dlq"), rig.broker, source, hold_s=30, wait_s=0)
    letters.failures = failures
    settings = RedriveSettings(rate_per_s=1e9, patience_s=0, backoff_s=0)
    with open_audit_log(rig.log) as audit:
        judge = Judge(Horizon.of(source, None), None)
        summary = await Redrive(letters, judge, audit, settings).run(asyncio.Event())
        await letters.give_back_all()
    assert (summary.sent, summary.unconfirmed) == (3, unconfirmed)
    assert bool(summary.stopped) is bool(unconfirmed)
    summary = await rig.redrive()
    assert summary.unconfirmed == 0
    assert len(await rig.received("orders")) == 3
    assert await rig.received("dlq") == []


async def test_a_log_that_cannot_be_written_stops_it_before_the_step(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.dead_letter(*(rig.order(n) for n in range(5)))
    write = os.write
    with monkeypatch.context() as patch:

        def full_after_the_start(descriptor: int, data: bytes) -> int:
            if b'"started"' in data:
                return write(descriptor, data)
            raise OSError(28, "No space left on device")

        patch.setattr(os, "write", full_after_the_start)
        with pytest.raises(AuditLogError, match="No space left"):
            await rig.redrive()
    assert (await rig.broker.subscriber("orders").depth()).total == 0
    assert (await rig.broker.subscriber("dlq").depth()).visible == 5
    summary = await rig.redrive()
    assert (summary.resumed, summary.sent) == (True, 5)


async def test_a_stop_gives_back_what_was_not_sent(rig: Rig) -> None:
    await rig.dead_letter(*(rig.order(n) for n in range(30)))
    stop = asyncio.Event()
    stop.set()
    summary = await rig.redrive(stop=stop)
    assert (summary.sent, summary.stopped) == (0, "on request")
    stop = asyncio.Event()
    running = asyncio.create_task(rig.redrive(stop=stop, rate_per_s=5))
    await rig.broker.subscriber("orders").receive(max_messages=1, wait_s=10, visibility_s=600)
    stop.set()
    async with asyncio.timeout(1):  # and not until the next ones were due
        summary = await running
    assert summary.resumed
    assert summary.sent == summary.deleted == 5
    assert (await rig.broker.subscriber("dlq").depth()).visible == 25


async def test_what_somebody_else_holds_makes_it_incomplete(rig: Rig) -> None:
    await rig.dead_letter(*(rig.order(n) for n in range(3)))
    await rig.broker.subscriber("dlq").receive(max_messages=1, wait_s=0, visibility_s=600)
    summary = await rig.redrive()
    assert (summary.sent, summary.elsewhere) == (2, 1)
    assert summary.stopped == "1 messages are held by somebody else"


async def test_it_waits_for_what_a_killed_one_held(rig: Rig) -> None:
    await rig.dead_letter(*(rig.order(n) for n in range(3)))
    await rig.broker.subscriber("dlq").receive(max_messages=1, wait_s=0, visibility_s=0.3)
    summary = await rig.redrive(patience_s=10)
    assert (summary.sent, summary.elsewhere, summary.stopped) == (3, 0, None)


async def test_what_lapsed_before_its_turn_is_not_sent(rig: Rig) -> None:
    now = [100.0]
    rig.broker = MemoryBroker(clock=lambda: now[0])
    rig.broker.create_queue("dlq")
    rig.broker.create_queue("orders", max_receive_count=5, dead_letter="dlq")
    await rig.dead_letter(*(rig.order(n) for n in range(2)))
    source = await rig.broker.subscriber("orders").describe()
    letters = HeldDeadLetters(
        rig.broker.subscriber("dlq"), rig.broker, source,
        hold_s=30, wait_s=0, clock=lambda: now[0],
    )  # fmt: skip

    async def stall(_event_ids) -> set[str]:
        if now[0] == 100.0:
            now[0] += 29.5  # nobody extended meanwhile
        return set()

    with open_audit_log(rig.log) as audit:
        settings = RedriveSettings(rate_per_s=1e9, patience_s=0, backoff_s=0)
        judge = Judge(Horizon.of(source, None), stall)
        summary = await Redrive(letters, judge, audit, settings).run(asyncio.Event())
    assert summary.sent == 2
    sends = [line for line in rig.log.read_text().splitlines() if '"sending"' in line]
    assert len(sends) == 2  # each once: those that lapsed were taken anew before they were sent
    assert all(m.attempt == 1 for m in await rig.received("orders"))


async def test_a_dry_run_foretells_and_changes_nothing(rig: Rig) -> None:
    events = [rig.order(n) for n in range(10)]
    rig.inbox = {events[0].id}
    await rig.dead_letter(*events, b"not json", rig.order(99, age_s=100 * DAY))
    async with rig.opened() as (letters, judge):
        settings = RedriveSettings(rate_per_s=2, most=6)
        found = await forecast(Sweep(letters), judge, settings)
    assert found.complete
    assert found.sends == 6
    assert found.takes_s == 3
    assert found.left == {Fate.MALFORMED: 1, Fate.PAST_WINDOW: 1, "beyond_max": 4}
    assert (await rig.broker.subscriber("dlq").depth()).visible == 12
    assert (await rig.broker.subscriber("orders").depth()).total == 0


async def test_the_pace_has_no_burst_after_a_pause() -> None:
    now = [0.0]
    pace = Pace(4, clock=lambda: now[0])
    assert pace.at_once == 4
    assert (Pace(0.5).at_once, Pace(1000).at_once) == (1, 10)
    stop = asyncio.Event()
    assert await pace.wait(4, stop)
    stop.set()
    # The next four are due a second later, which is not waited for once it is stopped.
    assert not await pace.wait(4, stop)
    now[0] = 1000.0
    await pace.wait(4, stop)
    assert pace._next == 1001.0
