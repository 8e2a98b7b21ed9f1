"""The outbox's benchmarks, small: that they run, and that each refuses a run that went wrong."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

# The benchmarks are scripts beside the packages, not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import outbox_write, queue_content
from benchmarks.bench import Bench, Scale
from benchmarks.ceiling import find_pgbench
from benchmarks.database import Database
from benchmarks.effect import Counting
from benchmarks.figures import InvalidRunError
from benchmarks.inbox_scale import ScaledConsumer
from benchmarks.metering import Meter
from benchmarks.null_broker import NullPublisher
from benchmarks.outbox_latency import AddedLatency
from benchmarks.outbox_scale import Load, ScaledRelay
from benchmarks.outbox_table import fill, require_all_published
from benchmarks.outbox_write import OrderWrites
from benchmarks.queue_ceiling import DirectPublisher, NoOpConsumer
from benchmarks.relaying import Ceiling, Ours, Relayed, timed
from benchmarks.through_queue import ThroughQueue

from onceproof.brokers.sqs import SqsBroker
from onceproof.ports import Outgoing, SendResult
from onceproof.postgres import create_engine
from onceproof_chaos.embedded import EmbeddedSqs


@pytest.fixture
async def where(database_url: str) -> AsyncIterator[Database]:
    url = make_url(database_url)
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    connection, metered = await asyncpg.connect(plain), await asyncpg.connect(plain)
    yield Database(url, connection, "", {}, await Meter.connect(metered), None)
    await metered.close()
    await connection.close()


@pytest.fixture
async def at(where: Database) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        yield Bench(
            where, find_pgbench(), Scale(1, 0.5, 4), lambda _text: None,
            sqs_endpoint=None, stack=stack,
        )  # fmt: skip


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url, application_name="test-bench", pool_size=8)
    yield engine
    await engine.dispose()


@pytest.fixture
async def sqs_client(sqs_endpoint: str) -> AsyncIterator[Any]:
    """The library's client, bare."""
    async with queue_content.sqs_client(sqs_endpoint, EmbeddedSqs.region) as client:
        yield client


@pytest.fixture
async def connections(engine: AsyncEngine) -> AsyncIterator[Counting]:
    async with Counting(engine, size=4) as connections:
        yield connections


async def test_the_relay_and_its_ceilings(
    where: Database, engine: AsyncEngine, sqs_broker: SqsBroker, sqs_client: Any
) -> None:
    for side in (Ours(where, engine), Ceiling(where, find_pgbench())):
        assert (await side.measure(300)).orders == 300
    for sent in (
        DirectPublisher(where, sqs_client),
        Relayed(where, engine, sqs_broker, sqs_client),
    ):
        assert (await sent.measure(120)).orders_per_s > 0


async def test_the_consumer_through_a_queue_and_its_ceiling(
    where: Database, connections: Counting, sqs_broker: SqsBroker, sqs_client: Any
) -> None:
    for size in (200, 100_000):
        for side in (
            ThroughQueue(where, connections, sqs_broker, sqs_client, clients=2, size=size),
            NoOpConsumer(where, sqs_client, size=size),
        ):
            assert (await side.measure(20)).orders == 20


async def test_a_row_sent_twice_makes_a_run_invalid(where: Database, engine: AsyncEngine) -> None:
    class Twice(NullPublisher):
        async def send(self, destination: str, messages: Sequence[Outgoing]) -> list[SendResult]:
            await super().send(destination, messages[:1])
            return await super().send(destination, messages)

    await fill(where, 100)
    publisher = Twice()
    await timed(engine, publisher, 100)
    with pytest.raises(InvalidRunError, match="101 messages sent"):
        await require_all_published(where, 100, publisher.sent)


async def test_writes_with_and_without_the_outbox(where: Database, engine: AsyncEngine) -> None:
    sample = await OrderWrites(where, engine).measure(10)
    assert sample.values["p50_ratio"] > 0
    with pytest.raises(InvalidRunError, match="found"):
        await outbox_write.require_written(where, orders=1, events=1)


async def test_latencies_through_the_outbox_and_directly(
    at: Bench, engine: AsyncEngine, sqs_broker: SqsBroker, sqs_client: Any
) -> None:
    contender = AddedLatency(at, engine, sqs_broker, sqs_client)
    for through_outbox in (True, False):
        assert (await contender.run(50, 1, through_outbox=through_outbox)).orders == 50


@pytest.mark.parametrize(
    "load",
    [
        pytest.param(Load(1000, at_once=500), id="at once"),
        pytest.param(Load(1000, pending=2000), id="pending"),
        pytest.param(Load(500, published=500), id="published"),
        pytest.param(Load(500, churn=500, hold_xmin=True), id="xmin"),
    ],
)
async def test_a_relay_at_scale(at: Bench, engine: AsyncEngine, load: Load) -> None:
    relay = ScaledRelay(at, engine, "state", load)
    await relay.prepare()
    connection = at.where.connection
    assert await connection.fetchval("SELECT count(*) FROM onceproof.outbox") == 0
    copied, kept = [
        await connection.fetchval("SELECT reloptions FROM pg_class WHERE oid = $1::regclass", table)
        for table in ("onceproof.outbox_of_state", "onceproof.outbox")
    ]
    assert sorted(copied) == sorted(kept)
    assert "fillfactor=50" in copied
    assert (await relay.measure(0)).orders >= load.orders
    await relay.drop()
    assert await connection.fetchval("SELECT to_regclass('onceproof.outbox_of_state')") is None


async def test_a_consumer_with_a_large_inbox(at: Bench, connections: Counting) -> None:
    consumer = ScaledConsumer(at, connections, "state", known=5000)
    await consumer.prepare()
    assert (await consumer.measure(0)).orders >= 2000
    known = await at.where.connection.fetchval(
        "SELECT count(*) FROM onceproof.inbox_of_state WHERE event_id < '0101'"
    )
    assert known == 5000
    await consumer.drop()
