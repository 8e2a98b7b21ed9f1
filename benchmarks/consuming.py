"""Orders per second through the consumer, against pgbench: one order a transaction, and ten."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from benchmarks.ceiling import Script, run_pgbench, transaction, with_values
from benchmarks.database import Database
from benchmarks.figures import InvalidRunError, Sample, require_charged_once
from benchmarks.null_broker import DUPLICATE_EVERY, NullSubscriber, deliveries
from onceproof.consumer import Consumer, ConsumerSettings
from onceproof.inbox.claim import _CLAIM, _CLAIM_MANY
from onceproof.ports import Delivery
from onceproof_consumer.payment import _RECORD

NAME: Final = "payments"
STUCK_S: Final = 120.0
BATCH: Final = 10
KNOWN: Final = "01930000-0000-7000-8000-999999999999"
"""An event that is in the inbox before pgbench starts: its duplicates are of this one."""

_RECORD_MANY: Final = text("""
    INSERT INTO charges (order_id, event_id, amount, currency, provider_charge_id, delivery_attempt)
    SELECT * FROM unnest(
        CAST(:order_ids AS text[]), CAST(:event_ids AS text[]), CAST(:amounts AS bigint[]),
        CAST(:currencies AS text[]), CAST(:charge_ids AS text[]), CAST(:attempts AS int[]))
""")


def _record(delivery: Delivery) -> dict[str, object]:
    data = delivery.event.data
    return {
        "order_id": data["order_id"],
        "event_id": delivery.event.id,
        "amount": data["amount"],
        "currency": data["currency"],
        "provider_charge_id": delivery.event.id,
        "delivery_attempt": delivery.attempt,
    }


class Ours:
    """The library's consumer with a handler that inserts the charge.

    Args:
        where: the database.
        engine: with as many connections as pgbench has clients.
        clients: handlers at work at once.
        batched: ten orders a transaction through `handle_batch`.
    """

    def __init__(
        self, where: Database, engine: AsyncEngine, *, clients: int, batched: bool
    ) -> None:
        self._where = where
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)
        self._clients = clients
        self._batched = batched
        self._transactions = 0

    async def measure(self, orders: int) -> Sample:
        """Consume `orders` orders and their duplicates.

        Raises:
            InvalidRunError: not every order was charged exactly once.
        """
        await empty(self._where)
        subscriber = NullSubscriber(await asyncio.to_thread(deliveries, orders))
        self._transactions = 0
        consumer = Consumer(
            subscriber,
            self._sessions,
            None if self._batched else self._handle,
            handle_batch=self._handle_batch if self._batched else None,
            settings=ConsumerSettings(name=NAME, concurrency=self._clients, batch_size=BATCH),
        )
        cpu, started = time.process_time(), time.perf_counter()
        try:
            async with asyncio.timeout(STUCK_S):
                await consumer.run(subscriber.finished)
        except TimeoutError:
            raise InvalidRunError(
                f"the consumer acked {subscriber.acked} messages in {STUCK_S:.0f} s, and then no more"
            ) from None
        cpu = time.process_time() - cpu
        await require_all_charged(self._where, orders, given_back=subscriber.given_back)
        return Sample(orders, subscriber.finished_at - started, cpu, self._transactions)

    async def _handle(self, session: AsyncSession, delivery: Delivery) -> None:
        self._transactions += 1
        await session.execute(_RECORD, _record(delivery))

    async def _handle_batch(self, session: AsyncSession, batch: Sequence[Delivery]) -> None:
        self._transactions += 1
        rows = [_record(delivery) for delivery in batch]
        await session.execute(
            _RECORD_MANY,
            {
                "order_ids": [row["order_id"] for row in rows],
                "event_ids": [row["event_id"] for row in rows],
                "amounts": [row["amount"] for row in rows],
                "currencies": [row["currency"] for row in rows],
                "charge_ids": [row["provider_charge_id"] for row in rows],
                "attempts": [row["delivery_attempt"] for row in rows],
            },
        )


class Ceiling:
    """The same statements in pgbench, with the same share of duplicates."""

    def __init__(self, where: Database, pgbench: Path, *, clients: int, batched: bool) -> None:
        self._where = where
        self._pgbench = pgbench
        self._clients = clients
        self._scripts = _batch_scripts() if batched else _single_scripts()

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


async def require_all_charged(where: Database, orders: int, *, given_back: int) -> None:
    """Refuse a run in which not every order was charged exactly once.

    Args:
        where: the database.
        orders: distinct orders in the input.
        given_back: deliveries that were released or rejected instead of acked.

    Raises:
        InvalidRunError: with what is wrong.
    """
    found = await where.counts(
        "SELECT count(*) AS charges, count(DISTINCT order_id) AS orders FROM charges"
    )
    require_charged_once(
        asked=orders,
        charges=found["charges"],
        charged_orders=found["orders"],
        given_back=given_back,
    )


async def require_ceiling_charged_once(where: Database) -> int:
    """The orders that pgbench charged, with the one event that was known before left out.

    Raises:
        InvalidRunError: an order was charged twice, or a charge has no inbox row.
    """
    found = await where.counts(
        "SELECT (SELECT count(*) FROM charges) AS charges, "
        "(SELECT count(DISTINCT order_id) FROM charges) AS orders, "
        "(SELECT count(*) - 1 FROM onceproof.inbox) AS claimed"
    )
    require_charged_once(
        asked=found["claimed"],
        charges=found["charges"],
        charged_orders=found["orders"],
        given_back=0,
    )
    return found["orders"]


async def empty(where: Database) -> None:
    """Nothing claimed, nothing charged."""
    await where.connection.execute("TRUNCATE onceproof.inbox, charges")
    await where.settle("onceproof.inbox", "charges")


def numbered(prefix: str, number: str) -> str:
    """SQL for a text of constant length that ends in a number."""
    return f"'{prefix}' || lpad(CAST({number} AS text), 12, '0')"


EVENT_PREFIX: Final = "01930000-0000-7000-8000-"
NEXT: Final = "\\set i :i + 1\n\\set n :client_id * 1000000000 + :i * 10\n"
"""Unique and ascending within a client, as the ids of events are."""


def _single_scripts() -> list[Script]:
    consumer = f"'{NAME}'"
    event_id = numbered(EVENT_PREFIX, ":n")
    fresh = transaction(
        with_values(_CLAIM, {"consumer": consumer, "event_id": event_id}),
        with_values(
            _RECORD,
            {
                "order_id": numbered("o-", ":n"),
                "event_id": event_id,
                "amount": "1999",
                "currency": "'EUR'",
                "provider_charge_id": event_id,
                "delivery_attempt": "1",
            },
        ),
    )
    duplicate = transaction(
        with_values(_CLAIM, {"consumer": consumer, "event_id": f"'{KNOWN}'"}), end="ROLLBACK"
    )
    return [Script(NEXT + fresh, weight=DUPLICATE_EVERY), Script(duplicate)]


def _batch_scripts() -> list[Script]:
    # 21 deliveries hold one duplicate, so ten of 21 batches have one among their ten.
    return [
        Script(_batch_script(fresh=BATCH), weight=DUPLICATE_EVERY + 1 - BATCH),
        Script(_batch_script(fresh=BATCH - 1), weight=BATCH),
    ]


def _batch_script(*, fresh: int) -> str:
    def array(expression: str) -> str:
        series = f"generate_series(CAST(:n AS bigint), CAST(:n AS bigint) + {fresh - 1})"
        return f"ARRAY(SELECT {expression} FROM {series} AS g)"  # noqa: S608 - all of it is ours

    def constant(value: str) -> str:
        return f"array_fill({value}, ARRAY[{fresh}])"

    event_ids = array(numbered(EVENT_PREFIX, "g"))
    claimed = event_ids if fresh == BATCH else f"{event_ids} || CAST('{KNOWN}' AS text)"
    return NEXT + transaction(
        with_values(_CLAIM_MANY, {"consumer": f"'{NAME}'", "event_ids": claimed}),
        with_values(
            _RECORD_MANY,
            {
                "order_ids": array(numbered("o-", "g")),
                "event_ids": event_ids,
                "amounts": constant("CAST(1999 AS bigint)"),
                "currencies": constant("CAST('EUR' AS text)"),
                "charge_ids": event_ids,
                "attempts": constant("CAST(1 AS int)"),
            },
        ),
    )
