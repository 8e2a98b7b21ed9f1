"""Looking into a DLQ: what it tells, and that everything is there afterwards."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import stat
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from onceproof.brokers import MemoryBroker
from onceproof.brokers.dead_letter import REASON
from onceproof.dlq import (
    Fate,
    HeldDeadLetters,
    Horizon,
    IncompleteSnapshotError,
    Judge,
    Letter,
    SnapshotError,
    Sweep,
    find,
    open_dead_letters,
    sample,
    survey,
    write_snapshot,
)
from onceproof.errors import BrokerUnavailableError, ConfigurationError
from onceproof.events import Event
from onceproof.ports import Message, Outgoing, QueueInfo

NOW = datetime.now(UTC)
DAY = 86400.0
FOREVER = Horizon(float("inf"), "")


@pytest.fixture
def broker() -> MemoryBroker:
    broker = MemoryBroker()
    broker.create_queue("dlq", retention_s=14 * DAY)
    broker.create_queue("orders", max_receive_count=5, dead_letter="dlq", retention_s=4 * DAY)
    return broker


def order(number: int, *, hours: float = 1) -> Event:
    time = NOW - timedelta(hours=hours)
    return Event(type="dev.test", data={"n": number}, key=f"o-{number}", time=time)


async def fill(broker: MemoryBroker, *bodies: bytes, **attributes: str) -> None:
    await broker.send(
        "dlq", [Outgoing(f"{i}", body, None, attributes) for i, body in enumerate(bodies)]
    )


@asynccontextmanager
async def opened(broker: MemoryBroker, **options) -> AsyncIterator[HeldDeadLetters]:
    async with open_dead_letters(
        broker.subscriber("orders"), broker.subscriber, broker,
        **({"hold_s": 30, "wait_s": 0} | options),
    ) as letters:  # fmt: skip
        yield letters


async def visible(broker: MemoryBroker) -> int:
    return (await broker.subscriber("dlq").depth()).visible


def names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


async def test_a_survey_counts_reasons_that_differ_only_in_numbers_together(
    broker: MemoryBroker,
) -> None:
    for number in range(3):
        reason = f"timeout of {number} ms for {order(1).id}"
        await fill(broker, order(number, hours=number + 1).encode(), **{REASON: reason})
    await fill(broker, b"not json", order(9, hours=24 * 30).encode())
    async with opened(broker) as letters:
        found = await survey(Sweep(letters), Horizon.of(letters.source, None), NOW)
    assert (found.looked_at, found.malformed, found.past_window) == (5, 1, 1)
    assert (found.complete, found.elsewhere) == (True, 0)
    assert [(g.type, g.count) for g in found.groups] == [
        ("dev.test", 3),
        (None, 1),
        ("dev.test", 1),
    ]
    first = found.groups[0]
    assert first.reason == "timeout of <n> ms for <id>"
    assert (first.oldest, first.newest) == (NOW - timedelta(hours=3), NOW - timedelta(hours=1))
    assert "no reason recorded" in found.groups[2].reason
    json.dumps([group.as_json() for group in found.groups])
    assert await visible(broker) == 5


async def test_what_somebody_else_holds_is_counted_and_not_seen(broker: MemoryBroker) -> None:
    await fill(broker, *(order(n).encode() for n in range(5)))
    await broker.subscriber("dlq").receive(max_messages=2, wait_s=0, visibility_s=60)
    async with opened(broker) as letters:
        found = await survey(Sweep(letters), FOREVER, NOW)
    assert (found.looked_at, found.elsewhere, found.complete) == (3, 2, False)


async def test_messages_are_visible_again_also_after_an_error_or_a_cancellation(
    broker: MemoryBroker,
) -> None:
    await fill(broker, *(order(n).encode() for n in range(5)))

    async def fail() -> None:
        async with opened(broker) as letters:
            assert len(await letters.take(40)) == 5
            assert await visible(broker) == 0
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await visible(broker) == 5
    taken = asyncio.Event()

    async def look() -> None:
        async with opened(broker) as letters:
            await letters.take(40)
            taken.set()
            await asyncio.Event().wait()

    looking = asyncio.create_task(look())
    await taken.wait()
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    assert await visible(broker) == 5


async def test_a_long_look_keeps_what_it_holds(broker: MemoryBroker) -> None:
    await fill(broker, *(order(n).encode() for n in range(5)))
    async with opened(broker, hold_s=0.3) as letters:
        taken = await letters.take(40)
        seen = await broker.subscriber("dlq").receive(max_messages=9, wait_s=1, visibility_s=1)
        assert seen == []
        assert all(letters.holds(message) for message in taken)
        assert await letters.take(40) == []
    assert await visible(broker) == 5


async def test_without_the_keeper_they_lapse_and_are_not_taken_for_new_ones() -> None:
    now = [0.0]
    broker = MemoryBroker(clock=lambda: now[0])
    broker.create_queue("dlq")
    await fill(broker, *(order(n).encode() for n in range(3)))
    letters = HeldDeadLetters(
        broker.subscriber("dlq"), broker, QueueInfo("orders", 30, DAY),
        hold_s=30, wait_s=0, clock=lambda: now[0],
    )  # fmt: skip
    taken = await letters.take(40)
    now[0] = 31.0
    assert not any(letters.holds(message) for message in taken)
    await letters.extend_due()  # the receipts lapsed, but nobody took the messages meanwhile
    now[0] = 70.0
    assert await letters.take(40) == []
    assert letters.held == 3
    results = await letters.remove(taken)  # under the receipts of the second delivery
    assert all(result.ok for result in results)


async def test_a_dlq_that_looking_would_change_is_refused(broker: MemoryBroker) -> None:
    with pytest.raises(ConfigurationError, match="no dead-letter queue"):
        async with open_dead_letters(broker.subscriber("dlq"), broker.subscriber, broker):
            pass
    broker.create_queue("last", retention_s=DAY)
    broker.create_queue("dlq", max_receive_count=3, dead_letter="last")
    broker.create_queue("orders", max_receive_count=5, dead_letter="dlq")
    with pytest.raises(ConfigurationError, match="redrive policy of its own"):
        async with opened(broker):
            pass


async def test_find_by_any_name(broker: MemoryBroker) -> None:
    events = [order(n) for n in range(60)]
    await fill(broker, *(event.encode() for event in events))
    async with opened(broker) as letters:
        by_key = await find(Sweep(letters), "o-41")
    assert by_key is not None
    for name in (by_key.id, events[41].id):
        async with opened(broker) as letters:
            found = await find(Sweep(letters), name)
        assert found is not None
        assert found.event == events[41]
    async with opened(broker) as letters:
        assert await find(Sweep(letters), "nobody") is None
    assert await visible(broker) == 60


async def test_a_sample_is_drawn_from_all(broker: MemoryBroker) -> None:
    await fill(broker, *(order(n).encode() for n in range(30)))
    drawn: Counter[str | None] = Counter()
    for seed in range(60):
        async with opened(broker) as letters:
            chosen = await sample(Sweep(letters), 5, random.Random(seed))
        assert len({letter.id for letter in chosen}) == 5
        drawn.update(letter.key for letter in chosen)
    assert len(drawn) == 30
    assert max(drawn.values()) < 25
    async with opened(broker) as letters:
        assert len(await sample(Sweep(letters), 100, random.Random(0))) == 30


async def test_fates() -> None:
    async def inbox(ids) -> set[str]:
        return {charged.id, old_charged.id} & set(ids)

    new, charged = order(1), order(2)
    old, old_charged = order(3, hours=24 * 60), order(4, hours=24 * 60)
    bodies = [event.encode() for event in (new, charged, old, old_charged)] + [b"\xff"]
    letters = [Letter.of(Message(body, f"m-{i}", "", 1, 0)) for i, body in enumerate(bodies)]
    horizon = Horizon(35 * DAY, "")
    judged = await Judge(horizon, inbox).judge(letters, NOW)
    assert [j.fate for j in judged] == [
        Fate.WOULD_CHARGE, Fate.ALREADY_CHARGED, Fate.PAST_WINDOW, Fate.ALREADY_CHARGED,
        Fate.MALFORMED,
    ]  # fmt: skip
    assert [j.past_window for j in judged] == [False, False, True, True, False]
    judged = await Judge(horizon, None).judge(letters, NOW)
    assert [j.fate for j in judged[:3]] == [Fate.UNCHECKED, Fate.UNCHECKED, Fate.PAST_WINDOW]


def test_the_horizon() -> None:
    queue = QueueInfo("orders", 30, 4 * DAY, 5, QueueInfo("dlq", 30, 14 * DAY))
    assert Horizon.of(queue, None).max_age_s == 18 * DAY
    assert Horizon.of(queue, 35 * DAY).max_age_s == 31 * DAY
    assert Horizon.of(queue, DAY).is_past(0)  # shorter than the wait in the queue: never safe
    forever = QueueInfo("orders", 30, float("inf"), 5, QueueInfo("dlq", 30, float("inf")))
    assert not Horizon.of(forever, None).known
    assert Horizon.of(forever, 35 * DAY).max_age_s == 35 * DAY
    assert Horizon.of(forever, 35 * DAY).is_past(None)


def test_a_producer_whose_clock_is_ahead_makes_nothing_younger() -> None:
    event = Event(type="t", data={}, time=NOW + timedelta(days=400))
    sent_at = NOW - timedelta(days=2)
    letter = Letter.of(Message(event.encode(), "m", "", 1, 0, sent_at=sent_at))
    assert letter.born == sent_at
    assert letter.age_s(NOW) == 2 * DAY


async def test_a_snapshot_has_every_byte_and_says_that_it_is_complete(
    broker: MemoryBroker, tmp_path: Path
) -> None:
    event = Event(type="dev.test", data={"note": "Zoë \u2028 😀"}, key="o-1")
    await fill(broker, *(order(n).encode() for n in range(95)))
    await fill(broker, event.encode(), b"\xff\xfe", **{REASON: "why"})
    path = tmp_path / "before.jsonl"
    async with opened(broker) as letters:
        written = await write_snapshot(path, letters, Sweep(letters))
    assert (written.messages, written.complete) == (97, True)
    *lines, foot = path.read_bytes().splitlines(keepends=True)
    assert json.loads(lines[0])["queue"] == "orders"
    assert json.loads(foot) == {
        "messages": 97, "complete": True, "sha256": hashlib.sha256(b"".join(lines)).hexdigest(),
    }  # fmt: skip
    documents = {d["key"]: d for d in map(json.loads, lines[1:]) if d["key"]}
    assert documents["o-1"]["reason"] == "why"
    assert {"body_base64"} == {
        name
        for line in lines[1:]
        if b"_base64" in line
        for name in json.loads(line)
        if "body" in name
    }
    bodies = [json.loads(line).get("body", "").encode() for line in lines[1:]]
    assert event.encode() in bodies
    assert len(set(bodies)) == 97
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["before.jsonl"]
    assert await visible(broker) == 97


async def test_a_snapshot_overwrites_nothing(broker: MemoryBroker, tmp_path: Path) -> None:
    path = tmp_path / "before.jsonl"
    path.write_text("precious")
    async with opened(broker) as letters:
        with pytest.raises(SnapshotError, match="exists already"):
            await write_snapshot(path, letters, Sweep(letters))
        path.unlink()

        def appear(_count: int) -> None:
            path.write_text("precious")

        await fill(broker, order(1).encode())
        with pytest.raises(SnapshotError, match="exists already"):
            await write_snapshot(path, letters, Sweep(letters), on_progress=appear)
    assert path.read_text() == "precious"
    assert names(tmp_path) == ["before.jsonl"]


async def test_a_snapshot_that_fails_leaves_no_file(broker: MemoryBroker, tmp_path: Path) -> None:
    await fill(broker, *(order(n).encode() for n in range(50)))
    path = tmp_path / "before.jsonl"
    async with opened(broker) as letters:
        with pytest.raises(BrokerUnavailableError):
            await write_snapshot(
                path, letters, Sweep(letters), on_progress=lambda _: broker.set_unavailable("off")
            )
        broker.set_unavailable(None)
        with pytest.raises(SnapshotError, match="cannot be written"):
            await write_snapshot(tmp_path / "no" / "folder", letters, Sweep(letters))
    assert names(tmp_path) == []


async def test_an_incomplete_snapshot_is_none_unless_that_is_wanted(
    broker: MemoryBroker, tmp_path: Path
) -> None:
    await fill(broker, *(order(n).encode() for n in range(5)))
    await broker.subscriber("dlq").receive(max_messages=2, wait_s=0, visibility_s=60)
    path = tmp_path / "before.jsonl"
    async with opened(broker) as letters:
        with pytest.raises(IncompleteSnapshotError, match="2 of about 5 messages are held"):
            await write_snapshot(path, letters, Sweep(letters))
    assert names(tmp_path) == []
    async with opened(broker) as letters:
        written = await write_snapshot(path, letters, Sweep(letters), allow_incomplete=True)
    assert (written.messages, written.complete, written.elsewhere) == (3, False, 2)
    assert json.loads(path.read_text().splitlines()[-1])["complete"] is False
