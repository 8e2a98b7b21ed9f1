"""Spans from a trace store, in the form in which a run folder holds them.

In a cluster the services send their spans to Jaeger instead of to a shared file. Its query API gives
them back, so that story, summary and report work on either. What is lost on the way: Jaeger keeps no
attributes of links, so a batch span says which traces it belongs to, but not which message it was for
each. What a verdict counts is on spans of single deliveries and is not affected.

A store that cuts its answer off would turn missing spans into missing deliveries. So a full answer is
never believed: the window is halved until every part fits.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import aiohttp

from onceproof.telemetry import EVENT_ID, ORDER_ID
from onceproof_chaos import jsonl
from onceproof_chaos.jaeger import span_of
from onceproof_chaos.spans import Span

Fetch = Callable[[str], Awaitable[bytes | None]]
"""Gets path and query of the API; None where there is no such thing (404)."""

_LIMIT: Final = 1000
"""Traces in one answer."""
_SMALLEST_WINDOW_S: Final = 0.001
_TIMEOUT_S: Final = 60.0
_AROUND_S: Final = 10.0
"""Seconds after an order's last span in which a batch may still have settled its message."""
_IS_IT_JAEGER: Final = "is it Jaeger's query service (port 16686)?"
_CLOCKS_S: Final = 60.0
"""Seconds that another machine's clock may be ahead."""


class TraceStoreError(Exception):
    """Spans cannot be fetched, or not all of them; the message says what to do."""


class TraceStore:
    """Jaeger's query API, that of version 2 and of late versions 1.

    Args:
        http: session to use, which is not closed; or another way to the API.
        base_url: e.g. `http://onceproof-jaeger:16686`; for another way, what errors call it.
        limit: most traces in one answer.
    """

    def __init__(
        self, http: aiohttp.ClientSession | Fetch, base_url: str, *, limit: int = _LIMIT
    ) -> None:
        self._fetch: Fetch = (
            _over_http(http, base_url) if isinstance(http, aiohttp.ClientSession) else http
        )
        self._where = base_url
        self._limit = limit

    async def spans(self, start: float, end: float) -> list[Span]:
        """Every span of every service that began in a time window, in time's order.

        Args:
            start: Unix time in seconds.
            end: of the window, included.

        Raises:
            TraceStoreError: the store cannot be asked, or has more in a millisecond than it gives.
        """
        found: dict[tuple[str, str], Span] = {}
        for service in await self._services():
            for span in await self._search(service, start, end):
                if start <= span.start <= end:
                    found[span.trace_id, span.span_id] = span
        return _in_order(found.values())

    async def trace(self, trace_id: str) -> list[Span]:
        """The spans of a trace in time's order; empty when the store does not have it.

        Raises:
            TraceStoreError: the store cannot be asked.
        """
        body = await self._fetch(f"/api/traces/{quote(trace_id, safe='')}")
        return [] if body is None else _in_order(self._spans_in(self._parsed(body)))

    async def of_order(self, order_id: str, *, since: float) -> list[Span]:
        """All about one order: its traces, and spans of batches that link into them.

        Args:
            order_id: the order.
            since: Unix time in seconds of the oldest span to look for.

        Raises:
            TraceStoreError: the store cannot be asked.
        """
        found: dict[tuple[str, str], Span] = {}
        until = time.time() + _CLOCKS_S
        for service in await self._services():
            for span in await self._search(service, since, until, {ORDER_ID: order_id}):
                found[span.trace_id, span.span_id] = span
        if found:
            traces = {trace_id for trace_id, _ in found}
            first = min(span.start for span in found.values())
            last = max(span.end for span in found.values())
            for span in await self.spans(first, min(last + _AROUND_S, until)):
                if any(link["trace_id"] in traces for link in span.links):
                    found[span.trace_id, span.span_id] = span
        return _in_order(found.values())

    async def order_of(self, event_id: str, *, since: float) -> str | None:
        """The order that an event belongs to; None when no span names both.

        Args:
            event_id: the event.
            since: Unix time in seconds of the oldest span to look for.

        Raises:
            TraceStoreError: the store cannot be asked.
        """
        until = time.time() + _CLOCKS_S
        for service in await self._services():
            for span in await self._search(service, since, until, {EVENT_ID: event_id}):
                if span.attributes.get(EVENT_ID) == event_id and span.order_id:
                    return span.order_id
        return None

    async def _services(self) -> list[str]:
        answer = await self._get("/api/services")
        return sorted(str(name) for name in answer.get("data") or ())

    async def _search(
        self, service: str, start: float, end: float, tags: Mapping[str, str] | None = None
    ) -> list[Span]:
        """Spans of the traces in which this service has a span that began in the window."""
        query = {
            "service": service,
            "start": str(int(start * 1e6)),
            "end": str(int(end * 1e6) + 1),
            "limit": str(self._limit),
        }
        if tags:
            query["tags"] = json.dumps(tags)
        answer = await self._get(f"/api/traces?{urlencode(query)}")
        if len(answer.get("data") or ()) < self._limit:
            return self._spans_in(answer)
        if end - start <= _SMALLEST_WINDOW_S:
            raise TraceStoreError(
                f"{self._where} has {self._limit} or more traces of {service} within a millisecond "
                "and would leave some out; ask with a higher limit"
            )
        middle = (start + end) / 2
        return [
            *await self._search(service, start, middle, tags),
            *await self._search(service, middle, end, tags),
        ]

    def _spans_in(self, answer: Mapping[str, Any]) -> list[Span]:
        try:
            return [
                span_of(span, trace["processes"])
                for trace in answer.get("data") or ()
                for span in trace["spans"]
            ]
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise TraceStoreError(
                f"{self._where} sent a trace that is not in Jaeger's format ({error!r}); {_IS_IT_JAEGER}"
            ) from None

    async def _get(self, path: str) -> Mapping[str, Any]:
        body = await self._fetch(path)
        if body is None:
            raise TraceStoreError(f"{self._where} has no {path.partition('?')[0]}; {_IS_IT_JAEGER}")
        return self._parsed(body)

    def _parsed(self, body: bytes) -> Mapping[str, Any]:
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise TraceStoreError(f"{self._where} did not answer with JSON; {_IS_IT_JAEGER}")
        if answer.get("errors"):
            raise TraceStoreError(f"{self._where} refused: {answer['errors']}")
        return answer


def write_spans(path: Path, spans: Iterable[Span]) -> None:
    """Write `spans.jsonl` of a run folder, in the services' own format."""
    jsonl.write_rows(path, (span.as_json() for span in spans))


def _over_http(http: aiohttp.ClientSession, base_url: str) -> Fetch:
    async def fetch(path: str) -> bytes | None:
        try:
            async with http.get(
                f"{base_url.rstrip('/')}{path}", timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)
            ) as response:
                body = await response.read()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            problem = str(error) or type(error).__name__
            raise TraceStoreError(
                f"the trace store {base_url} cannot be reached: {problem}; "
                "check its URL, and that Jaeger's query port 16686 is open to this place"
            ) from error
        if response.status == 404:
            return None
        if response.status != 200:
            text = body[:500].decode(errors="replace")
            raise TraceStoreError(f"{base_url}{path}: HTTP {response.status}: {text}")
        return body

    return fetch


def _in_order(spans: Iterable[Span]) -> list[Span]:
    return sorted(spans, key=lambda span: (span.start, span.end))


__all__ = ["Fetch", "TraceStore", "TraceStoreError", "write_spans"]
