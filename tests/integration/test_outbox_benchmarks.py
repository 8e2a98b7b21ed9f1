"""The outbox's benchmarks, small: that they run, and that each refuses a run that went wrong."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

# The benchmarks are scripts beside the packages, not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import outbox_latency, outbox_scale, outbox_write
from benchmarks.ceiling import find_pgbench
from benchmarks.database import Database
from benchmarks.direct_publisher import DirectPublisher, require_arrived
from benchmarks.figures import InvalidRunError
from benchmarks.metering import Meter
from benchmarks.null_broker import NullPublisher
from benchmarks.outbox_table import fill, require_all_published
from benchmarks.relaying import Ceiling, Ours, Relayed, timed

from onceproof.brokers.sqs import SqsBroker
from onceproof.ports import Outgoing, SendResult
from onceproof.postgres import create_engine


@pytest.fixture
async def where(database_url: str) -> AsyncIterator[Database]:
    url = make_url(database_url)
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    connection, metered = await asyncpg.connect(plain), await asyncpg.connect(plain)
    yield Database(url, connection, "", {}, await Meter.connect(metered), None)
    await metered.close()
    await connection.close()


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url, application_name="test-bench", pool_size=8)
    yield engine
    await engine.dispose()


async def test_the_relay_and_its_ceilings(
    where: Database, engine: AsyncEngine, sqs_broker: SqsBroker
) -> None:
    for side in (Ours(where, engine), Ceiling(where, find_pgbench())):
        assert (await side.measure(300)).orders == 300
    for sent in (DirectPublisher(sqs_broker), Relayed(where, engine, sqs_broker)):
        assert (await sent.measure(120)).orders_per_s > 0


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


async def test_a_message_too_many_makes_a_run_invalid(sqs_broker: SqsBroker, queue_factory) -> None:
    queue = await queue_factory()
    await sqs_broker.send(queue.name, [Outgoing("1", b"{}"), Outgoing("2", b"{}")])
    await require_arrived(sqs_broker, queue.name, 2)
    with pytest.raises(InvalidRunError, match="holds 2 messages"):
        await require_arrived(sqs_broker, queue.name, 1)


async def test_writes_with_and_without_the_outbox(where: Database, engine: AsyncEngine) -> None:
    compared = await outbox_write.compare_writes(where, engine, orders=10, repeats=1)
    assert compared.p50_ratio().median > 0
    with pytest.raises(InvalidRunError, match="found"):
        await outbox_write.require_written(where, orders=1, events=1)


async def test_latencies_through_the_outbox_and_directly(
    where: Database, engine: AsyncEngine, sqs_broker: SqsBroker
) -> None:
    compared = await outbox_latency.compare_latencies(
        where, engine, sqs_broker, orders_per_s=50, seconds=1, repeats=1
    )
    assert [one.orders for one in (*compared.ours, *compared.theirs)] == [50, 50]


async def test_scales(where: Database, engine: AsyncEngine) -> None:
    for comparison in (
        await outbox_scale.compare_backlogs(where, engine, pending=3000, orders=1000, repeats=1),
        await outbox_scale.compare_published(where, engine, published=500, orders=500, repeats=1),
        await outbox_scale.compare_held_xmin(where, engine, published=500, orders=500, repeats=1),
    ):
        assert comparison.ratio().median > 0
    assert await where.connection.fetchval("SELECT to_regclass('onceproof.outbox_long')") is None
