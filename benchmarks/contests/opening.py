"""What contests share: connections to the database and the queue server, closed at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.bench import Bench
from benchmarks.effect import Counting
from benchmarks.elasticmq import CREDENTIALS, REGION
from benchmarks.queue_content import sqs_client
from onceproof.brokers.sqs import SqsBroker
from onceproof.postgres import create_engine

OURS: Final = "onceproof"
QUEUE: Final = "Postgres, ElasticMQ (docker)"
_NAME: Final = "onceproof-bench"


@asynccontextmanager
async def engine_of(at: Bench) -> AsyncIterator[AsyncEngine]:
    """As many connections as pgbench has clients."""
    engine = create_engine(
        at.where.library_url(), application_name=_NAME, pool_size=at.scale.clients
    )
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def connections_of(at: Bench) -> AsyncIterator[Counting]:
    """As many bare connections as pgbench has clients."""
    async with engine_of(at) as engine, Counting(engine, size=at.scale.clients) as connections:
        yield connections


@asynccontextmanager
async def broker_of(at: Bench) -> AsyncIterator[tuple[SqsBroker, Any]]:
    """The library's broker, and a bare client with the same settings, on the queue server.

    Raises:
        NotRunError: there is no queue server.
    """
    server = await at.queue_server()
    async with (
        SqsBroker.connect(
            endpoint_url=server.endpoint,
            region=REGION,
            access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        ) as broker,
        sqs_client(server.endpoint) as client,
    ):
        yield broker, client
