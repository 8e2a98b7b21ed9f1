"""The outbox table of a benchmark: pending and published rows in any number, and the check of a run."""

from __future__ import annotations

from typing import Final

from benchmarks.database import Database
from benchmarks.figures import require_published_once
from benchmarks.null_broker import order_event

EVENT_ID: Final = "01930000-0000-7000-8000-000000000000"
EVENT_ID_OF_N: Final = "'01930000-0000-7000-8000-' || lpad(n::text, 12, '0')"
ORDER_ID: Final = "o-000000000000"
_ORDER_ID_OF_N: Final = "'o-' || lpad(n::text, 12, '0')"
PAYLOAD_OF_N: Final = (
    f"replace(replace($2, '{EVENT_ID}', {EVENT_ID_OF_N}), '{ORDER_ID}', {_ORDER_ID_OF_N})"
)
"""SQL for the id and the payload of event number n, with `event_template` as `$2`."""
_ROWS: Final = f"""
    INSERT INTO onceproof.outbox
        (id, destination, key, type, payload, traceparent, attempts, published_at, message_id)
    SELECT {EVENT_ID_OF_N}, $3, {_ORDER_ID_OF_N}, $4, {PAYLOAD_OF_N}, $5,
           CASE WHEN $6 THEN 1 ELSE 0 END,
           CASE WHEN $6 THEN clock_timestamp() END, CASE WHEN $6 THEN 'm-' || n END
    FROM generate_series($7::bigint, $7::bigint + $1::bigint - 1) AS n
"""  # noqa: S608 - all of it is ours
_CHUNK: Final = 250_000


def event_template() -> str:
    """An order's event as JSON, with ids of event and order to be replaced."""
    event = order_event(0)
    return event.encode().decode().replace(event.id, EVENT_ID).replace(event.key or "", ORDER_ID)


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
            min(_CHUNK, first + rows - start), event_template(),
            destination, event.type, event.traceparent, published, start,
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
