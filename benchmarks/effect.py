"""Orders per second through a consumer with an effect in SQL, against pgbench with the same statement.

It is one statement for one order and for ten, claim and charge together, and a transaction by itself.
So pgbench, like the consumer, makes one round trip for each.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ceiling import Script, run_pgbench, with_arguments
from benchmarks.charge import CHARGE
from benchmarks.consuming import (
    EVENT_PREFIX,
    KNOWN,
    NAME,
    NEXT,
    STUCK_S,
    empty,
    numbered,
    require_all_charged,
    require_ceiling_charged_once,
)
from benchmarks.database import Database
from benchmarks.figures import InvalidRunError, Sample
from benchmarks.null_broker import DUPLICATE_EVERY, NullSubscriber, deliveries, order_event
from onceproof.consumer import Consumer, ConsumerSettings
from onceproof.inbox.statement import claim_with_effect
from onceproof.postgres import Connections


class Counting(Connections):
    """Connections that count what they are lent for: here, transactions."""

    lent = 0

    async def run(self, use: Any) -> Any:  # noqa: ANN401 - passed through
        """As of `Connections.run`."""
        self.lent += 1
        return await super().run(use)

    async def close(self) -> None:
        """Close what is idle, so that the server reports all of its work; the next run opens others."""
        await self.__aexit__(None, None, None)
        await self.__aenter__()


class Ours:
    """The library's consumer with an effect that inserts the charge.

    Args:
        where: the database.
        connections: as many as pgbench has clients.
        clients: statements in flight at once.
        batch: orders a transaction, at most.
        reset: gets the tables ready for a run.
    """

    def __init__(
        self,
        where: Database,
        connections: Counting,
        *,
        clients: int,
        batch: int,
        reset: Callable[[Database], Awaitable[None]] = empty,
    ) -> None:
        self._where = where
        self._connections = connections
        self._clients = clients
        self._batch = batch
        self._reset = reset

    async def measure(self, orders: int) -> Sample:
        """Consume `orders` orders and their duplicates.

        Raises:
            InvalidRunError: not every order was charged exactly once.
        """
        subscriber = NullSubscriber(await asyncio.to_thread(deliveries, orders))
        await self._reset(self._where)
        consumer = Consumer(
            subscriber,
            self._connections,
            effect=CHARGE,
            settings=ConsumerSettings(name=NAME, concurrency=self._clients, batch_size=self._batch),
        )
        before = self._connections.lent
        # What was prepared before the clock starts is not the consumer's to walk through meanwhile.
        gc.collect()
        gc.freeze()
        cpu, started = time.process_time(), time.perf_counter()
        try:
            async with asyncio.timeout(STUCK_S):
                await consumer.run(subscriber.finished)
        except TimeoutError:
            raise InvalidRunError(
                f"the consumer acked {subscriber.acked} messages in {STUCK_S:.0f} s, and then no more"
            ) from None
        finally:
            gc.unfreeze()
        cpu = time.process_time() - cpu
        await require_all_charged(self._where, orders, given_back=subscriber.given_back)
        transactions = self._connections.lent - before
        return Sample(orders, subscriber.finished_at - started, cpu, transactions)


class Ceiling:
    """The same statement in pgbench, with the same share of duplicates."""

    def __init__(self, where: Database, pgbench: Path, *, clients: int, batch: int) -> None:
        self._where = where
        self._pgbench = pgbench
        self._clients = clients
        self._scripts = scripts(batch)

    async def measure(self, seconds: int) -> Sample:
        """Run for `seconds`.

        Raises:
            InvalidRunError: an order was charged twice, or a charge has no inbox row.
        """
        await empty(self._where)
        await self._where.connection.execute(
            "INSERT INTO onceproof.inbox (consumer, event_id) VALUES ($1, $2)", NAME, KNOWN
        )
        done = await run_pgbench(
            self._pgbench, self._where, self._scripts,
            clients=self._clients, limit=["-T", str(seconds)], variables={"i": 0},
        )  # fmt: skip
        orders = await require_ceiling_charged_once(self._where)
        return Sample(orders, done.seconds, done.cpu_s, done.transactions)


def scripts(batch: int) -> list[Script]:
    """The statement for `batch` orders, with one duplicate for every twentieth order."""
    if batch == 1:
        return [
            Script(f"{NEXT}{_statement(1, duplicate=False)};\n", weight=DUPLICATE_EVERY),
            Script(f"{_statement(0, duplicate=True)};\n"),
        ]
    # 21 deliveries hold one duplicate, so ten of 21 batches of ten have one among their ten.
    return [
        Script(
            f"{NEXT}{_statement(batch, duplicate=False)};\n", weight=DUPLICATE_EVERY + 1 - batch
        ),
        Script(f"{NEXT}{_statement(batch - 1, duplicate=True)};\n", weight=batch),
    ]


def _statement(fresh: int, *, duplicate: bool) -> str:
    if fresh == 1:
        ids, events = _array([_event_id(":n")]), _array([_event(":n")])
    else:
        series = f"generate_series(CAST(:n AS bigint), CAST(:n AS bigint) + {fresh - 1})"
        ids = f"ARRAY(SELECT {_event_id('g')} FROM {series} AS g)"  # noqa: S608 - all of it is ours
        events = f"ARRAY(SELECT {_event('g')} FROM {series} AS g)"  # noqa: S608
    if duplicate:
        known_id, known = f"CAST('{KNOWN}' AS text)", _event("0", f"'{KNOWN}'")
        ids = f"{ids} || {known_id}" if fresh else _array([known_id])
        events = f"{events} || {known}" if fresh else _array([known])
    attempts = _array(["1"] * (fresh + duplicate))
    times = _array([str(order_event(0).time.timestamp())] * (fresh + duplicate))
    statement = claim_with_effect(CHARGE.statement, inbox=True, returns=CHARGE.returns)
    return with_arguments(statement, [f"'{NAME}'", ids, events, attempts, times])


def _array(expressions: Sequence[str]) -> str:
    return f"ARRAY[{', '.join(expressions)}]"


def _event_id(number: str) -> str:
    return numbered(EVENT_PREFIX, number)


def _event(number: str, event_id: str | None = None) -> str:
    """The bytes of `order_event`, made by the server: constant but for the ids."""
    template = order_event(0)
    order_id = str(template.key)
    text = template.encode().decode().replace(template.id, "\0e").replace(order_id, "\0o")
    parts: list[str] = []
    for part in text.split("\0"):
        which, rest = part[:1], part[1:]
        if not parts:
            parts.append(f"'{part}'")
        else:
            parts.append(event_id or _event_id(number) if which == "e" else numbered("o-", number))
            parts.append(f"'{rest}'")
    return f"CAST({' || '.join(parts)} AS jsonb)"
