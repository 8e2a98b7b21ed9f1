"""Reserves stock once for each order: the way to do it.

Everything goes through the session in which the library has claimed the event. One commit, or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from onceproof.ports import Delivery

from .stock import reserve


async def handle(session: AsyncSession, delivery: Delivery) -> None:
    """Reserve for one order."""
    await reserve(session, delivery.event.data)


async def handle_batch(session: AsyncSession, deliveries: Sequence[Delivery]) -> None:
    """Reserve for several orders in one transaction."""
    for delivery in deliveries:
        await reserve(session, delivery.event.data)
