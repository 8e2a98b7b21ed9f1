"""The door: takes Debezium's batches and sends the events with our own client.

Debezium's sinks send their heartbeats like events, where each would end in the DLQ as malformed; they
tell no trace of what they sent; and the one for SQS sends a message at a time. Here a heartbeat is
confirmed and goes nowhere, and events go the way of the polling relay: in the broker's batches, with
crash points, span, the publisher's checks, metrics.

It listens for Debezium beside it only and checks no signature: who reaches it can send to the broker.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

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
from onceproof_relay.cdc.wire import answered, put_of, refused

logger = logging.getLogger(__name__)

HEARTBEATS: Final = "__debezium-heartbeat"
"""How the stream of heartbeats begins; no queue or topic is called like that."""
_REMEMBERED: Final = 10_000


class Door:
    """An endpoint that knows one operation of Kinesis; a stream there is a queue or topic here.

    Args:
        dispatcher: sends.
        on_health: told why the broker takes nothing (`broker`, reason), and None when it does.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        on_health: HealthListener = lambda _dependency, _reason: None,
    ) -> None:
        self._dispatcher = dispatcher
        self._on_health = on_health
        self._sends: OrderedDict[str, int] = OrderedDict()

    def app(self) -> Starlette:
        """The application."""
        return Starlette(routes=[Route("/{path:path}", self.answer, methods=["POST"])])

    async def answer(self, request: Request) -> Response:
        """Send what a request holds; Debezium puts again what the answer says was not sent."""
        put = put_of(request.headers, await request.body())
        if put is None:
            return refused("only PutRecords as JSON is known here: set CBOR_ENABLED=false")
        if put.stream.startswith(HEARTBEATS):
            return answered([None] * len(put.texts))
        return answered(await self._send([self._row(put.stream, text) for text in put.texts]))

    async def _send(self, rows: Sequence[OutboxRow]) -> list[str | None]:
        """Send them, each key's in their order; for each None, or why it was not sent."""
        errors: list[str | None] = [None] * len(rows)
        behind: dict[str, str] = {}
        for turn in _turns(rows):
            ready = []
            for at in turn:
                errors[at] = behind.get(rows[at].key or "")
                if errors[at] is None:
                    ready.append(at)
            results = await self._dispatcher.publish([rows[at] for at in ready])
            by_event = {result.row.id: result.error for result in results}
            for at in ready:
                row = rows[at]
                errors[at] = error = by_event[row.id]
                if error is not None and row.key:
                    behind[row.key] = f"an event of its key before it was not sent: {error}"
        failed = [error for error in errors if error is not None]
        self._on_health("broker", failed[0] if len(failed) == len(rows) else None)
        metrics.publish_failures.inc(len(failed))
        metrics.published.inc(len(rows) - len(failed))
        return errors

    def _row(self, destination: str, text: str) -> OutboxRow:
        try:
            event = Event.decode(text.encode())
        except MalformedEventError as error:
            # Not for us to judge: the consumer gives the DLQ the reason, and nothing is lost.
            logger.warning("Debezium sent what is no event: %s", error)
            event = Event(type="", data=None)
        return OutboxRow(
            id=event.id,
            seq=0,
            destination=destination,
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


def _turns(rows: Sequence[OutboxRow]) -> Iterator[list[int]]:
    """Places of rows in turns that have no key twice, each key's in their order."""
    turns: list[list[int]] = []
    so_far: Counter[str] = Counter()
    for at, row in enumerate(rows):
        turn = so_far[row.key] if row.key else 0
        if row.key:
            so_far[row.key] += 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(at)
    yield from turns
