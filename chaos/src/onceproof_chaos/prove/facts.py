"""What one run showed, as plain data: enough to judge it again without running it.

A fact is what was observed; what it means is decided in `verdict`, which reads nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from onceproof_chaos.prove.invariants import Violation
from onceproof_chaos.prove.points import Act, Cell


@dataclass(frozen=True, slots=True)
class Facts:
    """One run.

    Args:
        cell: what was to be done in it.
        reached: whether the consumer came to the point, and the fault was put there.
        violations: what the invariants found at the end.
        drain_reason: why it did not become quiet; None when it did.
        ends: consumers that ended without us, where that should not happen.
        dead_letters: messages in the DLQ: id and reason.
        error: why the run broke off; None when it did not.
        blind: whether all invariants held although nothing had been handled; of the control only.
        held_before: names of those that held then; of the control only.
        written: tables that changed; of the control only.
        effects: effects that the other system recorded.
        seconds: duration of the run.
        log: the consumers' logs, within the run folder.
    """

    cell: Cell
    reached: bool = False
    violations: tuple[Violation, ...] = ()
    drain_reason: str | None = None
    ends: tuple[str, ...] = ()
    dead_letters: tuple[Mapping[str, str | None], ...] = ()
    error: str | None = None
    blind: bool = False
    held_before: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    effects: int = 0
    seconds: float = 0.0
    log: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self) | {
            "cell": asdict(self.cell) | {"act": self.cell.act.value},
            "violations": [violation.as_json() for violation in self.violations],
            "ends": list(self.ends),
            "dead_letters": [dict(letter) for letter in self.dead_letters],
            "held_before": list(self.held_before),
            "written": list(self.written),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Facts:
        """What `as_json` gave.

        Raises:
            ValueError, KeyError, TypeError: it is something else.
        """
        values = {name: document[name] for name in cls.__slots__}
        cell = document["cell"]
        values["cell"] = Cell(cell["point"], Act(cell["act"]), cell["detail"])
        values["violations"] = tuple(
            Violation(v["invariant"], v["count"], tuple(v["rows"])) for v in document["violations"]
        )
        for name in ("ends", "dead_letters", "held_before", "written"):
            values[name] = tuple(values[name])
        return cls(**values)


__all__ = ["Facts"]
