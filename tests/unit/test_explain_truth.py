"""The truth by the plan, the matrix that holds explanations against it, and that neither peeks."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import onceproof_chaos.explain
from onceproof.cli.app import build
from onceproof.crashpoints import Action
from onceproof_chaos.cli.options import Exit
from onceproof_chaos.evidence import ChargeRow, Evidence, OrderRow
from onceproof_chaos.explain import Explanation, Index, Reason, Records, explain_all
from onceproof_chaos.explain.confusion import NOT_INJECTED, Confusion, compare
from onceproof_chaos.explain.explanation import OrderExplanation
from onceproof_chaos.explain.truth import Truth
from onceproof_chaos.faultlog import FaultEvent, FaultEventKind
from onceproof_chaos.plan import Fault, Plan, order_id
from onceproof_chaos.spans import Span

OWN, BESIDE, DONE, ACKED = (order_id(1, n) for n in range(4))
PLAN = Plan(1, 4, (Fault("fault-1", "consumer.after_charge", Action.KILL, (OWN,)),))
A, B = "host-1", "host-2"


def told(order: str, attempt: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "onceproof.order.id": order,
        "onceproof.event.id": f"event-{order}",
        "messaging.message.id": f"message-{order}",
        "onceproof.delivery.attempt": attempt,
        **{name.replace("__", "."): value for name, value in more.items()},
    }


def span(name: str, kind: str, at: float, on: str, *messages: dict[str, Any], **own: Any) -> Span:
    return Span(
        name=kind, trace_id="t", span_id=name, start=at - 0.1, end=at, service="consumer",
        instance=on,
        attributes={"messaging.operation.type": kind}
        | {key.replace("__", "."): value for key, value in own.items()},
        events=tuple({"name": "message", "attributes": message} for message in messages),
    )  # fmt: skip


def received(number: int, at: float, on: str, *messages: dict[str, Any]) -> Span:
    return span(
        f"received-{number}-{on}", "receive", at, on, *messages,
        onceproof__receive__number=number, onceproof__visibility_s=30.0, onceproof__heartbeat_s=10.0,
    )  # fmt: skip


def handled(order: str, attempt: int, outcome: str, at: float, on: str) -> Span:
    made = span(f"handled-{order}-{attempt}", "process", at, on)
    attributes = dict(made.attributes) | told(order, attempt) | {"onceproof.outcome": outcome}
    return replace(made, attributes=attributes)


def acked(order: str, attempt: int, at: float, on: str) -> Span:
    message = told(order, attempt, onceproof__result="confirmed")
    return span(f"acked-{order}-{attempt}", "settle", at, on, message)


STATES = {OWN: "working", BESIDE: "waiting", DONE: "done"}
CRASH = replace(
    span(
        "crash", "crash", 12, A,
        *(told(order, onceproof__delivery__state=state) for order, state in STATES.items()),
        onceproof__crash_point="consumer.after_charge", onceproof__crash_action="kill",
        onceproof__receive__count=1,
    ),
    name="crash_point.reached",
)  # fmt: skip
SPANS = [
    received(1, 10, A, *(told(order) for order in (OWN, BESIDE, DONE, ACKED))),
    handled(ACKED, 1, "processed", 11, A),
    acked(ACKED, 1, 11.1, A),
    handled(DONE, 1, "processed", 11.9, A),
    replace(CRASH, attributes=dict(CRASH.attributes) | told(OWN)),
    received(1, 42, B, *(told(order, 2) for order in STATES)),
    *(handled(order, 2, "processed", 43, B) for order in (OWN, BESIDE)),
    handled(DONE, 2, "duplicate", 43, B),
]
FAULTS = [
    FaultEvent(
        kind, at, "fault-1", "consumer.after_charge", "kill", OWN, 1, f"event-{OWN}", "consumer",
        "consumer-0", 1, trace_id="t", span_id="crash",
    )
    for kind, at in ((FaultEventKind.REACHED, 12.0), (FaultEventKind.KILLED, 12.1))
]  # fmt: skip


def charge(order: str, attempt: int, at: float) -> ChargeRow:
    return ChargeRow(1, order, f"event-{order}", 1, "EUR", f"c-{order}", attempt, at)


ROWS = Evidence(
    orders=tuple(OrderRow(o, 1, "EUR", f"event-{o}", 1.0) for o in (OWN, BESIDE, DONE, ACKED)),
    charges=(
        charge(ACKED, 1, 10.9), charge(DONE, 1, 11.8), charge(OWN, 2, 42.9), charge(BESIDE, 2, 42.9),
    ),
)  # fmt: skip


def explained(spans: Sequence[Span] = SPANS) -> list[OrderExplanation]:
    return explain_all(Index(Records(spans, FAULTS, ROWS)))


def test_a_kill_strikes_its_own_order_and_whatever_the_process_had_in_hand() -> None:
    injected = Truth(PLAN, FAULTS, SPANS, ROWS).injected
    assert {(key[0], one.beside, *one.expected) for key, one in injected.items()} == {
        (f"message-{OWN}", False, Reason.CRASHED_BEFORE_COMMIT),
        (f"message-{BESIDE}", True, Reason.CRASHED_BEFORE_COMMIT),
        (f"message-{DONE}", True, Reason.ACK_LOST),
    }


@pytest.mark.parametrize("action", ["kill", "stall"])
def test_what_had_come_again_before_the_fault_was_not_its_doing(action: str) -> None:
    early = received(1, 11.95, B, told(BESIDE, 2), told(OWN, 2))
    spans = [early if span.span_id == early.span_id else span for span in SPANS]
    faults = [replace(line, action=action) for line in FAULTS]
    injected = Truth(PLAN, faults, spans, ROWS).injected
    assert set(injected) == {(f"message-{DONE}", 2)}


def test_right_explanations_fill_the_diagonal() -> None:
    confusion = compare(explained(), Truth(PLAN, FAULTS, SPANS, ROWS))
    assert (confusion.right, confusion.unknown, confusion.wrong) == (3, 0, [])
    assert confusion.share_right == 1.0
    assert set(confusion.matrix) == {
        "kill consumer.after_charge",
        "kill consumer.after_charge, beside it",
    }


@pytest.mark.parametrize("reason", [r for r in Reason if r is not Reason.CRASHED_BEFORE_COMMIT])
def test_any_other_reason_is_wrong_and_unknown_is_counted(reason: Reason) -> None:
    orders = [
        replace(order, redeliveries=[changed(e, reason) for e in order.redeliveries])
        if order.order_id == OWN
        else order
        for order in explained()
    ]
    confusion = compare(orders, Truth(PLAN, FAULTS, SPANS, ROWS))
    assert confusion.right == 2
    if reason is Reason.UNKNOWN:
        assert (confusion.unknown, confusion.wrong) == (1, [])
    else:
        (wrong,) = confusion.wrong
        assert (wrong.order_id, wrong.explanation.reason) == (OWN, reason)
        assert wrong.as_json()["expected"] == [Reason.CRASHED_BEFORE_COMMIT.value]


def changed(explanation: Explanation, reason: Reason) -> Explanation:
    return replace(explanation, reason=reason)


def test_a_redelivery_that_no_explanation_mentions_counts_as_unknown() -> None:
    orders = [order for order in explained() if order.order_id != OWN]
    confusion = compare(orders, Truth(PLAN, FAULTS, SPANS, ROWS))
    assert (confusion.right, confusion.unknown) == (2, 1)


def test_what_no_planned_fault_made_is_neither_right_nor_wrong() -> None:
    confusion = compare(explained(), Truth(Plan(1, 4), FAULTS, SPANS, ROWS))
    assert confusion.injected == 0
    assert confusion.matrix[NOT_INJECTED][Reason.CRASHED_BEFORE_COMMIT] == 2


def test_the_truth_of_an_own_order_comes_from_the_plan_even_against_the_rows() -> None:
    rows = replace(ROWS, charges=(*ROWS.charges, charge(OWN, 1, 11.9)))
    injected = Truth(PLAN, FAULTS, SPANS, rows).injected
    assert injected[f"message-{OWN}", 2].expected == {Reason.CRASHED_BEFORE_COMMIT}


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (None, Exit.PASS), (Reason.UNKNOWN, Exit.INCONCLUSIVE), (Reason.BROKER, Exit.FAIL),
    ],
)  # fmt: skip
def test_a_run_of_which_nothing_is_explained_is_no_success(
    monkeypatch: pytest.MonkeyPatch, reason: Reason | None, code: Exit
) -> None:
    orders = [
        replace(order, redeliveries=[changed(e, reason or e.reason) for e in order.redeliveries])
        for order in explained()
    ]
    confusion = compare(orders, Truth(PLAN, FAULTS, SPANS, ROWS))

    async def compared(_: Path) -> tuple[list[OrderExplanation], Confusion]:
        return orders, confusion

    # The package has a function of the module's name.
    monkeypatch.setattr(import_module("onceproof_chaos.cli.explain"), "_compared", compared)
    done = CliRunner().invoke(build(), ["explain", "--all", "runs/some", "--json"])
    assert done.exit_code == code


FOLDER = Path(onceproof_chaos.explain.__file__).parent
JUDGES = {"truth", "held"}
COMPARES = {"confusion"}


def imported(module: Path) -> set[str]:
    tree = ast.parse(module.read_text())
    return {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def test_explanations_never_read_the_plan() -> None:
    for module in FOLDER.glob("*.py"):
        if module.stem not in JUDGES | COMPARES:
            assert not imported(module) & {
                "onceproof_chaos.plan",
                "onceproof_chaos.explain.truth",
                "onceproof_chaos.explain.held",
            }, module


def test_the_truth_shares_nothing_with_explanations_but_the_names_of_reasons() -> None:
    for name in JUDGES:
        inside = {m for m in imported(FOLDER / f"{name}.py") if ".explain." in m}
        assert inside <= {"onceproof_chaos.explain.reasons", "onceproof_chaos.explain.held"}
