"""Against Postgres alone: what its disk, and pgbench with the same SQL, allow."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from benchmarks import consuming, effect, relaying
from benchmarks.bench import Bench
from benchmarks.contest import Contender, Contest, Question
from benchmarks.contests.opening import OURS, connections_of, engine_of
from benchmarks.figures import InvalidRunError, Sample
from benchmarks.fsync import microseconds_per_sync
from benchmarks.outbox_write import OrderWrites
from benchmarks.producing import OrderWrite
from benchmarks.sides import SideContender

_T1: Final = "pgbench T1"
_T10: Final = "pgbench T10"
_HANDLER: Final = "onceproof, handler"
_HANDLERS_SQL: Final = "pgbench, a handler's statements"
_FIFTY: Final = "onceproof, fifty"


@dataclass(frozen=True, slots=True)
class _Sync:
    at: Bench
    name: str = "pg_test_fsync"

    async def prepare(self) -> None:
        """Nothing to get ready."""

    async def measure(self, repeat: int) -> Sample:
        """Microseconds of each method; the one that the server uses counts."""
        del repeat
        found = await microseconds_per_sync(self.at.pgbench, 1)
        used = self.at.where.settings["wal_sync_method"]
        if used not in found:
            raise InvalidRunError(f"pg_test_fsync did not measure {used}, which the server uses")
        return Sample(
            1, found[used] / 1e6, 0, 0,
            values={"sync_us": found[used], **{f"{name}_us": us for name, us in found.items()}},
        )  # fmt: skip


@asynccontextmanager
async def _fsync(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    yield [_Sync(at)]


@asynccontextmanager
async def _consumer(at: Bench, *, batch: int) -> AsyncIterator[Sequence[Contender]]:
    clients, batched = at.scale.clients, batch > 1
    async with engine_of(at) as engine, connections_of(at) as connections:

        def ours(name: str, most: int) -> SideContender:
            side = effect.Ours(at.where, connections, clients=clients, batch=most)
            return SideContender(at, name, side, leave=connections.close)

        yield [
            ours(OURS, batch),
            SideContender(
                at, _T10 if batched else _T1,
                effect.Ceiling(at.where, at.pgbench, clients=clients, batch=batch),
                seconds=True,
            ),
            *([ours(_FIFTY, 50)] if batched else []),
            SideContender(
                at, _HANDLER,
                consuming.Ours(at.where, engine, clients=clients, batched=batched),
                leave=engine.dispose,
            ),
            SideContender(
                at, _HANDLERS_SQL,
                consuming.Ceiling(at.where, at.pgbench, clients=clients, batched=batched),
                seconds=True,
            ),
        ]  # fmt: skip


@asynccontextmanager
async def _relay(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    async with engine_of(at) as engine:
        yield [
            SideContender(at, OURS, relaying.Ours(at.where, engine), leave=engine.dispose),
            SideContender(at, "pgbench", relaying.Ceiling(at.where, at.pgbench)),
        ]


@asynccontextmanager
async def _producer(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    write = partial(OrderWrite, at.where, at.pgbench, clients=at.scale.clients)
    yield [
        SideContender(at, "with outbox row", write(outbox=True), seconds=True),
        SideContender(at, "without", write(outbox=False), seconds=True),
    ]


@asynccontextmanager
async def _writes(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    async with connections_of(at) as connections:
        yield [SideContender(at, "producer", OrderWrites(at.where, connections))]


def contests() -> list[Contest]:
    """Each of them."""
    return [
        Contest(
            "fsync", "One durable 8 kB write on this disk", _fsync,
            [Question("one write by the server's method", "pg_test_fsync", None,
                      measure="sync_us", better="less", unit="us")],
            needs="pg_test_fsync", timed=False,
        ),
        Contest(
            "consumer-t1", "Consumer, one order a transaction, null broker",
            partial(_consumer, batch=1),
            [
                Question("consumer / T1", OURS, _T1, 0.5, figure=1),
                Question("handler / pgbench with a handler's statements", _HANDLER, _HANDLERS_SQL),
            ],
        ),
        Contest(
            "consumer-t10", "Consumer, set-based, ten orders a transaction, null broker",
            partial(_consumer, batch=10),
            [
                Question("consumer, ten a transaction / T10", OURS, _T10, 0.5, figure=2),
                Question("consumer, fifty a transaction / T10", _FIFTY, _T10, 0.5, figure=2),
                Question("handler / pgbench with a handler's statements", _HANDLER, _HANDLERS_SQL),
            ],
        ),
        Contest(
            "relay-sql", "Relay, its statements alone, null broker", _relay,
            [Question("relay / pgbench", OURS, "pgbench")],
        ),
        Contest(
            "producer-sql", "Producer's order write in SQL, with and without the outbox row", _producer,
            [Question("latency with / without the outbox row, mean", "with outbox row", "without",
                      measure="latency_ms", better="less")],
        ),
        Contest(
            "producer-write", "Producer's order write, with and without the outbox row in turn", _writes,
            [
                Question("with / without the outbox row, p50", "producer", None, 1.1, figure=7,
                         measure="p50_ratio", better="less"),
                Question("with the outbox row, p50", "producer", None, measure="with_p50_ms",
                         better="less", unit="ms"),
                Question("without it, p50", "producer", None, measure="without_p50_ms",
                         better="less", unit="ms"),
            ],
            timed=False,
        ),
    ]  # fmt: skip
