"""What happens to the outbox between two statements of a relay, or by somebody else's hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from onceproof.errors import DatabaseUnavailableError
from onceproof.events import Event
from onceproof.outbox import OutboxRow, OutboxStore, RowResult, append
from onceproof.postgres import create_engine


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url, application_name="test-races")
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


async def waits_for_a_lock(raw: asyncpg.Connection) -> None:
    async with asyncio.timeout(10):
        while True:
            if await raw.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                return
            await asyncio.sleep(0.01)


async def test_a_row_committed_while_the_head_of_its_key_is_marked_is_told(
    engine: AsyncEngine, store: OutboxStore, raw: asyncpg.Connection
) -> None:
    await add(engine, key="k")
    (head,) = (await store.claim_from(0, 10, 30)).rows
    transaction = raw.transaction()
    await transaction.start()
    await raw.execute("SELECT FROM onceproof.outbox FOR UPDATE")
    marking = asyncio.create_task(store.mark([RowResult(head, "m")]))
    await waits_for_a_lock(raw)
    await add(engine, key="k")
    assert (await store.claim_from(0, 10, 30)).rows == []  # the mark is not committed
    await transaction.commit()
    assert await marking == [head.seq + 1]
    assert [row.seq for row in await store.claim_these([head.seq + 1], 30)] == [head.seq + 1]


async def test_a_mark_asks_again_only_where_a_claim_ran_meanwhile(
    engine: AsyncEngine, store: OutboxStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    async def behind(rows: list[OutboxRow]) -> list[tuple[int]]:
        asked.append([row.id for row in rows])
        raise DatabaseUnavailableError("gone")

    monkeypatch.setattr(store, "_behind", behind)
    alone, keyed, refused, keyless = [(await add(engine, key=k))[0] for k in ("a", "b", "c", None)]
    rows = {row.id: row for row in (await store.claim_from(0, 10, 30)).rows}
    assert await store.mark([RowResult(rows[alone], "m")]) == []
    others = [
        RowResult(rows[keyed], "m"), RowResult(rows[refused], error="no", delay_s=60),
        RowResult(rows[keyless], "m"),
    ]  # fmt: skip
    await asyncio.gather(store.claim_from(0, 10, 30), store.mark(others))  # and it is marked
    assert asked == [[keyed]]
