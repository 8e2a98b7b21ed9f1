"""Reserving stock: the two statements that every variant runs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from onceproof.errors import PermanentError

_TAKE = text("""
    UPDATE stock SET free = free - :quantity
     WHERE sku = :sku AND free >= :quantity RETURNING sku
""")
_RESERVE = text("""
    INSERT INTO reservations (order_id, sku, quantity) VALUES (:order_id, :sku, :quantity)
""")


async def reserve(database: AsyncSession | AsyncConnection, order: dict[str, Any]) -> None:
    """Take `quantity` of `sku` for `order_id`, in the caller's transaction.

    Raises:
        PermanentError: there is not so much; trying again does not help.
    """
    if not await database.scalar(_TAKE, order):
        raise PermanentError(f"not enough {order['sku']} for {order['order_id']}")
    await database.execute(_RESERVE, order)
