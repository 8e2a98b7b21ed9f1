"""A relay's way through the table, on one in memory: late commits and failures in any order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onceproof.errors import DatabaseUnavailableError
from onceproof.outbox.floor import Floor
from onceproof.outbox.scan import Scan
from onceproof.outbox.store import Claim, OutboxRow, OutboxStore

WINDOW = 7


@dataclass
class Table:
    """Rows by `seq`: open (not committed), pending (free or not before a time), or claimed."""

    now: float = 0.0
    last_seq: int = 0
    open: set[int] = field(default_factory=set)
    pending: dict[int, float] = field(default_factory=dict)
    looks: int = 0
    floor: Floor = field(default_factory=Floor)

    def insert(self, *, committed: bool) -> int:
        self.last_seq += 1
        if committed:
            self.pending[self.last_seq] = 0.0
        else:
            self.open.add(self.last_seq)
        return self.last_seq

    def refresh(self) -> None:
        """What `Floor` finds out: below the oldest open row everything has ended."""
        self.floor.complete = min(self.open, default=self.last_seq + 1) - 1
        self.floor.value = min((*self.pending, self.floor.complete + 1))

    async def claim_from(self, seq: int, batch_size: int, _lease_s: float) -> Claim:
        self.looks += 1
        start = max(seq, self.floor.value)
        free = sorted(
            s for s, at in self.pending.items() if start <= s < start + WINDOW and at <= self.now
        )[:batch_size]
        for one in free:
            del self.pending[one]
        rows = [OutboxRow(f"e-{s}", s, "q", None, "{}", None, 1, datetime.now(UTC)) for s in free]
        if len(rows) == batch_size:
            return Claim(rows, rows[-1].seq + 1)
        return Claim(rows, min((s for s in self.pending if s >= start + WINDOW), default=None))

    async def claim_these(self, seqs: list[int], _lease_s: float) -> list[OutboxRow]:
        raise AssertionError(seqs)


class Told(Table):
    """One that believes whoever says that rows are free."""

    async def claim_these(self, seqs: list[int], _lease_s: float) -> list[OutboxRow]:
        return [OutboxRow("e", s, "q", "k", "{}", None, 1, datetime.now(UTC)) for s in seqs]


def scan_of(table: Table, batch_size: int = 3) -> Scan:
    return Scan(
        cast("OutboxStore", table), batch_size=batch_size, lease_s=1, sweep_s=1.0,
        clock=lambda: table.now,
    )  # fmt: skip


async def take_all(scan: Scan) -> list[int]:
    """What a relay that was woken finds before it waits again."""
    found: list[int] = []
    while True:
        found += [row.seq for row in await scan.next()]
        if not scan.unfinished:
            return found


STEPS = st.lists(
    st.one_of(
        st.just("committed"), st.just("open"), st.just("commit one"), st.just("roll back one"),
        st.just("refresh"), st.just("look"), st.just("fail one"), st.just("time"),
    ),
    max_size=80,
)  # fmt: skip


class Story:
    """Steps in any order, and what came of them."""

    def __init__(self, batch_size: int) -> None:
        self.table = Table()
        self.scan = scan_of(self.table, batch_size)
        self.claimed: list[int] = []
        self.committed: set[int] = set()

    async def step(self, name: str) -> None:
        table = self.table
        match name:
            case "committed":
                self.committed.add(table.insert(committed=True))
            case "open":
                table.insert(committed=False)
            case "commit one" if table.open:
                late = table.open.pop()
                table.pending[late] = 0.0
                self.committed.add(late)
            case "roll back one" if table.open:
                table.open.pop()
            case "refresh":
                table.refresh()
            case "look":
                self.claimed += [row.seq for row in await self.scan.next()]
            case "fail one" if self.claimed:
                failed = self.claimed.pop()
                table.pending[failed] = table.now + 0.5
                table.floor.value = min(table.floor.value, failed)  # it was pending throughout
            case "time":
                table.now += 0.4

    async def end(self) -> None:
        # A sweep that is under way may be past a row that failed since; the next one is not.
        for _ in range(2):
            self.table.now += 1000
            self.claimed += await take_all(self.scan)


@settings(max_examples=400, deadline=None)
@given(STEPS, st.integers(1, 5))
def test_every_committed_row_is_claimed_once_whatever_the_order_of_commits(
    steps: list[str], batch_size: int
) -> None:
    async def run() -> Story:
        story = Story(batch_size)
        for name in steps:
            await story.step(name)
        await story.end()
        return story

    story = asyncio.run(run())
    assert sorted(story.claimed) == sorted(story.committed)


async def test_what_was_committed_before_a_look_is_found_by_it() -> None:
    table = Table()
    scan = scan_of(table)
    for _ in range(3):
        added = [table.insert(committed=True) for _ in range(10)]
        assert await take_all(scan) == added
        table.refresh()


async def test_a_late_commit_is_found_by_the_sweep_and_not_before() -> None:
    table = Table()
    scan = scan_of(table)
    await take_all(scan)
    late = table.insert(committed=False)
    early = table.insert(committed=True)
    table.refresh()
    assert await take_all(scan) == [early]
    table.open.clear()
    table.pending[late] = 0.0
    assert await take_all(scan) == [late]  # the tail did not pass it: it was open then


async def test_a_row_that_failed_waits_for_the_sweep() -> None:
    table = Table()
    scan = scan_of(table)
    first = table.insert(committed=True)
    table.refresh()
    assert await take_all(scan) == [first]
    table.refresh()
    await take_all(scan)
    table.pending[first] = 0.0
    table.floor.value = first
    assert await take_all(scan) == []
    table.now += 1.1
    assert await take_all(scan) == [first]


async def test_a_sweep_goes_on_between_the_batches_of_a_long_backlog() -> None:
    table = Table()
    scan = scan_of(table, batch_size=2)
    late = table.insert(committed=False)
    for _ in range(100):
        table.insert(committed=True)
    for _ in range(5):
        assert await scan.next()
    table.open.clear()
    table.pending[late] = 0.0
    table.now += 1.1
    found = [row.seq for _ in range(2) for row in await scan.next()]
    assert late in found
    assert len(table.pending) > 50  # the backlog is far from done


async def test_a_new_server_is_looked_at_from_the_start() -> None:
    table = Table()
    scan = scan_of(table)
    for _ in range(5):
        table.insert(committed=True)
    table.refresh()
    await take_all(scan)
    table.refresh()
    await take_all(scan)
    # A standby took over that had not got everything: the same numbers are given again.
    table.last_seq = 1
    table.floor.value = table.floor.complete = 0
    table.floor.epoch += 1
    again = table.insert(committed=True)
    assert await take_all(scan) == [again]


async def test_rows_told_to_be_free_come_first_and_a_wake_up_is_not_forgotten() -> None:
    table = Told()
    scan = scan_of(table)
    await take_all(scan)
    added = table.insert(committed=True)
    scan.free([77])
    assert await take_all(scan) == [77, added]


async def test_keys_that_go_on_after_every_batch_do_not_starve_the_others() -> None:
    table = Told()
    scan = scan_of(table, batch_size=2)
    await take_all(scan)
    failed, first = table.insert(committed=True), table.insert(committed=False)
    table.pending[failed] = 0.5
    added = [table.insert(committed=True) for _ in range(4)]
    table.now += 1.1
    found: list[int] = []
    for _ in range(8):
        scan.free([77, 78])  # as a mark does that found the next ones of two keys
        found += [row.seq for row in await scan.next()]
    assert set(found) - {77, 78} == {failed, *added}
    assert first in table.open
    assert found.count(77) == 4


async def test_who_is_told_in_the_middle_of_a_pass_makes_another_one() -> None:
    table = Table()
    scan = scan_of(table, batch_size=2)
    await take_all(scan)
    before = scan.passes
    late = table.insert(committed=False)
    for _ in range(3):
        table.insert(committed=True)
    assert [row.seq for row in await scan.next()] == [2, 3]
    table.open.clear()
    table.pending[late] = 0.0
    scan.told()
    assert await take_all(scan) == [4, late]
    assert scan.passes == before + 2


async def test_an_outage_in_the_middle_of_a_sweep_does_not_put_off_the_next() -> None:
    class Away(Table):
        away = False

        async def claim_from(self, seq: int, batch_size: int, lease_s: float) -> Claim:
            self.now += 0.01
            if self.away:
                raise DatabaseUnavailableError("gone")
            return await super().claim_from(seq, batch_size, lease_s)

    table = Away()
    scan = scan_of(table, batch_size=1)
    for _ in range(20):
        table.insert(committed=True)
    await take_all(scan)
    table.refresh()
    await take_all(scan)  # all of them are behind the tail now
    table.pending |= {3: 0.0, 12: 0.0}
    table.floor.value = 3
    table.now += 1.1
    assert [row.seq for row in await scan.next()] == [3]
    table.away = True
    with pytest.raises(DatabaseUnavailableError):
        await scan.next()
    table.now += 60
    table.away = False
    assert await take_all(scan) == [12]
    table.pending[5] = 0.0
    table.now += 1.1
    assert await take_all(scan) == [5]
