"""At scale: large tables, an old transaction, several consumers, large messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from benchmarks.bench import Bench
from benchmarks.consumers import Consumers
from benchmarks.contest import Contender, Contest, Question
from benchmarks.contests.opening import QUEUE, broker_of, connections_of, engine_of
from benchmarks.inbox_scale import ScaledConsumer
from benchmarks.outbox_scale import SMALL, Load, ScaledRelay
from benchmarks.queue_ceiling import NoOpConsumer
from benchmarks.sides import SideContender
from benchmarks.through_queue import ThroughQueue

_ORDERS: Final = 20_000
_CHURN: Final = 100_000
_GOAL: Final = 0.9
_PROCESSES: Final = (1, 2, 4)
_SIZES: Final = {"200 B": 200, "2 kB": 2_000, "20 kB": 20_000, "200 kB": 200_000}


@asynccontextmanager
async def _outbox(at: Bench, *, loads: dict[str, Load]) -> AsyncIterator[Sequence[Contender]]:
    async with engine_of(at) as engine:
        relays = [ScaledRelay(at, engine, name, load) for name, load in loads.items()]
        try:
            yield relays
        finally:
            for relay in relays:
                await relay.drop()


@asynccontextmanager
async def _inbox(at: Bench, *, rows: int) -> AsyncIterator[Sequence[Contender]]:
    async with connections_of(at) as connections:
        consumers = [
            ScaledConsumer(at, connections, name, known=known)
            for name, known in (("inbox empty", 0), (_known(rows), rows))
        ]
        try:
            yield consumers
        finally:
            for consumer in consumers:
                await consumer.drop()


@asynccontextmanager
async def _consumers(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    async with broker_of(at) as (_, client):
        yield [Consumers(at, client, number) for number in _PROCESSES]


@asynccontextmanager
async def _sizes(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    async with broker_of(at) as (broker, client), connections_of(at) as connections:
        contenders: list[Contender] = []
        for name, size in _SIZES.items():
            ours = ThroughQueue(
                at.where, connections, broker, client, clients=at.scale.clients, size=size
            )
            contenders.append(SideContender(at, name, ours, leave=connections.close))
            contenders.append(
                SideContender(at, f"Q, {name}", NoOpConsumer(at.where, client, size=size))
            )
        yield contenders


def _known(rows: int) -> str:
    return f"inbox of {rows}"


def contests(*, outbox_rows: int, inbox_rows: int) -> list[Contest]:
    """Each of them.

    Args:
        outbox_rows: pending, or published, rows of a large outbox.
        inbox_rows: rows of a large inbox.
    """
    few, short, long = f"{SMALL} at a time", f"{_ORDERS} pending", f"{outbox_rows} more"
    behind, held, free = f"{outbox_rows} published", "xmin held", "xmin free"
    churn = min(outbox_rows, _CHURN)
    backlogs = {
        few: Load(_ORDERS, at_once=SMALL),
        short: Load(_ORDERS),
        long: Load(_ORDERS, pending=outbox_rows),
    }
    retained = {"none published": Load(_ORDERS), behind: Load(_ORDERS, published=outbox_rows)}
    churned = {
        free: Load(_ORDERS, churn=churn),
        held: Load(_ORDERS, churn=churn, hold_xmin=True),
    }
    return [
        Contest(
            "outbox-pending", "Relay with a long backlog, null broker", partial(_outbox, loads=backlogs),
            [Question(f"{long} / {other}", long, other, _GOAL, figure=9) for other in (few, short)],
        ),
        Contest(
            "outbox-published", "Relay behind rows that are published and not cleaned up, null broker",
            partial(_outbox, loads=retained),
            [Question(f"{behind} / none", behind, "none published", _GOAL, figure=9)],
        ),
        Contest(
            "outbox-xmin", f"Relay behind {churn} rows published under a transaction that holds xmin",
            partial(_outbox, loads=churned),
            [Question("xmin held / not", held, free, _GOAL, figure=9)],
        ),
        Contest(
            "inbox", "Consumer with a large inbox, ten orders a transaction, null broker",
            partial(_inbox, rows=inbox_rows),
            [Question(f"{_known(inbox_rows)} / empty", _known(inbox_rows), "inbox empty")],
        ),
        Contest(
            "consumers", "Consumer processes on one queue", _consumers,
            [Question(f"{many} consumers / 1", f"{many} consumers", "1 consumer")
             for many in _PROCESSES[1:]],
            needs=QUEUE,
        ),
        Contest(
            "sizes", "Consumer through ElasticMQ by size of an order", _sizes,
            [Question(f"consumer / Q, {name}", name, f"Q, {name}") for name in _SIZES], needs=QUEUE,
        ),
    ]  # fmt: skip
