"""What a cell makes of its run: reasons for doubt, its folder, and who was struck."""

from __future__ import annotations

from pathlib import Path

import pytest

from onceproof.telemetry import EVENT_ID, MESSAGE_EVENT, MESSAGE_ID, ORDER_ID
from onceproof_chaos import jsonl
from onceproof_chaos.ablation.cell import (
    _breaches,
    _reasons,
    _run_folder,
    _struck,
    _without_promise,
)
from onceproof_chaos.ablation.faults import FAULTS, NONE, SLOW, VISIBILITY_S, AblationFault
from onceproof_chaos.checker import check
from onceproof_chaos.evidence import CaptureRow, Evidence
from onceproof_chaos.faultlog import FaultEvent, FaultEventKind
from onceproof_chaos.history import Finished, History, HistoryWriter, Outcome
from onceproof_chaos.plan import Plan
from onceproof_chaos.runfolder import RunFolder
from onceproof_chaos.spans import Span, SpansSummary
from onceproof_chaos.verdict import BreachKind, Verdict

KILL = FAULTS["kill-consumer.after_charge"]


def judged(plan: Plan, *, captures: tuple[CaptureRow, ...] = (), drained: bool = True) -> Verdict:
    return check(
        history=History(),
        evidence=Evidence(captures=captures),
        plan=plan,
        faults=(),
        spans=SpansSummary(),
        drained=drained,
        drain_reason="2 messages in the queue",
    )


def test_that_nothing_was_injected_is_no_doubt_where_it_is_meant() -> None:
    plan = NONE.plan(1, 10)
    assert any("No fault" in reason for reason in judged(plan).reasons)
    assert not any("No fault" in reason for reason in _reasons(judged(plan), plan, [], []))
    assert any(
        "2 messages" in reason for reason in _reasons(judged(plan, drained=False), plan, [], [])
    )


def test_a_planned_fault_that_was_not_reached_and_orders_that_were_not_alone_are_doubts() -> None:
    plan = KILL.plan(1, 10)
    reasons = _reasons(judged(plan), plan, ["o-1-000004"], [])
    assert sum("was not reached" in reason for reason in reasons) == len(plan.faults)
    assert "o-1-000004" in reasons[-1]


@pytest.mark.parametrize(
    ("fault", "doubtful"), [(KILL, ["o-2"]), (NONE, ["o-2", "o-3"]), (SLOW, ["o-2", "o-3"])]
)
def test_an_order_that_was_promised_nothing_proves_nothing(
    tmp_path: Path, fault: AblationFault, doubtful: list[str]
) -> None:
    """Else a producer that refuses everything would agree wherever nothing is to break."""
    run, plan = _run_folder(tmp_path, "x"), fault.plan(1, 10)
    outcomes = {"o-1": Outcome.OK, "o-2": Outcome.INFO, "o-3": Outcome.FAIL}
    with HistoryWriter(run.history_path) as history:
        for order, outcome in outcomes.items():
            history.finished(Finished(order, 1, "EUR", outcome, None, 1, 1.0, 2.0))
    found = _without_promise(run, plan, ("o-1", "o-2"))
    assert found == doubtful
    assert _reasons(judged(plan), plan, [], found)[-1].endswith(f"{', '.join(doubtful)}.")


def test_breaches_are_orders_by_kind() -> None:
    captures = tuple(CaptureRow(f"c{n}", "o-9", 5, "EUR", None, 1.0) for n in range(2))
    found = _breaches(judged(KILL.plan(1, 10), captures=captures))
    kinds = {BreachKind.DOUBLE_CHARGED, BreachKind.UNEXPECTED, BreachKind.MISMATCHED}
    assert found == dict.fromkeys(kinds, ("o-9",))


def test_a_repetition_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    names = [_run_folder(tmp_path, "s1-naive-none").path.name for _ in range(3)]
    assert names == ["s1-naive-none", "s1-naive-none-2", "s1-naive-none-3"]


def test_who_reached_the_crash_point_was_struck(tmp_path: Path) -> None:
    run = _run_folder(tmp_path, "x")
    with jsonl.Appender(run.faults_path) as log:
        for kind, order in (
            (FaultEventKind.ARMED, None),
            (FaultEventKind.REACHED, "o-2"),
            (FaultEventKind.KILLED, "o-2"),
            (FaultEventKind.REACHED, "o-1"),
        ):
            log.append(FaultEvent(kind, 1.0, "f", KILL.point, "kill", order).as_json())
    assert _struck(run, KILL) == ("o-1", "o-2")


def test_who_was_in_hand_for_longer_than_the_visibility_timeout_was_struck(tmp_path: Path) -> None:
    run: RunFolder = _run_folder(tmp_path, "x")
    with jsonl.Appender(run.spans_path) as log:
        # o-3 is handled fast, but has waited behind o-1 since it was received.
        for order, begins, ends in (
            ("o-1", 1.0, 1.0 + VISIBILITY_S + 1),
            ("o-2", 1.0, 1.0 + VISIBILITY_S - 1),
            ("o-3", 1.0 + VISIBILITY_S, 1.0 + VISIBILITY_S + 0.5),
        ):
            of = {EVENT_ID: f"e-{order}", MESSAGE_ID: f"m-{order}", ORDER_ID: order}
            received = {"name": MESSAGE_EVENT, "attributes": of}
            receive = Span("x", "t", "r", 0.0, 1.0, attributes=kind("receive"), events=(received,))
            process = Span("x", "t", "p", begins, ends, attributes=of | kind("process"))
            log.append(receive.as_json())
            log.append(process.as_json())
    assert _struck(run, SLOW) == ("o-1", "o-3")


def kind(name: str) -> dict[str, str]:
    return {"messaging.operation.type": name}
