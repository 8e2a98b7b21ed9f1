"""The library from the order's write to the charge, through a real broker, in three processes.

What a queue in Postgres does without a broker (`benchmarks.peers.queues`), on the same work: producer,
relay and consumer are processes of their own, ElasticMQ stands in between.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.calibrated import Calibrated
from benchmarks.database import Database
from benchmarks.elasticmq import CREDENTIALS, REGION
from benchmarks.figures import Sample
from benchmarks.peers.process import driver
from benchmarks.peers.queues import charged, charged_sample, empty
from benchmarks.ports import free_port
from benchmarks.queue_content import fresh_queue
from benchmarks.service_process import service
from benchmarks.sqs_requests import RequestCounter

_STUCK_S: Final = 90.0
_ROOT: Final = Path(__file__).resolve().parent.parent


class EndToEnd(Calibrated):
    """Producer, relay and consumer of the library.

    Args:
        at: the servers.
        client: an SQS client for making queues.
        count_requests: through a counting proxy; then the time is not to be used.
    """

    def __init__(self, at: Bench, client: Any, *, count_requests: bool = False) -> None:  # noqa: ANN401
        super().__init__(at, "onceproof, end to end")
        self._client = client
        self._count = count_requests

    async def run(self, orders: int) -> Sample:
        """Write and process `orders` orders.

        Raises:
            InvalidRunError: not every order was charged exactly once.
        """
        server = await self.at.queue_server()
        await self.at.where.connection.execute("TRUNCATE onceproof.outbox")
        await empty(self.at.where)
        if not self._count:
            return await self._run(orders, server.endpoint)
        async with RequestCounter(server.endpoint) as counter:
            sample = await self._run(orders, counter.endpoint, counter)
            return replace(sample, sqs_requests=counter.counts())

    async def _run(
        self, orders: int, endpoint: str, counter: RequestCounter | None = None
    ) -> Sample:
        where = self.at.where
        async with fresh_queue(self._client) as (queue, _):
            environment = worker_environment(where, queue, endpoint, orders=orders)
            command = [sys.executable, "-m", "benchmarks.pipeline_worker"]
            relaying = _relay(where.library_url(), queue, endpoint)
            async with (
                service("onceproof_relay", free_port(), relaying) as relay,
                driver([*command, "work"], environment) as consumer,
                driver([*command, "enqueue"], environment) as producer,
            ):
                if counter is not None:
                    counter.reset()
                await where.meter.start(
                    {"worker": consumer.pid, "relay": relay, "producer": producer.pid}
                )
                started: datetime = await where.connection.fetchval("SELECT clock_timestamp()")
                await producer.tell("go")
                await producer.heard("done", _STUCK_S)
                await charged(where, orders, consumer)
                await where.meter.stop()
        sample = await charged_sample(where, orders, started)
        used = sample.resources.cpu_s if sample.resources else {}
        return replace(
            sample, cpu_s=sum(used.get(name, 0.0) for name in ("worker", "relay", "producer"))
        )


def worker_environment(
    where: Database, queue: str, endpoint: str, *, orders: int = 0
) -> dict[str, str]:
    """What `benchmarks.pipeline_worker` needs to know."""
    return {
        **CREDENTIALS,
        "PYTHONPATH": str(_ROOT),
        "BENCH_DSN": where.library_url(),
        "BENCH_ORDERS": str(orders),
        "BENCH_QUEUE": queue,
        "BENCH_SQS_ENDPOINT": endpoint,
    }


def _relay(database_url: str, queue: str, endpoint: str) -> Mapping[str, str]:
    return {
        **os.environ,
        **CREDENTIALS,
        "ONCEPROOF_DATABASE_URL": database_url,
        "ONCEPROOF_SQS_ENDPOINT_URL": endpoint,
        "ONCEPROOF_SQS_REGION": REGION,
        "ONCEPROOF_QUEUE": queue,
    }
