"""The traps against a real Postgres and a real SQS protocol: what is held, and what becomes of it."""

import asyncio

import aiohttp
import asyncpg
import pytest

from onceproof.brokers.sqs import SqsBroker
from onceproof.errors import ConfigurationError
from onceproof.ports import Outgoing
from onceproof_chaos.backend import Instance, Role
from onceproof_chaos.environment import asyncpg_url
from onceproof_chaos.prove.commit_trap import CommitTrap, install_commit_points
from onceproof_chaos.prove.effects import Effects
from onceproof_chaos.prove.ground import _SCHEMA
from onceproof_chaos.prove.points import AFTER_ACK, AFTER_RECEIVE, BEFORE_ACK
from onceproof_chaos.prove.queue_proxy import QueueProxy

CONSUMER = Instance(Role.CONSUMER, "consumer-0", 0, "")


@pytest.fixture
async def database(empty_database_url):
    connection = await asyncpg.connect(asyncpg_url(empty_database_url))
    await connection.execute(_SCHEMA)
    await connection.execute("CREATE TABLE effect (n int); CREATE TABLE memory (n int)")
    await install_commit_points(connection, ["public.effect", "public.memory"])
    yield empty_database_url
    await connection.close()


async def write(url, table, n, **settings):
    connection = await asyncpg.connect(asyncpg_url(url), server_settings=settings)
    try:
        async with connection.transaction():
            await connection.execute(f"INSERT INTO {table} VALUES ($1)", n)  # noqa: S608 - ours
    finally:
        await connection.close(timeout=5)


async def numbers(url, table):
    connection = await asyncpg.connect(asyncpg_url(url))
    try:
        rows = await connection.fetch(f"SELECT n FROM {table} ORDER BY n")  # noqa: S608 - ours
        return [row[0] for row in rows]
    finally:
        await connection.close()


async def held(trap):
    async with asyncio.timeout(10):
        await trap.sprung(CONSUMER)


async def test_a_commit_that_may_not_go_on_is_rolled_back(database):
    trap = CommitTrap(database, "public.effect")
    await trap.arm()
    writing = asyncio.create_task(write(database, "effect", 1))
    await held(trap)
    assert await numbers(database, "effect") == []
    await trap.release(go_on=False)
    with pytest.raises((asyncpg.PostgresError, ConnectionError)):
        await writing
    assert await numbers(database, "effect") == []
    await write(database, "effect", 2)  # fires once
    assert await numbers(database, "effect") == [2]


async def test_a_commit_waits_whatever_lock_timeout_its_session_has(database):
    trap = CommitTrap(database, "public.effect")
    await trap.arm()
    writing = asyncio.create_task(write(database, "effect", 1, lock_timeout="100"))
    await held(trap)
    await asyncio.sleep(0.5)
    await trap.release(go_on=True)
    await writing
    assert await numbers(database, "effect") == [1]


async def test_a_commit_that_gave_up_is_no_zombie(database):
    trap = CommitTrap(database, "public.effect")
    await trap.arm()
    writing = asyncio.create_task(write(database, "effect", 1))
    await held(trap)
    connection = await asyncpg.connect(asyncpg_url(database))
    [pid] = trap._held
    assert await connection.fetchval("SELECT pg_cancel_backend($1)", pid)
    await connection.close()
    with pytest.raises(asyncpg.QueryCanceledError):
        await writing
    with pytest.raises(ConfigurationError, match="no zombie went on"):
        await trap.release(go_on=True)
    await trap.close()
    await write(database, "effect", 2)  # and the gate is open


async def test_a_successor_passes_while_a_commit_is_held_and_then_both_are_there(database):
    trap = CommitTrap(database, "public.effect")
    await trap.arm()
    writing = asyncio.create_task(write(database, "effect", 1))
    await held(trap)
    await write(database, "effect", 2)
    assert await numbers(database, "effect") == [2]
    await trap.release(go_on=True)
    await writing
    await trap.close()
    assert await numbers(database, "effect") == [1, 2]


async def test_only_transactions_that_wrote_to_the_table_are_held(database):
    trap = CommitTrap(database, "public.memory")
    await trap.arm()
    await write(database, "effect", 1)
    writing = asyncio.create_task(write(database, "memory", 1))
    await held(trap)
    assert await numbers(database, "effect") == [1]
    await trap.close()
    await writing


@pytest.fixture
async def effects(database):
    server = Effects(database)
    await server.start()
    yield server
    await server.stop()


async def test_an_effect_is_recorded_once_for_each_key_and_each_time_without(effects, database):
    async with aiohttp.ClientSession() as http:
        for key, status, replayed in (("k", 201, None), ("k", 200, "true"), (None, 201, None)):
            headers = {"Idempotency-Key": key} if key else {}
            async with http.post(f"{effects.url}/effects/x", json={"a": 1}, headers=headers) as r:
                assert (r.status, r.headers.get("Idempotent-Replayed")) == (status, replayed)
        # Another path is another system, or another operation of it.
        async with http.post(f"{effects.url}/y", headers={"Idempotency-Key": "k"}) as reply:
            assert reply.status == 201
        async with http.post(f"{effects.url}/effects", data="no JSON") as reply:
            assert reply.status == 201
        async with http.get(f"{effects.url}/effects") as reply:
            assert reply.status == 405
        async with http.post(f"{effects.url}/effects", json="\0") as reply:  # no text in Postgres
            assert reply.status == 400
    connection = await asyncpg.connect(asyncpg_url(database))
    rows = await connection.fetch("SELECT path, body FROM prove.effects ORDER BY id")
    await connection.close()
    assert [row["path"] for row in rows] == ["/effects/x", "/effects/x", "/y", "/effects"]


async def test_an_effect_whose_answer_is_lost_is_recorded(effects, database):
    await effects.trap.arm()
    async with aiohttp.ClientSession() as http:
        asking = asyncio.create_task(http.post(f"{effects.url}/effects", json={}))
        await held(effects.trap)
        await effects.trap.release(go_on=False)
        with pytest.raises(aiohttp.ClientError):
            await asking
    connection = await asyncpg.connect(asyncpg_url(database))
    assert await connection.fetchval("SELECT count(*) FROM prove.effects") == 1
    await connection.close()


@pytest.fixture
async def proxied(sqs_endpoint, sqs_broker, queue_factory):
    """A proxy, a subscriber behind it, and one message in its queue."""
    queue = await queue_factory(visibility_timeout_s=1)
    await sqs_broker.send(queue.name, [Outgoing("e", b"{}")])
    proxy = QueueProxy(sqs_endpoint)
    await proxy.start()
    async with SqsBroker.connect(endpoint_url=proxy.url, region="us-east-1") as broker:
        yield proxy, broker.subscriber(queue.name), sqs_broker.subscriber(queue.name)
    await proxy.stop()


async def receive(subscriber):
    return await subscriber.receive(max_messages=1, wait_s=1, visibility_s=1)


async def test_without_a_trap_everything_passes(proxied):
    _, through, direct = proxied
    [message] = await receive(through)
    [result] = await through.ack([message])
    assert result.ok
    assert (await direct.depth()).total == 0


async def test_a_receive_whose_answer_is_lost_hides_the_message(proxied):
    proxy, through, direct = proxied
    trap = proxy.traps[AFTER_RECEIVE]
    await trap.arm()
    receiving = asyncio.create_task(receive(through))
    await held(trap)
    assert (await direct.depth()).in_flight == 1
    await trap.release(go_on=False)
    with pytest.raises(Exception, match="SQS"):
        await receiving
    async with asyncio.timeout(10):
        while not (messages := await receive(through)):
            pass
    assert messages[0].attempt == 2


async def test_an_ack_that_is_refused_is_not_done_and_one_without_answer_is(proxied):
    proxy, through, direct = proxied
    [message] = await receive(through)
    before, after = proxy.traps[BEFORE_ACK], proxy.traps[AFTER_ACK]
    await before.arm()
    acking = asyncio.create_task(through.ack([message]))
    await held(before)
    await before.release(go_on=False, refuse_s=0.5)
    assert not (await acking)[0].ok
    assert not (await through.ack([message]))[0].ok  # a client that repeats it at once has no luck
    assert (await direct.depth()).total == 1

    async with asyncio.timeout(10):
        while not (messages := await receive(through)):
            pass
    await after.arm()
    acking = asyncio.create_task(through.ack(messages))
    await held(after)
    assert (await direct.depth()).total == 0
    await after.release(go_on=False)
    assert not (await acking)[0].ok
