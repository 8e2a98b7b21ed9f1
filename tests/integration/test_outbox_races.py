"""What happens to the outbox between two statements of a relay, or by somebody else's hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

import asyncpg
import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from onceproof.events import Event
from onceproof.outbox import OutboxStore, Relay, RelaySettings, RowResult, append, statements
from onceproof.outbox.store import Claim
from onceproof.ports import Outgoing, SendResult
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


class Watched(OutboxStore):
    """Counts looks and marks that have ended, and the questions after a mark."""

    looks = 0
    marks = 0
    asked = 0

    async def claim_from(self, seq: int, batch_size: int, lease_s: float) -> Claim:
        found = await super().claim_from(seq, batch_size, lease_s)
        self.looks += 1
        return found

    async def mark(self, results: Iterable[RowResult]) -> list[int]:
        freed = await super().mark(results)
        self.marks += 1
        return freed

    async def behind(self, results: Iterable[RowResult]) -> list[int]:
        self.asked += 1
        return await super().behind(results)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def test_a_row_committed_while_the_head_of_its_key_is_marked_waits_for_no_poll(
    engine: AsyncEngine, raw: asyncpg.Connection
) -> None:
    sent: list[str] = []
    sending = asyncio.Event()

    class Broker:
        async def send(self, _: str, messages: Sequence[Outgoing]) -> list[SendResult]:
            if messages[0].key:
                await sending.wait()
            sent.extend(message.id for message in messages)
            return [SendResult(message.id, message_id="m") for message in messages]

    added = await add(engine)
    store, stop, wakeup = Watched(engine, relay="r"), asyncio.Event(), asyncio.Event()
    settings = RelaySettings(poll_s=3600)
    relay = Relay(store, Broker(), wakeup=wakeup, settings=settings)
    running = asyncio.create_task(relay.run(stop))
    await until(lambda: store.marks == 1)  # only now has it several batches under way
    added += await add(engine, key="k")
    looks = store.looks
    wakeup.set()
    await until(lambda: store.looks > looks)
    async with raw.transaction():
        await raw.execute("SELECT FROM onceproof.outbox FOR UPDATE")
        sending.set()
        await waits_for_a_lock(raw)
        added += await add(engine, key="k")
        looks = store.looks
        wakeup.set()
        await until(lambda: store.looks > looks)  # it was passed over: the mark is not committed
        assert len(sent) == 2
    await until(lambda: len(sent) == 3)
    stop.set()
    await running
    assert sent == added
    assert store.asked == 1


async def test_who_asks_behind_a_mark_is_told_of_keys_that_were_sent_only(
    engine: AsyncEngine, store: OutboxStore
) -> None:
    for key in ("sent", "refused", None):
        await add(engine, key=key)
    rows = (await store.claim_from(0, 10, 30)).rows
    assert [row.key for row in rows] == ["sent", "refused", None]
    results = [
        RowResult(row, *((None, "no", 60.0) if row.key == "refused" else ("m",))) for row in rows
    ]
    assert await store.mark(results) == []
    for key in ("sent", "refused", None):
        await add(engine, key=key)
    assert await store.behind(results) == [4]
    assert await store.behind(results[1:]) == []


async def test_a_row_set_back_by_hand_is_watched_though_it_is_below_the_floor(
    engine: AsyncEngine, store: OutboxStore, raw: asyncpg.Connection
) -> None:
    store.floor.refresh_s = 0
    await add(engine)
    rows = (await store.claim_from(0, 10, 30)).rows
    await store.mark([RowResult(row, "m") for row in rows])
    await store.claim_from(0, 10, 30)
    assert store.floor.value == 2
    await raw.execute(
        "UPDATE onceproof.outbox SET published_at = NULL, available_at = '-infinity', "
        "created_at = created_at - interval '1 hour'"
    )
    assert (await store.claim_from(0, 10, 30)).rows == []  # not before the floor is found out anew
    pending, oldest_age_s = await store.pending()
    assert pending == 1
    assert oldest_age_s >= 3600


async def test_there_is_no_floor_where_sessions_keep_sequence_numbers_for_later(
    engine: AsyncEngine, store: OutboxStore, raw: asyncpg.Connection
) -> None:
    await raw.execute("ALTER TABLE onceproof.outbox ALTER COLUMN seq SET CACHE 10")
    await add(engine)  # takes 1 to 10 for its session
    rows = (await store.claim_from(0, 10, 30)).rows
    await store.mark([RowResult(row, "m") for row in rows])
    await store.claim_from(0, 10, 30)
    assert store.floor.value == 0


async def test_a_role_that_may_not_read_the_sequence_gets_no_error(
    engine: AsyncEngine, raw: asyncpg.Connection
) -> None:
    await add(engine)
    assert await raw.fetchval(statements.LAST_SEQ) == 1
    transaction = raw.transaction()
    await transaction.start()
    try:
        await raw.execute("CREATE ROLE table_rights_only")
        await raw.execute("GRANT USAGE ON SCHEMA onceproof TO table_rights_only")
        await raw.execute("GRANT SELECT, UPDATE, DELETE ON onceproof.outbox TO table_rights_only")
        await raw.execute("SET LOCAL ROLE table_rights_only")
        assert await raw.fetchval(statements.LAST_SEQ) is None
    finally:
        await transaction.rollback()
