"""The relay's rate with much in the table, by its rate with little.

Without a broker, so that nothing hides what the table costs. Each state has a table of its own, which is
filled once, before anything is timed, and put in the place of the outbox for its runs:

- pending: the first rows of a long backlog, or a thousand rows at a time that are all there is
- published: pending rows behind many that are published and not cleaned up yet
- xmin: behind rows published while a transaction held xmin, which it still does
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.bench import Bench
from benchmarks.database import Database
from benchmarks.figures import InvalidRunError, Sample
from benchmarks.null_broker import NullPublisher
from benchmarks.outbox_table import add_rows
from benchmarks.sides import with_client
from benchmarks.table_state import TableState
from onceproof.outbox import OutboxStore, Relay
from onceproof.ports import Outgoing, SendResult
from onceproof.postgres import normalise_url

SMALL: Final = 1000
_STUCK_S: Final = 900.0
_OUTBOX: Final = "onceproof.outbox"


class Paced:
    """A publisher that tells when so many messages were sent."""

    def __init__(self) -> None:
        self._inner = NullPublisher()
        self._target = 0
        self._reached = asyncio.Event()
        self.ids: set[str] = set()
        self.sent = 0

    async def send(self, destination: str, messages: Sequence[Outgoing]) -> list[SendResult]:
        """Confirm and count."""
        results = await self._inner.send(destination, messages)
        self.sent += len(messages)
        self.ids.update(message.id for message in messages)
        if self.sent >= self._target:
            self._reached.set()
        return results

    async def until(self, sent: int) -> None:
        """Wait for so many messages in all."""
        self._target = sent
        self._reached.clear()
        if self.sent < sent:
            await asyncio.wait_for(self._reached.wait(), _STUCK_S)


@dataclass(frozen=True, slots=True)
class Load:
    """A state of the table, and what is done in it.

    Args:
        orders: rows that are relayed in a run.
        pending: rows that wait beyond those.
        published: rows before them that are published.
        churn: rows that are relayed before the clock starts, in each run.
        hold_xmin: during a run a transaction holds xmin, from before the churn.
        at_once: how many rows there are at a time; 0 means all.
    """

    orders: int
    pending: int = 0
    published: int = 0
    churn: int = 0
    hold_xmin: bool = False
    at_once: int = 0


class ScaledRelay:
    """A relay with a state of the table.

    Args:
        at: the servers.
        engine: of the relay.
        name: of the contender.
        load: the state.
    """

    def __init__(self, at: Bench, engine: AsyncEngine, name: str, load: Load) -> None:
        self.name = name
        self._at = at
        self._engine = engine
        self._load = load
        self._state = TableState(at.where, "outbox", name)
        self._next = 1

    async def prepare(self) -> None:
        """Make the table, and do a short run."""
        await self._state.make()
        async with self._state.in_place():
            await self._add(self._load.published, published=True)
            await self._at.where.connection.execute(f"VACUUM {_OUTBOX}")
            await self._add(self._load.pending)
            await self._run(min(self._load.orders, SMALL), churn=0)

    async def measure(self, repeat: int) -> Sample:
        """Relay; `repeat` changes nothing.

        Raises:
            InvalidRunError: a row was sent twice or not marked.
        """
        del repeat
        async with self._state.in_place():
            sample = await self._run(self._load.orders, churn=self._load.churn)
            await self._engine.dispose()
            used = await self._at.where.meter.collect()
        return replace(sample, resources=with_client(used, sample.cpu_s))

    async def drop(self) -> None:
        """Remove the table."""
        await self._state.drop()

    async def _add(self, rows: int, *, published: bool = False) -> None:
        await add_rows(self._at.where, rows, first=self._next, published=published)
        self._next += rows

    async def _run(self, orders: int, *, churn: int) -> Sample:
        # What was relayed by the last run is replaced, so the backlog is as long in each.
        if not self._load.at_once:
            await self._add(orders + churn)
        await self._at.where.settle(_OUTBOX)
        publisher, stop, woken = Paced(), asyncio.Event(), asyncio.Event()
        relay = Relay(OutboxStore(self._engine, relay="relay"), publisher, wakeup=woken)
        async with old_transaction(self._at.where, hold=self._load.hold_xmin):
            running = asyncio.create_task(relay.run(stop))
            try:
                if self._load.at_once:
                    seconds, cpu = await self._in_portions(publisher, woken, orders)
                else:
                    await publisher.until(churn)
                    seconds, cpu = await _timed(publisher, churn + orders)
                done = publisher.sent - churn
            finally:
                stop.set()
                await running
        await _require_once(self._at.where, publisher)
        return Sample(done, seconds, cpu, 0)

    async def _in_portions(
        self, publisher: Paced, woken: asyncio.Event, orders: int
    ) -> tuple[float, float]:
        """Some rows at a time, which are all there is; adding them is not timed."""
        seconds = cpu_s = 0.0
        for start in range(0, orders, self._load.at_once):
            await self._add(self._load.at_once)
            woken.set()
            more_s, more_cpu_s = await _timed(publisher, start + self._load.at_once)
            seconds += more_s
            cpu_s += more_cpu_s
        return seconds, cpu_s


async def _timed(publisher: Paced, sent: int) -> tuple[float, float]:
    cpu, started = time.process_time(), time.perf_counter()
    await publisher.until(sent)
    return time.perf_counter() - started, time.process_time() - cpu


async def _require_once(where: Database, publisher: Paced) -> None:
    found = await where.counts(
        "SELECT count(*) AS marked FROM onceproof.outbox "
        "WHERE published_at IS NOT NULL AND claimed_by IS NOT NULL AND message_id = id"
    )
    require_sent_once(sent=publisher.sent, distinct=len(publisher.ids), marked=found["marked"])


def require_sent_once(*, sent: int, distinct: int, marked: int) -> None:
    """Refuse a run in which a message was sent twice, or was sent and not marked.

    Args:
        sent: messages that the publisher was given.
        distinct: different ones among them.
        marked: rows that are published and were claimed, at least; earlier runs' are among them.

    Raises:
        InvalidRunError: with the numbers.
    """
    if sent != distinct or marked < sent:
        raise InvalidRunError(f"{sent} messages sent, {distinct} different, {marked} rows marked")


@asynccontextmanager
async def old_transaction(where: Database, *, hold: bool) -> AsyncIterator[None]:
    """A transaction with a snapshot of now, which vacuum must respect until it ends."""
    if not hold:
        yield
        return
    url = normalise_url(where.library_url()).set(drivername="postgresql")
    connection = await asyncpg.connect(url.render_as_string(hide_password=False))
    try:
        async with connection.transaction(isolation="repeatable_read"):
            await connection.fetchval("SELECT count(*) FROM orders")
            yield
    finally:
        await connection.close()
