"""Evidence from real databases: read-only, whole, and the same after a round trip through files."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from onceproof_chaos.evidence import DeadLetterRow, Evidence, collect

DLQ = [{"message_id": "m-9", "body": "?", "attempt": 5, "reason": "not JSON"}]


def plain(url: str) -> str:
    return url.replace("postgresql+asyncpg://", "postgresql://", 1)


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(plain(url))
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
async def ledgers(database_url: str, provider_database_url: str) -> tuple[str, str]:
    await execute(
        database_url,
        "INSERT INTO orders VALUES ('o-1', 1999, 'EUR', 'e-1', to_timestamp(100.5))",
        "INSERT INTO orders VALUES ('o-0', 5, 'USD', 'e-0', to_timestamp(50))",
        """INSERT INTO charges
           (order_id, event_id, amount, currency, provider_charge_id, delivery_attempt, created_at)
           VALUES ('o-1', 'e-1', 1999, 'EUR', 'ch-1', 2, to_timestamp(102))""",
        "INSERT INTO onceproof.inbox VALUES ('payments', 'e-1', to_timestamp(102))",
        """INSERT INTO onceproof.outbox
           (id, destination, key, type, payload, created_at, attempts, last_error)
           VALUES ('e-1', 'orders', 'o-1', 't', '{}', to_timestamp(100.5), 1, 'dropped')""",
    )
    await execute(
        provider_database_url,
        "INSERT INTO captures VALUES ('ch-1', 'o-1', 1999, 'EUR', 'k', '\\x00', to_timestamp(101))",
    )
    return database_url, provider_database_url


async def test_every_table_is_dumped_and_read_back(
    ledgers: tuple[str, str], tmp_path: Path
) -> None:
    evidence = await collect(
        tmp_path, database_url=ledgers[0], provider_database_url=ledgers[1], dlq=DLQ
    )
    assert [order.order_id for order in evidence.orders] == ["o-0", "o-1"]
    assert evidence.orders[1].created_at == pytest.approx(100.5)
    assert [(c.id, c.idempotency_key) for c in evidence.captures] == [("ch-1", "k")]
    assert [(c.provider_charge_id, c.delivery_attempt) for c in evidence.charges] == [("ch-1", 2)]
    assert [row.event_id for row in evidence.inbox] == ["e-1"]
    assert [(r.last_error, r.published_at) for r in evidence.outbox] == [("dropped", None)]
    assert evidence.dlq == (DeadLetterRow("m-9", "?", 5, "not JSON"),)
    assert await asyncio.to_thread(Evidence.load, tmp_path) == evidence


async def test_rows_of_earlier_runs_stay_out(ledgers: tuple[str, str], tmp_path: Path) -> None:
    evidence = await collect(
        tmp_path, database_url=ledgers[0], provider_database_url=ledgers[1], since=100.0
    )
    assert [order.order_id for order in evidence.orders] == ["o-1"]
    assert len(evidence.captures) == 1


async def test_the_sql_as_run_is_kept_and_runs(ledgers: tuple[str, str], tmp_path: Path) -> None:
    await collect(tmp_path, database_url=ledgers[0], provider_database_url=ledgers[1], since=7.0)
    text = (tmp_path / "queries.sql").read_text()
    assert "$1 is 7.0" in text
    connection = await asyncpg.connect(plain(ledgers[1]))
    try:
        query = text.split("captures.jsonl, from the provider's database\n")[1].rstrip(";\n")
        assert len(await connection.fetch(query, 7.0)) == 1
    finally:
        await connection.close()


async def test_a_table_that_is_missing_is_an_error_and_no_empty_evidence(
    empty_database_url: str, provider_database_url: str, tmp_path: Path
) -> None:
    with pytest.raises(asyncpg.UndefinedTableError):
        await collect(
            tmp_path,
            database_url=empty_database_url,
            provider_database_url=provider_database_url,
        )
    assert await asyncio.to_thread(lambda: list(tmp_path.iterdir())) == []
