"""The SERVER span of `POST /orders`, in which an order's trace starts or continues.

The event takes its trace context inside of it, so one trace leads from the client's request over
the outbox to the charge. It is middleware, because only out here is the status of a refusal known.
"""

from __future__ import annotations

from typing import Final

from opentelemetry import trace
from opentelemetry.propagate import extract
from opentelemetry.trace import SpanKind, StatusCode
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ROUTE: Final = "/orders"

_tracer: Final = trace.get_tracer("onceproof.producer")


class ServerSpans:
    """ASGI middleware: a span around each `POST /orders`, continuing the client's trace."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on inside a span."""
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("POST", ROUTE):
            await self._app(scope, receive, send)
            return
        with _tracer.start_as_current_span(
            f"POST {ROUTE}",
            context=extract(Headers(scope=scope)),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": "POST", "http.route": ROUTE},
        ) as span:

            async def observed(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    # A refusal with 4xx is the client's error, not this service's.
                    if message["status"] >= 500:
                        span.set_status(StatusCode.ERROR)
                await send(message)

            await self._app(scope, receive, observed)
