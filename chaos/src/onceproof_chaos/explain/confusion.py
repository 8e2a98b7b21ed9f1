"""Explanations against what was injected: right, unknown, or wrong.

Unknown is allowed, and counted. A wrong answer is not: somebody would act on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from onceproof_chaos.explain.explanation import OrderExplanation
from onceproof_chaos.explain.reasons import Explanation, Reason
from onceproof_chaos.explain.truth import Injected, Truth

NOT_INJECTED: Final = "not injected"
BESIDE: Final = ", beside it"
"""Another message that the stricken process held."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """An explanation that contradicts what was done."""

    order_id: str
    explanation: Explanation
    injected: Injected

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "order_id": self.order_id,
            "fault": self.injected.fault,
            "expected": sorted(reason.value for reason in self.injected.expected),
            "explanation": self.explanation.as_json(),
        }


@dataclass(frozen=True, slots=True)
class Confusion:
    """How explanations compare with what was injected.

    Args:
        matrix: number of redeliveries by what was injected and what was explained; the row
            `NOT_INJECTED` has those that no fault of the plan made.
        expected: the right reason of each row.
        right: injected redeliveries with the right reason.
        unknown: those whose reason was not found, or that were not noticed at all.
        wrong: the others.
    """

    matrix: Mapping[str, Mapping[Reason, int]]
    expected: Mapping[str, frozenset[Reason]]
    right: int
    unknown: int
    wrong: Sequence[Wrong]

    @property
    def injected(self) -> int:
        """Redeliveries that a fault caused."""
        return self.right + self.unknown + len(self.wrong)

    @property
    def share_right(self) -> float:
        """Right by injected, 0..1; 0 when nothing was injected."""
        return self.right / self.injected if self.injected else 0.0

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "injected": self.injected,
            "right": self.right,
            "unknown": self.unknown,
            "wrong": [wrong.as_json() for wrong in self.wrong],
            "share_right": self.share_right,
            "matrix": {
                cause: {reason.value: count for reason, count in row.items() if count}
                for cause, row in self.matrix.items()
            },
        }


def compare(explained: Iterable[OrderExplanation], truth: Truth) -> Confusion:
    """Hold every explanation against the fault that caused the redelivery."""
    matrix: dict[str, Counter[Reason]] = {}
    expected: dict[str, set[Reason]] = {}
    wrong: list[Wrong] = []
    right = unknown = 0
    left = {key: one for key, one in truth.injected.items() if truth.came_again(key)}
    for order in explained:
        for explanation in order.redeliveries:
            injected = left.pop(explanation.key, None)
            label = _label(injected)
            matrix.setdefault(label, Counter())[explanation.reason] += 1
            if injected is None:
                continue
            expected.setdefault(label, set()).update(injected.expected)
            if explanation.reason in injected.expected:
                right += 1
            elif explanation.reason is Reason.UNKNOWN:
                unknown += 1
            else:
                wrong.append(Wrong(order.order_id, explanation, injected))
    for injected in left.values():  # it came again, and no explanation mentions it
        matrix.setdefault(_label(injected), Counter())[Reason.UNKNOWN] += 1
        unknown += 1
    rows = sorted(matrix, key=lambda label: (label == NOT_INJECTED, label))
    return Confusion(
        matrix={label: {reason: matrix[label][reason] for reason in Reason} for label in rows},
        expected={label: frozenset(reasons) for label, reasons in expected.items()},
        right=right,
        unknown=unknown,
        wrong=wrong,
    )


def _label(injected: Injected | None) -> str:
    if injected is None:
        return NOT_INJECTED
    return f"{injected.cause}{BESIDE if injected.beside else ''}"


__all__ = ["NOT_INJECTED", "Confusion", "Wrong", "compare"]
