"""Agreement of theory and measurement: a wrong prediction must fail, and so must a missing breach."""

from __future__ import annotations

from typing import Any

import pytest

from onceproof_chaos.ablation.agreement import Agreement, Judgement, judge
from onceproof_chaos.ablation.prediction import Prediction
from onceproof_chaos.ablation.results import Cell, CellResult
from onceproof_chaos.verdict import BreachKind

LOST, DOUBLE, MISMATCHED = BreachKind.LOST, BreachKind.DOUBLE_CHARGED, BreachKind.MISMATCHED
KILL, SLOW, NONE = "kill-consumer.after_commit", "slow-handler", "none"


def expects(*kinds: BreachKind, again: bool = True) -> Prediction:
    return Prediction(frozenset(kinds), again, "because.")


def measured(fault: str = KILL, **values: Any) -> CellResult:
    struck = () if fault == NONE else ("o-1", "o-2")
    defaults: dict[str, Any] = {"struck": struck, "redeliveries": len(struck)}
    return CellResult(Cell(1, "naive", fault), 1, **defaults | values)


def verdict(judgement: Judgement) -> Agreement:
    assert bool(judgement.findings) is (judgement.agreement is not Agreement.AGREES)
    return judgement.agreement


def test_what_is_measured_as_predicted_agrees() -> None:
    assert verdict(judge(expects(), measured())) is Agreement.AGREES
    both = ("o-1", "o-2")
    broken = measured(breaches={DOUBLE: both, MISMATCHED: both})
    assert verdict(judge(expects(DOUBLE, MISMATCHED), broken)) is Agreement.AGREES
    assert verdict(judge(expects(again=False), measured(NONE))) is Agreement.AGREES


@pytest.mark.parametrize(
    ("prediction", "result"),
    [
        (expects(), measured(breaches={LOST: ("o-1", "o-2")})),
        (expects(DOUBLE), measured(breaches={MISMATCHED: ("o-1", "o-2")})),
        (
            expects(DOUBLE),
            measured(breaches={DOUBLE: ("o-1", "o-2"), MISMATCHED: ("o-1", "o-2")}),
        ),
        (expects(again=False), measured(NONE, breaches={LOST: ("o-1",)})),
    ],
)
def test_a_breach_that_is_not_predicted_disagrees(
    prediction: Prediction, result: CellResult
) -> None:
    assert verdict(judge(prediction, result)) is Agreement.DISAGREES


@pytest.mark.parametrize(
    ("prediction", "result"),
    [
        (expects(LOST), measured()),
        (expects(LOST), measured(breaches={LOST: ("o-1",)})),
        (expects(DOUBLE, MISMATCHED), measured(breaches={DOUBLE: ("o-1", "o-2")})),
    ],
)
def test_a_predicted_breach_that_does_not_happen_disagrees(
    prediction: Prediction, result: CellResult
) -> None:
    assert verdict(judge(prediction, result)) is Agreement.DISAGREES


def test_a_breach_of_an_order_that_the_fault_did_not_strike_disagrees() -> None:
    result = measured(breaches={LOST: ("o-1", "o-2", "o-3")})
    judgement = judge(expects(LOST), result)
    assert verdict(judgement) is Agreement.DISAGREES
    assert "o-3" in judgement.findings[0]


def test_a_slow_handler_need_not_be_too_late_each_time_but_once() -> None:
    some = measured(SLOW, breaches={DOUBLE: ("o-1",)})
    assert verdict(judge(expects(DOUBLE), some)) is Agreement.AGREES
    assert verdict(judge(expects(DOUBLE), measured(SLOW))) is Agreement.DISAGREES


@pytest.mark.parametrize(("predicted", "redeliveries"), [(True, 0), (False, 2)])
def test_coming_again_must_agree_in_both_directions(predicted: bool, redeliveries: int) -> None:
    result = measured(redeliveries=redeliveries)
    assert verdict(judge(expects(again=predicted), result)) is Agreement.DISAGREES
    assert verdict(judge(expects(again=not predicted), result)) is Agreement.AGREES


def test_each_struck_order_must_come_again_where_nothing_is_left_to_chance() -> None:
    assert verdict(judge(expects(), measured(redeliveries=1))) is Agreement.DISAGREES
    assert verdict(judge(expects(), measured(SLOW, redeliveries=1))) is Agreement.AGREES


def test_doubt_is_never_agreement() -> None:
    doubt = ("consumer-0 ended without a fault of this run (exit code 1).",)
    both = ("o-1", "o-2")
    for result in (measured(reasons=doubt), measured(reasons=doubt, breaches={DOUBLE: both})):
        judgement = judge(expects(DOUBLE), result)
        assert judgement == Judgement(Agreement.INCONCLUSIVE, doubt)
    assert verdict(judge(expects(), measured(struck=()))) is Agreement.INCONCLUSIVE


def test_doubt_does_not_excuse_a_breach_that_is_not_predicted() -> None:
    result = measured(reasons=("The drain did not finish.",), breaches={LOST: ("o-1",)})
    judgement = judge(expects(), result)
    assert verdict(judgement) is Agreement.DISAGREES
    assert judgement.findings[-1] == "The drain did not finish."
