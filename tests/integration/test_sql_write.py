"""A change and its event in one statement: both, or neither."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from onceproof.errors import EventTooLargeError, OnceproofError, OutcomeUnknownError
from onceproof.events import Event
from onceproof.outbox import NothingDoneError, SqlWrite
from onceproof.postgres import Connections, create_engine

CHANGE = """
    INSERT INTO parcels (id, weight, event_id)
    SELECT key, CAST(data->>'weight' AS int), event_id FROM request
    ON CONFLICT DO NOTHING
    RETURNING 1;
"""


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url, application_name="test-write")
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "CREATE TABLE parcels (id text PRIMARY KEY, weight int CHECK (weight < 100), "
                "event_id text)"
            )
        )
    yield engine
    await engine.dispose()


@pytest.fixture
async def parcels(engine: AsyncEngine) -> AsyncIterator[SqlWrite]:
    async with Connections(engine, size=2) as connections:
        yield SqlWrite(connections, CHANGE, "parcels")


def parcel(number: int, weight: int = 7) -> Event:
    return Event(type="dev.test.parcel", key=f"p-{number}", data={"weight": weight})


async def written(engine: AsyncEngine) -> tuple[list[Any], list[Any]]:
    async with engine.connect() as connection:
        rows = await connection.execute(text("SELECT id, weight, event_id FROM parcels"))
        events = await connection.execute(
            text("SELECT key, destination, type, payload, traceparent, id FROM onceproof.outbox")
        )
        return [tuple(row) for row in rows], [tuple(row) for row in events]


async def test_a_change_and_its_event_are_written(parcels: SqlWrite, engine: AsyncEngine) -> None:
    event = await parcels.write(parcel(1))
    rows, [sent] = await written(engine)
    assert rows == [("p-1", 7, event.id)]
    assert sent[:3] == ("p-1", "parcels", "dev.test.parcel")
    assert Event.decode(sent[3].encode()) == event
    assert sent[4:] == (event.traceparent, event.id)


async def test_without_a_row_nothing_is_written(parcels: SqlWrite, engine: AsyncEngine) -> None:
    await parcels.write(parcel(1))
    with pytest.raises(NothingDoneError):
        await parcels.write(parcel(1))
    rows, events = await written(engine)
    assert (len(rows), len(events)) == (1, 1)


async def test_what_the_change_does_not_take_is_not_written(
    parcels: SqlWrite, engine: AsyncEngine
) -> None:
    with pytest.raises(OnceproofError, match=r"check constraint .* \(23514\)") as failed:
        await parcels.write(parcel(1, weight=100))
    assert failed.value.__cause__ is None  # it would quote the row
    with pytest.raises(EventTooLargeError):
        await parcels.write(Event(type="dev.test.parcel", key="p", data={"x": "y" * 300_000}))
    assert await written(engine) == ([], [])


async def test_a_lost_reply_is_an_unknown_outcome(engine: AsyncEngine) -> None:
    class LosingReplies(Connections):
        async def run(self, use: Any) -> Any:
            await super().run(use)
            raise asyncpg.ConnectionDoesNotExistError("connection was closed")

    with pytest.raises(OutcomeUnknownError):
        await SqlWrite(LosingReplies(engine), CHANGE, "parcels").write(parcel(1))
    rows, events = await written(engine)
    assert (len(rows), len(events)) == (1, 1)
