"""DBOS: an order and its workflow in one transaction, a worker whose workflow claims and charges."""

from __future__ import annotations

import asyncio
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, SQLAlchemyDatasource, run_dbos_database_migrations
from work import (
    CHARGE,
    CONSUMER_CONNECTIONS,
    DSN,
    INSERT_ORDER,
    ORDERS,
    PRODUCERS,
    TUNED,
    main,
    order_of,
    say,
    twice,
    until_closed,
    wait_for_go,
)

_QUEUE = "charges"
_URL = DSN.replace("postgresql://", "postgresql+psycopg://", 1)
_ORDER = sa.text(re.sub(r"\$(\d)", r":p\1", INSERT_ORDER))
_CHARGE = sa.text(re.sub(r"\$(\d)", r":p\1", CHARGE))


def _parameters(*values: object) -> dict[str, object]:
    return {f"p{number}": value for number, value in enumerate(values, 1)}


async def setup() -> None:
    """Its tables."""
    await asyncio.to_thread(run_dbos_database_migrations, DSN)
    await asyncio.to_thread(SQLAlchemyDatasource.migrate, _URL)


async def enqueue() -> None:
    """Write the orders with their jobs."""
    engine = sa.create_engine(_URL, pool_size=PRODUCERS)
    client = DBOSClient(system_database_url=DSN)
    say("ready")
    wait_for_go()

    def one(number: int) -> None:
        event_id, order = order_of(number)
        with engine.begin() as connection:
            connection.execute(
                _ORDER,
                _parameters(order["order_id"], order["amount"], order["currency"], event_id),
            )
            for _ in range(2 if twice(number) else 1):
                client.enqueue_in_transaction(
                    connection, {"workflow_name": "charge", "queue_name": _QUEUE}, event_id, order
                )

    with ThreadPoolExecutor(PRODUCERS) as threads:
        for _ in threads.map(one, range(ORDERS)):
            pass


async def work() -> None:
    """Work until stdin is closed."""
    config: DBOSConfig = {
        "name": "onceproof-bench",
        "system_database_url": DSN,
        "log_level": "WARNING",
        "run_migrations": False,
        "application_version": "bench",
    }
    if TUNED:
        config["sys_db_pool_size"] = CONSUMER_CONNECTIONS
    DBOS(config=config)
    datasource = SQLAlchemyDatasource.create(
        _URL, engine_kwargs={"pool_size": CONSUMER_CONNECTIONS}, run_migrations=False
    )

    # Its default isolation is SERIALIZABLE; the unique key guards here, as for the others.
    @datasource.transaction(isolation_level="READ COMMITTED")
    def record(event_id: str, order: dict[str, Any]) -> None:
        datasource.sql_session().execute(
            _CHARGE, _parameters(event_id, order["order_id"], order["amount"], order["currency"])
        )

    @DBOS.workflow(name="charge")
    def charge(event_id: str, order: dict[str, Any]) -> None:
        record(event_id, order)

    DBOS.launch()
    if TUNED:
        # Its documentation: poll more often for throughput, and bound what one process takes.
        await DBOS.register_queue_async(_QUEUE, worker_concurrency=100, polling_interval_sec=0.05)
    else:
        await DBOS.register_queue_async(_QUEUE)
    say("ready")
    await until_closed()
    DBOS.destroy()


if __name__ == "__main__":
    main(setup=setup, enqueue=enqueue, work=work)
