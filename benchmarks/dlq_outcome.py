"""Whether a redrive under kills kept its promise; the judgement alone, so that it can be tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found at the end.

    Args:
        asked: distinct orders in the DLQ.
        captures: captures in the provider's ledger, by order.
        charges: rows of the consumer's table, by order.
        left: bodies that are still in the DLQ.
        malformed: bodies that are no events, which must be left.
        audit: problems of the audit log.
        kills: how often the redrive was killed.
        resumed: how often its log says that it was resumed.
    """

    asked: Sequence[str]
    captures: Mapping[str, int]
    charges: Mapping[str, int]
    left: Sequence[bytes]
    malformed: Sequence[bytes]
    audit: Sequence[str]
    kills: int
    resumed: int

    @property
    def lost(self) -> int:
        """Orders that were never captured."""
        return sum(self.captures.get(order, 0) == 0 for order in self.asked)

    @property
    def double_charged(self) -> int:
        """Orders with more than one capture."""
        return sum(count > 1 for count in self.captures.values())

    def problems(self) -> list[str]:
        """What is wrong; empty when the redrive kept its promise."""
        found = list(self.audit)
        if self.lost:
            found.append(f"{self.lost} orders are lost")
        if self.double_charged:
            found.append(f"{self.double_charged} orders were charged twice")
        if set(self.captures) - set(self.asked):
            found.append("orders were captured that nobody asked for")
        if dict(self.captures) != dict(self.charges):
            found.append("the provider's ledger and the charges table disagree")
        if sorted(self.left) != sorted(self.malformed):
            found.append(f"{len(self.left)} messages are left, {len(self.malformed)} no events")
        if self.resumed != self.kills:
            found.append(f"killed {self.kills} times and resumed {self.resumed} times")
        return found
