"""faststream-outbox: claims rows of its table and hands each to a handler, which sends it to SQS."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from faststream_outbox import OutboxBroker, make_outbox_table
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import create_async_engine
from work import DSN, TUNED, main, say, until_closed

_WORKERS = 8
_OPTIONS: dict[str, Any] = (
    # Its documentation for throughput: workers side by side, larger fetches, no pause between them,
    # and deletes in batches.
    {
        "max_workers": _WORKERS,
        "fetch_batch_size": 100,
        "min_fetch_interval": 0.01,
        "terminal_flush_batch_size": 50,
    }
    if TUNED
    else {}
)
# Its default is INFO, two lines a message.
_LOG_LEVEL = logging.WARNING if TUNED else logging.INFO
_URL = DSN.replace("postgresql://", "postgresql+asyncpg://", 1)
_metadata = MetaData()
_table = make_outbox_table(_metadata, table_name="faststream_outbox")


async def setup() -> None:
    """Its tables."""
    engine = create_async_engine(_URL)
    async with engine.begin() as connection:
        await connection.run_sync(_metadata.create_all)
    await engine.dispose()


async def relay() -> None:
    """Relay until stdin is closed."""
    engine = create_async_engine(_URL, pool_size=_WORKERS + 4)
    broker = OutboxBroker(engine, outbox_table=_table, log_level=_LOG_LEVEL)
    queue = os.environ["BENCH_QUEUE_URL"]
    config = AioConfig(max_pool_connections=32, retries={"total_max_attempts": 1})
    async with get_session().create_client(
        "sqs",
        region_name=os.environ["AWS_REGION"],
        endpoint_url=os.environ["BENCH_SQS_ENDPOINT"],
        config=config,
    ) as sqs:

        @broker.subscriber("orders", **_OPTIONS)
        async def send(body: str) -> None:
            await sqs.send_message(QueueUrl=queue, MessageBody=body)

        await broker.start()
        say("ready")
        await until_closed()
        await broker.stop()
    await engine.dispose()


if __name__ == "__main__":
    main(setup=setup, relay=relay)
