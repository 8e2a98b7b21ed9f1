"""What happened to one order, told from the files of its run: spans, faults and rows in time's order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onceproof.telemetry import (
    CRASH_POINT,
    CRASH_POINT_SPAN,
    DEDUP_HIT,
    EVENT_ID,
    MESSAGE_ID,
    OUTCOME,
)
from onceproof_chaos.evidence import Evidence
from onceproof_chaos.faultlog import FaultEvent, FaultEventKind
from onceproof_chaos.runfolder import RunFolder
from onceproof_chaos.spans import Span

_SHORT = 8


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened; `at` is Unix time in seconds, `who` the instance or service."""

    at: float
    who: str
    what: str


def tell(run: RunFolder, order_id: str) -> list[Step]:
    """The steps of one order, in the order in which they ended.

    Raises:
        RunFolderError: a file of the run is missing or corrupt.
    """
    evidence = run.evidence()
    steps = [
        *_of_spans(list(run.spans()), order_id),
        *_of_faults(run.faults(), order_id),
        *_of_rows(evidence, order_id),
    ]
    return sorted(steps, key=lambda step: step.at)


def summary(run: RunFolder, order_id: str) -> str:
    """How often the order was captured, charged and published, in one sentence."""
    evidence = run.evidence()
    captures = sum(row.order_id == order_id for row in evidence.captures)
    charges = sum(row.order_id == order_id for row in evidence.charges)
    rows = [row for row in evidence.outbox if row.key == order_id]
    text = f"{order_id}: captured {_times(captures)}, charged {_times(charges)}"
    for row in rows:
        state = "published" if row.published_at else "still pending"
        text += f"; outbox row {state} after {row.attempts} attempt{'s' * (row.attempts != 1)}"
        if row.last_error:
            text += f", last error: {row.last_error}"
    return text


def _of_spans(spans: list[Span], order_id: str) -> Iterator[Step]:
    events = {
        str(span.attributes[EVENT_ID])
        for span in spans
        if span.order_id == order_id and EVENT_ID in span.attributes
    }
    for span in spans:
        if span.is_process and span.order_id == order_id:
            hit = span.attributes.get(DEDUP_HIT)
            outcome = "duplicate: the inbox has it, rolled back" if hit else _outcome(span)
            yield Step(span.end, span.service, f"delivery attempt {span.attempt}: {outcome}")
        elif span.attributes.get("messaging.operation.type") in {"send", "settle"}:
            for event_id, message_id in _sent(span, events):
                verb = "sent" if span.kind == "producer" else "acked"
                yield Step(
                    span.end,
                    span.service,
                    f"{verb} event ...{event_id[-_SHORT:]} as message {message_id[:_SHORT]}...",
                )
        elif span.name == CRASH_POINT_SPAN and span.order_id == order_id:
            point = span.attributes.get(CRASH_POINT)
            yield Step(span.end, span.service, f"reached {point} at attempt {span.attempt}")


def _sent(span: Span, events: set[str]) -> Iterator[tuple[str, str]]:
    """Event and message ids that a batch span has for these events, in attributes or links."""
    for attributes in (span.attributes, *(link.get("attributes", {}) for link in span.links)):
        if attributes.get(EVENT_ID) in events and attributes.get(MESSAGE_ID):
            yield str(attributes[EVENT_ID]), str(attributes[MESSAGE_ID])


def _of_faults(faults: list[FaultEvent], order_id: str) -> Iterator[Step]:
    words = {
        FaultEventKind.KILLED: "killed (SIGKILL)",
        FaultEventKind.RESTARTED: "replaced by a new process",
        FaultEventKind.RESUMED: "goes on after its stall, as a zombie",
    }
    for event in faults:
        if event.order == order_id and event.event in words:
            yield Step(event.at, f"{event.instance} pid {event.pid}", words[event.event])


def _of_rows(evidence: Evidence, order_id: str) -> Iterator[Step]:
    for order in evidence.orders:
        if order.order_id == order_id:
            yield Step(order.created_at, "producer", "order stored")
    for capture in evidence.captures:
        if capture.order_id == order_id:
            key = (
                f"key ...{capture.idempotency_key[-_SHORT:]}"
                if capture.idempotency_key
                else "no key"
            )
            yield Step(capture.created_at, "provider", f"captured {capture.amount} ({key})")
    for charge in evidence.charges:
        if charge.order_id == order_id:
            yield Step(
                charge.created_at,
                "consumer",
                f"charge row written in the transaction of attempt {charge.delivery_attempt}",
            )


def _outcome(span: Span) -> str:
    text = str(span.attributes.get(OUTCOME, "ended"))
    return f"{text} ({span.status_message})" if span.status_message else text


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
