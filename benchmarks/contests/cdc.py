"""Change data capture beside polling: `docs/cdc-or-polling.md` is made of these."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from benchmarks.bench import Bench
from benchmarks.cdc.burst import Burst
from benchmarks.cdc.load import Load
from benchmarks.cdc.recovery import CASES, Recovery
from benchmarks.cdc.relays import CDC, CDC_DELETED, EACH_SECOND, EACH_TENTH, NOBODY, WOKEN
from benchmarks.cdc.standing import Standing
from benchmarks.cdc.steady import RATES, Steady
from benchmarks.contest import Contender, Contest, Question
from benchmarks.contests.opening import QUEUE, broker_of

CAPTURE: Final = f"{QUEUE}, Java 21 and Maven"


@asynccontextmanager
async def _latency(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    async with broker_of(at) as (_, client):
        yield [Steady(at, client, kind) for kind in (WOKEN, EACH_TENTH, EACH_SECOND, CDC)]


@asynccontextmanager
async def _burst(at: Bench, orders: int) -> AsyncIterator[Sequence[Contender]]:
    async with broker_of(at) as (_, client):
        yield [Burst(at, client, kind, orders) for kind in (WOKEN, CDC)]


@asynccontextmanager
async def _load(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    async with broker_of(at) as (_, client):
        kinds = (NOBODY, WOKEN, EACH_SECOND, CDC, CDC_DELETED)
        yield [Load(at, client, kind) for kind in kinds]


@asynccontextmanager
async def _recovery(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    async with broker_of(at) as (_, client):
        yield [Recovery(at, client, case) for case in CASES]


@asynccontextmanager
async def _standing(at: Bench) -> AsyncIterator[Sequence[Contender]]:
    async with broker_of(at) as (_, client):
        yield [
            Standing(at, client, kind, others=others)
            for kind in (WOKEN, CDC) for others in (False, True)
        ]  # fmt: skip


def contests(burst: int) -> list[Contest]:
    """Each of them.

    Args:
        burst: orders of the burst.
    """
    p99 = [
        Question(f"{kind.name}: p99 at {rate} orders/s", kind.name, None,
                 measure=f"p99_ms_at_{rate}", better="less", unit="ms")
        for rate in RATES for kind in (WOKEN, CDC)
    ]  # fmt: skip
    return [
        Contest(
            "cdc-latency", "From commit to receipt: polling, woken polling, change data capture",
            _latency, p99, needs=CAPTURE, timed=False,
        ),
        Contest(
            "cdc-burst", f"{burst} orders in one commit: polling and change data capture",
            partial(_burst, orders=burst),
            [Question("cdc / polling, woken", CDC.name, WOKEN.name)], needs=CAPTURE,
        ),
        Contest(
            "cdc-load", "What each relay does to the database, clean-up included", _load,
            [Question(f"{kind.name}: WAL of an order", kind.name, None, measure="wal_bytes_per_order",
                      better="less", unit="B") for kind in (WOKEN, CDC, CDC_DELETED)],
            needs=CAPTURE, timed=False,
        ),
        Contest(
            "cdc-recovery", "A part is killed: the longest time without an event", _recovery,
            [Question(case.name, case.name, None, measure="silence_s", better="less", unit="s")
             for case in CASES],
            needs=CAPTURE, timed=False,
        ),
        Contest(
            "cdc-standing", "The relay stands while orders come, and catches up", _standing,
            [Question(f"{name}: WAL kept for an order", name, None, measure="wal_kept_per_order",
                      better="less", unit="B")
             for name in (f"{CDC.name}, alone", f"{CDC.name}, others write")],
            needs=CAPTURE, timed=False,
        ),
    ]  # fmt: skip
