"""procrastinate: an order and its job in one transaction, a worker that claims and charges."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import procrastinate
import psycopg_pool
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

app = procrastinate.App(
    connector=procrastinate.PsycopgConnector(
        conninfo=DSN, min_size=4, max_size=CONSUMER_CONNECTIONS if TUNED else 4
    )
)
# psycopg's placeholders, and the CTE's first argument is used more than once: by name.
_ORDER = re.sub(r"\$\d", "%s", INSERT_ORDER)
_CHARGE = re.sub(r"\$(\d)", r"%(p\1)s", CHARGE)
_effects: psycopg_pool.AsyncConnectionPool | None = None


@app.task(name="charge")
async def charge(event_id: str, order: dict[str, Any]) -> None:
    """The handler."""
    assert _effects is not None  # noqa: S101
    async with _effects.connection() as connection:
        await connection.execute(
            _CHARGE,
            {
                "p1": event_id,
                "p2": order["order_id"],
                "p3": order["amount"],
                "p4": order["currency"],
            },
        )


async def setup() -> None:
    """Its tables."""
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


async def enqueue() -> None:
    """Write the orders with their jobs."""
    async with (
        app.open_async(),
        psycopg_pool.AsyncConnectionPool(
            DSN, min_size=PRODUCERS, max_size=PRODUCERS, open=False
        ) as pool,
    ):
        await pool.wait()
        say("ready")
        await asyncio.to_thread(wait_for_go)

        async def one(number: int) -> None:
            event_id, order = order_of(number)
            async with pool.connection() as connection:
                await connection.execute(
                    _ORDER, (order["order_id"], order["amount"], order["currency"], event_id)
                )
                jobs = charge.configure(connection=connection)
                for _ in range(2 if twice(number) else 1):
                    await jobs.defer_async(event_id=event_id, order=order)

        await produce(one)


async def work() -> None:
    """Work until stdin is closed."""
    global _effects
    async with (
        app.open_async(),
        psycopg_pool.AsyncConnectionPool(
            DSN, min_size=4, max_size=CONSUMER_CONNECTIONS, open=False
        ) as _effects,
    ):
        options: dict[str, Any] = (
            # Its documentation: parallel asynchronous jobs; finished jobs deleted, not kept.
            {"concurrency": 10, "delete_jobs": "successful"} if TUNED else {}
        )
        running = asyncio.create_task(
            app.run_worker_async(install_signal_handlers=False, **options)
        )
        say("ready")
        closed = asyncio.create_task(until_closed())
        await asyncio.wait({running, closed}, return_when=asyncio.FIRST_COMPLETED)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


if __name__ == "__main__":
    main(setup=setup, enqueue=enqueue, work=work)
