"""Forget events that no queue can deliver again, in bounded batches."""

from __future__ import annotations

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from onceproof.postgres import translated

# A CTE is run once. A subquery in IN may be run again for each row, and then the limit is none.
_DELETE: Final = text("""
    WITH old AS MATERIALIZED (
        SELECT consumer, event_id FROM onceproof.inbox
        WHERE consumer = :consumer
          AND processed_at < clock_timestamp() - make_interval(secs => :older_than_s)
        ORDER BY processed_at
        LIMIT :batch_size
        FOR UPDATE SKIP LOCKED)
    DELETE FROM onceproof.inbox AS i USING old
    WHERE i.consumer = old.consumer AND i.event_id = old.event_id
""")


async def delete_processed(
    engine: AsyncEngine, consumer: str, *, older_than_s: float, batch_size: int = 1000
) -> int:
    """Delete the consumer's claims older than `older_than_s` seconds; how many were deleted.

    Each batch of at most `batch_size` rows is a transaction of its own.
    """
    deleted = 0
    while True:
        with translated():
            async with engine.begin() as connection:
                result = await connection.execute(
                    _DELETE,
                    {"consumer": consumer, "older_than_s": older_than_s, "batch_size": batch_size},
                )
        deleted += result.rowcount
        if result.rowcount < batch_size:
            return deleted
