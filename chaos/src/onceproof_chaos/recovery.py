"""How long an order stood still: from the kill of its consumer until somebody handles its message again.

It is bounded from below by what the dead consumer's visibility timeout had left, because until then the
broker gives the message to nobody; and by a replacement's start, where no other consumer is alive.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from onceproof_chaos.faultlog import FaultEvent, FaultEventKind
from onceproof_chaos.spans import Span

_CONSUMER = "consumer."


@dataclass(frozen=True, slots=True)
class Recovery:
    """One killed delivery that came again, `seconds` after its consumer was killed."""

    fault: str
    point: str
    order: str
    seconds: float


def recoveries(faults: Iterable[FaultEvent], spans: Iterable[Span]) -> list[Recovery]:
    """Every kill of a consumer whose order was handled again, in the faults' order.

    A kill counts from the moment at which the consumer stood at its crash point: the deletion is asked
    for within milliseconds of that. A kill after which nothing came is left out; whether its order was
    lost is the checker's to say.
    """
    handled: dict[str, list[float]] = defaultdict(list)
    for span in spans:
        if span.is_process and span.order_id is not None:
            handled[span.order_id].append(span.start)
    events = list(faults)
    reached = {e.fault: e.at for e in events if e.event is FaultEventKind.REACHED}
    found = []
    for event in events:
        if event.event is not FaultEventKind.KILLED or event.fault not in reached:
            continue
        if event.order is None or not (event.point or "").startswith(_CONSUMER):
            continue
        killed_at = reached[event.fault]
        later = [at for at in handled[event.order] if at > killed_at]
        if later:
            seconds = min(later) - killed_at
            found.append(Recovery(event.fault or "", event.point or "", event.order, seconds))
    return found


def median_and_max(found: Iterable[Recovery]) -> tuple[float, float] | None:
    """Seconds; None when there is nothing to measure."""
    seconds = [recovery.seconds for recovery in found]
    return (statistics.median(seconds), max(seconds)) if seconds else None
