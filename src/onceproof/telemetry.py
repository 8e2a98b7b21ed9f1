"""Hand-written spans: only the pipeline itself knows which delivery attempt it is in.

API only. Without an SDK every span here is a no-op. Names follow the OpenTelemetry messaging
conventions (status: Development); there is no convention for a delivery count on SQS, so the
`onceproof.*` attributes are ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.propagate import inject
from opentelemetry.trace import Link, Span, SpanContext, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

ORDER_ID: Final = "onceproof.order.id"
EVENT_ID: Final = "onceproof.event.id"
DELIVERY_ATTEMPT: Final = "onceproof.delivery.attempt"
CRASH_POINT: Final = "onceproof.crash_point"
CRASH_ACTION: Final = "onceproof.crash_action"
DEDUP_HIT: Final = "onceproof.dedup.hit"
OUTCOME: Final = "onceproof.outcome"
MESSAGE_ID: Final = "messaging.message.id"
BATCH_COUNT: Final = "messaging.batch.message_count"
REDRIVE: Final = "onceproof.redrive"
"""Id of the redrive that took the message back out of the DLQ; of a message the same attribute."""

CRASH_POINT_SPAN: Final = "crash_point.reached"
_FLUSH_TIMEOUT_MS: Final = 2000

_tracer: Final = trace.get_tracer("onceproof")
_propagator: Final = TraceContextTextMapPropagator()


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


def record_crash_point(
    point: str, *, action: str, order: str, attempt: int, event_id: str
) -> tuple[str, str]:
    """End and flush a span for a reached crash point; its trace id and span id as hex text."""
    span = _tracer.start_span(
        CRASH_POINT_SPAN,
        attributes={
            CRASH_POINT: point,
            CRASH_ACTION: action,
            ORDER_ID: order,
            EVENT_ID: event_id,
            DELIVERY_ATTEMPT: attempt,
        },
    )
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
    "DEDUP_HIT",
    "DELIVERY_ATTEMPT",
    "EVENT_ID",
    "MESSAGE_ID",
    "ORDER_ID",
    "OUTCOME",
    "REDRIVE",
    "SpanKind",
    "current_traceparent",
    "flush",
    "link_to",
    "messaging_span",
    "outgoing_headers",
    "record_crash_point",
    "remote_context",
]
