"""Why a message came again: one verdict for each redelivery, with its evidence, from what a run left."""

from onceproof_chaos.explain.events import Index
from onceproof_chaos.explain.explanation import (
    OrderExplanation,
    distribution,
    explain_all,
    explain_order,
)
from onceproof_chaos.explain.reasons import Clue, Explanation, Reason
from onceproof_chaos.explain.records import Records

__all__ = [
    "Clue",
    "Explanation",
    "Index",
    "OrderExplanation",
    "Reason",
    "Records",
    "distribution",
    "explain_all",
    "explain_order",
]
