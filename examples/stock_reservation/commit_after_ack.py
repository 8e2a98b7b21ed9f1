"""Planted bug: answers at once and reserves in the background, so the ack comes before the commit.

A popular way to make a consumer faster. What is acked does not come again, and what waits in the
memory of a process that is killed is gone.
"""

from __future__ import annotations

import asyncio
import os
from functools import cache
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from onceproof.ports import Delivery
from onceproof.postgres import create_engine

from .stock import reserve

_GATHER_S = 0.5
"""For which reservations are gathered before they are written."""
_background: set[asyncio.Task[None]] = set()


@cache
def engine() -> AsyncEngine:
    """Connections of the background."""
    return create_engine(os.environ["DATABASE_URL"], application_name="stock", pool_size=4)


async def handle(_session: AsyncSession, delivery: Delivery) -> None:
    """Leave the work to a task, and say that it is done."""
    task = asyncio.create_task(_later(delivery.event.data))
    _background.add(task)
    task.add_done_callback(_background.discard)


async def _later(order: dict[str, Any]) -> None:
    await asyncio.sleep(_GATHER_S)
    async with engine().begin() as connection:
        await reserve(connection, order)
