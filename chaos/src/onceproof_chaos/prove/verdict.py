"""What the runs of a proof mean: held, broken, not reached or inconclusive, each cell by itself.

The control comes first: when an invariant breaks without any fault, no fault is to blame for it later.
And invariants are not believed unseen: a set that holds before anything was handled, and holds when
every event is handled twice, would hold whatever happened, so it proves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from onceproof_chaos.prove.facts import Facts
from onceproof_chaos.prove.invariants import Violation
from onceproof_chaos.prove.points import ADVICE, MEANING, WITHOUT_INBOX, Act, Cell
from onceproof_chaos.verdict import Result


class Status(StrEnum):
    """How one cell ended."""

    HELD = "held"
    BROKEN = "broken"
    NOT_REACHED = "not reached"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Judged:
    """A cell, its status, and why. `facts` are what it was judged by."""

    facts: Facts
    status: Status
    reasons: tuple[str, ...] = ()

    @property
    def cell(self) -> Cell:
        """What was done."""
        return self.facts.cell

    @property
    def violations(self) -> tuple[Violation, ...]:
        """What the invariants found."""
        return self.facts.violations

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "point": self.cell.point,
            "detail": self.cell.detail,
            "action": self.cell.act.value,
            "meaning": MEANING[self.cell.point],
            "status": self.status.value,
            "violations": [violation.as_json() for violation in self.violations],
            "reasons": list(self.reasons),
            "advice": ADVICE.get(self.cell.point) if self.status is Status.BROKEN else None,
            "seconds": round(self.facts.seconds, 2),
            "log": self.facts.log,
        }


@dataclass(frozen=True, slots=True)
class ProveResult:
    """The outcome of a proof.

    Args:
        verdict: pass, fail or inconclusive.
        cells: in the order of the table, the control first.
        warnings: what the proof does not cover.
        reasons: why it is inconclusive, where it is.
        run: the run folder.
    """

    verdict: Result
    cells: tuple[Judged, ...]
    warnings: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    run: str = ""

    @property
    def held(self) -> bool:
        """Whether every fault was put in its place and no invariant broke."""
        return self.verdict is Result.PASS

    @property
    def broken(self) -> tuple[Judged, ...]:
        """The cells in which an invariant broke."""
        return tuple(
            judged
            for judged in self.cells
            if judged.status is Status.BROKEN and judged.cell.point != WITHOUT_INBOX
        )

    def status(self, point: str, act: Act | str, detail: str = "") -> Status:
        """The status of one cell.

        Raises:
            KeyError: there is no such cell.
        """
        wanted = Cell(point, Act(act), detail)
        for judged in self.cells:
            if judged.cell == wanted:
                return judged.status
        raise KeyError(f"no cell {wanted.row} x {wanted.act}")

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "verdict": self.verdict.value,
            "cells": [cell.as_json() for cell in self.cells],
            "warnings": list(self.warnings),
            "reasons": list(self.reasons),
            "run": self.run,
        }

    def __str__(self) -> str:
        lines = [f"{self.verdict.value}; run folder {self.run}"]
        lines += [f"  {cell.cell.row} x {cell.cell.act}: {cell.status}" for cell in self.cells]
        for cell in self.broken:
            lines += [f"  {v.invariant}: {v.count} x {list(v.rows[:3])}" for v in cell.violations]
        return "\n".join([*lines, *self.reasons, *self.warnings])


def judge(runs: Sequence[Facts], run: str = "") -> ProveResult:
    """Judge a proof; `runs` must begin with the control."""
    cells = tuple(judge_cell(facts) for facts in runs)
    control, *others = cells
    injected = [cell for cell in others if not cell.cell.is_control]
    doubtful = [c for c in injected if c.status is not Status.BROKEN]
    reasons = [f"{c.cell.row} x {c.cell.act}: {r}" for c in doubtful for r in c.reasons]
    if control.status is not Status.BROKEN:
        reasons += [f"the control: {reason}" for reason in control.reasons]
    if not injected and control.status is Status.HELD:
        reasons.append("No fault was injected: that proves nothing.")
    warnings, unproved = _sight(runs)
    reasons += unproved
    if control.status is Status.BROKEN or any(c.status is Status.BROKEN for c in injected):
        verdict = Result.FAIL
    elif reasons:
        verdict = Result.INCONCLUSIVE
    else:
        verdict = Result.PASS
    return ProveResult(verdict, cells, tuple(warnings), tuple(reasons), run)


def judge_cell(facts: Facts) -> Judged:
    """Judge one run."""
    cell = facts.cell
    if facts.error is not None:
        return Judged(facts, Status.INCONCLUSIVE, (facts.error,))
    if facts.drain_reason is not None:
        found = "".join(f"; {v.invariant} finds {v.count}" for v in facts.violations)
        return Judged(facts, Status.INCONCLUSIVE, (f"{facts.drain_reason}{found}",))
    beside = (*([_dead(facts)] if facts.dead_letters else []), *facts.ends)
    if facts.violations:
        return Judged(facts, Status.BROKEN, beside)
    if not facts.reached and not cell.is_control:
        return Judged(facts, Status.NOT_REACHED, ("the consumer did not come to this point",))
    if cell.point == WITHOUT_INBOX:
        return Judged(facts, Status.HELD)
    return Judged(facts, Status.INCONCLUSIVE if beside else Status.HELD, beside)


def _dead(facts: Facts) -> str:
    reason = next((letter["reason"] for letter in facts.dead_letters if letter["reason"]), None)
    why = f", e.g. because: {reason}" if reason else ""
    return f"{len(facts.dead_letters)} messages ended in the dead-letter queue{why}"


def _sight(runs: Sequence[Facts]) -> tuple[list[str], list[str]]:
    """Warnings, and reasons for doubt, about what the invariants can see at all."""
    control, twice = runs[0], next((f for f in runs if f.cell.point == WITHOUT_INBOX), None)
    warnings = []
    if control.error is not None:
        return [], []
    if control.blind:
        warnings.append(
            "The invariants held before anything was handled, so they cannot see a lost message. "
            "Join prove.published to say what must be there."
        )
    if twice is not None and twice.error is not None:
        warnings.append(f"Whether the invariants see a repetition is not known: {twice.error}")
    elif twice is not None and not twice.violations:
        warnings.append(
            "The invariants held when every event came twice and the library recognised nothing: either "
            "handler or tables refuse a repetition by themselves, or the invariants cannot see one."
        )
    broken = {violation.invariant for facts in runs for violation in facts.violations}
    if control.blind and not broken:
        return warnings, [
            "The invariants were never seen to break, so that they hold proves nothing."
        ]
    # One that can break must not vouch for another that cannot.
    unseen = [name for name in control.held_before if name not in broken]
    if unseen:
        warnings.append(f"Never seen to break, and perhaps unable to: {', '.join(unseen)}.")
    return warnings, []


__all__ = ["Judged", "ProveResult", "Status", "judge", "judge_cell"]
