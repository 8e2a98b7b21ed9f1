"""Where a proof takes place: what a schema may hold, what is left behind, and when all is quiet."""

from types import SimpleNamespace

import asyncpg
import pytest

from onceproof.errors import BrokerUnavailableError, ConfigurationError
from onceproof.ports import QueueDepth
from onceproof_chaos.environment import Servers, asyncpg_url
from onceproof_chaos.prove import quiet
from onceproof_chaos.prove.ground import _SCHEMA, Place, open_ground
from onceproof_chaos.prove.invariants import Invariant
from onceproof_chaos.prove.points import Kind
from onceproof_chaos.prove.quiet import Quiet
from onceproof_chaos.prove.settings import ProveSettings

# As pg_dump gives it of a service that runs with the library.
DUMP = r"""
\restrict abc
SELECT pg_catalog.set_config('search_path', '', false);
CREATE SCHEMA onceproof;
CREATE TABLE onceproof.inbox (consumer text);
CREATE TABLE public.onceproof_schema_version (version_num text NOT NULL);
CREATE TABLE public.done (key text NOT NULL);
\unrestrict abc
"""


@pytest.fixture
def ground(tmp_path, empty_database_url, sqs_endpoint):
    """Opens a ground on a schema."""

    def opened(schema):
        file = tmp_path / "schema.sql"
        file.write_text(schema)
        settings = ProveSettings(
            "shop:handle", Kind.HANDLER, (Invariant("once", "SELECT 1"),), schema=(file,)
        )
        where = Servers(empty_database_url, sqs_endpoint, {"AWS_DEFAULT_REGION": "us-east-1"})
        return open_ground(where, "prove_ground_test", settings)

    return opened


async def databases(url):
    connection = await asyncpg.connect(asyncpg_url(url))
    try:
        rows = await connection.fetch(
            "SELECT datname FROM pg_database WHERE datname LIKE 'prove_ground_test%'"
        )
        return {row[0] for row in rows}
    finally:
        await connection.close()


async def test_a_dump_may_hold_the_tables_of_the_library(ground):
    async with ground(DUMP) as opened:
        assert opened.tables == ("public.done",)
        connection = await asyncpg.connect(asyncpg_url(opened.template_url))
        assert await connection.fetchval("SELECT to_regclass('onceproof.inbox') IS NOT NULL")
        await connection.close()


@pytest.mark.parametrize(
    "schema",
    [
        "CREATE TABLE done (key text); ALTER TABLE done OWNER TO nobody_here",
        "CREATE TABLE done (key text); COPY done (key) FROM stdin;\na\n\\.\n",
    ],
)
async def test_a_dump_that_does_not_fit_is_said_how_to_make(ground, schema):
    with pytest.raises(ConfigurationError, match="--schema-only --no-owner --no-privileges"):
        async with ground(schema):
            pass


async def test_no_database_is_left_where_the_queues_cannot_be_deleted(
    ground, empty_database_url, monkeypatch
):
    async def delete_queue(_name):
        raise BrokerUnavailableError("gone")

    async with ground("CREATE TABLE done (key text)") as opened:
        monkeypatch.setattr(opened.broker, "delete_queue", delete_queue)
        with pytest.raises(BrokerUnavailableError):
            async with opened.place(1):
                assert "prove_ground_test_1" in await databases(empty_database_url)
        assert await databases(empty_database_url) == {"prove_ground_test"}
    assert await databases(empty_database_url) == set()


async def test_a_table_that_a_consumer_has_locked_holds_nobody_up(empty_database_url, monkeypatch):
    monkeypatch.setattr(quiet, "_QUERY_TIMEOUT_S", 0.5)

    async def depth():
        return QueueDepth(0, 0, 0)

    consumer = await asyncpg.connect(asyncpg_url(empty_database_url))
    await consumer.execute(_SCHEMA)
    await consumer.execute("CREATE TABLE done (key text)")
    where = Servers(empty_database_url, None, {})
    place = Place(where, empty_database_url, "q", "dlq", ("public.done",))
    queue = SimpleNamespace(depth=depth)
    watch = Quiet(place, queue, window_s=0.1)
    async with consumer.transaction():
        await consumer.execute("LOCK TABLE done IN ACCESS EXCLUSIVE MODE")
        reason = await watch.until_quiet(timeout_s=0.2)
        assert reason is not None
        assert "is one locked?" in reason
    assert await watch.until_quiet(timeout_s=5) is None
    # With a long visibility timeout, to see that all is quiet takes longer than to become so.
    assert await Quiet(place, queue, window_s=1).until_quiet(timeout_s=1) is None
    await consumer.close()
