"""Delete published rows in bounded batches: no delete holds many locks or writes much at once."""

from __future__ import annotations

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from onceproof.postgres import translated

# A CTE is run once. A subquery in IN may be run again for each row, and then the limit is none.
_DELETE: Final = text("""
    WITH old AS MATERIALIZED (
        SELECT id FROM onceproof.outbox
        WHERE published_at < clock_timestamp() - make_interval(secs => :older_than_s)
        ORDER BY published_at
        LIMIT :batch_size
        FOR UPDATE SKIP LOCKED)
    DELETE FROM onceproof.outbox AS o USING old WHERE o.id = old.id
""")


async def delete_published(
    engine: AsyncEngine, *, older_than_s: float, batch_size: int = 1000
) -> int:
    """Delete rows published more than `older_than_s` seconds ago; how many were deleted.

    Each batch of at most `batch_size` rows is a transaction of its own.
    """
    deleted = 0
    while True:
        with translated():
            async with engine.begin() as connection:
                result = await connection.execute(
                    _DELETE, {"older_than_s": older_than_s, "batch_size": batch_size}
                )
        deleted += result.rowcount
        if result.rowcount < batch_size:
            return deleted
