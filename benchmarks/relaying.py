"""Orders per second through the relay, against pgbench running its claim and its mark."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.ceiling import Script, run_pgbench, transaction, with_values
from benchmarks.database import Database
from benchmarks.figures import Sample, require_published_once
from benchmarks.null_broker import NullPublisher, order_event
from onceproof.outbox import OutboxStore, Relay, RelaySettings
from onceproof.outbox.store import _CLAIM, _MARK

BATCH: Final = 100
_RELAY: Final = "relay"

_PENDING: Final = """
    INSERT INTO onceproof.outbox (id, destination, key, type, payload, traceparent)
    SELECT '01930000-0000-7000-8000-' || lpad(n::text, 12, '0'), 'orders',
           'o-' || lpad(n::text, 12, '0'), $2, $3, $4
    FROM generate_series(1, $1::int) AS n
"""


class Ours:
    """The library's relay, one batch after the other on one connection."""

    def __init__(self, where: Database, engine: AsyncEngine) -> None:
        self._where = where
        self._store = OutboxStore(engine, relay=_RELAY)

    async def measure(self, rows: int) -> Sample:
        """Relay `rows` pending rows.

        Raises:
            InvalidRunError: not every row was published exactly once.
        """
        await _fill(self._where, rows)
        publisher = NullPublisher()
        relay = Relay(self._store, publisher, settings=RelaySettings(batch_size=BATCH))
        batches = rows // BATCH
        cpu, started = time.process_time(), time.perf_counter()
        for _ in range(batches):
            await relay.run_once()
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        await _verify(self._where, rows, publisher.sent)
        return Sample(rows, seconds, cpu, 2 * batches)


class Ceiling:
    """The claim and the mark in pgbench, on one connection.

    pgbench can keep one row of a result, so the claim's rows are put into arrays by the server; the
    payloads are among them, because they have to be transferred as well.
    """

    def __init__(self, where: Database, pgbench: Path) -> None:
        self._where = where
        self._pgbench = pgbench
        self._script = Script(_script())

    async def measure(self, rows: int) -> Sample:
        """Mark `rows` pending rows as published.

        Raises:
            InvalidRunError: not every row was published exactly once.
        """
        await _fill(self._where, rows)
        done = await run_pgbench(
            self._pgbench, self._where, [self._script], clients=1, limit=["-t", str(rows // BATCH)]
        )
        await _verify(self._where, rows, rows)
        return Sample(rows, done.seconds, done.cpu_s, 2 * done.transactions)


def _script() -> str:
    claim = with_values(_CLAIM, {"batch_size": str(BATCH), "lease_s": "30", "relay": f"'{_RELAY}'"})
    claim_as_arrays = (
        f"WITH claimed AS ({claim}) "  # noqa: S608 - all of it is ours
        "SELECT array_agg(id ORDER BY id) AS ids, "
        "array_agg(attempts ORDER BY id) AS attempts, string_agg(payload, '') AS payloads, "
        "string_agg(key || traceparent || destination || created_at, '') AS others FROM claimed"
    )
    mark = with_values(
        _MARK,
        {
            "ids": ":ids",
            "attempts": ":attempts",
            "message_ids": ":ids",
            "errors": f"array_fill(CAST(NULL AS text), ARRAY[{BATCH}])",
            "delays": f"array_fill(CAST(0 AS double precision), ARRAY[{BATCH}])",
        },
    )
    return f"BEGIN;\n{claim_as_arrays} \\gset\nCOMMIT;\n" + transaction(mark)


async def _fill(where: Database, rows: int) -> None:
    event = order_event(0)
    await where.connection.execute("TRUNCATE onceproof.outbox")
    await where.connection.execute(
        _PENDING, rows, event.type, event.encode().decode(), event.traceparent
    )
    await where.settle("onceproof.outbox")


async def _verify(where: Database, rows: int, sent: int) -> None:
    found = await where.counts(
        "SELECT count(*) FILTER (WHERE published_at IS NOT NULL AND message_id IS NOT NULL) "
        "AS published, sum(attempts) AS attempts FROM onceproof.outbox"
    )
    require_published_once(
        asked=rows, published=found["published"], attempts=found["attempts"], sent=sent
    )
