"""Jaeger's JSON, turned into the spans that OpenTelemetry knew when it sent them.

Jaeger's own model is older than OpenTelemetry's: kind, status and scope are tags, links are references
of the type FOLLOWS_FROM without attributes, and numbers come as text where JavaScript could not hold
them. It also moves a span of another process that does not fit into its parent, up to a second, because
it takes that for a wrong clock. Here it is what an outbox does, and a second decides whether an order
was handled before or after a fault, so the move is undone. `opentelemetry` has no reader for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from onceproof_chaos.spans import Span

_SPAN_KIND: Final = "span.kind"
_STATUS: Final = "otel.status_code"
_STATUS_MESSAGE: Final = "otel.status_description"
_INSTANCE: Final = "service.instance.id"
_ADDED: Final = frozenset(
    {
        _SPAN_KIND, _STATUS, _STATUS_MESSAGE, "error", "internal.span.format",
        "otel.library.name", "otel.library.version", "otel.scope.name", "otel.scope.version",
        "w3c.tracestate",
    }
)  # fmt: skip
"""Tags that Jaeger made of other parts of a span; `error` is one more form of the status."""
_CHILD_OF: Final = "CHILD_OF"
_TRACE_ID_CHARS: Final = 32
_SPAN_ID_CHARS: Final = 16
_NANOSECONDS: Final = 1e9
_MOVED: Final = re.compile(r"timestamps were adjusted by (-?)([0-9.hmsnuµμ]+)")
_DURATION: Final = re.compile(r"([0-9.]+)(h|ms|m|s|us|µs|μs|ns)")
_UNIT_US: Final = {
    "h": 3.6e9, "m": 6e7, "s": 1e6, "ms": 1e3, "us": 1.0, "µs": 1.0, "μs": 1.0, "ns": 1e-3,
}  # fmt: skip


def span_of(document: Mapping[str, Any], processes: Mapping[str, Any]) -> Span:
    """A span of Jaeger's query API.

    Args:
        document: one of `spans` in a trace.
        processes: the `processes` of that trace.

    Raises:
        KeyError, ValueError, TypeError, AttributeError: it is not in that format.
    """
    process = processes[document["processID"]]
    tags = _values(document.get("tags") or ())
    trace_id, span_id = _ids(document)
    moved_us = _moved_us(document)
    start_ns = (int(document["startTime"]) - moved_us) * 1000
    end_ns = start_ns + int(document["duration"]) * 1000
    return Span(
        name=document["operationName"],
        trace_id=trace_id,
        span_id=span_id,
        start=start_ns / _NANOSECONDS,
        end=end_ns / _NANOSECONDS,
        parent_span_id=_parent(document),
        kind=str(tags.get(_SPAN_KIND, "internal")).lower(),
        status=str(tags.get(_STATUS, "unset")).lower(),
        status_message=str(tags.get(_STATUS_MESSAGE, "")),
        service=process["serviceName"],
        instance=str(_values(process.get("tags") or ()).get(_INSTANCE, "")),
        attributes={key: value for key, value in tags.items() if key not in _ADDED},
        links=tuple(
            {"trace_id": trace, "span_id": span, "attributes": {}}
            for kind, trace, span in _references(document)
            if kind != _CHILD_OF
        ),
        events=tuple(_event(log, moved_us) for log in document.get("logs") or ()),
    )


def _references(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [(ref["refType"], *_ids(ref)) for ref in document.get("references") or ()]


def _parent(document: Mapping[str, Any]) -> str | None:
    """The parent's span id; None for the first span of a trace.

    A span that is both a child of another and linked to it has one reference to it only, as a link.
    No span but a trace's first is without a parent, so a link within the trace is to the parent.
    """
    trace_id, _ = _ids(document)
    within = [(kind, span) for kind, trace, span in _references(document) if trace == trace_id]
    parents = [span for kind, span in within if kind == _CHILD_OF] or [span for _, span in within]
    return parents[0] if parents else None


def _ids(document: Mapping[str, Any]) -> tuple[str, str]:
    """Trace and span id; Jaeger leaves out a first half of a trace id that is zero."""
    trace_id, span_id = document["traceID"], document["spanID"]
    return trace_id.zfill(_TRACE_ID_CHARS), span_id.zfill(_SPAN_ID_CHARS)


def _moved_us(document: Mapping[str, Any]) -> int:
    """By how many microseconds Jaeger moved a span; only its warning, for people, tells."""
    moved = 0.0
    for warning in document.get("warnings") or ():
        if found := _MOVED.search(warning):
            length = sum(float(n) * _UNIT_US[unit] for n, unit in _DURATION.findall(found[2]))
            moved += -length if found[1] else length
    return round(moved)


def _event(log: Mapping[str, Any], moved_us: int) -> dict[str, Any]:
    fields = _values(log["fields"])
    name = str(fields.pop("event", ""))
    return {"name": name, "time": (int(log["timestamp"]) - moved_us) * 1000, "attributes": fields}


def _values(tags: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {tag["key"]: _value(tag) for tag in tags}


def _value(tag: Mapping[str, Any]) -> Any:  # noqa: ANN401 - attributes are of any type
    value = tag["value"]
    match tag.get("type"):
        case "int64":
            return int(value)
        case "float64":
            return float(value)
        case "bool":
            return value if isinstance(value, bool) else str(value).lower() == "true"
        case _:
            return value


__all__ = ["span_of"]
