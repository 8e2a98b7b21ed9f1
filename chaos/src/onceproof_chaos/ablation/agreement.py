"""Whether a measurement agrees with the prediction. Both directions count.

A breach that theory does not know refutes it, and so does one that it promises and that does not
happen. Doubt about a cell (a process that died by itself, a drain that gave up) excuses what is
missing, but never a breach that should not be there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from onceproof_chaos.ablation.faults import FAULTS, AblationFault
from onceproof_chaos.ablation.prediction import Prediction
from onceproof_chaos.ablation.results import CellResult

LABELS = {
    "lost": "lost",
    "double_charged": "double-charged",
    "unexpected": "unexpected",
    "mismatched": "mismatched",
}


class Agreement(StrEnum):
    """Of theory and measurement; the worst comes last."""

    AGREES = "agrees"
    INCONCLUSIVE = "inconclusive"
    DISAGREES = "disagrees"


@dataclass(frozen=True, slots=True)
class Judgement:
    """Of one cell. `findings` say what does not agree, or what is in doubt; empty when all agrees."""

    agreement: Agreement
    findings: tuple[str, ...] = ()


def judge(prediction: Prediction, result: CellResult) -> Judgement:
    """Hold a measurement against its prediction."""
    fault = FAULTS[result.cell.fault]
    if surplus := tuple(_surplus(prediction, result)):
        return Judgement(Agreement.DISAGREES, surplus + result.reasons)
    if result.reasons:
        return Judgement(Agreement.INCONCLUSIVE, result.reasons)
    if fault.strikes and not result.struck:
        return Judgement(Agreement.INCONCLUSIVE, ("No order met the fault.",))
    if missing := tuple(_missing(prediction, result, fault)):
        return Judgement(Agreement.DISAGREES, missing)
    return Judgement(Agreement.AGREES)


def _surplus(prediction: Prediction, result: CellResult) -> Iterator[str]:
    """What should not have happened."""
    for kind, orders in result.breaches.items():
        if kind not in prediction.breaches:
            yield f"{LABELS[kind]}, which is not predicted: {_named(orders)}."
        elif bystanders := set(orders) - set(result.struck):
            yield f"{LABELS[kind]}, though the fault did not strike it: {_named(bystanders)}."
    if result.redeliveries and not prediction.comes_again:
        yield f"Came again {result.redeliveries} times, which is not predicted."


def _missing(prediction: Prediction, result: CellResult, fault: AblationFault) -> Iterator[str]:
    """What should have happened."""
    for kind in sorted(prediction.breaches):
        broken = set(result.breaches.get(kind, ()))
        spared = set(result.struck) - broken
        if (fault.certain and spared) or not broken:
            yield f"Predicted to be {LABELS[kind]}, but was not: {_named(spared)}."
    least = len(result.struck) if fault.certain else 1
    if prediction.comes_again and result.redeliveries < least:
        yield f"Predicted to come again {least} times at least, but did {result.redeliveries} times."


def _named(orders: tuple[str, ...] | set[str]) -> str:
    return ", ".join(sorted(orders))


__all__ = ["LABELS", "Agreement", "Judgement", "judge"]
