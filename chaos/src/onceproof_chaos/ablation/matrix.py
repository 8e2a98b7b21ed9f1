"""The matrix: variants by faults over all seeds, prediction beside measurement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onceproof_chaos.ablation.agreement import LABELS, Agreement, judge
from onceproof_chaos.ablation.faults import FAULTS
from onceproof_chaos.ablation.prediction import Prediction, Table
from onceproof_chaos.ablation.results import Cell, CellResult
from onceproof_chaos.verdict import BreachKind

_WORST_LAST = list(Agreement)


@dataclass(frozen=True, slots=True)
class Entry:
    """One variant under one fault, over all seeds.

    Args:
        variant: the variant.
        fault: the fault's name.
        prediction: of the theory.
        seeds: cells that were measured.
        struck: orders that met the fault, over all of them.
        counts: orders with a breach, by kind, over all of them.
        redeliveries: deliveries beyond the first, over all of them.
        deduplicated: deliveries that the inbox absorbed, over all of them.
        agreements: how many cells agree, are inconclusive, disagree.
        findings: what does not agree or is in doubt, with the cell's name in front.
    """

    variant: str
    fault: str
    prediction: Prediction
    seeds: int = 0
    struck: int = 0
    counts: Mapping[BreachKind, int] = field(default_factory=dict)
    redeliveries: int = 0
    deduplicated: int = 0
    agreements: Mapping[Agreement, int] = field(default_factory=dict)
    findings: tuple[str, ...] = ()

    @property
    def agreement(self) -> Agreement:
        """The worst of its cells; inconclusive when none was measured."""
        found = [agreement for agreement in Agreement if self.agreements.get(agreement)]
        return max(found, key=_WORST_LAST.index, default=Agreement.INCONCLUSIVE)

    @property
    def measured(self) -> str:
        """The breaches in words, e.g. `10/10 lost`; `0` when there are none."""
        of = f"/{self.struck}" if self.struck else ""
        parts = [f"{n}{of} {LABELS[kind]}" for kind, n in self.counts.items() if n]
        return ", ".join(parts) or ("0" if self.seeds else "not measured")

    @property
    def predicted(self) -> str:
        """The prediction in words, e.g. `lost`; `none` when nothing is to break."""
        kinds = [LABELS[kind] for kind in BreachKind if kind in self.prediction.breaches]
        return ", ".join(kinds) or "none"

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "variant": self.variant,
            "fault": self.fault,
            "leg": FAULTS[self.fault].leg.value,
            "predicted": sorted(kind.value for kind in self.prediction.breaches),
            "predicted_to_come_again": self.prediction.comes_again,
            "reason": self.prediction.reason,
            "seeds": self.seeds,
            "struck": self.struck,
            "measured": {kind.value: self.counts.get(kind, 0) for kind in BreachKind},
            "redeliveries": self.redeliveries,
            "deduplicated": self.deduplicated,
            "agreement": self.agreement.value,
            "findings": list(self.findings),
        }


@dataclass(frozen=True, slots=True)
class Matrix:
    """All entries, fault by fault; `variants` and `faults` in their sequence."""

    variants: tuple[str, ...]
    faults: tuple[str, ...]
    entries: Mapping[tuple[str, str], Entry]

    @property
    def cells(self) -> dict[Agreement, int]:
        """How many cells agree, are inconclusive, disagree."""
        total: Counter[Agreement] = Counter()
        for entry in self.entries.values():
            total.update(entry.agreements)
        return {agreement: total[agreement] for agreement in Agreement}

    @property
    def agreement(self) -> Agreement:
        """Of theory and measurement altogether."""
        return max((e.agreement for e in self.entries.values()), key=_WORST_LAST.index)

    @property
    def findings(self) -> list[str]:
        """Everything that does not agree or is in doubt."""
        return [finding for entry in self.entries.values() for finding in entry.findings]


def build(
    cells: Sequence[Cell], results: Mapping[Cell, Sequence[CellResult]], table: Table
) -> Matrix:
    """The matrix of these cells; of each its last measurement counts.

    A cell without a measurement is counted as inconclusive, never as agreement.
    """
    variants = tuple(dict.fromkeys(cell.variant for cell in cells))
    faults = tuple(dict.fromkeys(cell.fault for cell in cells))
    entries = {
        (variant, fault): _entry(
            variant,
            fault,
            table[variant, fault],
            [(c, results.get(c, ())) for c in cells if (c.variant, c.fault) == (variant, fault)],
        )
        for fault in faults
        for variant in variants
    }
    return Matrix(variants, faults, entries)


def _entry(
    variant: str,
    fault: str,
    prediction: Prediction,
    measured: Iterable[tuple[Cell, Sequence[CellResult]]],
) -> Entry:
    counts: Counter[BreachKind] = Counter()
    agreements: Counter[Agreement] = Counter()
    findings: list[str] = []
    last: list[CellResult] = []
    for cell, attempts in measured:
        if not attempts:
            agreements[Agreement.INCONCLUSIVE] += 1
            findings.append(f"{cell}: Not measured.")
            continue
        result = attempts[-1]
        last.append(result)
        counts.update({kind: len(orders) for kind, orders in result.breaches.items()})
        judgement = judge(prediction, result)
        # A breach that must not be stays one, also when the repetition does not show it.
        for earlier in attempts[:-1]:
            if judge(prediction, earlier).agreement is Agreement.DISAGREES:
                judgement = judge(prediction, earlier)
        agreements[judgement.agreement] += 1
        findings += [f"{cell}: {finding}" for finding in judgement.findings]
    return Entry(
        variant,
        fault,
        prediction,
        seeds=len(last),
        struck=sum(len(result.struck) for result in last),
        counts={kind: counts[kind] for kind in BreachKind},
        redeliveries=sum(result.redeliveries for result in last),
        deduplicated=sum(result.deduplicated for result in last),
        agreements=dict(agreements),
        findings=tuple(findings),
    )


__all__ = ["Entry", "Matrix", "build"]
