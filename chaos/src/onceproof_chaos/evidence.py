"""What the databases say after the drain: read-only SQL, dumped into files that can be judged again.

The provider's ledger of captures is the truth about money; it lives in a database of its own. The
pipeline's tables are read in one snapshot. Nothing of the pipeline is imported here: evidence that was
gathered by the code under test would share its mistakes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg

from onceproof_chaos import jsonl

OUTBOX: Final = """\
SELECT id, key, type, attempts, last_error, message_id,
       extract(epoch FROM created_at)::float8 AS created_at,
       extract(epoch FROM coalesce(published_at, (
           SELECT min(confirmed_at) FROM onceproof.outbox_slots AS slot
           WHERE seq > slot.from_seq AND seq <= slot.confirmed_seq)))::float8 AS published_at
  FROM onceproof.outbox"""
"""The outbox; what went through a replication slot counts as published when that was confirmed."""
PIPELINE_QUERIES: Final = {
    "orders": """\
SELECT order_id, amount, currency, event_id, extract(epoch FROM created_at)::float8 AS created_at
  FROM orders
 WHERE created_at >= to_timestamp($1)
 ORDER BY created_at, order_id""",
    "charges": """\
SELECT id, order_id, event_id, amount, currency, provider_charge_id, delivery_attempt,
       extract(epoch FROM created_at)::float8 AS created_at
  FROM charges
 WHERE created_at >= to_timestamp($1)
 ORDER BY id""",
    "inbox": """\
SELECT consumer, event_id, extract(epoch FROM processed_at)::float8 AS processed_at
  FROM onceproof.inbox
 WHERE processed_at >= to_timestamp($1)
 ORDER BY processed_at, consumer, event_id""",
    "outbox": f"""\
{OUTBOX}
 WHERE created_at >= to_timestamp($1)
 ORDER BY seq""",
}
PROVIDER_QUERIES: Final = {
    "captures": """\
SELECT id, order_id, amount, currency, idempotency_key,
       extract(epoch FROM created_at)::float8 AS created_at
  FROM captures
 WHERE created_at >= to_timestamp($1)
 ORDER BY created_at, id""",
}
_QUERIES_FILE: Final = "queries.sql"
_COMMAND_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class OrderRow:
    """An order that the producer stored. Times are Unix seconds, amounts are minor units."""

    order_id: str
    amount: int
    currency: str
    event_id: str | None
    created_at: float


@dataclass(frozen=True, slots=True)
class CaptureRow:
    """Money that the payment provider took, from its own ledger."""

    id: str
    order_id: str
    amount: int
    currency: str
    idempotency_key: str | None
    created_at: float


@dataclass(frozen=True, slots=True)
class ChargeRow:
    """A charge that the consumer committed, with the provider's id of the capture behind it."""

    id: int
    order_id: str
    event_id: str
    amount: int
    currency: str
    provider_charge_id: str
    delivery_attempt: int
    created_at: float


@dataclass(frozen=True, slots=True)
class InboxRow:
    """An event that a consumer has processed."""

    consumer: str
    event_id: str
    processed_at: float


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """An event that was to be published; `published_at` is None while it is pending."""

    id: str
    key: str | None
    type: str
    attempts: int
    last_error: str | None
    message_id: str | None
    created_at: float
    published_at: float | None


@dataclass(frozen=True, slots=True)
class DeadLetterRow:
    """A message in the dead-letter queue; order and event are None where the body does not say."""

    message_id: str
    body: str
    attempt: int
    reason: str | None = None
    order_id: str | None = None
    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that is known about a run from outside of the client. Files carry these names."""

    orders: tuple[OrderRow, ...] = ()
    captures: tuple[CaptureRow, ...] = ()
    charges: tuple[ChargeRow, ...] = ()
    inbox: tuple[InboxRow, ...] = ()
    outbox: tuple[OutboxRow, ...] = ()
    dlq: tuple[DeadLetterRow, ...] = ()

    @classmethod
    def from_rows(cls, rows: Mapping[str, Iterable[Mapping[str, Any]]]) -> Evidence:
        """Typed rows from mappings, by table.

        Raises:
            KeyError, TypeError: a table or a column is missing.
        """
        return cls(
            orders=_typed(OrderRow, rows["orders"]),
            captures=_typed(CaptureRow, rows["captures"]),
            charges=_typed(ChargeRow, rows["charges"]),
            inbox=_typed(InboxRow, rows["inbox"]),
            outbox=_typed(OutboxRow, rows["outbox"]),
            dlq=_typed(DeadLetterRow, rows["dlq"]),
        )

    def save(self, folder: Path) -> None:
        """Write `<table>.jsonl` for every table."""
        for table in self.__slots__:
            jsonl.write_rows(folder / f"{table}.jsonl", map(asdict, getattr(self, table)))

    @classmethod
    def load(cls, folder: Path) -> Evidence:
        """Read what `save` wrote.

        Raises:
            RunFolderError: a file is missing or corrupt.
        """

        def rows(table: str, row: type[_Row]) -> tuple[_Row, ...]:
            return tuple(jsonl.read(folder / f"{table}.jsonl", lambda line: row(**line)))

        return cls(
            orders=rows("orders", OrderRow),
            captures=rows("captures", CaptureRow),
            charges=rows("charges", ChargeRow),
            inbox=rows("inbox", InboxRow),
            outbox=rows("outbox", OutboxRow),
            dlq=rows("dlq", DeadLetterRow),
        )


_Row = TypeVar("_Row")


def _typed(row: type[_Row], rows: Iterable[Mapping[str, Any]]) -> tuple[_Row, ...]:
    return tuple(row(**values) for values in rows)


async def collect(
    folder: Path,
    *,
    database_url: str,
    provider_database_url: str,
    dlq: Iterable[Mapping[str, Any]] = (),
    since: float = 0.0,
) -> Evidence:
    """Dump the evidence of a run into `folder` and return it.

    Args:
        folder: `evidence/` of the run folder; must exist.
        database_url: of the pipeline (orders, charges, inbox, outbox).
        provider_database_url: of the payment provider (captures).
        dlq: messages in the dead-letter queue, with the fields of `DeadLetterRow`.
        since: Unix time in seconds; older rows belong to earlier runs in the same database.

    Raises:
        OSError, asyncpg.PostgresError: a database cannot be read.
    """
    rows: dict[str, Sequence[Mapping[str, Any]]] = {"dlq": list(dlq)}
    rows |= await _dump(database_url, PIPELINE_QUERIES, since)
    rows |= await _dump(provider_database_url, PROVIDER_QUERIES, since)
    evidence = Evidence.from_rows(rows)
    evidence.save(folder)
    jsonl.write_atomic(folder / _QUERIES_FILE, queries_as_run(since))
    return evidence


def queries_as_run(since: float) -> str:
    """The SQL of `collect`, ready for psql."""
    parts = [
        f"-- The evidence of this run. $1 is {since!r}: rows before that Unix time are older runs'.",
        "-- Each database was read in one REPEATABLE READ, READ ONLY transaction.",
    ]
    for database, queries in (("pipeline", PIPELINE_QUERIES), ("provider", PROVIDER_QUERIES)):
        for table, query in queries.items():
            parts.append(f"\n-- {table}.jsonl, from the {database}'s database\n{query};")
    return "\n".join(parts) + "\n"


async def _dump(
    url: str, queries: Mapping[str, str], since: float
) -> dict[str, Sequence[Mapping[str, Any]]]:
    # SQLAlchemy's form of the URL names the driver, which libpq's form does not know.
    connection = await asyncpg.connect(
        url.replace("postgresql+asyncpg://", "postgresql://", 1),
        command_timeout=_COMMAND_TIMEOUT_S,
    )
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return {
                table: [dict(row) for row in await connection.fetch(query, since)]
                for table, query in queries.items()
            }
    finally:
        await connection.close()
