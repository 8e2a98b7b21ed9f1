"""The verdict of a drill: what the ledgers, the outbox and the traces say about its order.

Two kinds of checks. A promise that is broken (charged not once, an event still pending) makes the drill
fail. Evidence that is missing (no span of the crash point, no dedup hit where one must be) makes it
inconclusive: then the right number of charges may be luck.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import asyncpg

from onceproof.crashpoints import Action
from onceproof.telemetry import CRASH_POINT, CRASH_POINT_SPAN, DEDUP_HIT
from onceproof.variants import HARDENED, parse_variant
from onceproof_chaos.drain import PENDING
from onceproof_chaos.spans import Span
from onceproof_chaos.traces import TraceStoreError
from onceproof_operator.conditions import Status
from onceproof_operator.drill_spec import DrillSpec
from onceproof_operator.kill import DRILL, KILL_SPAN, POD_UID
from onceproof_operator.world import World

_ORDERS: Final = "SELECT count(*) FROM orders WHERE order_id = $1"
_CHARGES: Final = "SELECT count(*) FROM charges WHERE order_id = $1"
_PENDING: Final = f"{PENDING} AND key = $1"
_CAPTURES: Final = "SELECT count(*) FROM captures WHERE order_id = $1"
_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation and what was found. `evidence` says where to look for oneself."""

    name: str
    expected: str
    observed: str
    ok: bool
    evidence: str

    def as_json(self) -> dict[str, Any]:
        """As in `status.checks`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Ledgers:
    """How often an order stands where."""

    orders: int
    captures: int
    charges: int
    pending: int


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict with its reason, and the checks behind it."""

    verdict: str
    reason: str
    message: str
    checks: tuple[Check, ...] = ()
    captures: int | None = None
    charges: int | None = None


async def verify(spec: DrillSpec, status: Status, world: World) -> Result:
    """Judge a drill after its drain."""
    try:
        ledgers = await _read(spec.order, world)
        spans = await world.traces.of_order(spec.order, since=spec.created)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        text = f"the ledgers cannot be read: {str(error) or type(error).__name__}"
        return Result("inconclusive", "LedgersUnreadable", text)
    except TraceStoreError as error:
        return Result("inconclusive", "TracesUnreadable", str(error))
    return judge(
        spec,
        variant=world.settings.variant,
        ledgers=ledgers,
        spans=spans,
        killed_uid=status["pod"]["uid"] if status.holds("Killed") else None,
        redelivered=status.holds("Redelivered"),
        relays_share=world.settings.relays_share,
    )


def judge(
    spec: DrillSpec,
    *,
    variant: str,
    ledgers: Ledgers,
    spans: Sequence[Span],
    killed_uid: str | None,
    redelivered: bool,
    relays_share: bool = True,
) -> Result:
    """The verdict from what was found; no I/O.

    Args:
        spec: of the drill.
        variant: of the installation.
        ledgers: rows of the order.
        spans: of the order.
        killed_uid: of the pod that the drill deleted.
        redelivered: whether the order was handled after the fault.
        relays_share: whether another relay takes over what one that stalls has claimed.
    """
    promises = (
        _sql("captures", "1", ledgers.captures, _CAPTURES, spec.order, "provider"),
        _sql("charges", "1", ledgers.charges, _CHARGES, spec.order, "pipeline"),
        _sql("outbox_pending", "0", ledgers.pending, _PENDING, spec.order, "pipeline"),
    )
    evidence = tuple(_evidence(spec, variant, spans, killed_uid, redelivered, relays_share))
    checks = promises + evidence
    missing = [check.name for check in evidence if not check.ok]
    if not ledgers.orders:
        verdict, reason = "inconclusive", "OrderUnknown"
        text = f"order {spec.order} was never accepted: {_ORDERS} is 0"
    elif not all(check.ok for check in promises):
        verdict, reason = "fail", "Breach"
        text = f"{_breach(ledgers)}: {ledgers.captures} captures, {ledgers.charges} charges"
    elif missing:
        verdict, reason = "inconclusive", "EvidenceMissing"
        text = f"charged once, but the evidence is not complete: {', '.join(missing)}"
    else:
        verdict, reason, text = "pass", "ChargedOnce", "1 capture, 1 charge, nothing pending"
    return Result(verdict, reason, text, checks, ledgers.captures, ledgers.charges)


def handled_after(spans: Iterable[Span], fault_at: float) -> Span | None:
    """The first delivery whose handling began after the fault (Unix time in seconds)."""
    later = [span for span in spans if span.is_process and span.start > fault_at]
    return min(later, key=lambda span: span.start, default=None)


def _evidence(
    spec: DrillSpec,
    variant: str,
    spans: Sequence[Span],
    killed_uid: str | None,
    redelivered: bool,
    relays_share: bool,
) -> Iterable[Check]:
    fixes = parse_variant(variant)
    where = f"traces of order {spec.order}"
    reached = [
        span
        for span in spans
        if span.name == CRASH_POINT_SPAN and span.attributes.get(CRASH_POINT) == spec.point
    ]
    yield _at_least("crash_point_reached", 1, len(reached), f"{where}: span {CRASH_POINT_SPAN}")
    if spec.action is Action.KILL:
        ours = [
            span
            for span in spans
            if span.name == KILL_SPAN and span.attributes.get(DRILL) == spec.name
        ]
        killed = {str(span.attributes.get(POD_UID)) for span in ours}
        yield Check(
            name="kill_is_ours",
            expected=f"deleted pod {killed_uid}",
            observed=f"deleted {', '.join(sorted(killed)) or 'nothing'}",
            ok=killed == {killed_uid},
            evidence=f"{where}: span {KILL_SPAN}",
        )
    if fixes == HARDENED:
        yield _at_least(
            "handled_after_fault", 1, int(redelivered), f"{where}: process spans after the fault"
        )
    if spec.dedup_expected(fixes, relays_share=relays_share):
        hits = [
            span for span in spans if span.is_process and span.attributes.get(DEDUP_HIT) is True
        ]
        yield _at_least("dedup_hits", 1, len(hits), f"{where}: {DEDUP_HIT} is true")


def _breach(ledgers: Ledgers) -> str:
    if ledgers.captures > 1:
        return "double-charged"
    if not ledgers.captures:
        return "lost"
    return "ledgers disagree" if ledgers.charges != 1 else "event still pending"


def _sql(name: str, expected: str, observed: int, sql: str, order: str, database: str) -> Check:
    return Check(
        name=name,
        expected=expected,
        observed=str(observed),
        ok=str(observed) == expected,
        evidence=f"{database} database: {sql} with $1 = '{order}'",
    )


def _at_least(name: str, expected: int, observed: int, evidence: str) -> Check:
    return Check(name, f">= {expected}", str(observed), observed >= expected, evidence)


async def _read(order: str, world: World) -> Ledgers:
    pipeline = await asyncpg.connect(world.database_url, timeout=_TIMEOUT_S)
    try:
        counts = [
            await pipeline.fetchval(sql, order, timeout=_TIMEOUT_S)
            for sql in (_ORDERS, _CHARGES, _PENDING)
        ]
    finally:
        await pipeline.close(timeout=_TIMEOUT_S)
    provider = await asyncpg.connect(world.provider_database_url, timeout=_TIMEOUT_S)
    try:
        captures = await provider.fetchval(_CAPTURES, order, timeout=_TIMEOUT_S)
    finally:
        await provider.close(timeout=_TIMEOUT_S)
    return Ledgers(orders=counts[0], captures=captures, charges=counts[1], pending=counts[2])
