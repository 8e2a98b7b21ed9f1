"""What the traces of a run tell: how often messages came again, and what the inbox absorbed.

Counters of a killed process die with it. Spans that were flushed stay, and a missing `process` span of
attempt 1 is no gap here, because the next delivery carries its attempt number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from onceproof.telemetry import (
    CRASH_POINT,
    CRASH_POINT_SPAN,
    DEDUP_HIT,
    DELIVERY_ATTEMPT,
    EVENT_ID,
    MESSAGE_ID,
    ORDER_ID,
    OUTCOME,
)
from onceproof_chaos import jsonl

_OPERATION_TYPE: Final = "messaging.operation.type"
_NANOSECONDS: Final = 1e9
_MICROSECONDS: Final = 1e6
"""Per second."""
_SETTLED: Final = frozenset({"processed", "duplicate", "rejected"})
"""Outcomes of a `process` span after which the message is done with."""


@dataclass(frozen=True, slots=True)
class Span:
    """One ended span. `start` and `end` are Unix time in seconds."""

    name: str
    trace_id: str
    span_id: str
    start: float
    end: float
    parent_span_id: str | None = None
    kind: str = ""
    status: str = "unset"
    status_message: str | None = None
    service: str = ""
    instance: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    links: tuple[Mapping[str, Any], ...] = ()
    events: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Span:
        """One line of `spans.jsonl`; unknown fields are left out.

        Raises:
            ValueError, KeyError, TypeError: it is not a span.
        """
        return cls(
            name=document["name"],
            trace_id=document["trace_id"],
            span_id=document["span_id"],
            start=int(document["start"]) / _NANOSECONDS,
            end=int(document["end"]) / _NANOSECONDS,
            parent_span_id=document.get("parent_span_id"),
            kind=str(document.get("kind") or ""),
            status=str(document.get("status") or "unset"),
            status_message=document.get("status_message"),
            service=str(document.get("service") or ""),
            instance=str(document.get("instance") or ""),
            attributes=dict(document.get("attributes") or {}),
            links=tuple(document.get("links") or ()),
            events=tuple(document.get("events") or ()),
        )

    def as_json(self) -> dict[str, Any]:
        """One line of `spans.jsonl`, as the services write them; times to the microsecond."""
        return {
            "name": self.name,
            "kind": self.kind,
            "trace_id": self.trace_id,
            "span_id": self.span_id,
            "parent_span_id": self.parent_span_id,
            "start": round(self.start * _MICROSECONDS) * 1000,
            "end": round(self.end * _MICROSECONDS) * 1000,
            "status": self.status,
            "status_message": self.status_message or "",
            "attributes": dict(self.attributes),
            "links": [dict(link) for link in self.links],
            "events": [dict(event) for event in self.events],
            "service": self.service,
            "instance": self.instance,
        }

    @property
    def is_process(self) -> bool:
        """Whether this is the handling of one delivery."""
        return self.attributes.get(_OPERATION_TYPE) == "process"

    @property
    def is_consumer_crash(self) -> bool:
        """Whether the consumer reached an armed crash point here."""
        return self.name == CRASH_POINT_SPAN and str(
            self.attributes.get(CRASH_POINT, "")
        ).startswith("consumer.")

    @property
    def order_id(self) -> str | None:
        """The order that this span is about."""
        return self.attributes.get(ORDER_ID)

    @property
    def attempt(self) -> int:
        """Delivery attempt, from 1."""
        return int(self.attributes.get(DELIVERY_ATTEMPT, 1))


@dataclass(frozen=True, slots=True)
class SpansSummary:
    """Deliveries of one run.

    Args:
        deliveries: deliveries that are known of, handled or killed.
        redeliveries: those beyond the first of each event.
        dedup_hits: deliveries that the inbox recognised as already processed.
        settled: deliveries that were handled to an outcome.
        redelivered_at: Unix time in seconds of each redelivery that was seen, ascending.
    """

    deliveries: int = 0
    redeliveries: int = 0
    dedup_hits: int = 0
    settled: int = 0
    redelivered_at: tuple[float, ...] = ()

    @property
    def dedup_hit_rate(self) -> float:
        """Share of the settled deliveries that were duplicates; 0 when there were none."""
        return self.dedup_hits / self.settled if self.settled else 0.0


def read_spans(path: Path) -> Iterator[Span]:
    """The spans of a run, in the order in which they were exported.

    A process that is killed while it writes leaves half a line; such lines are skipped.

    Raises:
        RunFolderError: the file is missing or holds something else.
    """
    return jsonl.read(path, Span.from_json, torn_ok=True)


def summarise(spans: Iterable[Span]) -> SpansSummary:
    """Count deliveries: per message its highest attempt, whoever lived to report it."""
    # event -> (message, attempt) -> start
    seen: dict[str, dict[tuple[str, int], float]] = defaultdict(dict)
    crashes: list[Span] = []
    hits = settled = 0
    for span in spans:
        if span.is_consumer_crash:
            crashes.append(span)
        elif span.is_process:
            message = str(span.attributes.get(MESSAGE_ID, span.span_id))
            event = str(span.attributes.get(EVENT_ID) or message)
            delivery = (message, span.attempt)
            seen[event][delivery] = min(span.start, seen[event].get(delivery, span.start))
            hits += span.attributes.get(DEDUP_HIT) is True
            settled += span.attributes.get(OUTCOME) in _SETTLED
    for crash in crashes:
        _add_crash(seen[str(crash.attributes.get(EVENT_ID, ""))], crash)

    deliveries = 0
    redelivered: list[float] = []
    for of_event in seen.values():
        highest: dict[str, int] = {}
        for message, attempt in of_event:
            highest[message] = max(attempt, highest.get(message, 0))
        deliveries += sum(highest.values())
        first = min(of_event, key=lambda delivery: (of_event[delivery], delivery))
        redelivered += [
            start for delivery, start in of_event.items() if delivery != first or delivery[1] > 1
        ]
    return SpansSummary(
        deliveries=deliveries,
        redeliveries=deliveries - len(seen),
        dedup_hits=hits,
        settled=settled,
        redelivered_at=tuple(sorted(redelivered)),
    )


def _add_crash(of_event: dict[tuple[str, int], float], crash: Span) -> None:
    """Count a delivery that only its crash point reported: its `process` span died with it."""
    if named := crash.attributes.get(MESSAGE_ID):
        of_event.setdefault((str(named), crash.attempt), crash.start)
        return
    if any(attempt == crash.attempt for _, attempt in of_event):
        return
    # An event was nearly always sent as one message only.
    message = max(of_event, key=lambda delivery: delivery[1])[0] if of_event else ""
    of_event[message, crash.attempt] = crash.start
