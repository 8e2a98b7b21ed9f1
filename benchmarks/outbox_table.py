"""The outbox table of a benchmark: pending and published rows in any number, and the check of a run."""

from __future__ import annotations

from typing import Final

from benchmarks.database import Database
from benchmarks.figures import require_published_once
from benchmarks.null_broker import order_event

_ROWS: Final = """
    INSERT INTO onceproof.outbox
        (id, destination, key, type, payload, traceparent, attempts, published_at, message_id)
    SELECT '01930000-0000-7000-8000-' || lpad(n::text, 12, '0'), $2,
           'o-' || lpad(n::text, 12, '0'), $3, $4, $5,
           CASE WHEN $6 THEN 1 ELSE 0 END,
           CASE WHEN $6 THEN clock_timestamp() END, CASE WHEN $6 THEN 'm-' || n END
    FROM generate_series($7::bigint, $7::bigint + $1::bigint - 1) AS n
"""
_CHUNK: Final = 250_000


async def add_rows(
    where: Database,
    rows: int,
    *,
    first: int = 1,
    destination: str = "orders",
    published: bool = False,
) -> None:
    """Rows numbered from `first`, each an order of its own with 200 bytes of JSON."""
    event = order_event(0)
    for start in range(first, first + rows, _CHUNK):
        await where.connection.execute(
            _ROWS,
            min(_CHUNK, first + rows - start),
            destination, event.type, event.encode().decode(), event.traceparent, published, start,
        )  # fmt: skip


async def fill(where: Database, rows: int, *, destination: str = "orders") -> None:
    """Exactly `rows` pending rows and nothing else."""
    await where.connection.execute("TRUNCATE onceproof.outbox")
    await add_rows(where, rows, destination=destination)
    await where.settle("onceproof.outbox")


async def require_all_published(where: Database, rows: int, sent: int) -> None:
    """Refuse a run in which not each row was claimed, sent and marked exactly once.

    Raises:
        InvalidRunError: with the numbers.
    """
    found = await where.counts(
        "SELECT count(*) FILTER (WHERE published_at IS NOT NULL AND message_id IS NOT NULL) "
        "AS published, coalesce(sum(attempts), 0) AS attempts FROM onceproof.outbox"
    )
    require_published_once(
        asked=rows, published=found["published"], attempts=found["attempts"], sent=sent
    )
