"""Memory of the consumer as it is deployed: `python -m onceproof_consumer` with a queue to work off."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Final

import asyncpg
import psutil

from benchmarks.figures import InvalidRunError, require_charged_once
from benchmarks.null_broker import order_event
from benchmarks.ports import free_port
from benchmarks.service_process import service
from onceproof.ports import Outgoing
from onceproof_chaos.environment import Stage, asyncpg_url, connect, servers, stage

_SAMPLE_S: Final = 0.05
_WORK_S: Final = 180.0


@dataclass(frozen=True, slots=True)
class ServiceMemory:
    """Resident memory in MB (10^6 bytes): when ready with an empty queue, and the peak under load."""

    orders: int
    idle_mb: float
    peak_mb: float
    orders_per_s: float


async def consumer_memory(orders: int, database_url: str | None) -> ServiceMemory:
    """Start provider and consumer, send `orders` orders, and watch the consumer until all are charged.

    Raises:
        InvalidRunError: they were not charged once each, or not in time.
    """
    async with (
        servers(database_url=database_url) as where,
        stage(where, f"rss_{os.getpid()}", visibility_s=30, max_receive_count=5) as at,
    ):
        http_port, provider_admin, consumer_admin = free_port(), free_port(), free_port()
        provider = {
            "ONCEPROOF_DATABASE_URL": at.provider_database_url,
            "ONCEPROOF_HTTP_HOST": "127.0.0.1",
            "ONCEPROOF_HTTP_PORT": str(http_port),
        }
        consumer = {
            **where.aws,
            "ONCEPROOF_DATABASE_URL": at.database_url,
            "ONCEPROOF_SQS_ENDPOINT_URL": where.sqs_endpoint or "",
            "ONCEPROOF_SQS_REGION": where.region,
            "ONCEPROOF_QUEUE": at.queue,
            "ONCEPROOF_PROVIDER_URL": f"http://127.0.0.1:{http_port}",
        }
        async with (
            service("onceproof_provider", provider_admin, provider),
            service("onceproof_consumer", consumer_admin, consumer) as pid,
        ):
            idle = psutil.Process(pid).memory_info().rss
            return await _load(at, pid, orders, idle)


async def _load(at: Stage, pid: int, orders: int, idle: int) -> ServiceMemory:
    peak = idle
    process = psutil.Process(pid)
    events = [order_event(number) for number in range(orders)]
    connection = await asyncpg.connect(asyncpg_url(at.database_url))
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        async with asyncio.timeout(_WORK_S), connect(at.servers) as broker:
            sending = asyncio.create_task(
                broker.send(at.queue, [Outgoing(e.id, e.encode(), e.key) for e in events])
            )
            while True:
                peak = max(peak, process.memory_info().rss)
                if await connection.fetchval("SELECT count(*) FROM charges") >= orders:
                    break
                await asyncio.sleep(_SAMPLE_S)
            failed = [result for result in await sending if not result.ok]
            charged = await connection.fetchval("SELECT count(DISTINCT order_id) FROM charges")
            charges = await connection.fetchval("SELECT count(*) FROM charges")
    except TimeoutError:
        raise InvalidRunError(f"{orders} orders were not charged within {_WORK_S:.0f} s") from None
    except psutil.NoSuchProcess:
        raise InvalidRunError("the consumer service ended") from None
    finally:
        await connection.close()
    require_charged_once(
        asked=orders, charges=charges, charged_orders=charged, given_back=len(failed)
    )
    return ServiceMemory(orders, idle / 1e6, peak / 1e6, orders / (loop.time() - started))
