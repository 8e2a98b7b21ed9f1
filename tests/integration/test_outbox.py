"""The outbox table on a real Postgres: what is visible to whom, and who may take a row from whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from onceproof.errors import DatabaseUnavailableError, EventTooLargeError, TransientError
from onceproof.events import MAX_EVENT_BYTES, Event
from onceproof.outbox import OutboxRow, OutboxStore, RowResult, append, delete_published
from onceproof.postgres import create_engine
from onceproof.telemetry import remote_context


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url, application_name="test-outbox", lock_timeout_s=0.5)
    yield engine
    await engine.dispose()


@pytest.fixture
def store(engine: AsyncEngine) -> OutboxStore:
    return OutboxStore(engine, relay="relay-1")


def event(key: str | None = None) -> Event:
    return Event(type="dev.test", data={"n": 1}, key=key)


async def add(engine: AsyncEngine, *events: Event, destination: str = "orders") -> None:
    async with AsyncSession(engine) as session:
        for one in events:
            await append(session, one, destination)
        await session.commit()


async def rows(engine: AsyncEngine) -> dict[str, dict[str, object]]:
    async with engine.connect() as connection:
        found = await connection.execute(text("SELECT * FROM onceproof.outbox ORDER BY seq"))
        return {row["id"]: dict(row) for row in found.mappings()}


async def end_leases(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE onceproof.outbox SET available_at = '-infinity'"))


async def claimable(store: OutboxStore) -> list[OutboxRow]:
    async with asyncio.timeout(5):
        while True:
            if claimed := await store.claim(10, 30):
                return claimed
            await asyncio.sleep(0.01)


def ids(claimed: list[OutboxRow]) -> list[str]:
    return [row.id for row in claimed]


async def test_an_event_is_committed_or_rolled_back_with_the_caller(
    engine: AsyncEngine, store: OutboxStore
) -> None:
    async with AsyncSession(engine) as session:
        kept = await append(session, event(), "orders")
        assert await store.claim(10, 30) == []  # nobody sees it before the commit
        await session.commit()
        await append(session, event(), "orders")
        await session.rollback()
    assert ids(await store.claim(10, 30)) == [kept.id]


async def test_too_large_an_event_writes_nothing_and_leaves_the_session_usable(
    engine: AsyncEngine, store: OutboxStore
) -> None:
    async with AsyncSession(engine) as session:
        with pytest.raises(EventTooLargeError):
            await append(session, Event(type="t", data="x" * MAX_EVENT_BYTES), "orders")
        kept = await append(session, event(), "orders")
        await session.commit()
    assert ids(await store.claim(10, 30)) == [kept.id]


async def test_what_the_event_says_survives_the_table(
    engine: AsyncEngine, store: OutboxStore
) -> None:
    context = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    sent = Event(type="dev.test", data={"text": "ü\x00\U0001f600"}, key="k-ü", traceparent=context)
    await add(engine, sent)
    (row,) = await store.claim(10, 30)
    assert Event.decode(row.payload.encode()) == sent
    assert (row.key, row.traceparent, row.destination, row.attempts) == (
        "k-ü",
        context,
        "orders",
        1,
    )


async def test_the_trace_context_is_that_of_the_moment(
    engine: AsyncEngine, store: OutboxStore
) -> None:
    async with AsyncSession(engine) as session:
        with TracerProvider().get_tracer("test").start_as_current_span("request") as span:
            appended = await append(session, event(), "orders")
        await session.commit()
    (row,) = await store.claim(10, 30)
    context = remote_context(row.traceparent)
    assert context is not None
    assert (context.trace_id, context.span_id) == (
        span.get_span_context().trace_id,
        span.get_span_context().span_id,
    )
    assert Event.decode(row.payload.encode()).traceparent == row.traceparent == appended.traceparent


async def test_a_row_that_commits_late_is_not_skipped(
    engine: AsyncEngine, store: OutboxStore
) -> None:
    async with AsyncSession(engine) as slow:
        late = await append(slow, event(), "orders")
        early = event()
        await add(engine, early)
        assert ids(await store.claim(10, 30)) == [early.id]
        await slow.commit()
    (claimed,) = await store.claim(10, 30)
    table = await rows(engine)
    assert claimed.id == late.id
    assert claimed.seq < int(str(table[early.id]["seq"]))  # a cursor would be beyond it


async def test_side_by_side_claims_never_share_a_row(engine: AsyncEngine) -> None:
    await add(engine, *(event() for _ in range(300)))
    stores = [OutboxStore(engine, relay=f"relay-{n}") for n in range(6)]

    async def take_all(store: OutboxStore) -> list[str]:
        taken: list[str] = []
        while claimed := await store.claim(7, 30):
            taken += ids(claimed)
        return taken

    taken = await asyncio.gather(*(take_all(store) for store in stores))
    everything = [one for part in taken for one in part]
    # A claim that finds every free row locked by others may end early, so a second look is allowed.
    everything += await take_all(stores[0])
    assert len(everything) == len(set(everything)) == 300
    assert {row["claimed_by"] for row in (await rows(engine)).values()} <= {
        f"relay-{n}" for n in range(6)
    }


async def test_only_the_head_of_a_key_can_be_claimed(
    engine: AsyncEngine, store: OutboxStore
) -> None:
    first, second, other, free = event("a"), event("a"), event("b"), event()
    await add(engine, first, second, other, free)
    claimed = await store.claim(10, 30)
    assert ids(claimed) == [first.id, other.id, free.id]
    assert await store.claim(10, 30) == []
    await store.mark([RowResult(claimed[0], error="refused", delay_s=3600)])
    assert await store.claim(10, 30) == []  # the failure holds its key
    await end_leases(engine)
    retried = next(row for row in await store.claim(10, 30) if row.id == first.id)
    await store.mark([RowResult(retried, "m-1")])
    assert ids(await store.claim(10, 30)) == [second.id]


async def test_a_broken_destination_does_not_hold_up_the_same_key_elsewhere(
    engine: AsyncEngine, store: OutboxStore
) -> None:
    blocked, other = event("a"), event("a")
    await add(engine, blocked, destination="gone")
    await add(engine, other, destination="orders")
    assert ids(await store.claim(10, 30)) == [blocked.id, other.id]


async def test_a_failure_stays_pending_with_its_error_and_comes_back_later(
    engine: AsyncEngine, store: OutboxStore
) -> None:
    good, bad = event(), event()
    await add(engine, good, bad)
    claimed = {row.id: row for row in await store.claim(10, 30)}
    await store.mark(
        [
            RowResult(claimed[good.id], "m-1"),
            RowResult(claimed[bad.id], error="throttled", delay_s=0.05),
        ]
    )
    table = await rows(engine)
    assert table[good.id]["published_at"] is not None
    assert table[good.id]["message_id"] == "m-1"
    assert table[bad.id]["published_at"] is None
    assert table[bad.id]["last_error"] == "throttled"
    assert (await store.pending())[0] == 1
    again = await claimable(store)
    assert [(row.id, row.attempts) for row in again] == [(bad.id, 2)]
    await store.mark([RowResult(again[0], "m-2")])
    assert (await rows(engine))[bad.id]["last_error"] == "throttled"  # explains the attempts
    assert (await store.pending())[0] == 0


async def test_a_lease_that_ended_gives_the_row_to_another_relay(
    engine: AsyncEngine, store: OutboxStore
) -> None:
    await add(engine, event())
    (mine,) = await store.claim(10, 0.05)
    other = OutboxStore(engine, relay="relay-2")
    theirs = await claimable(other)
    assert (theirs[0].id, theirs[0].attempts) == (mine.id, 2)


async def test_a_late_failure_does_not_take_a_row_back_from_a_newer_claim(
    engine: AsyncEngine, store: OutboxStore
) -> None:
    await add(engine, event())
    (zombie,) = await store.claim(10, 30)
    await end_leases(engine)
    (current,) = await store.claim(10, 30)
    await store.mark([RowResult(zombie, error="late", delay_s=0)])
    assert await store.claim(10, 30) == []
    table = await rows(engine)
    assert table[zombie.id]["last_error"] is None
    await store.mark([RowResult(current, "m-2")])
    await store.mark([RowResult(zombie, error="later still", delay_s=0)])
    await store.mark([RowResult(zombie, "m-1")])
    assert (await rows(engine))[zombie.id]["message_id"] == "m-2"


async def test_a_late_success_is_a_success(engine: AsyncEngine, store: OutboxStore) -> None:
    await add(engine, event())
    (zombie,) = await store.claim(10, 30)
    await end_leases(engine)
    (current,) = await store.claim(10, 30)
    await store.mark([RowResult(zombie, "m-1")])
    await store.mark([RowResult(current, error="refused", delay_s=0)])
    assert await store.claim(10, 30) == []
    assert (await rows(engine))[zombie.id]["published_at"] is not None


async def test_two_relays_that_mark_the_same_rows_do_not_deadlock(
    engine: AsyncEngine, store: OutboxStore
) -> None:
    await add(engine, *(event() for _ in range(100)))
    claimed = await store.claim(100, 30)
    results = [RowResult(row, "m") for row in claimed]
    await asyncio.gather(*(store.mark(results[::step]) for step in (1, -1, 1, -1)))
    assert (await store.pending())[0] == 0


async def test_pending_tells_the_age_of_the_oldest(engine: AsyncEngine, store: OutboxStore) -> None:
    assert await store.pending() == (0, 0.0)
    await add(engine, event(), event())
    async with engine.begin() as connection:
        await connection.execute(
            text("UPDATE onceproof.outbox SET created_at = created_at - interval '90 s'")
        )
    count, age = await store.pending()
    assert count == 2
    assert 90 <= age < 150


async def test_clean_up_deletes_in_batches_and_never_a_pending_row(
    engine: AsyncEngine, store: OutboxStore
) -> None:
    await add(engine, *(event() for _ in range(25)))
    claimed = await store.claim(23, 30)
    await store.mark([RowResult(row, "m") for row in claimed])
    async with engine.begin() as connection:
        await connection.execute(
            text("UPDATE onceproof.outbox SET created_at = created_at - interval '9 days'")
        )
        await connection.execute(
            text("UPDATE onceproof.outbox SET published_at = published_at - interval '9 days' "
                 "WHERE id = ANY(:ids)"),
            {"ids": ids(claimed)[:20]},
        )  # fmt: skip
        await connection.execute(
            text("""
                CREATE TABLE deletes (n bigint);
            """)
        )
        await connection.execute(
            text("""
                CREATE FUNCTION count_deleted() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN INSERT INTO deletes SELECT count(*) FROM gone; RETURN NULL; END'
            """)
        )
        await connection.execute(
            text("""
                CREATE TRIGGER t AFTER DELETE ON onceproof.outbox REFERENCING OLD TABLE AS gone
                FOR EACH STATEMENT EXECUTE FUNCTION count_deleted()
            """)
        )
    assert await delete_published(engine, older_than_s=86400, batch_size=6) == 20
    assert len(await rows(engine)) == 5
    async with engine.connect() as connection:
        batches = list(await connection.scalars(text("SELECT n FROM deletes")))
    assert max(batches) <= 6
    assert sum(batches) == 20


async def test_a_database_that_is_away_is_the_librarys_error() -> None:
    nowhere = create_engine("postgresql://nobody@127.0.0.1:1/none", application_name="t")
    with pytest.raises(DatabaseUnavailableError):
        await OutboxStore(nowhere, relay="r").claim(1, 1)
    await nowhere.dispose()


async def test_a_lock_in_the_way_is_transient(engine: AsyncEngine, store: OutboxStore) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("LOCK onceproof.outbox IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(TransientError, match="not possible now") as caught:
            await store.claim(1, 1)
    assert not isinstance(caught.value, DatabaseUnavailableError)
