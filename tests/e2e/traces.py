"""The trace query API, asked from outside of the cluster, and the spans that tests look for in it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp

from onceproof.telemetry import CRASH_POINT, CRASH_POINT_SPAN, DEDUP_HIT, MESSAGE_ID
from onceproof_chaos.spans import Span
from onceproof_chaos.story import KILL_SPAN
from onceproof_chaos.traces import TraceStore


@dataclass(frozen=True)
class Traces:
    """Jaeger's query API at a base URL."""

    url: str

    def of_order(self, order: str, since: float) -> OrderSpans:
        """All spans about an order that began after `since` (Unix time in seconds)."""
        return OrderSpans(self._ask(lambda store: store.of_order(order, since=since)), order)

    def trace(self, trace_id: str) -> list[Span]:
        """One trace."""
        return self._ask(lambda store: store.trace(trace_id))

    def spans(self, start: float, end: float) -> list[Span]:
        """Everything in a window of Unix time in seconds."""
        return self._ask(lambda store: store.spans(start, end))

    def _ask(self, question: Callable[[TraceStore], Awaitable[list[Span]]]) -> list[Span]:
        async def asked() -> list[Span]:
            async with aiohttp.ClientSession() as http:
                return await question(TraceStore(http, self.url))

        return asyncio.run(asked())


@dataclass(frozen=True)
class OrderSpans:
    """The spans about one order, in time's order."""

    spans: list[Span]
    order: str

    def crashes(self, point: str) -> list[Span]:
        """`crash_point.reached` at a point."""
        return [
            span
            for span in self.spans
            if span.name == CRASH_POINT_SPAN
            and span.attributes.get(CRASH_POINT) == point
            and span.order_id == self.order
        ]

    def kills(self) -> list[Span]:
        """`pod.kill`."""
        return [
            span for span in self.spans if span.name == KILL_SPAN and span.order_id == self.order
        ]

    def deliveries(self) -> list[Span]:
        """Deliveries that were handled to an outcome."""
        return [span for span in self.spans if span.is_process and span.order_id == self.order]

    def hits(self) -> list[Span]:
        """Deliveries that the inbox recognised as duplicates."""
        return [span for span in self.deliveries() if span.attributes.get(DEDUP_HIT) is True]

    def messages(self) -> set[str]:
        """Ids of the broker's messages that the order's event came as."""
        return {str(span.attributes[MESSAGE_ID]) for span in self.deliveries()}


def pod_of(span: Span) -> str:
    """Name of the pod that a span is from: services call themselves `<hostname>-<process id>`."""
    return span.instance.rpartition("-")[0]
