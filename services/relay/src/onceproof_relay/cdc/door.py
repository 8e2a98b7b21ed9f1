"""The door: takes Debezium's SendMessage requests and sends the events with our own client.

Debezium's sink for SQS sends its heartbeats to the queue as well, where each would end in the DLQ as
malformed, and gives no trace of what it sent. Here a heartbeat is answered and goes nowhere, and an
event goes the way of the polling relay: crash points, span, the publisher's checks, metrics.

It listens for Debezium beside it only and checks no signature: who reaches it can send to the queue.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from onceproof import metrics
from onceproof.errors import MalformedEventError
from onceproof.events import Event
from onceproof.outbox.dispatch import Dispatcher
from onceproof.outbox.store import OutboxRow
from onceproof.ports import HealthListener
from onceproof_relay.cdc.wire import accepted, message_of, refused

logger = logging.getLogger(__name__)

_HEARTBEAT: Final = "Struct{ts_ms="
"""How a heartbeat record looks as a plain string; no event does, which is a JSON object."""
_REMEMBERED: Final = 10_000


class Door:
    """An endpoint that knows one operation of SQS.

    Args:
        dispatcher: sends.
        destination: queue or topic.
        on_health: told why the broker takes nothing (`broker`, reason), and None when it does.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        destination: str,
        on_health: HealthListener = lambda _dependency, _reason: None,
    ) -> None:
        self._dispatcher = dispatcher
        self._destination = destination
        self._on_health = on_health
        self._sends: OrderedDict[str, int] = OrderedDict()

    def app(self) -> Starlette:
        """The application."""
        return Starlette(routes=[Route("/{path:path}", self.answer, methods=["POST"])])

    async def answer(self, request: Request) -> Response:
        """Send what a request holds. 503 makes Debezium's client send it again."""
        headers = request.headers
        text = message_of(headers, await request.body())
        if text is None:
            return refused(headers, 400, "InvalidAction", "only SendMessage is known here")
        if text.startswith(_HEARTBEAT):
            return accepted(headers, text, str(uuid4()))
        result = (await self._dispatcher.publish([self._row(text)]))[0]
        self._on_health("broker", result.error)
        if result.error is not None:
            metrics.publish_failures.inc()
            return refused(headers, 503, "ServiceUnavailable", result.error)
        metrics.published.inc()
        return accepted(headers, text, result.message_id or "")

    def _row(self, text: str) -> OutboxRow:
        try:
            event = Event.decode(text.encode())
        except MalformedEventError as error:
            # Not for us to judge: the consumer gives the DLQ the reason, and nothing is lost.
            logger.warning("Debezium sent what is no event: %s", error)
            event = Event(type="", data=None)
        return OutboxRow(
            id=event.id,
            seq=0,
            destination=self._destination,
            key=event.key,
            payload=text,
            traceparent=event.traceparent,
            attempts=self._attempt(event.id),
            created_at=datetime.now(UTC),
        )

    def _attempt(self, event_id: str) -> int:
        """How often this process was asked to send it; after a restart it begins anew."""
        attempt = self._sends.pop(event_id, 0) + 1
        self._sends[event_id] = attempt
        if len(self._sends) > _REMEMBERED:
            self._sends.popitem(last=False)
        return attempt
