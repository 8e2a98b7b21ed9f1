"""Why messages came again, as the page shows it: how often each reason occurred, and some stories.

A run may have thousands of redeliveries, and a page of all of them would open nowhere. Orders whose
promise was broken come first, then those that nobody can explain, then some for each reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from onceproof_chaos.explain import Index, OrderExplanation, Reason, distribution, explain_all
from onceproof_chaos.explain.confusion import Confusion, compare
from onceproof_chaos.explain.processes import Processes
from onceproof_chaos.explain.sources import of_run
from onceproof_chaos.explain.truth import Truth
from onceproof_chaos.report.lanes import Lanes, lanes_of
from onceproof_chaos.runfolder import RunFolder
from onceproof_chaos.verdict import Verdict

MOST_STORIES: Final = 40
"""Orders told in full; `onceproof explain` tells the others."""


@dataclass(frozen=True, slots=True)
class ReasonRow:
    """How often a reason occurred; `share` is 0..1 of all redeliveries."""

    words: str
    count: int
    share: float
    open: bool


@dataclass(frozen=True, slots=True)
class StoryView:
    """One order."""

    order_id: str
    summary: str
    told: OrderExplanation
    lanes: Lanes
    began_at: float


@dataclass(frozen=True, slots=True)
class AgainView:
    """The redeliveries of one run: reasons, how they compare with the plan, and stories.

    Args:
        reasons: those that occurred, and unknown.
        total: redeliveries.
        confusion: explanations against the faults of the plan.
        stories: orders told in full.
        more: orders that came again or broke a promise, and are not told.
    """

    reasons: Sequence[ReasonRow]
    total: int
    confusion: Confusion
    stories: Sequence[StoryView]
    more: int


def again_of(run: RunFolder, verdict: Verdict) -> AgainView:
    """Explain a run.

    Raises:
        RunFolderError: a file is missing or corrupt.
    """
    records = of_run(run)
    index = Index(records)
    explained = explain_all(index)
    counts = distribution(explained)
    total = sum(counts.values())
    truth = Truth(run.plan(), records.faults, records.spans, records.rows)
    breached = {breach.order_id for breach in verdict.breaches}
    told = [
        order
        for order in explained
        if order.deliveries and (order.redeliveries or order.order_id in breached)
    ]
    chosen = _chosen(told, breached)
    return AgainView(
        reasons=[
            ReasonRow(
                reason.words, count, count / total if total else 0.0, reason is Reason.UNKNOWN
            )
            for reason, count in counts.items()
            if count or reason is Reason.UNKNOWN
        ],
        total=total,
        confusion=compare(explained, truth),
        stories=[_view(order, index.processes) for order in chosen],
        more=len(told) - len(chosen),
    )


def _chosen(told: Sequence[OrderExplanation], breached: set[str]) -> list[OrderExplanation]:
    """The orders to tell: a few of each sort in turn, those with the most redeliveries first."""
    ranked = sorted(told, key=lambda order: (-len(order.redeliveries), order.order_id))
    sorts = [[order for order in ranked if order.order_id in breached]]
    sorts += [
        [order for order in ranked if any(e.reason is reason for e in order.redeliveries)]
        for reason in (Reason.UNKNOWN, *(r for r in Reason if r is not Reason.UNKNOWN))
    ]
    in_turn = (order for turn in zip_longest(*sorts) for order in turn if order is not None)
    distinct = {order.order_id: order for order in in_turn}
    return sorted(list(distinct.values())[:MOST_STORIES], key=lambda order: order.order_id)


def _view(order: OrderExplanation, processes: Processes) -> StoryView:
    reasons = dict.fromkeys(explanation.reason.words for explanation in order.redeliveries)
    captures = len(order.story.captures)
    times = {0: "not charged", 1: "charged once", 2: "charged twice"}.get(
        captures, f"charged {captures} times"
    )
    number = order.deliveries
    return StoryView(
        order_id=order.order_id,
        summary=f"{number} {'delivery' if number == 1 else 'deliveries'}, {times}: "
        + ("; ".join(reasons) or "no message came again"),
        told=order,
        lanes=lanes_of(order.story, processes),
        began_at=order.moments[0].at,
    )


__all__ = ["MOST_STORIES", "AgainView", "again_of"]
