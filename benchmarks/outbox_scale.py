"""Figure 9: the relay's rate with much in the table, by its rate with little.

Without a broker, so that nothing hides what the table costs. Each comparison alternates between the two
states of the table; filling it is not timed.

- pending: the first rows of a long backlog, against a thousand rows at a time that are all there is
- published: pending rows behind many that are published and not cleaned up yet, against none of these
- xmin: behind rows published while a transaction held xmin, which it still does; without it
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.database import Database
from benchmarks.figures import Comparison, InvalidRunError, Sample
from benchmarks.null_broker import NullPublisher
from benchmarks.outbox_table import add_rows
from onceproof.outbox import OutboxStore, Relay
from onceproof.ports import Outgoing, SendResult
from onceproof.postgres import normalise_url

_SMALL: Final = 1000


class _Paced:
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
            await asyncio.wait_for(self._reached.wait(), 600)


async def compare_backlogs(
    where: Database, engine: AsyncEngine, *, pending: int, orders: int = 20_000, repeats: int = 5
) -> Comparison:
    """Rate with `pending` rows waiting, by that with a thousand.

    Raises:
        InvalidRunError: a row was sent twice or not marked.
    """
    await _truncate(where)
    await add_rows(where, pending, first=1)
    await where.settle("onceproof.outbox")
    many, few = [], []
    next_row = pending + 1
    for _ in range(repeats):
        many.append(await _timed(where, engine, orders))
        await add_rows(where, orders, first=next_row)
        next_row += orders
        # The long backlog is out of sight meanwhile, in a table of its own; nothing of it is lost.
        await where.connection.execute("ALTER TABLE onceproof.outbox RENAME TO outbox_long")
        try:
            await where.connection.execute(
                "CREATE TABLE onceproof.outbox (LIKE onceproof.outbox_long INCLUDING ALL)"
            )
            few.append(await _in_batches(where, engine, orders))
        finally:
            await where.connection.execute("DROP TABLE IF EXISTS onceproof.outbox")
            await where.connection.execute("ALTER TABLE onceproof.outbox_long RENAME TO outbox")
    return Comparison(f"relay, {pending} pending / {_SMALL}", many, few)


async def compare_published(
    where: Database, engine: AsyncEngine, *, published: int, orders: int = 20_000, repeats: int = 5
) -> Comparison:
    """Rate behind `published` rows that are not cleaned up yet, by that behind none."""
    many, few = [], []
    for _ in range(repeats):
        few.append(await _alone(where, engine, orders))
        await add_rows(where, published, first=orders + 1, published=True)
        await where.connection.execute("VACUUM onceproof.outbox")
        await add_rows(where, orders, first=orders + published + 1)
        await where.settle("onceproof.outbox")
        many.append(await _timed(where, engine, orders))
    return Comparison(f"relay, {published} published / none", many, few)


async def compare_held_xmin(
    where: Database, engine: AsyncEngine, *, published: int, orders: int = 20_000, repeats: int = 5
) -> Comparison:
    """Rate with xmin held since before `published` rows were published, by that without.

    Both sides relay the same rows before the timed ones.
    """
    held: list[Sample] = []
    free: list[Sample] = []
    for _ in range(repeats):
        for hold, samples in ((True, held), (False, free)):
            await _truncate(where)
            await add_rows(where, published + orders)
            await where.settle("onceproof.outbox")
            async with _old_transaction(where, hold=hold):
                samples.append(await _timed(where, engine, orders, before=published))
    return Comparison(f"relay, xmin held over {published} rows / not", held, free)


async def _alone(where: Database, engine: AsyncEngine, orders: int) -> Sample:
    await _truncate(where)
    await add_rows(where, orders)
    await where.settle("onceproof.outbox")
    return await _timed(where, engine, orders)


async def _timed(where: Database, engine: AsyncEngine, orders: int, *, before: int = 0) -> Sample:
    """Relay `before` rows without the clock, then `orders` rows with it."""
    publisher, stop = _Paced(), asyncio.Event()
    relay = Relay(OutboxStore(engine, relay="relay"), publisher)
    running = asyncio.create_task(relay.run(stop))
    try:
        await publisher.until(before)
        start = publisher.sent
        cpu, started = time.process_time(), time.perf_counter()
        await publisher.until(before + orders)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        done = publisher.sent - start
    finally:
        stop.set()
        await running
    await _require_once(where, publisher)
    return Sample(done, seconds, cpu, -(-done // 50))


async def _in_batches(where: Database, engine: AsyncEngine, orders: int) -> Sample:
    """Relay a thousand rows at a time, which are all there is; adding them is not timed."""
    publisher, stop, woken = _Paced(), asyncio.Event(), asyncio.Event()
    relay = Relay(OutboxStore(engine, relay="relay"), publisher, wakeup=woken)
    running = asyncio.create_task(relay.run(stop))
    seconds = cpu_s = 0.0
    try:
        for start in range(0, orders, _SMALL):
            await add_rows(where, _SMALL, first=start + 1)
            cpu, started = time.process_time(), time.perf_counter()
            woken.set()
            await publisher.until(start + _SMALL)
            seconds += time.perf_counter() - started
            cpu_s += time.process_time() - cpu
    finally:
        stop.set()
        await running
    await _require_once(where, publisher)
    return Sample(publisher.sent, seconds, cpu_s, -(-publisher.sent // 50))


async def _require_once(where: Database, publisher: _Paced) -> None:
    require_sent_once(
        sent=publisher.sent,
        distinct=len(publisher.ids),
        marked=(
            await where.counts(
                "SELECT count(*) AS marked FROM onceproof.outbox "
                "WHERE published_at IS NOT NULL AND claimed_by IS NOT NULL AND message_id = id"
            )
        )["marked"],
    )


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


async def _truncate(where: Database) -> None:
    await where.connection.execute("TRUNCATE onceproof.outbox")


@asynccontextmanager
async def _old_transaction(where: Database, *, hold: bool) -> AsyncIterator[None]:
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
