"""What is promised of bare connections, on a real Postgres: which are used again, and which never."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from onceproof.errors import DatabaseUnavailableError
from onceproof.postgres import Connection, Connections, create_engine, translated

POOL_SIZE = 2
SETUP = ("SET enable_seqscan = off",)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url, application_name="test", pool_size=POOL_SIZE)
    yield engine
    await engine.dispose()


async def pid(connection: Connection) -> int:
    return int(connection.get_server_pid())


async def seqscan(connection: Connection) -> str:
    return str(await connection.fetchval("SHOW enable_seqscan"))


async def slow(connection: Connection) -> None:
    await connection.execute("SELECT pg_sleep(30)")


async def in_pool(engine: AsyncEngine) -> set[str]:
    """What `enable_seqscan` is in the sessions that the pool lends: all that it may open."""
    async with engine.connect() as one, engine.connect() as two:
        return {str(await each.scalar(text("SHOW enable_seqscan"))) for each in (one, two)}


async def test_a_kept_connection_is_used_again_and_another_goes_back(engine: AsyncEngine) -> None:
    connections = Connections(engine, size=POOL_SIZE, setup=SETUP)
    assert not connections.keeping
    assert await connections.run(seqscan) == "on"  # set up is only what stays
    async with connections:
        assert connections.keeping
        kept = await connections.run(pid)
        assert await connections.run(pid) == kept
        assert await connections.run(seqscan) == "off"
    assert connections.opened == 2
    assert await in_pool(engine) == {"on"}


async def test_a_block_that_begins_or_ends_meanwhile_leaves_no_session_where_it_does_not_belong(
    engine: AsyncEngine,
) -> None:
    connections = Connections(engine, size=POOL_SIZE, setup=SETUP)

    async def begin(_: Connection) -> None:
        await connections.__aenter__()

    async def end(_: Connection) -> None:
        await connections.__aexit__(None, None, None)

    await connections.run(begin)
    assert await connections.run(seqscan) == "off"
    await connections.run(end)
    assert await in_pool(engine) == {"on"}


async def test_a_statement_that_fails_costs_no_connection(engine: AsyncEngine) -> None:
    async def wrong(connection: Connection) -> None:
        await connection.fetchval("SELECT 1/0")

    async with Connections(engine) as connections:
        kept = await connections.run(pid)
        with pytest.raises(asyncpg.DivisionByZeroError):
            await connections.run(wrong)
        assert await connections.run(pid) == kept


async def _cancelled(connections: Connections) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await connections.run(slow)


async def _bug(connections: Connections) -> None:
    async def use(_: Connection) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await connections.run(use)


async def _open_transaction(connections: Connections) -> None:
    async def use(connection: Connection) -> None:
        await connection.execute("BEGIN")
        await connection.execute("SELECT 1/0")

    with pytest.raises(asyncpg.DivisionByZeroError):
        await connections.run(use)


async def _ended(connections: Connections) -> None:
    async def use(connection: Connection) -> None:
        await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(DatabaseUnavailableError), translated():
        await connections.run(use)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("fault", [_cancelled, _bug, _open_transaction, _ended])
async def test_a_connection_in_an_unknown_state_is_not_used_again_and_its_place_is_free(
    engine: AsyncEngine, fault: Any, keep: bool
) -> None:
    connections = Connections(engine, size=1)
    if keep:
        await connections.__aenter__()
    before = await connections.run(pid)
    for _ in range(POOL_SIZE + 1):
        await fault(connections)
    assert await connections.run(pid) != before
    if keep:
        await connections.__aexit__(None, None, None)
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert await in_pool(engine) == {"on"}


async def test_one_that_the_server_ended_while_idle_is_replaced(engine: AsyncEngine) -> None:
    async with Connections(engine) as connections:
        ended, closed = await connections.run(pid), asyncio.Event()
        connections._idle[-1].driver.add_termination_listener(lambda _: closed.set())
        async with engine.connect() as other:
            await other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": ended})
        await asyncio.wait_for(closed.wait(), 5)
        assert await connections.run(pid) != ended
        assert connections.opened == 2


async def test_who_comes_too_many_waits_and_a_pool_without_room_is_an_outage(
    engine: AsyncEngine,
) -> None:
    at_once = most = 0

    async def count(connection: Connection) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await connection.execute("SELECT pg_sleep(0.01)")
        at_once -= 1

    async with Connections(engine, size=POOL_SIZE) as connections:
        await asyncio.gather(*(connections.run(count) for _ in range(10)))
        assert most == connections.opened == POOL_SIZE
        with pytest.raises(DatabaseUnavailableError):
            await Connections(engine).run(pid)


async def test_a_setup_that_cannot_run_leaves_nothing_behind(engine: AsyncEngine) -> None:
    async with Connections(engine, setup=["SET lock_timeout = 1", "SELECT 1/0"]) as connections:
        for _ in range(POOL_SIZE + 1):
            with pytest.raises(asyncpg.DivisionByZeroError):
                await connections.run(pid)
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
