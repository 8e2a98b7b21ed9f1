"""What the engine promises: bounded waits, and errors that tell an outage from a wrong statement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from onceproof.errors import ConfigurationError, DatabaseUnavailableError, TransientError
from onceproof.postgres import create_engine, is_connection_failure, normalise_url, translated


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(
        database_url,
        application_name="test-engine",
        pool_size=1,
        connect_timeout_s=2.0,  # a busy machine connects slowly; what is bounded here is what follows
        statement_timeout_s=0.3,
    )
    yield engine
    await engine.dispose()


async def run(engine: AsyncEngine, *statements: str) -> None:
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def test_a_statement_that_takes_too_long_is_transient(engine: AsyncEngine) -> None:
    with pytest.raises(TransientError, match="not possible now") as caught, translated():
        await run(engine, "SELECT pg_sleep(10)")
    assert not isinstance(caught.value, DatabaseUnavailableError)


async def test_an_answer_that_never_comes_is_an_outage_and_the_wait_is_bounded(
    engine: AsyncEngine,
) -> None:
    # The server's own timeout off: as if the network had swallowed its answer.
    async with asyncio.timeout(20):
        with pytest.raises(DatabaseUnavailableError), translated():
            await run(engine, "SET statement_timeout = 0", "SELECT pg_sleep(10)")
        await run(engine, "SELECT 1")  # the pool recovers


async def test_a_pool_without_a_free_connection_is_an_outage(engine: AsyncEngine) -> None:
    async with engine.connect():
        with pytest.raises(DatabaseUnavailableError), translated():
            await run(engine, "SELECT 1")


async def test_an_ended_session_is_an_outage_and_the_next_one_works(engine: AsyncEngine) -> None:
    with pytest.raises(DatabaseUnavailableError), translated():
        await run(engine, "SELECT pg_terminate_backend(pg_backend_pid())", "SELECT 1")
    await run(engine, "SELECT 1")


@pytest.mark.parametrize(
    ("statement", "parameters"),
    [
        ("SELECT 1/0", {}),
        ("SELECT * FROM absent", {}),
        ("SELECT CAST(:n AS bigint)", {"n": 2**70}),
        ("SELECT CAST(:n AS text)", {"n": "a\x00b"}),
    ],
)
async def test_a_wrong_statement_is_no_outage(
    engine: AsyncEngine, statement: str, parameters: dict[str, object]
) -> None:
    with pytest.raises(DBAPIError) as caught, translated():
        async with engine.begin() as connection:
            await connection.execute(text(statement), parameters)
    assert not is_connection_failure(caught.value)


async def test_two_statements_at_once_are_a_bug_and_no_outage(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        raw = await connection.get_raw_connection()
        driver = raw.driver_connection
        assert driver is not None
        first = asyncio.create_task(driver.execute("SELECT pg_sleep(0.1)"))
        await asyncio.sleep(0)
        with pytest.raises(Exception, match="another operation") as caught:
            await driver.execute("SELECT 1")
        await first
    assert not is_connection_failure(caught.value)


def test_what_the_driver_says_of_a_session_that_the_server_ended_is_an_outage() -> None:
    with pytest.raises(DatabaseUnavailableError), translated():
        raise asyncpg.InternalClientError('protocol is in the "failed" state')


def test_a_url_of_libpq_is_understood_and_an_unknown_parameter_is_named() -> None:
    url = normalise_url("postgres://u:p@h/db?sslmode=verify-full&target_session_attrs=read-write")
    assert url.drivername == "postgresql+asyncpg"
    assert url.query == {"ssl": "verify-full", "target_session_attrs": "read-write"}
    with pytest.raises(ConfigurationError, match="channel_binding, options; known: sslmode"):
        normalise_url("postgresql://u:p@h/db?options=x&channel_binding=require")
