"""The checker on hand-written histories: one negative control for each way to break or to doubt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onceproof.crashpoints import CONSUMER_AFTER_CHARGE, CONSUMER_AFTER_COMMIT, Action
from onceproof_chaos.checker import BreachKind, Result, Verdict, check
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
from onceproof_chaos.history import Attempt, Finished, History, Outcome
from onceproof_chaos.plan import Fault, Plan, order_id
from onceproof_chaos.spans import SpansSummary

OK, REFUSED, INFO = order_id(1, 0), order_id(1, 1), order_id(1, 2)
KILL = Fault("kill-1", CONSUMER_AFTER_CHARGE, Action.KILL, (OK,))
STALL = Fault("stall-1", CONSUMER_AFTER_COMMIT, Action.STALL, (INFO,))


def finished(order: str, outcome: Outcome, **changes: Any) -> Finished:
    status = {Outcome.OK: 201, Outcome.FAIL: 422, Outcome.INFO: None}[outcome]
    return replace(Finished(order, 1999, "EUR", outcome, status, 1, 10.0, 11.0), **changes)


def capture(order: str, number: int = 1, **changes: Any) -> CaptureRow:
    row = CaptureRow(f"ch-{order}-{number}", order, 1999, "EUR", None, 12.0)
    return replace(row, **changes)


def charge(order: str, number: int = 1, **changes: Any) -> ChargeRow:
    row = ChargeRow(number, order, f"e-{order}", 1999, "EUR", f"ch-{order}-{number}", 1, 12.0)
    return replace(row, **changes)


def event(kind: FaultEventKind, fault: Fault | None, **changes: Any) -> FaultEvent:
    point = fault.point if fault else None
    return replace(FaultEvent(kind, 12.0, fault.id if fault else None, point), **changes)


HISTORY = History.of(
    finished(OK, Outcome.OK), finished(REFUSED, Outcome.FAIL), finished(INFO, Outcome.INFO)
)
EVIDENCE = Evidence(
    orders=tuple(OrderRow(o, 1999, "EUR", f"e-{o}", 10.0) for o in (OK, INFO)),
    captures=(capture(OK), capture(INFO)),
    charges=(charge(OK), charge(INFO)),
    inbox=tuple(InboxRow("payments", f"e-{o}", 12.0) for o in (OK, INFO)),
    outbox=tuple(OutboxRow(f"e-{o}", o, "t", 1, None, "m", 10.0, 11.0) for o in (OK, INFO)),
)
PLAN = Plan(1, 3, (KILL, STALL))
FAULTS = (
    event(FaultEventKind.ARMED, KILL),
    event(FaultEventKind.REACHED, KILL),
    event(FaultEventKind.KILLED, KILL),
    event(FaultEventKind.RESTARTED, KILL),
    event(FaultEventKind.REACHED, STALL),
    event(FaultEventKind.RESUMED, STALL),
)
SPANS = SpansSummary(deliveries=4, redeliveries=2, dedup_hits=1, settled=3)


def judge(
    *,
    history: History = HISTORY,
    evidence: Evidence = EVIDENCE,
    plan: Plan = PLAN,
    faults: Sequence[FaultEvent] = FAULTS,
    drained: bool = True,
    drain_reason: str | None = None,
) -> Verdict:
    return check(
        history=history,
        evidence=evidence,
        plan=plan,
        faults=faults,
        spans=SPANS,
        drained=drained,
        drain_reason=drain_reason,
    )


def test_a_clean_run_passes() -> None:
    verdict = judge()
    assert verdict.counts() == {
        "verdict": "pass",
        "orders": 3,
        "accepted": 1,
        "lost": 0,
        "double_charged": 0,
        "unexpected": 0,
        "mismatched": 0,
        "recovered": 1,
        "dead_lettered": 0,
        "redeliveries": 2,
        "deduplicated": 1,
        "dedup_hit_rate": pytest.approx(1 / 3),
        "kills": {CONSUMER_AFTER_CHARGE: 1},
    }
    assert verdict.breaches == ()
    assert verdict.reasons == ()


def only_breach(verdict: Verdict, kind: BreachKind, order: str) -> str:
    """The explanation of the one breach, after checking that it is the only one."""
    assert verdict.verdict is Result.FAIL
    assert [(b.kind, b.order_id) for b in verdict.breaches] == [(kind, order)]
    for name in BreachKind:
        assert getattr(verdict, name.value) == (name is kind)
    return verdict.breaches[0].explanation


def test_an_accepted_order_that_nobody_charged_is_lost() -> None:
    evidence = replace(EVIDENCE, captures=EVIDENCE.captures[1:], charges=EVIDENCE.charges[1:])
    verdict = judge(evidence=evidence)
    assert "never captured" in only_breach(verdict, BreachKind.LOST, OK)
    assert [row["table"] for row in verdict.breaches[0].rows] == [
        "history",
        "orders",
        "outbox",
        "inbox",
    ]


@pytest.mark.parametrize("names", [{"order_id": OK}, {"event_id": f"e-{OK}"}])
def test_an_order_in_the_dlq_is_not_lost(names: dict[str, str]) -> None:
    evidence = replace(
        EVIDENCE,
        captures=EVIDENCE.captures[1:],
        charges=EVIDENCE.charges[1:],
        dlq=(DeadLetterRow("m-1", "{}", 5, "poison", **names),),
    )
    verdict = judge(evidence=evidence)
    assert (verdict.lost, verdict.dead_lettered, verdict.breaches) == (0, 1, ())
    # Nor is it charged, and no fault of a plan makes an order poisonous.
    assert verdict.verdict is Result.INCONCLUSIVE
    assert any("dead-letter queue, not charged: 1" in reason for reason in verdict.reasons)


def test_a_foreign_message_in_the_dlq_saves_nobody() -> None:
    evidence = replace(
        EVIDENCE,
        captures=EVIDENCE.captures[1:],
        charges=EVIDENCE.charges[1:],
        dlq=(DeadLetterRow("m-1", "?", 5, "not JSON"),),
    )
    only_breach(judge(evidence=evidence), BreachKind.LOST, OK)


@pytest.mark.parametrize("order", [OK, INFO])
def test_two_captures_are_a_double_charge_whatever_the_client_knows(order: str) -> None:
    evidence = replace(
        EVIDENCE,
        captures=(*EVIDENCE.captures, capture(order, 2)),
        charges=(*EVIDENCE.charges, charge(order, 2)),
    )
    text = only_breach(judge(evidence=evidence), BreachKind.DOUBLE_CHARGED, order)
    assert "2 captures" in text


def test_a_double_charge_that_the_pipeline_does_not_know_of_is_mismatched_too() -> None:
    verdict = judge(evidence=replace(EVIDENCE, captures=(*EVIDENCE.captures, capture(OK, 2))))
    assert (verdict.double_charged, verdict.mismatched) == (1, 1)
    assert verdict.breaches[0].rows == verdict.breaches[1].rows
    assert [r["id"] for r in verdict.breaches[0].rows if r["table"] == "captures"] == [
        f"ch-{OK}-1",
        f"ch-{OK}-2",
    ]


def test_a_charge_that_nobody_asked_for_is_unexpected() -> None:
    stranger = order_id(9, 9)
    evidence = replace(
        EVIDENCE,
        captures=(*EVIDENCE.captures, capture(stranger)),
        charges=(*EVIDENCE.charges, charge(stranger)),
    )
    text = only_breach(judge(evidence=evidence), BreachKind.UNEXPECTED, stranger)
    assert "never asked" in text


def test_a_refused_order_that_was_charged_is_unexpected() -> None:
    evidence = replace(
        EVIDENCE,
        captures=(*EVIDENCE.captures, capture(REFUSED)),
        charges=(*EVIDENCE.charges, charge(REFUSED)),
    )
    text = only_breach(judge(evidence=evidence), BreachKind.UNEXPECTED, REFUSED)
    assert "definite no" in text


def test_an_order_whose_client_never_finished_was_still_asked_for() -> None:
    asked = {INFO: Attempt(INFO, 1999, "EUR", 1, 10.0)}
    history = History({OK: HISTORY.finished[OK], REFUSED: HISTORY.finished[REFUSED]}, asked)
    verdict = judge(history=history)
    assert (verdict.verdict, verdict.unexpected) == (Result.INCONCLUSIVE, 0)


@pytest.mark.parametrize(
    ("charges", "match"),
    [
        ((), "charges has 0 rows"),
        ((charge(OK), charge(OK)), "charges has 2 rows"),
        ((charge(OK, provider_charge_id="ch-other"),), "differ in id"),
        ((charge(OK, amount=1),), "differ in id, amount or currency"),
        ((charge(OK, currency="USD"),), "differ in id, amount or currency"),
    ],
)
def test_ledgers_that_disagree_are_a_mismatch(charges: tuple[ChargeRow, ...], match: str) -> None:
    evidence = replace(EVIDENCE, charges=(*charges, charge(INFO)))
    assert match in only_breach(judge(evidence=evidence), BreachKind.MISMATCHED, OK)


@pytest.mark.parametrize("changes", [{"amount": 2000}, {"currency": "USD"}])
def test_a_wrong_amount_in_both_ledgers_is_a_mismatch(changes: dict[str, Any]) -> None:
    evidence = replace(
        EVIDENCE,
        captures=(capture(OK, **changes), capture(INFO)),
        charges=(charge(OK, **changes), charge(INFO)),
    )
    text = only_breach(judge(evidence=evidence), BreachKind.MISMATCHED, OK)
    assert "where 1999 EUR was asked for" in text


def inconclusive(verdict: Verdict) -> str:
    assert verdict.verdict is Result.INCONCLUSIVE
    assert len(verdict.reasons) == 1
    return verdict.reasons[0]


def test_a_fault_that_was_not_reached() -> None:
    text = inconclusive(judge(faults=FAULTS[:4]))
    assert "not reached" in text
    assert "stall-1" in text


def test_a_kill_that_parked_but_was_not_killed() -> None:
    assert "nothing was killed" in inconclusive(judge(faults=(FAULTS[1], *FAULTS[3:])))


def test_a_process_that_died_by_itself() -> None:
    died = event(FaultEventKind.DIED_UNEXPECTEDLY, None, service="relay", exit_code=1)
    assert "relay ended without a fault" in inconclusive(judge(faults=(*FAULTS, died)))


def test_a_kill_that_is_not_in_the_plan() -> None:
    other = event(FaultEventKind.KILLED, replace(KILL, id="kill-9"))
    assert "not in the plan (kill-9)" in inconclusive(judge(faults=(*FAULTS, other)))


def test_a_drain_that_timed_out() -> None:
    verdict = judge(drained=False, drain_reason="3 messages after 60 s")
    assert "3 messages after 60 s" in inconclusive(verdict)


def test_a_run_without_faults_never_passes() -> None:
    verdict = judge(plan=Plan(1, 3), faults=())
    assert "No fault was injected" in inconclusive(verdict)


def test_a_history_that_is_incomplete() -> None:
    assert "3 of 4 orders" in inconclusive(judge(plan=replace(PLAN, orders=4)))


def test_an_empty_run_never_passes() -> None:
    verdict = check(
        history=History(),
        evidence=Evidence(),
        plan=Plan(1, 1),
        faults=(),
        spans=SpansSummary(),
        drained=True,
    )
    assert verdict.verdict is Result.INCONCLUSIVE
    assert verdict.dedup_hit_rate == 0


def test_a_breach_wins_and_the_reasons_stay() -> None:
    verdict = judge(evidence=replace(EVIDENCE, charges=()), drained=False)
    assert verdict.verdict is Result.FAIL
    assert len(verdict.reasons) == 1


def test_kills_are_counted_once_for_each_fault() -> None:
    verdict = judge(faults=(*FAULTS, event(FaultEventKind.KILLED, KILL)))
    assert verdict.kills == {CONSUMER_AFTER_CHARGE: 1}


def test_json_round_trip() -> None:
    verdict = judge(evidence=replace(EVIDENCE, charges=()), drained=False)
    assert Verdict.from_json(json.loads(json.dumps(verdict.as_json()))) == verdict


ORDERS = [order_id(1, index) for index in range(5)]
AMOUNTS = st.sampled_from([1999, 1998])
HISTORIES = st.lists(
    st.tuples(st.sampled_from(ORDERS), st.sampled_from(list(Outcome)), AMOUNTS),
    unique_by=lambda entry: entry[0],
)
LEDGERS = st.lists(st.tuples(st.sampled_from(ORDERS), st.integers(1, 2), AMOUNTS), max_size=7)


@settings(max_examples=300, deadline=None)
@given(
    history=HISTORIES,
    captured=LEDGERS,
    charged=st.one_of(LEDGERS, st.none()),
    dead=st.sets(st.sampled_from(ORDERS), max_size=2),
)
def test_any_history_is_judged_like_by_hand(
    history: list[tuple[str, Outcome, int]],
    captured: list[tuple[str, int, int]],
    charged: list[tuple[str, int, int]] | None,
    dead: set[str],
) -> None:
    charged = captured if charged is None else charged
    verdict = judge(
        history=History.of(*(finished(o, outcome, amount=a) for o, outcome, a in history)),
        evidence=Evidence(
            captures=tuple(capture(o, n, amount=a) for o, n, a in captured),
            charges=tuple(charge(o, n, amount=a) for o, n, a in charged),
            dlq=tuple(DeadLetterRow(f"m-{o}", "{}", 5, order_id=o) for o in dead),
        ),
        plan=replace(PLAN, orders=len(history) or 1),
    )

    expected: set[tuple[str, str]] = set()
    recovered = 0
    given_up = False
    for order in ORDERS:
        promised = [(outcome, amount) for o, outcome, amount in history if o == order]
        ledger = sorted((n, a) for o, n, a in captured if o == order)
        table = sorted((n, a) for o, n, a in charged if o == order)
        outcome, amount = promised[0] if promised else (None, None)
        given_up |= outcome is Outcome.OK and ledger == [] and order in dead
        if outcome is Outcome.OK and ledger == [] and order not in dead:
            expected.add(("lost", order))
        if len(ledger) >= 2:
            expected.add(("double_charged", order))
        if (ledger or table) and outcome in (None, Outcome.FAIL):
            expected.add(("unexpected", order))
        if ledger != table or (promised and any(a != amount for _, a in ledger)):
            expected.add(("mismatched", order))
        recovered += outcome is Outcome.INFO and len(ledger) == 1
    assert {(b.kind.value, b.order_id) for b in verdict.breaches} == expected
    assert len(verdict.breaches) == len(expected)
    assert verdict.recovered == recovered
    assert (verdict.verdict is Result.FAIL) == bool(expected)
    if not expected:
        assert (verdict.verdict is Result.PASS) == (bool(history) and not given_up)
