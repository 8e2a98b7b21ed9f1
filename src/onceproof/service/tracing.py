"""The telemetry SDK: spans to an OTLP endpoint, or as JSON lines to a file, or nowhere.

The file is for one machine without a collector. A line is written with one `write` on an unbuffered
descriptor opened for append, so what was flushed survives a SIGKILL and processes may share a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import format_span_id, format_trace_id

_EXPORT_DELAY_MS = 250


def configure_tracing(
    service: str, instance: str, *, spans_file: Path | None, otlp_endpoint: str | None
) -> TracerProvider | None:
    """Install the SDK when spans are wanted anywhere; the provider to shut down at the end."""
    exporters: list[SpanExporter] = []
    if spans_file is not None:
        exporters.append(SpanFileExporter(spans_file, service, instance))
    if otlp_endpoint is not None:
        # Imported only when wanted: it costs a consumer several megabytes.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )

        exporters.append(OTLPSpanExporter(endpoint=f"{otlp_endpoint.rstrip('/')}/v1/traces"))
    if not exporters:
        return None
    provider = TracerProvider(
        resource=Resource.create({"service.name": service, "service.instance.id": instance}),
        shutdown_on_exit=False,
    )
    for exporter in exporters:
        provider.add_span_processor(
            BatchSpanProcessor(exporter, schedule_delay_millis=_EXPORT_DELAY_MS)
        )
    trace.set_tracer_provider(provider)
    return provider


class SpanFileExporter(SpanExporter):
    """Appends each span as one JSON line."""

    def __init__(self, path: Path, service: str, instance: str) -> None:
        self._service = service
        self._instance = instance
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write the spans."""
        lines = "".join(
            json.dumps(_as_json(span) | {"service": self._service, "instance": self._instance})
            + "\n"
            for span in spans
        )
        os.write(self._descriptor, lines.encode())
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _as_json(span: ReadableSpan) -> dict[str, Any]:
    context = span.get_span_context()
    return {
        "name": span.name,
        "kind": span.kind.name.lower(),
        "trace_id": format_trace_id(context.trace_id) if context else "",
        "span_id": format_span_id(context.span_id) if context else "",
        "parent_span_id": format_span_id(span.parent.span_id) if span.parent else None,
        "start": span.start_time,
        "end": span.end_time,
        "status": span.status.status_code.name.lower(),
        "status_message": span.status.description or "",
        "attributes": dict(span.attributes or {}),
        "links": [
            {
                "trace_id": format_trace_id(link.context.trace_id),
                "span_id": format_span_id(link.context.span_id),
                "attributes": dict(link.attributes or {}),
            }
            for link in span.links
        ],
        "events": [
            {
                "name": event.name,
                "time": event.timestamp,
                "attributes": dict(event.attributes or {}),
            }
            for event in span.events
        ],
    }
