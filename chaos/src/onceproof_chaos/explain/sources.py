"""Where records come from: a run folder, or a living system's trace store and databases.

A living system has no fault log and often not every span. What was not asked, or did not answer, is
marked as such, so that its silence is not taken for a fact.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg

from onceproof.errors import ConfigurationError
from onceproof_chaos import jsonl
from onceproof_chaos.environment import asyncpg_url
from onceproof_chaos.evidence import OUTBOX, Evidence
from onceproof_chaos.explain.deliveries import deliveries_of
from onceproof_chaos.explain.records import Records
from onceproof_chaos.faultlog import FaultEvent
from onceproof_chaos.runfolder import RunFolder
from onceproof_chaos.spans import Span
from onceproof_chaos.traces import TraceStore

_BEFORE_S: Final = 30.0
"""Seconds before an order's first span in which the long poll may have begun that brought it."""
_AFTER_S: Final = 60.0
"""Seconds after its last span in which what ended its processes may have been recorded."""
_TIMEOUT_S: Final = 10.0

_ORDER: Final = """
SELECT order_id FROM orders WHERE order_id = $1 OR event_id = $1
 UNION SELECT key FROM onceproof.outbox WHERE id = $1 AND key IS NOT NULL
 UNION SELECT order_id FROM charges WHERE event_id = $1"""
_OF_ORDER: Final = {
    "orders": """\
SELECT order_id, amount, currency, event_id, extract(epoch FROM created_at)::float8 AS created_at
  FROM orders WHERE order_id = $1""",
    "charges": """\
SELECT id, order_id, event_id, amount, currency, provider_charge_id, delivery_attempt,
       extract(epoch FROM created_at)::float8 AS created_at
  FROM charges WHERE order_id = $1 ORDER BY id""",
    "outbox": f"{OUTBOX} WHERE key = $1 ORDER BY seq",
}
_INBOX: Final = """\
SELECT consumer, event_id, extract(epoch FROM processed_at)::float8 AS processed_at
  FROM onceproof.inbox WHERE event_id = ANY($1::text[]) ORDER BY processed_at"""
_CAPTURES: Final = """\
SELECT id, order_id, amount, currency, idempotency_key,
       extract(epoch FROM created_at)::float8 AS created_at
  FROM captures WHERE order_id = $1 ORDER BY created_at, id"""


def of_run(run: RunFolder) -> Records:
    """Everything in a run folder but its plan.

    Raises:
        RunFolderError: a file is missing or corrupt.
    """
    return Records(spans=list(run.spans()), faults=run.faults(), rows=run.evidence())


@dataclass(frozen=True, slots=True)
class LiveSystem:
    """Where to ask about a living system; what is None is not asked.

    Args:
        store: its traces.
        database_url: of the pipeline.
        provider_database_url: of the payment provider's ledger.
        faults: a log of what ended processes, in the format of `faults.jsonl`.
        since: Unix time in seconds of the oldest span to look for.
    """

    store: TraceStore | None
    database_url: str | None
    provider_database_url: str | None
    faults: Path | None
    since: float

    async def about(self, name: str) -> Records:
        """What is known of an order, named by its id or by an event's.

        Raises:
            ConfigurationError: a database cannot be read, or is another pipeline's.
            TraceStoreError: the trace store cannot be asked.
            RunFolderError: the log of faults cannot be read.
        """
        order = await self._order(name)
        spans = await self._spans(order)
        # Databases last: what committed while traces were fetched must not look uncommitted.
        rows = await self._rows(order, spans)
        if self.database_url is not None and spans and not (rows.orders or rows.outbox):
            # Its silence would be taken for a transaction that was never committed.
            raise ConfigurationError(
                f"there are traces of order {order}, and the database has no such order: is "
                "--database-url that of the same system?"
            )
        faults = list(jsonl.read(self.faults, FaultEvent.from_json)) if self.faults else []
        return Records(
            spans=spans,
            faults=faults,
            rows=rows,
            whole=False,
            has_traces=self.store is not None,
            has_faults=self.faults is not None,
            has_database=self.database_url is not None,
            has_ledger=self.provider_database_url is not None,
        )

    async def _order(self, name: str) -> str:
        if self.database_url is not None:
            found = await _fetch(self.database_url, {"order": (_ORDER, name)})
            if found["order"]:
                return str(found["order"][0]["order_id"])
        if self.store is not None:
            return await self.store.order_of(name, since=self.since) or name
        return name

    async def _spans(self, order: str) -> list[Span]:
        """The order's spans, and what happened to the processes that had it."""
        if self.store is None:
            return []
        own = await self.store.of_order(order, since=self.since)
        if not own:
            return []
        first, last = min(s.start for s in own), max(s.end for s in own)
        around = await self.store.spans(first - _BEFORE_S, last + _AFTER_S)
        found = {(span.trace_id, span.span_id): span for span in (*own, *around)}
        return sorted(found.values(), key=lambda span: (span.start, span.end))

    async def _rows(self, order: str, spans: Sequence[Span]) -> Evidence:
        rows: dict[str, Sequence[Mapping[str, Any]]] = dict.fromkeys(Evidence.__slots__, ())
        if self.database_url is not None:
            rows |= await _fetch(
                self.database_url, {table: (sql, order) for table, sql in _OF_ORDER.items()}
            )
            events = {str(row["id"]) for row in rows["outbox"]}
            events |= {str(row["event_id"]) for row in (*rows["orders"], *rows["charges"])}
            names = events | {
                message
                for event, deliveries in deliveries_of(spans).items()
                for message, _ in deliveries
                if event in events
            }
            rows |= await _fetch(self.database_url, {"inbox": (_INBOX, sorted(names))})
        if self.provider_database_url is not None:
            rows |= await _fetch(self.provider_database_url, {"captures": (_CAPTURES, order)})
        return Evidence.from_rows(rows)


async def _fetch(
    url: str, queries: Mapping[str, tuple[str, object]]
) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Rows by name, in one read-only snapshot."""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            connection = await asyncpg.connect(asyncpg_url(url), command_timeout=_TIMEOUT_S)
            try:
                async with connection.transaction(isolation="repeatable_read", readonly=True):
                    return {
                        name: [dict(row) for row in await connection.fetch(sql, value)]
                        for name, (sql, value) in queries.items()
                    }
            finally:
                await connection.close()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        problem = str(error) or type(error).__name__
        raise ConfigurationError(
            f"a database cannot be read: {problem}. --database-url is the pipeline's (tables orders, "
            "charges, onceproof.outbox, onceproof.inbox), --provider-database-url the payment "
            "provider's (captures); the user needs to read them"
        ) from error


__all__ = ["LiveSystem", "of_run"]
