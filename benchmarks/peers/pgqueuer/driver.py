"""PgQueuer: an order and its job in one transaction, a worker that claims and charges."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries
from work import (
    CHARGE,
    CONSUMER_CONNECTIONS,
    DSN,
    INSERT_ORDER,
    PRODUCERS,
    TUNED,
    main,
    order_of,
    produce,
    say,
    twice,
    until_closed,
    wait_for_go,
)

# Jobs are claimed and logged a batch at a time; its documentation tells to raise this for short jobs.
_BATCH = 100 if TUNED else 10


async def setup() -> None:
    """Its tables."""
    connection = await asyncpg.connect(DSN)
    await Queries(AsyncpgDriver(connection)).install()
    await connection.close()


async def enqueue() -> None:
    """Write the orders with their jobs."""
    async with asyncpg.create_pool(DSN, min_size=PRODUCERS, max_size=PRODUCERS) as pool:
        say("ready")
        await asyncio.to_thread(wait_for_go)

        async def one(number: int) -> None:
            event_id, order = order_of(number)
            payload = json.dumps({"event_id": event_id, "order": order}).encode()
            times = 2 if twice(number) else 1
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute(
                    INSERT_ORDER, order["order_id"], order["amount"], order["currency"], event_id
                )
                queries = Queries(AsyncpgDriver(connection))
                await queries.enqueue(["charge"] * times, [payload] * times, [0] * times)

        await produce(one)


async def work() -> None:
    """Work until stdin is closed."""
    connection = await asyncpg.connect(DSN)
    async with asyncpg.create_pool(
        DSN, min_size=CONSUMER_CONNECTIONS, max_size=CONSUMER_CONNECTIONS
    ) as pool:
        worker = PgQueuer.from_asyncpg_connection(connection)

        @worker.entrypoint("charge")
        async def charge(job: Job) -> None:
            data = json.loads(job.payload or b"")
            order = data["order"]
            await pool.execute(
                CHARGE, data["event_id"], order["order_id"], order["amount"], order["currency"]
            )

        running = asyncio.create_task(worker.run(batch_size=_BATCH))
        say("ready")
        closed = asyncio.create_task(until_closed())
        await asyncio.wait({running, closed}, return_when=asyncio.FIRST_COMPLETED)
        worker.shutdown.set()
        async with asyncio.timeout(10):
            await running
    await connection.close()


if __name__ == "__main__":
    main(setup=setup, enqueue=enqueue, work=work)
