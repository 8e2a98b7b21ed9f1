"""`target_session_attrs=read-write` while no server is a primary: the database is away, nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import asyncpg
import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from onceproof.errors import DatabaseUnavailableError
from onceproof.events import Event
from onceproof.outbox import OutboxStore, Relay, RelaySettings, append
from onceproof.postgres import Connections, create_engine, translated

if TYPE_CHECKING:
    from tests.integration.conftest import Rig


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """Takes no server but a primary."""
    url = make_url(database_url).update_query_dict({"target_session_attrs": "read-write"})
    engine = create_engine(
        url.render_as_string(hide_password=False), application_name="test", pool_size=12
    )
    yield engine
    await engine.dispose()


async def be(database_url: str, *, primary: bool) -> None:
    """Make new sessions look like those of a primary or a standby, and end the others."""
    name = make_url(database_url).database
    connection = await asyncpg.connect(
        make_url(database_url).set(database="postgres").render_as_string(hide_password=False)
    )
    only = "off" if primary else "on"
    await connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {only}')
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
    )
    await connection.close()


async def test_no_primary_is_an_outage(engine: AsyncEngine, database_url: str) -> None:
    await be(database_url, primary=False)
    with pytest.raises(DatabaseUnavailableError, match="None of the hosts"), translated():
        await engine.connect()
    with pytest.raises(DatabaseUnavailableError, match="None of the hosts"):
        await Connections(engine).run(asyncpg.Connection.fetchval)


@pytest.mark.parametrize("path", ["handle", "effect"])
async def test_a_consumer_waits_for_the_primary(
    rig: Rig, engine: AsyncEngine, database_url: str, path: str
) -> None:
    original, rig.engine = rig.engine, engine
    async with Connections(engine) as rig.connections:
        consumer = rig.consumer(path, unavailable_backoff_s=0.02)
        async with rig.running(consumer):
            await rig.send(rig.order(1))
            await rig.drained()
            await be(database_url, primary=False)
            await rig.send(rig.order(2), rig.order(3))
            await rig.until(lambda: sum("None of" in (why or "") for _, why in rig.health) > 2)
            await be(database_url, primary=True)
            await rig.drained()
    rig.engine = original
    await original.dispose()
    charges = await rig.charges()
    assert [order for order, _ in charges] == ["o-1", "o-2", "o-3"]
    assert await rig.dead() == []


async def test_a_relay_waits_for_the_primary(
    rig: Rig, engine: AsyncEngine, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with AsyncSession(rig.engine) as session, session.begin():
        await append(session, Event(type="t", data=None), "orders")
    await be(database_url, primary=False)
    settings = RelaySettings(poll_s=0.02, database_backoff_s=0.02)
    relay = Relay(OutboxStore(engine, relay="r"), rig.broker, settings=settings)
    stop = asyncio.Event()
    running = asyncio.create_task(relay.run(stop))
    await rig.until(lambda: "None of the hosts" in caplog.text)
    await be(database_url, primary=True)
    (message,) = await rig.subscriber.receive(max_messages=1, wait_s=10, visibility_s=30)
    assert Event.decode(message.body).type == "t"
    stop.set()
    await running
