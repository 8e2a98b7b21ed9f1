"""What happened to one order: spans, faults and rows, told in the order in which they ended.

The files of a run have all three. In a cluster there may be no more than the spans of a trace store, so
every part can do without the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from onceproof.telemetry import (
    BATCH_COUNT,
    CRASH_POINT,
    CRASH_POINT_SPAN,
    DEDUP_HIT,
    EVENT_ID,
    MESSAGE_EVENT,
    MESSAGE_ID,
    OUTCOME,
    RESULT,
)
from onceproof_chaos.evidence import Evidence
from onceproof_chaos.faultlog import FaultEvent, FaultEventKind
from onceproof_chaos.runfolder import RunFolder
from onceproof_chaos.spans import Span

KILL_SPAN: Final = "pod.kill"
"""The operator's span of a pod's deletion, in the trace of the crash point."""
_SHORT: Final = 8
_OPERATION_TYPE: Final = "messaging.operation.type"
_VERBS: Final = {"send": "sent", "settle": "acked"}
_IN_VAIN: Final = {"stale": ", too late: it was visible again", "not_confirmed": ", not confirmed"}
"""Results of a send or an ack that are worth a word."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened; `at` is Unix time in seconds, `who` the instance or service."""

    at: float
    who: str
    what: str


def tell(run: RunFolder, order_id: str) -> list[Step]:
    """The steps of one order from a run folder; see `steps_of`.

    Raises:
        RunFolderError: a file of the run is missing or corrupt.
    """
    return steps_of(order_id, spans=list(run.spans()), faults=run.faults(), evidence=run.evidence())


def steps_of(
    order_id: str,
    *,
    spans: Sequence[Span] = (),
    faults: Sequence[FaultEvent] = (),
    evidence: Evidence | None = None,
) -> list[Step]:
    """The steps of one order, in the order in which they ended.

    Args:
        order_id: the order.
        spans: of the run, or those that a trace store has of the order.
        faults: what the nemesis saw and did.
        evidence: rows of the databases.
    """
    steps = [
        *_of_spans(spans, order_id),
        *_of_faults(faults, order_id),
        *_of_rows(evidence or Evidence(), order_id),
    ]
    if not any(event.event is FaultEventKind.KILLED for event in faults if event.order == order_id):
        steps += _of_kills(spans, order_id)
    return sorted(steps, key=lambda step: step.at)


def summary(run: RunFolder, order_id: str) -> str:
    """How often the order was captured, charged and published, in one sentence."""
    return summary_of(order_id, run.evidence())


def summary_of(order_id: str, evidence: Evidence) -> str:
    """How often the order was captured, charged and published, in one sentence."""
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


@dataclass(frozen=True, slots=True)
class Subject:
    """What spans about one order are known by: the order, its events, and its traces."""

    order_id: str
    events: frozenset[str]
    traces: frozenset[str]

    @classmethod
    def of(cls, order_id: str, spans: Iterable[Span]) -> Self:
        """From all spans that may be about the order."""
        own = [span for span in spans if span.order_id == order_id]
        return cls(
            order_id,
            frozenset(str(s.attributes[EVENT_ID]) for s in own if EVENT_ID in s.attributes),
            frozenset(span.trace_id for span in own),
        )

    def words(self, span: Span) -> list[str]:
        """What a span says about the order; a batch may say several things, others say nothing."""
        if span.is_process and span.order_id == self.order_id:
            return [_delivery(span)]
        if verb := _VERBS.get(span.attributes.get(_OPERATION_TYPE, "")):
            return [f"{verb} {what}" for what in self._sent(span)]
        if span.name == CRASH_POINT_SPAN and span.order_id == self.order_id:
            return [f"reached {span.attributes.get(CRASH_POINT)} at attempt {span.attempt}"]
        return []

    def _sent(self, span: Span) -> list[str]:
        """Messages that a send or settle span names, in its attributes or its links.

        A trace store keeps a link, but not its attributes: then it is known that the batch had an
        event of this trace in it, and not under which message id.
        """
        named = (span.attributes, *(link.get("attributes", {}) for link in span.links))
        results = _results(span)
        told = [
            _message(attributes) + _IN_VAIN.get(results.get(attributes[MESSAGE_ID], ""), "")
            for attributes in named
            if attributes.get(EVENT_ID) in self.events and attributes.get(MESSAGE_ID)
        ]
        if EVENT_ID not in span.attributes:
            count = span.attributes.get(BATCH_COUNT, len(span.links))
            told += [
                f"in a batch of {count}"
                for link in span.links
                if link["trace_id"] in self.traces and not link.get("attributes")
            ]
        return list(dict.fromkeys(told))  # a batch of one says it twice: itself, and in its link


def kill_words(span: Span) -> str:
    """What the operator's span of a kill says."""
    text = f"pod {span.attributes.get('k8s.pod.name', '?')} killed"
    if point := span.attributes.get(CRASH_POINT):
        text += f" at {point}"
    if drill := span.attributes.get("onceproof.drill"):
        text += f" by {drill}"
    return text


def _of_spans(spans: Sequence[Span], order_id: str) -> Iterator[Step]:
    subject = Subject.of(order_id, spans)
    for span in spans:
        for what in subject.words(span):
            yield Step(span.end, span.service, what)


def _of_kills(spans: Sequence[Span], order_id: str) -> Iterator[Step]:
    """Kills that only a span tells of, because nobody kept a fault log."""
    subject = Subject.of(order_id, spans)
    for span in spans:
        if span.name == KILL_SPAN and span.trace_id in subject.traces:
            yield Step(span.end, span.service, kill_words(span))


def _delivery(span: Span) -> str:
    hit = span.attributes.get(DEDUP_HIT)
    outcome = "duplicate: the inbox has it, rolled back" if hit else _outcome(span)
    return f"delivery attempt {span.attempt}: {outcome}"


def _message(attributes: Mapping[str, Any]) -> str:
    event_id, message_id = str(attributes[EVENT_ID]), str(attributes[MESSAGE_ID])
    return f"event ...{event_id[-_SHORT:]} as message ...{message_id[-_SHORT:]}"


def _results(span: Span) -> dict[str, str]:
    """What became of each message that a span is about, by message id."""
    told = [e["attributes"] for e in span.events if e["name"] == MESSAGE_EVENT]
    return {str(one.get(MESSAGE_ID)): str(one.get(RESULT, "")) for one in told}


def _of_faults(faults: Iterable[FaultEvent], order_id: str) -> Iterator[Step]:
    words = {
        FaultEventKind.KILLED: "killed (SIGKILL)",
        FaultEventKind.RESTARTED: "replaced by a new process",
        FaultEventKind.RESUMED: "goes on after its stall, as a zombie",
    }
    for event in faults:
        if event.order == order_id and event.event in words:
            who = f"{event.instance} pid {event.pid}" if event.pid else str(event.instance)
            yield Step(event.at, who, words[event.event])


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
