"""Change data capture beside polling: `docs/cdc-or-polling.md` is made of these."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.cdc.burst import Burst
from benchmarks.cdc.load import Load
from benchmarks.cdc.recovery import CASES, Recovery
from benchmarks.cdc.relays import CDC, CDC_DELETED, EACH_SECOND, EACH_TENTH, NOBODY, WOKEN
from benchmarks.cdc.standing import Standing
from benchmarks.cdc.steady import RATES, Steady
from benchmarks.contest import Contender, Contest, Question
from benchmarks.contests.opening import QUEUE
from benchmarks.queue_content import sqs_client

CAPTURE: Final = f"{QUEUE}, Java 21 and Maven"
Open = Callable[[Bench], AbstractAsyncContextManager[Sequence[Contender]]]


def _of(make: Callable[[Bench, Any], Sequence[Contender]]) -> Open:
    """Opens a contest of contenders that share a client of the queue server."""

    @asynccontextmanager
    async def opened(at: Bench) -> AsyncIterator[Sequence[Contender]]:
        server = await at.queue_server()
        async with sqs_client(server.endpoint) as client:
            yield make(at, client)

    return opened


def _latency(at: Bench, client: Any) -> Sequence[Contender]:  # noqa: ANN401 - no types
    return [Steady(at, client, kind) for kind in (WOKEN, EACH_TENTH, EACH_SECOND, CDC)]


def _load(at: Bench, client: Any) -> Sequence[Contender]:  # noqa: ANN401
    return [Load(at, client, kind) for kind in (NOBODY, WOKEN, EACH_SECOND, CDC, CDC_DELETED)]


def _recovery(at: Bench, client: Any) -> Sequence[Contender]:  # noqa: ANN401
    return [Recovery(at, client, case) for case in CASES]


def _standing(at: Bench, client: Any) -> Sequence[Contender]:  # noqa: ANN401
    kinds = (WOKEN, CDC)
    return [Standing(at, client, kind, others=o) for kind in kinds for o in (False, True)]


def contests(burst: int) -> list[Contest]:
    """Each of them.

    Args:
        burst: orders of the burst.
    """

    def bursts(at: Bench, client: Any) -> Sequence[Contender]:  # noqa: ANN401
        return [Burst(at, client, kind, burst) for kind in (WOKEN, CDC)]

    p99 = [
        Question(f"{kind.name}: p99 at {rate} orders/s", kind.name, None,
                 measure=f"p99_ms_at_{rate}", better="less", unit="ms")
        for rate in RATES for kind in (WOKEN, CDC)
    ]  # fmt: skip
    return [
        Contest(
            "cdc-latency", "From commit to receipt: polling, woken polling, change data capture",
            _of(_latency), p99, needs=CAPTURE, timed=False,
        ),
        Contest(
            "cdc-burst", f"{burst} orders in one commit: polling and change data capture",
            _of(bursts),
            [Question("cdc / polling, woken", CDC.name, WOKEN.name)], needs=CAPTURE,
        ),
        Contest(
            "cdc-load", "What each relay does to the database, clean-up included", _of(_load),
            [Question(f"{kind.name}: WAL of an order", kind.name, None, measure="wal_bytes_per_order",
                      better="less", unit="B") for kind in (WOKEN, CDC, CDC_DELETED)],
            needs=CAPTURE, timed=False,
        ),
        Contest(
            "cdc-recovery", "A part is killed: the longest time without an event", _of(_recovery),
            [Question(case.name, case.name, None, measure="silence_s", better="less", unit="s")
             for case in CASES],
            needs=CAPTURE, timed=False,
        ),
        Contest(
            "cdc-standing", "The relay stands while orders come, and catches up", _of(_standing),
            [Question(f"{name}: WAL kept for an order", name, None, measure="wal_kept_per_order",
                      better="less", unit="B")
             for name in (f"{CDC.name}, alone", f"{CDC.name}, others write")],
            needs=CAPTURE, timed=False,
        ),
    ]  # fmt: skip
