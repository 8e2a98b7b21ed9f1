"""What the floor and the scan promise, on a real Postgres: nothing skipped, and no walk that grows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from onceproof.errors import DatabaseUnavailableError
from onceproof.events import Event
from onceproof.outbox import OutboxRow, OutboxStore, RowResult, append, statements
from onceproof.outbox.scan import Scan
from onceproof.postgres import create_engine

MANY = """
    INSERT INTO onceproof.outbox (id, destination, key, type, payload)
    SELECT 'e-' || n, 'orders', $2 || CASE WHEN $2 = 'hot' THEN '' ELSE n::text END, 't', '{}'
    FROM generate_series(1, $1::int) AS n
"""


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url, application_name="test-scan")
    yield engine
    await engine.dispose()


@pytest.fixture
async def raw(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    plain = make_url(database_url).set(drivername="postgresql")
    connection = await asyncpg.connect(plain.render_as_string(hide_password=False))
    yield connection
    await connection.close()


@pytest.fixture
async def store(engine: AsyncEngine) -> AsyncIterator[OutboxStore]:
    store = OutboxStore(engine, relay="r")
    store.floor.refresh_s = 0  # always found out anew
    async with store.connected():
        yield store


async def add(engine: AsyncEngine, count: int = 1, key: str | None = None) -> list[str]:
    async with AsyncSession(engine) as session:
        events = [Event(type="t", data=None, key=key) for _ in range(count)]
        for event in events:
            await append(session, event, "orders")
        await session.commit()
    return [event.id for event in events]


async def publish(store: OutboxStore, batch_size: int = 1000) -> int:
    rows = await store.claim(batch_size, 30)
    await store.mark([RowResult(row, "m") for row in rows])
    return len(rows)


async def buffers(raw: asyncpg.Connection, floor: int, start: int) -> int:
    """Pages that a claim touches which finds nothing."""
    values = {1: "30", 2: "'r'", 3: str(floor), 4: str(start), 5: str(start + 10_000), 6: "100"}
    statement = statements.CLAIM
    for number, value in values.items():
        statement = statement.replace(f"${number}", value)
    async with raw.transaction():
        for setting in statements.SESSION:
            await raw.execute(setting)
        plan = await raw.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}")
    found = json.loads(plan)[0]["Plan"]
    return int(found["Shared Hit Blocks"]) + int(found["Shared Read Blocks"])


async def test_the_floor_waits_for_an_insert_that_is_not_committed(
    engine: AsyncEngine, store: OutboxStore
) -> None:
    await add(engine, 3)
    assert await publish(store) == 3
    await store.claim(1, 30)
    before = store.floor.value
    assert before == store.floor.complete + 1 == 4
    async with AsyncSession(engine) as slow:
        late = await append(slow, Event(type="t", data=None), "orders")
        await add(engine, 2)
        assert await publish(store) == 2
        assert await store.claim(1, 30) == []
        assert store.floor.value == before  # below the open row's seq
        await slow.commit()
    (row,) = await store.claim(10, 30)
    assert row.id == late.id
    await store.mark([RowResult(row, "m")])
    for _ in range(2):
        await store.claim(1, 30)
    assert store.floor.value == 7


async def test_a_rolled_back_insert_holds_the_floor_no_longer(
    engine: AsyncEngine, store: OutboxStore
) -> None:
    async with AsyncSession(engine) as session:
        await append(session, Event(type="t", data=None), "orders")
        await store.claim(1, 30)
        assert store.floor.complete == 0
        await session.rollback()
    for _ in range(2):
        await store.claim(1, 30)
    assert store.floor.value == 2


async def test_a_scan_finds_a_late_commit_among_thousands(
    engine: AsyncEngine, store: OutboxStore, raw: asyncpg.Connection
) -> None:
    scan = Scan(store, batch_size=500, lease_s=30, sweep_s=0)
    async with AsyncSession(engine) as slow:
        late = await append(slow, Event(type="t", data=None), "orders")
        await raw.execute(MANY, 25_000, "k")
        found = 0
        while rows := await scan.next():
            found += len(rows)
            await store.mark([RowResult(row, "m") for row in rows])
        assert found == 25_000
        await slow.commit()
    assert [row.id for row in await scan.next()] == [late.id]


async def test_a_held_xmin_does_not_make_claims_walk_over_what_was_published(
    store: OutboxStore, raw: asyncpg.Connection, database_url: str
) -> None:
    plain = make_url(database_url).set(drivername="postgresql")
    holder = await asyncpg.connect(plain.render_as_string(hide_password=False))
    try:
        async with holder.transaction(isolation="repeatable_read"):
            await holder.fetchval("SELECT count(*) FROM orders")
            await raw.execute(MANY, 20_000, "k")
            while await publish(store):
                pass
            await store.claim(1, 30)
            assert store.floor.value == 20_001  # a transaction that only reads holds up nothing
            walked = await buffers(raw, 0, 0)
            floored = await buffers(raw, store.floor.value, store.floor.value)
    finally:
        await holder.close()
    assert walked > 500  # so the trap is there, and this would see it
    assert floored < 50


async def test_a_claim_looks_at_a_bounded_part_of_a_long_row_of_one_key(
    store: OutboxStore, raw: asyncpg.Connection, engine: AsyncEngine
) -> None:
    await raw.execute(MANY, 25_000, "hot")
    (other,) = await add(engine)
    first = await store.claim_from(0, 10, 30)
    assert [row.seq for row in first.rows] == [1]
    assert first.next_seq is not None
    assert first.next_seq < 25_000  # there is more to look at
    scan = Scan(store, batch_size=10, lease_s=30, sweep_s=3600)
    found: list[str] = []
    while scan.unfinished or not found:
        found += [row.id for row in await scan.next()]
    assert found == [other]
    freed = await store.mark([RowResult(first.rows[0], "m")])
    assert freed == [2]
    assert [row.seq for row in await store.claim_these(freed, 30)] == [2]


async def test_rows_told_to_be_free_are_taken_only_while_they_are(
    engine: AsyncEngine, store: OutboxStore
) -> None:
    await add(engine, 3, key="k")
    (head,) = await store.claim(10, 30)
    assert await store.claim_these([head.seq, head.seq + 1, head.seq + 2, 999], 30) == []
    freed = await store.mark([RowResult(head, error="refused", delay_s=3600)])
    assert freed == []
    assert await store.claim_these([head.seq, head.seq + 1], 30) == []


async def test_a_lost_connection_makes_the_floor_be_found_out_anew(
    engine: AsyncEngine, store: OutboxStore, raw: asyncpg.Connection
) -> None:
    await add(engine, 2)
    assert await publish(store) == 2
    await store.claim(1, 30)
    epoch = store.floor.epoch
    await raw.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'test-scan' AND pid <> pg_backend_pid()"
    )
    await engine.dispose()
    (added,) = await add(engine)
    rows: list[OutboxRow] = []
    async with asyncio.timeout(10):
        while not rows:
            with suppress(DatabaseUnavailableError):
                rows = await store.claim(1, 30)
    assert [row.id for row in rows] == [added]
    assert store.floor.epoch > epoch


async def test_the_rows_of_the_schema_before_are_claimed_and_marked_as_ever(
    empty_database_url: str,
) -> None:
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    from onceproof.postgres import component, upgrade  # noqa: PLC0415

    engine = create_engine(empty_database_url, application_name="test-migration")
    library = component("onceproof")

    def to_first(connection: object) -> None:
        config = Config()
        config.set_main_option("script_location", str(library.location))
        config.attributes |= {"connection": connection, "version_table": library.version_table}
        command.upgrade(config, "0001")

    try:
        async with engine.begin() as connection:
            await connection.run_sync(to_first)
            await connection.execute(
                text("INSERT INTO onceproof.outbox (id, destination, key, type, payload, published_at) "
                     "SELECT 'e-' || n, 'orders', 'k', 't', '{}', "
                     "CASE WHEN n = 1 THEN clock_timestamp() END FROM generate_series(1, 3) AS n")
            )  # fmt: skip
            await connection.execute(
                text("INSERT INTO onceproof.inbox (consumer, event_id) VALUES ('c', 'e-1')")
            )
        assert await upgrade(empty_database_url, "onceproof") == {"onceproof": library.head()}
        assert library.head() > "0001"
        store = OutboxStore(engine, relay="r")
        for expected in ("e-2", "e-3"):
            (row,) = await store.claim(10, 30)
            assert row.id == expected
            await store.mark([RowResult(row, "m")])
        assert await store.claim(10, 30) == []
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT count(*) FROM onceproof.inbox")) == 1
            assert await connection.scalar(text("SELECT count(*) FROM onceproof.outbox")) == 3
    finally:
        await engine.dispose()
