"""Every span of one order in words: the story as a trace store has it, without a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from onceproof.telemetry import BATCH_COUNT, CRASH_POINT, DEDUP_HIT, DELIVERY_ATTEMPT
from onceproof_chaos.spans import Span
from onceproof_chaos.story import KILL_SPAN, Subject, kill_words

_HTTP_STATUS: Final = "http.response.status_code"
_OPERATION: Final = "messaging.operation.name"


@dataclass(frozen=True, slots=True)
class Line:
    """One span. Times are Unix seconds, durations seconds.

    Args:
        at: when it began.
        duration_s: how long it took.
        service: whose span it is.
        instance: which process or pod of it.
        span: name of the span.
        kind: of the span, in lower case.
        what: what it means for the order, in words.
        attempt: delivery attempt, None where it has none.
        crash_point: crash point that was reached, or at which a pod was killed.
        dedup_hit: whether the inbox recognised a duplicate.
        status: ok, error or unset.
        trace_id: of the span.
        span_id: of the span.
        own: whether it is in the order's own trace; others are batches that link to it.
    """

    at: float
    duration_s: float
    service: str
    instance: str
    span: str
    kind: str
    what: str
    attempt: int | None
    crash_point: str | None
    dedup_hit: bool
    status: str
    trace_id: str
    span_id: str
    own: bool


def lines_of(order_id: str, spans: Sequence[Span]) -> list[Line]:
    """Every span that is about an order, in the order in which they began.

    Args:
        order_id: the order.
        spans: of the order, see `TraceStore.of_order`.
    """
    subject = Subject.of(order_id, spans)
    return [
        Line(
            at=span.start,
            duration_s=span.end - span.start,
            service=span.service,
            instance=span.instance,
            span=span.name,
            kind=span.kind,
            what=_what(span, subject),
            attempt=span.attempt if DELIVERY_ATTEMPT in span.attributes else None,
            crash_point=span.attributes.get(CRASH_POINT),
            dedup_hit=span.attributes.get(DEDUP_HIT) is True,
            status=span.status,
            trace_id=span.trace_id,
            span_id=span.span_id,
            own=span.trace_id in subject.traces,
        )
        for span in sorted(spans, key=lambda span: (span.start, span.end))
    ]


def _what(span: Span, subject: Subject) -> str:
    if span.name == KILL_SPAN:
        return kill_words(span)
    if words := subject.words(span):
        return "; ".join(words)
    if _HTTP_STATUS in span.attributes:
        return f"order placed: HTTP {span.attributes[_HTTP_STATUS]}"
    if span.attributes.get(_OPERATION) in {"receive", "poll"}:
        return f"received in a batch of {span.attributes.get(BATCH_COUNT, len(span.links))}"
    return span.status_message or ""


__all__ = ["Line", "lines_of"]
