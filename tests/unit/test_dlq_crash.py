"""A redrive is killed at every step it takes, resumed, and killed again: nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from onceproof.brokers import MemoryBroker
from onceproof.dlq import (
    AuditLog,
    HeldDeadLetters,
    Horizon,
    Judge,
    Only,
    Redrive,
    RedriveSettings,
    Summary,
    Trail,
    open_audit_log,
)
from onceproof.errors import MalformedEventError
from onceproof.events import Event
from onceproof.ports import Message, Outgoing, QueueDepth, QueueInfo, SendResult, SettleResult

# The checker is beside the packages, not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.dlq_audit import audit_problems, starts

HOLD_S = 30.0
MALFORMED = (b"not json", b'{"specversion": "1.0"}')


@pytest.fixture(autouse=True, scope="module")
def _no_power_cut():
    """A killed process loses nothing that it wrote; thousands of fsyncs would prove nothing here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _descriptor: None)
        yield


class Killed(BaseException):
    """SIGKILL: no handler of the code under test may run on, and none that runs does anything."""


@dataclass
class Fuse:
    """Kills at the given step, and whatever is tried after it is dead as well."""

    at: int | None = None
    steps: int = 0

    def step(self) -> None:
        self.steps += 1
        if self.at is not None and self.steps >= self.at:
            raise Killed

    @property
    def burns_next(self) -> bool:
        return self.at is not None and self.steps + 1 == self.at


class FragileLetters:
    """Dies before or after any call, and between two messages of one."""

    def __init__(self, inner: HeldDeadLetters, fuse: Fuse) -> None:
        self._inner = inner
        self._fuse = fuse

    @property
    def source(self) -> QueueInfo:
        return self._inner.source

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def held(self) -> int:
        return self._inner.held

    def holds(self, message: Message) -> bool:
        return self._inner.holds(message)

    async def take(self, limit: int) -> list[Message]:
        self._fuse.step()
        taken = await self._inner.take(limit)
        self._fuse.step()
        return taken

    async def give_back(self, messages: Sequence[Message]) -> None:
        self._fuse.step()
        await self._inner.give_back(messages)

    async def resend(self, messages: Sequence[Outgoing]) -> list[SendResult]:
        results = []
        for message in messages:
            self._fuse.step()
            results += await self._inner.resend([message])
        self._fuse.step()
        return results

    async def remove(self, messages: Sequence[Message]) -> list[SettleResult]:
        results = []
        for message in messages:
            self._fuse.step()
            results += await self._inner.remove([message])
        self._fuse.step()
        return results

    async def depth(self) -> QueueDepth:
        self._fuse.step()
        return await self._inner.depth()


class FragileAudit(AuditLog):
    """Dies before or after a write, or in the middle of it."""

    def __init__(self, path: Path, descriptor: int, trail: Trail, fuse: Fuse) -> None:
        super().__init__(path, descriptor, trail)
        self._fuse = fuse

    def _put(self, lines: bytes) -> None:
        self._fuse.step()
        if self._fuse.burns_next:
            os.write(self._descriptor, lines[: len(lines) // 2])
        self._fuse.step()
        super()._put(lines)
        self._fuse.step()


class DeletesFirst(Redrive):
    """The negative control: what a redrive looks like that loses messages."""

    async def _send(self, chunk):
        await self._letters.remove([judged.letter.message for judged in chunk])
        await super()._send(chunk)


@dataclass
class World:
    """Two queues, an inbox, a ledger, and whoever consumes."""

    folder: Path
    messages: int
    malformed: frozenset[int] = frozenset()
    charged_before: frozenset[int] = frozenset()
    twins: frozenset[int] = frozenset()
    poison: frozenset[int] = frozenset()
    refused: frozenset[int] = frozenset()
    redrive_class: type[Redrive] = Redrive
    now: float = 1000.0
    charges: Counter[str] = field(default_factory=Counter)
    sends: int = 0

    def __post_init__(self) -> None:
        self.log = self.folder / "audit.jsonl"
        self.broker = MemoryBroker(clock=lambda: self.now)
        self.broker.create_queue("dlq")
        self.broker.create_queue("orders", max_receive_count=5, dead_letter="dlq")
        self.events = [
            Event(type="dev.test", data={"n": n}, key=f"o-{n}", id=f"e-{n}")
            for n in range(self.messages)
        ]
        self.charges.update(self.events[n].id for n in self.charged_before)
        self.inbox = set(self.charges)
        self.bodies: Counter[bytes] = Counter()

    async def fill(self) -> None:
        bodies = []
        for n, event in enumerate(self.events):
            bodies.append(MALFORMED[n % 2] if n in self.malformed else event.encode())
            if n in self.twins and n not in self.malformed:
                bodies.append(event.encode())
        self.bodies.update(bodies)
        results = await self.broker.send(
            "dlq", [Outgoing(f"m-{i}", body) for i, body in enumerate(bodies)]
        )
        self.before = {str(result.message_id) for result in results}
        # What the source queue refuses at first.
        self.broker.fail_next_send(
            str(result.message_id) for i, result in enumerate(results) if i in self.refused
        )

    async def redrive(self, fuse: Fuse, **options) -> Summary | None:
        """One process; None when it was killed."""
        source = self.broker.subscriber("orders")
        judge = Judge(Horizon.of(await source.describe(), None), self.processed)
        held = HeldDeadLetters(
            self.broker.subscriber("dlq"), self.broker, await source.describe(),
            hold_s=HOLD_S, wait_s=0, clock=lambda: self.now,
        )  # fmt: skip
        with open_audit_log(self.log) as opened:
            audit = FragileAudit(opened.path, opened._descriptor, opened.trail, fuse)
            try:
                summary = await self.redrive_class(
                    FragileLetters(held, fuse), judge, audit,
                    RedriveSettings(rate_per_s=1e9, patience_s=0, backoff_s=0, **options),
                ).run(asyncio.Event())  # fmt: skip
            except Killed:
                self.now += HOLD_S + 1
                return None
        await held.give_back_all()
        return summary

    async def processed(self, event_ids) -> set[str]:
        return self.inbox & set(event_ids)

    async def consume(self) -> None:
        """Work off the source queue as the library's consumer does."""
        subscriber = self.broker.subscriber("orders")
        while messages := await subscriber.receive(max_messages=100, wait_s=0, visibility_s=600):
            for message in messages:
                self.sends += 1
                event = Event.decode(message.body)
                if int(event.id[2:]) in self.poison:
                    await subscriber.reject(message, "it still fails")
                    continue
                if event.id not in self.inbox:
                    self.charges[event.id] += 1
                    self.inbox.add(event.id)
                await subscriber.ack([message])

    async def dead(self) -> list[Message]:
        """Everything in the DLQ."""
        self.now += 10 * HOLD_S
        return await self.broker.subscriber("dlq").receive(
            max_messages=1000, wait_s=0, visibility_s=HOLD_S
        )

    async def check(self) -> None:
        """After the last redrive and the consumer: what was promised."""
        dead = await self.dead()
        kept = Counter(message.body for message in dead)
        assert all(count == 1 for count in self.charges.values()), "charged twice"
        for n, event in enumerate(self.events):
            if n in self.malformed:
                continue
            somewhere = self.charges[event.id] + kept[event.encode()]
            assert somewhere > 0, f"{event.id} is lost"
        malformed = {body: count for body, count in self.bodies.items() if not is_event(body)}
        assert {body: kept[body] for body in malformed} == malformed
        after = {message.message_id for message in dead}
        assert audit_problems(self.log, before=self.before, after=after) == []


def is_event(body: bytes) -> bool:
    try:
        Event.decode(body)
    except MalformedEventError:
        return False
    return True


async def survive(world: World, kills: Sequence[int], *, consume_between: bool = True, **options):
    """Fill, redrive with these kills, redrive to the end, consume; the last summary and its steps."""
    await world.fill()
    for kill in kills:
        await world.redrive(Fuse(at=kill), **options)
        if consume_between:
            await world.consume()
    fuse = Fuse()
    summary = await world.redrive(fuse, **options)
    assert summary is not None
    assert summary.stopped is None
    await world.consume()
    return summary, fuse.steps


@pytest.mark.parametrize(
    "consume_between", [True, False], ids=["consumer runs", "consumer is late"]
)
def test_killed_at_every_single_step(tmp_path: Path, consume_between: bool) -> None:
    def world(name: str) -> World:
        folder = tmp_path / name
        folder.mkdir()
        return World(
            folder, 12,
            malformed=frozenset({3}), charged_before=frozenset({5}), refused=frozenset({7}),
        )  # fmt: skip

    async def scenario() -> None:
        undisturbed = world("undisturbed")
        _, steps = await survive(undisturbed, [])
        await undisturbed.check()
        assert steps > 40
        for step in range(1, steps + 1):
            killed = world(f"step-{step}")
            summary, _ = await survive(killed, [step], consume_between=consume_between)
            await killed.check()
            # Killed after the end was on record, the next one is a redrive of its own, of nothing.
            sent = 0 if step == steps else 11
            assert (summary.sent, summary.deleted, summary.left) == (sent, sent, {"malformed": 1})
            # What a kill can have sent again is the batch that was in hand, and nothing else.
            assert killed.sends <= undisturbed.sends + 10

    asyncio.run(scenario())


def test_the_check_notices_a_redrive_that_deletes_first(tmp_path: Path) -> None:
    async def scenario() -> int:
        noticed = 0
        for step in range(5, 40):
            folder = tmp_path / str(step)
            folder.mkdir()
            world = World(folder, 4, redrive_class=DeletesFirst)
            try:
                await survive(world, [step])
                await world.check()
            except AssertionError:
                noticed += 1
        return noticed

    assert asyncio.run(scenario()) > 5


subsets = st.frozensets(st.integers(0, 24), max_size=6)


@settings(max_examples=150, deadline=None)
@given(
    messages=st.integers(1, 25),
    kills=st.lists(st.integers(1, 130), max_size=4),
    malformed=subsets,
    charged=subsets,
    twins=subsets,
    poison=subsets,
    refused=subsets,
    only=st.sampled_from(Only),
    consume_between=st.booleans(),
)
def test_any_kills_over_any_queue(
    messages, kills, malformed, charged, twins, poison, refused, only, consume_between
) -> None:
    def below(numbers: frozenset[int]) -> frozenset[int]:
        return frozenset(n for n in numbers if n < messages)

    async def scenario(folder: Path) -> None:
        world = World(
            folder, messages,
            malformed=below(malformed), charged_before=below(charged - malformed),
            twins=below(twins), poison=below(poison), refused=refused,
        )  # fmt: skip
        summary, _ = await survive(world, kills, consume_between=consume_between, only=only)
        await world.check()
        assert summary.unconfirmed == summary.not_sent == 0
        assert summary.sent == summary.deleted
        expected = set(range(messages)) - world.malformed - world.poison - world.charged_before
        assert all(world.charges[f"e-{n}"] == 1 for n in expected)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(scenario(Path(folder)))


@settings(max_examples=60, deadline=None)
@example(kills=[11, 11], most=1)
@given(kills=st.lists(st.integers(1, 90), min_size=1, max_size=3), most=st.integers(1, 15))
def test_no_more_than_asked_for_over_all_resumptions(kills, most) -> None:
    """Not even where a kill came between a send and its record, as in the example, twice."""

    async def scenario(folder: Path) -> None:
        world = World(folder, 15)
        summary, _ = await survive(world, kills, most=most)
        await world.check()
        assert summary.sent <= most
        # A kill after `finished` was written lets the next one begin anew.
        assert sum(world.charges.values()) <= most * starts(world.log)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(scenario(Path(folder)))
