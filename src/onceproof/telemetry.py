"""Hand-written spans: only the pipeline itself knows which delivery attempt it is in.

API only. Without an SDK every span here is a no-op. Names follow the OpenTelemetry messaging
conventions (status: Development); there is no convention for a delivery count on SQS, so the
`onceproof.*` attributes are ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.propagate import inject
from opentelemetry.trace import Link, Span, SpanContext, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

KAFKA: Final = "kafka"
"""`messaging.system` whose receive the conventions call `poll`, and whose ack `commit`."""
ORDER_ID: Final = "onceproof.order.id"
EVENT_ID: Final = "onceproof.event.id"
DELIVERY_ATTEMPT: Final = "onceproof.delivery.attempt"
CRASH_POINT: Final = "onceproof.crash_point"
CRASH_ACTION: Final = "onceproof.crash_action"
DEDUP_HIT: Final = "onceproof.dedup.hit"
OUTCOME: Final = "onceproof.outcome"
RESULT: Final = "onceproof.result"
"""What became of one message of a send (`confirmed`, `not_confirmed`) or an ack (also `stale`)."""
SENDER: Final = "onceproof.sender"
"""Who sent, `relay` or `producer`: the same event sent twice is somebody's doing."""
VISIBILITY_S: Final = "onceproof.visibility_s"
HEARTBEAT_S: Final = "onceproof.heartbeat_s"
"""Seconds between two extensions of the visibility; 0 where there are none."""
FIRST_RECEIVED_AT: Final = "onceproof.delivery.first_received_at"
"""Unix time in seconds at which the broker first gave the message to anybody, by its own word."""
DEAD_LETTERED_AS: Final = "onceproof.dead_letter.message_id"
"""Id that the message had before it was rejected; it has been in the DLQ."""
REDRIVE: Final = "onceproof.redrive"
"""Id of the redrive that took the message back out of the DLQ; of a message the same attribute."""
RELEASED_FOR_S: Final = "onceproof.released_for_s"
RECEIVE_OPEN_SINCE: Final = "onceproof.receive.open_since"
"""Unix time in seconds at which a receive began that had no answer yet when the crash point was
reached: what the broker answers now is read by nobody."""
RECEIVE_NUMBER: Final = "onceproof.receive.number"
"""Number of the receive among those that brought messages, from 1: a gap is a lost span."""
RECEIVE_COUNT: Final = "onceproof.receive.count"
"""How many there were when the crash point was reached, or when the consumer stopped."""
STATE: Final = "onceproof.delivery.state"
"""Of a delivery in hand at a crash point: `waiting`, `working`, or `done` and not acked yet."""
MESSAGE_ID: Final = "messaging.message.id"
BATCH_COUNT: Final = "messaging.batch.message_count"

CRASH_POINT_SPAN: Final = "crash_point.reached"
LAPSED_SPAN: Final = "delivery.lapsed"
"""A delivery was let go, because its visibility lapsed before its turn came."""
RELEASED_SPAN: Final = "delivery.released"
"""A delivery was given back to the broker, to be made again."""
STOPPED_SPAN: Final = "consumer.stopped"
"""A consumer has ended by itself: it received nothing that no other span tells of."""
MESSAGE_EVENT: Final = "message"
"""Event of a span about several messages, one for each. Links have the same attributes by the
conventions, but trace stores lose them."""
_FLUSH_TIMEOUT_MS: Final = 2000

Holding = Callable[[], tuple[int, Sequence[Mapping[str, AttributeValue]]]]
"""How many receives brought messages so far, and the messages in hand, each with its `STATE`."""

_NO_SDK: Final = (trace.ProxyTracerProvider, trace.NoOpTracerProvider)
_tracer: Final = trace.get_tracer("onceproof")
_propagator: Final = TraceContextTextMapPropagator()
_open_receives: Final[dict[object, float]] = {}
_consumers: Final[dict[object, Holding]] = {}


def recording() -> bool:
    """Whether spans go anywhere. Without an SDK, to describe one costs more than to make it."""
    if not isinstance(_tracer, trace.ProxyTracer):
        return True
    return not isinstance(trace.get_tracer_provider(), _NO_SDK)


def current_traceparent() -> str | None:
    """The W3C `traceparent` of the span that is active now, or None outside of any."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent")


def outgoing_headers() -> dict[str, str]:
    """Propagation headers for an HTTP request made under the current span."""
    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier


def remote_context(traceparent: str | None) -> SpanContext | None:
    """The span context that a stored `traceparent` names; None when there is none or it is bad."""
    if traceparent is None:
        return None
    context = _propagator.extract({"traceparent": traceparent}, context=otel_context.Context())
    span_context = trace.get_current_span(context).get_span_context()
    return span_context if span_context.is_valid else None


def link_to(
    created: SpanContext | None, attributes: Mapping[str, AttributeValue] | None = None
) -> list[Link]:
    """A link to the creation of an event; none when its context is unknown."""
    return [Link(created, attributes)] if created else []


def messaging_span(
    system: str,
    operation: str,
    operation_type: str,
    destination: str,
    *,
    kind: SpanKind,
    parent: SpanContext | None = None,
    links: Iterable[Link] = (),
    attributes: Mapping[str, AttributeValue] | None = None,
    start_time_ns: int | None = None,
) -> Span:
    """Start (not activate) a span `{operation} {destination}`.

    Args:
        system: `aws_sqs` or `kafka`.
        operation: `send`, `receive`, `process`, `ack`, ...
        operation_type: `send`, `receive`, `process` or `settle`.
        destination: queue or topic.
        kind: the kind that the conventions give for the operation.
        parent: a span to continue, see `remote_context`; None continues the current span.
        links: creation contexts of the messages.
        attributes: further attributes.
        start_time_ns: Unix time in nanoseconds; None is now.
    """
    context: otel_context.Context | None = None
    if parent is not None:
        context = trace.set_span_in_context(trace.NonRecordingSpan(parent))
    return _tracer.start_span(
        f"{operation} {destination}",
        context=context,
        kind=kind,
        links=list(links),
        start_time=start_time_ns,
        attributes={
            "messaging.system": system,
            "messaging.operation.name": operation,
            "messaging.operation.type": operation_type,
            "messaging.destination.name": destination,
            **(attributes or {}),
        },
    )


def describe_messages(span: Span, messages: Iterable[Mapping[str, AttributeValue]]) -> None:
    """Name each message that a span is about, in a form that every trace store keeps."""
    if span.is_recording():
        for attributes in messages:
            span.add_event(MESSAGE_EVENT, attributes)


def sent_attributes(message_id: str | None, *, confirmed: bool) -> dict[str, str | int]:
    """What became of one message of a send: without a confirmation it may have been sent."""
    attributes: dict[str, str | int] = {RESULT: "confirmed" if confirmed else "not_confirmed"}
    if message_id:
        attributes[MESSAGE_ID] = message_id
    return attributes


def record_moment(
    name: str, parent: SpanContext | None, attributes: Mapping[str, AttributeValue]
) -> None:
    """End a span without duration: what happened to a delivery outside of its handling."""
    if not recording():
        return
    context = trace.set_span_in_context(trace.NonRecordingSpan(parent)) if parent else None
    _tracer.start_span(name, context=context, attributes=attributes).end()


@contextmanager
def holding(consumer: Holding) -> Iterator[None]:
    """While a consumer runs: a crash point then tells what it has in hand.

    A process that dies takes its spans in progress with it, and no span is no evidence: a trace store
    loses some. So what was in hand is said once, by the span that is flushed before the end.
    """
    token = object()
    _consumers[token] = consumer
    try:
        yield
    finally:
        del _consumers[token]


@contextmanager
def receiving() -> Iterator[None]:
    """Around a receive request, so that a crash point meanwhile can tell that it was open."""
    request = object()
    _open_receives[request] = time.time()
    try:
        yield
    finally:
        del _open_receives[request]


def record_crash_point(
    point: str, *, action: str, order: str, attempt: int, event_id: str, message_id: str = ""
) -> tuple[str, str]:
    """End and flush a span for a reached crash point; its trace id and span id as hex text."""
    attributes: dict[str, AttributeValue] = {
        CRASH_POINT: point,
        CRASH_ACTION: action,
        ORDER_ID: order,
        EVENT_ID: event_id,
        DELIVERY_ATTEMPT: attempt,
    }
    if message_id:
        attributes[MESSAGE_ID] = message_id
    if _open_receives:
        attributes[RECEIVE_OPEN_SINCE] = min(_open_receives.values())
    held = [consumer() for consumer in _consumers.values()]
    if held:
        attributes[RECEIVE_COUNT] = sum(received for received, _ in held)
    span = _tracer.start_span(CRASH_POINT_SPAN, attributes=attributes)
    describe_messages(span, (message for _, messages in held for message in messages))
    span.end()
    flush()
    context = span.get_span_context()
    return trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)


def flush() -> None:
    """Hand every ended span to the exporter, where an SDK is installed."""
    force_flush = getattr(trace.get_tracer_provider(), "force_flush", None)
    if force_flush is not None:
        force_flush(_FLUSH_TIMEOUT_MS)


__all__ = [
    "BATCH_COUNT",
    "CRASH_ACTION",
    "CRASH_POINT",
    "CRASH_POINT_SPAN",
    "DEAD_LETTERED_AS",
    "DEDUP_HIT",
    "DELIVERY_ATTEMPT",
    "EVENT_ID",
    "FIRST_RECEIVED_AT",
    "HEARTBEAT_S",
    "KAFKA",
    "LAPSED_SPAN",
    "MESSAGE_EVENT",
    "MESSAGE_ID",
    "ORDER_ID",
    "OUTCOME",
    "RECEIVE_COUNT",
    "RECEIVE_NUMBER",
    "RECEIVE_OPEN_SINCE",
    "REDRIVE",
    "RELEASED_FOR_S",
    "RELEASED_SPAN",
    "RESULT",
    "SENDER",
    "STATE",
    "STOPPED_SPAN",
    "VISIBILITY_S",
    "Holding",
    "SpanKind",
    "current_traceparent",
    "describe_messages",
    "flush",
    "holding",
    "link_to",
    "messaging_span",
    "outgoing_headers",
    "receiving",
    "record_crash_point",
    "record_moment",
    "recording",
    "remote_context",
    "sent_attributes",
]
