"""Append an event in the caller's transaction: both are committed, or neither."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from onceproof.events import Event
from onceproof.telemetry import current_traceparent

_APPEND: Final = text("""
    INSERT INTO onceproof.outbox (id, destination, key, type, payload, traceparent)
    VALUES (:id, :destination, :key, :type, :payload, :traceparent)
""")


async def append(session: AsyncSession | AsyncConnection, event: Event, destination: str) -> Event:
    """Add `event` to the outbox, to be sent to the queue or topic `destination` after the commit.

    The trace context of this moment travels inside the event, because by the time that a relay sends
    it, the request that caused it is over.

    Returns:
        The event as it will be sent, with its `traceparent`.

    Raises:
        EventTooLargeError: no broker would take it. Nothing was written.
        MalformedEventError: no consumer would take it. Nothing was written.
    """
    if event.traceparent is None:
        event = replace(event, traceparent=current_traceparent())
    await session.execute(
        _APPEND,
        {
            "id": event.id,
            "destination": destination,
            "key": event.key,
            "type": event.type,
            "payload": event.encode().decode(),
            "traceparent": event.traceparent,
        },
    )
    return event
