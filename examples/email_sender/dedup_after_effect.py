"""Planted bug: looks first, sends, and only then remembers that it has sent.

Between the sending and the commit of the memory anything may happen, and two copies of an event may both
look before either has remembered. Breaks wherever the email was sent and the transaction did not commit.
"""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from onceproof.ports import Delivery

from . import mail_service

_SEEN = text("SELECT 1 FROM emails WHERE event_id = :event_id")
_REMEMBER = text("INSERT INTO emails (event_id, recipient) VALUES (:event_id, :recipient)")


async def handle(session: AsyncSession, delivery: Delivery) -> None:
    """Send the email, unless one was sent before."""
    event = delivery.event
    if await session.scalar(_SEEN, {"event_id": event.id}):
        return
    await mail_service.send(event.data)
    await session.execute(_REMEMBER, {"event_id": event.id, "recipient": event.data["recipient"]})
