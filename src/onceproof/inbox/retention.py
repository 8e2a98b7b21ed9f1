"""Forget events that no queue can deliver again, in bounded batches.

Each batch goes on where the one before ended: the entries of deleted rows stay in the index until vacuum
may remove them, and a batch that started at its head again would walk over all of them.
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
        SELECT ctid FROM onceproof.inbox
        WHERE consumer = :consumer AND processed_at >= :from_time AND processed_at < :until_time
        ORDER BY processed_at
        LIMIT :batch_size
        FOR UPDATE SKIP LOCKED
    ), deleted AS (
        DELETE FROM onceproof.inbox WHERE ctid = ANY (ARRAY(SELECT ctid FROM old))
        RETURNING processed_at)
    SELECT count(*) AS rows, max(processed_at) AS until_time FROM deleted
""").columns(column("rows", BigInteger), column("until_time", DateTime(timezone=True)))
_NOW: Final = text("SELECT clock_timestamp()")
_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)


async def delete_processed(
    engine: AsyncEngine, consumer: str, *, older_than_s: float, batch_size: int = 1000
) -> int:
    """Delete the consumer's claims older than `older_than_s` seconds; how many were deleted.

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
                            "consumer": consumer,
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
