"""The verdict: what the client was promised against what the ledgers say, after the drain.

Pure functions of the run's files, so that a verdict can be computed again and tested on hand-written
histories. A breach always wins: a run may be inconclusive about what it did not reach, but not about
an order that was charged twice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol, TypeVar

from onceproof.crashpoints import Action
from onceproof_chaos.evidence import (
    CaptureRow,
    ChargeRow,
    DeadLetterRow,
    Evidence,
    InboxRow,
    OrderRow,
    OutboxRow,
)
from onceproof_chaos.faultlog import FaultEvent, FaultEventKind
from onceproof_chaos.history import Finished, History, Outcome
from onceproof_chaos.plan import Plan
from onceproof_chaos.spans import SpansSummary
from onceproof_chaos.verdict import Breach, BreachKind, Result, Verdict

__all__ = ["Breach", "BreachKind", "Result", "Verdict", "check", "kills_by_point"]


_Stored = Finished | OrderRow | OutboxRow | InboxRow | CaptureRow | ChargeRow | DeadLetterRow


class _OfOrder(Protocol):
    @property
    def order_id(self) -> str: ...


_OrderRow = TypeVar("_OrderRow", bound=_OfOrder)


def check(
    *,
    history: History,
    evidence: Evidence,
    plan: Plan,
    faults: Sequence[FaultEvent],
    spans: SpansSummary,
    drained: bool,
    drain_reason: str | None = None,
) -> Verdict:
    """Judge one run. Call it only after the drain; `drain_reason` says why that gave up."""
    kinds = list(BreachKind)
    found = sorted(_breaches(history, evidence), key=lambda b: (kinds.index(b.kind), b.order_id))
    breaches = _with_rows(found, history, evidence)
    by_kind = Counter(breach.kind for breach in breaches)
    captured = Counter(capture.order_id for capture in evidence.captures)
    dead = _dead_lettered(evidence)
    outcomes = [(entry.outcome, entry.order_id) for entry in history.finished.values()]
    dead_lettered = sum(
        outcome is Outcome.OK and not captured[order] and order in dead
        for outcome, order in outcomes
    )
    reasons = tuple(_reasons(history, plan, faults, drained, drain_reason))
    if dead_lettered:
        # No fault of a plan makes an order poisonous, so the pipeline gave up on them by itself.
        reasons += (f"Accepted orders are in the dead-letter queue, not charged: {dead_lettered}.",)
    without_breach = Result.INCONCLUSIVE if reasons else Result.PASS
    return Verdict(
        verdict=Result.FAIL if breaches else without_breach,
        orders=len(outcomes),
        accepted=sum(outcome is Outcome.OK for outcome, _ in outcomes),
        lost=by_kind[BreachKind.LOST],
        double_charged=by_kind[BreachKind.DOUBLE_CHARGED],
        unexpected=by_kind[BreachKind.UNEXPECTED],
        mismatched=by_kind[BreachKind.MISMATCHED],
        recovered=sum(o is Outcome.INFO and captured[order] == 1 for o, order in outcomes),
        dead_lettered=dead_lettered,
        redeliveries=spans.redeliveries,
        deduplicated=spans.dedup_hits,
        dedup_hit_rate=spans.dedup_hit_rate,
        kills=kills_by_point(faults),
        reasons=reasons,
        breaches=tuple(breaches),
    )


def kills_by_point(faults: Iterable[FaultEvent]) -> dict[str, int]:
    """Number of distinct faults that killed a process, by crash point."""
    killed = {(e.fault, e.point) for e in faults if e.event is FaultEventKind.KILLED}
    counts = Counter(point for _, point in killed if point is not None)
    return dict(sorted(counts.items()))


def _breaches(history: History, evidence: Evidence) -> Iterator[Breach]:
    captures = _by_order(evidence.captures)
    charges = _by_order(evidence.charges)
    dead = _dead_lettered(evidence)
    for order in {*history.finished, *captures, *charges}:
        entry = history.finished.get(order)
        taken, booked = captures.get(order, []), charges.get(order, [])
        refused = entry is not None and entry.outcome is Outcome.FAIL
        if entry is not None and entry.outcome is Outcome.OK and not taken and order not in dead:
            yield Breach(
                BreachKind.LOST,
                order,
                "The client got a 201, but the provider never captured it and it is in no DLQ.",
            )
        if len(taken) > 1:
            text = f"The provider's ledger holds {len(taken)} captures for this order."
            yield Breach(BreachKind.DOUBLE_CHARGED, order, text)
        if not history.was_asked(order):
            text = "The client never asked for this order, but it was charged."
            yield Breach(BreachKind.UNEXPECTED, order, text)
        elif refused and (taken or booked):
            text = "The client got a definite no, but the order was charged."
            yield Breach(BreachKind.UNEXPECTED, order, text)
        differences = _differences(history, order, taken, booked)
        if differences:
            yield Breach(BreachKind.MISMATCHED, order, " ".join(differences))


def _with_rows(breaches: Sequence[Breach], history: History, evidence: Evidence) -> list[Breach]:
    """The same breaches, each with every row that is about its order."""
    orders = {breach.order_id for breach in breaches}
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def add(table: str, order: str | None, row: _Stored) -> None:
        if order in orders:
            rows[order].append({"table": table} | asdict(row))

    order_of = {row.event_id: row.order_id for row in evidence.orders if row.event_id}
    for entry in history.finished.values():
        add("history", entry.order_id, entry)
    for order in evidence.orders:
        add("orders", order.order_id, order)
    for outbox in evidence.outbox:
        add("outbox", order_of.get(outbox.id), outbox)
    for inbox in evidence.inbox:
        add("inbox", order_of.get(inbox.event_id), inbox)
    for capture in evidence.captures:
        add("captures", capture.order_id, capture)
    for charge in evidence.charges:
        add("charges", charge.order_id, charge)
    for dead in evidence.dlq:
        add("dlq", dead.order_id or order_of.get(dead.event_id or ""), dead)
    return [replace(breach, rows=tuple(rows[breach.order_id])) for breach in breaches]


def _differences(
    history: History, order: str, taken: Sequence[CaptureRow], booked: Sequence[ChargeRow]
) -> list[str]:
    """In words, how the two ledgers differ from one another and from what was asked for."""
    found = []
    ledger = Counter((row.id, row.amount, row.currency) for row in taken)
    table = Counter((row.provider_charge_id, row.amount, row.currency) for row in booked)
    if len(taken) != len(booked):
        found.append(f"The provider captured {len(taken)} times, charges has {len(booked)} rows.")
    elif ledger != table:
        found.append("Provider's ledger and charges table differ in id, amount or currency.")
    asked = history.finished.get(order) or history.asked.get(order)
    if asked is not None:
        wrong = {(r.amount, r.currency) for r in taken} - {(asked.amount, asked.currency)}
        found += [
            f"Captured {amount} {currency} where {asked.amount} {asked.currency} was asked for."
            for amount, currency in sorted(wrong)
        ]
    return found


def _reasons(
    history: History,
    plan: Plan,
    faults: Sequence[FaultEvent],
    drained: bool,
    drain_reason: str | None,
) -> Iterator[str]:
    """Why the run proves less than it was meant to."""
    if not plan.faults:
        yield "No fault was injected: a run without faults proves nothing."
    yield from _not_carried_out(plan, faults)
    yield from _not_ours(plan, faults)
    if not drained:
        yield f"The drain did not finish: {drain_reason or 'no reason recorded'}."
    if len(history.finished) < plan.orders:
        yield f"The history is incomplete: {len(history.finished)} of {plan.orders} orders ended."


def _not_carried_out(plan: Plan, faults: Sequence[FaultEvent]) -> Iterator[str]:
    reached = {event.fault for event in faults if event.event is FaultEventKind.REACHED}
    killed = {event.fault for event in faults if event.event is FaultEventKind.KILLED}
    for fault in plan.faults:
        what = f"{fault.action.value} at {fault.point} ({fault.id})"
        if fault.id not in reached | killed:
            yield f"A planned fault was not reached: {what}."
        elif fault.action is Action.KILL and fault.id not in killed:
            yield f"A planned fault was reached, but nothing was killed: {what}."


def _not_ours(plan: Plan, faults: Sequence[FaultEvent]) -> Iterator[str]:
    planned = {fault.id for fault in plan.faults}
    for event in faults:
        who = f"{event.service or 'A process'} {event.instance or ''}".strip()
        if event.event is FaultEventKind.DIED_UNEXPECTEDLY:
            yield f"{who} ended without a fault of this run (exit code {event.exit_code})."
        elif event.event is FaultEventKind.KILLED and event.fault not in planned:
            yield f"{who} was killed by a fault that is not in the plan ({event.fault})."


def _dead_lettered(evidence: Evidence) -> set[str]:
    """Orders that sit in the DLQ, known by order id or by the event that they belong to."""
    events = {row.event_id: row.order_id for row in evidence.orders if row.event_id}
    dead = {row.order_id for row in evidence.dlq if row.order_id}
    return dead | {events[row.event_id] for row in evidence.dlq if row.event_id in events}


def _by_order(rows: Iterable[_OrderRow]) -> dict[str, list[_OrderRow]]:
    grouped: dict[str, list[_OrderRow]] = defaultdict(list)
    for row in rows:
        grouped[row.order_id].append(row)
    return dict(grouped)
