"""Delete published rows in bounded batches: no delete holds many locks or writes much at once.

Each batch goes on where the one before ended. One that started at the head of the index again would
walk over the entries of all rows that were deleted before it, which stay there until vacuum may remove
them.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import BigInteger, DateTime, column, text
from sqlalchemy.ext.asyncio import AsyncEngine

from onceproof.postgres import translated

# A CTE is run once. A subquery in IN may be run again for each row, and then the limit is none.
_DELETE: Final = text("""
    WITH old AS MATERIALIZED (
        SELECT ctid, published_at FROM onceproof.outbox
        WHERE published_at >= :from_time AND published_at < :until_time
        ORDER BY published_at
        LIMIT :batch_size
        FOR UPDATE SKIP LOCKED
    ), deleted AS (
        DELETE FROM onceproof.outbox WHERE ctid = ANY (ARRAY(SELECT ctid FROM old))
        RETURNING published_at)
    SELECT count(*) AS rows, max(published_at) AS until_time FROM deleted
""").columns(column("rows", BigInteger), column("until_time", DateTime(timezone=True)))
_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NOW: Final = text("SELECT clock_timestamp()")


async def delete_published(
    engine: AsyncEngine, *, older_than_s: float, batch_size: int = 1000
) -> int:
    """Delete rows published more than `older_than_s` seconds ago; how many were deleted.

    Each batch of at most `batch_size` rows is a transaction of its own.
    """
    deleted: int = 0
    with translated():
        async with engine.connect() as connection:
            now = (await connection.execute(_NOW)).scalar_one()
    from_time, until_time = _EARLIEST, now - timedelta(seconds=older_than_s)
    while True:
        with translated():
            async with engine.begin() as connection:
                batch = (
                    await connection.execute(
                        _DELETE,
                        {
                            "from_time": from_time,
                            "until_time": until_time,
                            "batch_size": batch_size,
                        },
                    )
                ).one()
        deleted += int(batch.rows)
        if batch.rows < batch_size:
            return deleted
        from_time = batch.until_time
