"""Planted bug: the reservation has a transaction of its own, and is remembered in another one.

A crash between the two commits leaves a reservation that nobody remembers, so the redelivery reserves
again.
"""

from __future__ import annotations

import os
from functools import cache

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from onceproof.ports import Delivery
from onceproof.postgres import create_engine

from .stock import reserve

_SEEN = text("SELECT 1 FROM processed WHERE id = :id")
_REMEMBER = text("INSERT INTO processed (id) VALUES (:id)")


@cache
def engine() -> AsyncEngine:
    """Connections of its own, which is where the trouble begins."""
    return create_engine(os.environ["DATABASE_URL"], application_name="stock", pool_size=4)


async def handle(session: AsyncSession, delivery: Delivery) -> None:
    """Reserve, unless it was done before."""
    event = delivery.event
    if await session.scalar(_SEEN, {"id": event.id}):
        return
    async with engine().begin() as connection:
        await reserve(connection, event.data)
    await session.execute(_REMEMBER, {"id": event.id})
