"""Planted bug: deduplicates correctly, but on the broker's message id.

A redelivery keeps its message id, so every crash of the consumer is survived. A relay that dies after a
publish sends the same event again under a new id: then there are two emails.
"""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from onceproof.ports import Delivery

from . import mail_service

_CLAIM = text("""
    INSERT INTO emails (event_id, recipient) VALUES (:message_id, :recipient)
    ON CONFLICT DO NOTHING RETURNING event_id
""")


async def handle(session: AsyncSession, delivery: Delivery) -> None:
    """Claim the message, then send its email."""
    message_id, email = delivery.message.message_id, delivery.event.data
    claim = {"message_id": message_id, "recipient": email["recipient"]}
    if await session.scalar(_CLAIM, claim):
        await mail_service.send(email, idempotency_key=message_id)
