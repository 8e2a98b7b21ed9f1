"""Sends one email for each order: the way to do it.

The library has claimed the event in this session before it calls the handler. The email is sent with the
event's id as its Idempotency-Key, so an attempt that is repeated after a crash sends nothing.
"""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from onceproof.ports import Delivery

from . import mail_service

_RECORD = text("INSERT INTO emails (event_id, recipient) VALUES (:event_id, :recipient)")


async def handle(session: AsyncSession, delivery: Delivery) -> None:
    """Send the email, and record it together with the claim."""
    event = delivery.event
    await mail_service.send(event.data, idempotency_key=event.id)
    await session.execute(_RECORD, {"event_id": event.id, "recipient": event.data["recipient"]})
