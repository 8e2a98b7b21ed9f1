"""The naive dual write, kept on purpose: commit to the database, then publish to the broker.

This is the breach that the outbox closes. Nothing ties the two writes together, so a crash between
them, or a publish that fails, loses an order that the client was promised. The variants without the
outbox fix run it to show exactly that; no retry here would close it, only make it rarer.
"""

from __future__ import annotations

import logging
from typing import Final

from onceproof import metrics
from onceproof.crashpoints import RELAY_AFTER_PUBLISH, RELAY_BEFORE_PUBLISH, crash_point
from onceproof.errors import InjectedDropError
from onceproof.events import Event
from onceproof.ports import Outgoing, Publisher
from onceproof.telemetry import (
    DELIVERY_ATTEMPT,
    EVENT_ID,
    MESSAGE_ID,
    ORDER_ID,
    SENDER,
    SpanKind,
    describe_messages,
    messaging_span,
    remote_context,
    sent_attributes,
)

logger = logging.getLogger(__name__)

_ATTEMPT: Final = 1
"""There is never a second one."""


class DirectPublisher:
    """Sends an event right away, once.

    Args:
        publisher: the broker.
        queue: where the events go.
        system: `messaging.system` in spans.
    """

    def __init__(self, publisher: Publisher, queue: str, *, system: str = "aws_sqs") -> None:
        self._publisher = publisher
        self._queue = queue
        self._system = system

    async def publish(self, event: Event) -> None:
        """Send the event of an order that is committed already; a failure is logged and counted.

        It is not raised, because the client's answer no longer depends on it: the order stands in
        the database, and a refusal now would be the lie that makes clients order again.
        """
        order = event.key or ""
        try:
            crash_point(RELAY_BEFORE_PUBLISH, order, _ATTEMPT, event.id)
            error = await self._send(event)
            crash_point(RELAY_AFTER_PUBLISH, order, _ATTEMPT, event.id)
        except InjectedDropError as dropped:
            error = str(dropped)
        if error is None:
            metrics.published.inc()
        else:
            metrics.publish_failures.inc()
            logger.error("order %s is committed and its event is lost: %s", order, error)

    async def _send(self, event: Event) -> str | None:
        attributes: dict[str, str | int] = {
            EVENT_ID: event.id,
            ORDER_ID: event.key or "",
            DELIVERY_ATTEMPT: _ATTEMPT,
        }
        with messaging_span(
            self._system,
            "send",
            "send",
            self._queue,
            kind=SpanKind.PRODUCER,
            parent=remote_context(event.traceparent),
            attributes={SENDER: "producer", **attributes},
        ) as span:
            [result] = await self._publisher.send(
                self._queue, [Outgoing(event.id, event.encode(), event.key)]
            )
            if result.message_id is not None:
                span.set_attribute(MESSAGE_ID, result.message_id)
            describe_messages(
                span, [attributes | sent_attributes(result.message_id, confirmed=result.ok)]
            )
        return result.error
