"""What a judgement of a run consists of: counts, breaches with their rows, and reasons for doubt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Result(StrEnum):
    """Whether a run kept the promise, broke it, or cannot say."""

    PASS = "pass"  # noqa: S105 - the word of the verdict
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class BreachKind(StrEnum):
    """The four ways to break the promise."""

    LOST = "lost"
    DOUBLE_CHARGED = "double_charged"
    UNEXPECTED = "unexpected"
    MISMATCHED = "mismatched"


@dataclass(frozen=True, slots=True)
class Breach:
    """One order whose promise was broken. `rows` are the evidence, each with a `table`."""

    kind: BreachKind
    order_id: str
    explanation: str
    rows: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The counts of a run and what follows from them.

    Args:
        verdict: pass, fail or inconclusive.
        orders: orders that the client is done with, whatever the outcome.
        accepted: orders that the client saw accepted.
        lost: accepted, never captured, not in the DLQ.
        double_charged: orders with more than one capture.
        unexpected: captured or charged, but never asked for or refused.
        mismatched: ledger and charges table (or the amount asked for) disagree.
        recovered: orders with an unknown outcome that were captured once.
        dead_lettered: accepted, not captured, but in the DLQ, where somebody can take them back.
        redeliveries: deliveries beyond the first of each event.
        deduplicated: deliveries that the inbox absorbed.
        dedup_hit_rate: deduplicated by settled deliveries, 0..1.
        kills: processes killed, by crash point.
        reasons: why the run would be inconclusive; empty when nothing speaks for that.
        breaches: one for each broken promise, by kind and order.
    """

    verdict: Result
    orders: int
    accepted: int
    lost: int
    double_charged: int
    unexpected: int
    mismatched: int
    recovered: int
    dead_lettered: int
    redeliveries: int
    deduplicated: int
    dedup_hit_rate: float
    kills: Mapping[str, int] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    breaches: tuple[Breach, ...] = ()

    def counts(self) -> dict[str, Any]:
        """The counts and the verdict as JSON, without breaches and reasons."""
        document = asdict(self)
        del document["breaches"], document["reasons"]
        return document | {"verdict": self.verdict.value}

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return self.counts() | {
            "reasons": list(self.reasons),
            "breaches": [asdict(b) | {"kind": b.kind.value} for b in self.breaches],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Verdict:
        """What `as_json` gave.

        Raises:
            ValueError, KeyError, TypeError: it is not a verdict.
        """
        known = {name: document[name] for name in cls.__slots__}
        known["verdict"] = Result(document["verdict"])
        known["reasons"] = tuple(document["reasons"])
        known["breaches"] = tuple(
            Breach(BreachKind(b["kind"]), b["order_id"], b["explanation"], tuple(b["rows"]))
            for b in document["breaches"]
        )
        return cls(**known)
