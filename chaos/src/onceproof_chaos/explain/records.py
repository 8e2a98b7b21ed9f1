"""What there is to explain from: spans, the nemesis' log, and rows; and which of them were looked at.

No row of an order and no database to ask are two different things. The first is evidence, the second
is a gap, and an explanation that took one for the other would be a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from onceproof_chaos.evidence import Evidence
from onceproof_chaos.faultlog import FaultEvent
from onceproof_chaos.spans import Span


@dataclass(frozen=True, slots=True)
class Records:
    """Everything that is known. The plan of the run is not part of it: causes must be found, not read.

    Args:
        spans: of the pipeline, in any order.
        faults: what killed, stalled and resumed processes, in the order of the log.
        rows: of the databases.
        has_traces: whether a trace store was asked.
        has_faults: whether somebody kept a log of what ended processes.
        has_database: whether the pipeline's database was read.
        has_ledger: whether the payment provider's ledger was read.
        whole: whether the spans are those of a whole run, and not of some time out of the middle.
    """

    spans: Sequence[Span] = ()
    faults: Sequence[FaultEvent] = ()
    rows: Evidence = field(default_factory=Evidence)
    has_traces: bool = True
    has_faults: bool = True
    has_database: bool = True
    has_ledger: bool = True
    whole: bool = True

    @property
    def gaps(self) -> list[str]:
        """What was not looked at, in words."""
        looked = {
            "traces": self.has_traces,
            "a log of what ended processes": self.has_faults,
            "the pipeline's database": self.has_database,
            "the payment provider's ledger": self.has_ledger,
        }
        return [what for what, there in looked.items() if not there]


__all__ = ["Records"]
