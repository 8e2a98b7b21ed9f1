"""Planted bug: deduplicates correctly, but on the broker's message id.

Every crash of the consumer is survived. The same event under a new message id is reserved twice.
"""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from onceproof.ports import Delivery

from .stock import reserve

_CLAIM = text("INSERT INTO processed (id) VALUES (:id) ON CONFLICT DO NOTHING RETURNING id")


async def handle(session: AsyncSession, delivery: Delivery) -> None:
    """Claim the message, then reserve."""
    if await session.scalar(_CLAIM, {"id": delivery.message.message_id}):
        await reserve(session, delivery.event.data)
