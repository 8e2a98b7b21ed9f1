"""The inbox on a real Postgres: the unique key decides, also between transactions that overlap."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from onceproof.errors import DedupWindowError, TransientError
from onceproof.inbox import check_dedup_window, claim, claim_many, delete_processed
from onceproof.ports import QueueInfo
from onceproof.postgres import create_engine, translated

DAY = 86400.0


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(
        database_url, application_name="test-inbox", pool_size=20, lock_timeout_s=20
    )
    yield engine
    await engine.dispose()


async def blocked(engine: AsyncEngine) -> None:
    async with asyncio.timeout(10):
        while True:
            async with engine.connect() as connection:
                waiting = await connection.scalar(
                    text("SELECT count(*) FROM pg_stat_activity "
                         "WHERE datname = current_database() AND wait_event_type = 'Lock'")
                )  # fmt: skip
            if waiting:
                return
            await asyncio.sleep(0.01)


async def remembered(engine: AsyncEngine) -> set[tuple[str, str]]:
    async with engine.connect() as connection:
        rows = await connection.execute(text("SELECT consumer, event_id FROM onceproof.inbox"))
        return {(row.consumer, row.event_id) for row in rows}


async def test_the_first_claim_wins_and_each_consumer_has_its_own(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        assert await claim(session, "payments", "e-1")
        assert not await claim(session, "payments", "e-1")
        assert await claim(session, "mail", "e-1")
        await session.commit()
        assert not await claim(session, "payments", "e-1")
        assert await claim(session, "payments", "E-1")  # ids are compared byte by byte


async def test_a_rolled_back_claim_never_was(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        assert await claim(session, "payments", "e-1")
        await session.rollback()
        assert await claim(session, "payments", "e-1")


@pytest.mark.parametrize("commits", [True, False])
async def test_a_twin_waits_for_the_first_and_takes_over_only_when_it_rolls_back(
    engine: AsyncEngine, commits: bool
) -> None:
    async with AsyncSession(engine) as first, AsyncSession(engine) as second:
        assert await claim(first, "payments", "e-1")
        waiting = asyncio.create_task(claim(second, "payments", "e-1"))
        await blocked(engine)
        assert not waiting.done()
        await (first.commit() if commits else first.rollback())
        assert await asyncio.wait_for(waiting, 5) is not commits


async def test_a_twin_takes_over_when_the_connection_of_the_first_dies(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as first, AsyncSession(engine) as second:
        assert await claim(first, "payments", "e-1")
        pid = await first.scalar(text("SELECT pg_backend_pid()"))
        waiting = asyncio.create_task(claim(second, "payments", "e-1"))
        await blocked(engine)
        async with engine.connect() as connection:
            await connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        assert await asyncio.wait_for(waiting, 5)
        with suppress(DBAPIError):  # the rollback finds no connection, or one that is just ending
            await first.close()


async def test_the_wait_for_a_twin_is_bounded(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as first, AsyncSession(engine) as second:
        assert await claim(first, "payments", "e-1")
        await second.execute(text("SET lock_timeout = '50ms'"))
        with pytest.raises(TransientError, match="lock timeout"), translated():
            await claim(second, "payments", "e-1")
        await second.rollback()


async def test_claim_many_tells_the_new_ones(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        assert await claim_many(session, "payments", ["b", "a", "b"]) == {"a", "b"}
        assert await claim_many(session, "payments", ["c", "b", "a"]) == {"c"}
        assert await claim_many(session, "payments", []) == set()
        await session.commit()
    assert await remembered(engine) == {("payments", one) for one in "abc"}


async def test_overlapping_batches_do_not_deadlock(engine: AsyncEngine) -> None:
    rng = random.Random(7)
    events = [f"e-{n}" for n in range(60)]

    async def consume(batch: list[str]) -> set[str]:
        async with AsyncSession(engine) as session:
            fresh = await claim_many(session, "payments", batch)
            await session.commit()
            return fresh

    batches = [rng.sample(events, 40) for _ in range(60)]
    fresh = await asyncio.gather(*(consume(batch) for batch in batches))
    claimed = [one for part in fresh for one in part]
    assert len(claimed) == len(set(claimed))
    assert set(claimed) == {one for batch in batches for one in batch}


async def test_retention_forgets_the_old_ones_of_this_consumer_in_batches(
    engine: AsyncEngine,
) -> None:
    async with AsyncSession(engine) as session:
        await claim_many(session, "payments", (f"old-{n:02}" for n in range(25)))
        await claim_many(session, "mail", ["old-00"])
        await session.execute(
            text("UPDATE onceproof.inbox SET processed_at = processed_at - interval '40 days'")
        )
        await claim(session, "payments", "new")
        await session.commit()
    assert await delete_processed(engine, "payments", older_than_s=35 * DAY, batch_size=10) == 25
    assert await remembered(engine) == {("payments", "new"), ("mail", "old-00")}
    assert await delete_processed(engine, "payments", older_than_s=35 * DAY) == 0


def queue(dead_letter: bool) -> QueueInfo:
    dlq = QueueInfo("orders-dlq", 30, 14 * DAY)
    return QueueInfo(
        "orders", 30, 4 * DAY, 5 if dead_letter else None, dlq if dead_letter else None
    )


@pytest.mark.parametrize(("dead_letter", "needed"), [(False, 4 * DAY), (True, 22 * DAY)])
def test_the_window_is_the_longest_way_back(dead_letter: bool, needed: float) -> None:
    assert check_dedup_window(queue(dead_letter), needed).total_s == needed
    with pytest.raises(DedupWindowError):
        check_dedup_window(queue(dead_letter), needed - 1)


def test_too_short_a_retention_says_the_numbers_and_what_to_do() -> None:
    with pytest.raises(DedupWindowError) as caught:
        check_dedup_window(queue(dead_letter=True), 7 * DAY)
    for part in ("7.00 days", "'orders'", "22.00 days", "queue 4.00", "DLQ 14.00", "redrive 4.00",
                 "at least 1900800 s"):  # fmt: skip
        assert part in str(caught.value)
