"""INSERT-first deduplication.

The INSERT comes before any effect, and in the same transaction. Reading first and inserting later
would let two deliveries pass the read together. A delivery whose twin is still working waits on the
unique key until the twin commits (then it is a duplicate) or rolls back (then it is its turn), so the
key is also the fence against a zombie whose visibility lapsed. `ON CONFLICT DO NOTHING` rather than a
caught error: the outcome is the same and Postgres' log stays readable.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

_CLAIM: Final = text("""
    INSERT INTO onceproof.inbox (consumer, event_id) VALUES (:consumer, :event_id)
    ON CONFLICT DO NOTHING
""")

# Sorted keys: two consumers that claim overlapping batches must take their locks in the same order.
_CLAIM_MANY: Final = text("""
    INSERT INTO onceproof.inbox (consumer, event_id)
    SELECT :consumer, id FROM unnest(CAST(:event_ids AS text[])) AS id ORDER BY id COLLATE "C"
    ON CONFLICT DO NOTHING
    RETURNING event_id
""")


async def claim(session: AsyncSession | AsyncConnection, consumer: str, event_id: str) -> bool:
    """Claim one event for `consumer`; False when it was processed already: roll back and ack.

    Waits for a concurrent claim of the same event, up to the connection's `lock_timeout`.
    """
    result = await session.execute(_CLAIM, {"consumer": consumer, "event_id": event_id})
    return bool(result.rowcount)  # type: ignore[attr-defined]


async def claim_many(
    session: AsyncSession | AsyncConnection, consumer: str, event_ids: Iterable[str]
) -> set[str]:
    """Claim many events in one statement; the ids that were not processed before."""
    result = await session.execute(
        _CLAIM_MANY, {"consumer": consumer, "event_ids": sorted(set(event_ids))}
    )
    return set(result.scalars())
