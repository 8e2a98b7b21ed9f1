"""Several consumer processes on one queue that was filled before they start."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime
from typing import Any

from benchmarks.bench import Bench
from benchmarks.calibrated import Calibrated
from benchmarks.end_to_end import worker_environment
from benchmarks.figures import Sample
from benchmarks.null_broker import deliveries
from benchmarks.peers.process import driver
from benchmarks.peers.queues import charged, charged_sample, empty
from benchmarks.queue_ceiling import publish
from benchmarks.queue_content import fresh_queue


class Consumers(Calibrated):
    """The library's consumer with an effect in SQL, in so many processes.

    Args:
        at: the servers.
        client: an SQS client for making and filling queues.
        number: of processes.
    """

    LONG_WARM_UP = 10_000

    def __init__(self, at: Bench, client: Any, number: int) -> None:  # noqa: ANN401
        super().__init__(at, "1 consumer" if number == 1 else f"{number} consumers")
        self._client = client
        self._number = number

    async def run(self, orders: int) -> Sample:
        """Consume the deliveries of `orders` orders.

        Raises:
            InvalidRunError: not every order was charged exactly once.
        """
        where = self.at.where
        server = await self.at.queue_server()
        await empty(where)
        async with fresh_queue(self._client) as (queue, url), AsyncExitStack() as stack:
            await publish(
                self._client, url, [message.body.decode() for message in deliveries(orders)]
            )
            environment = worker_environment(where, queue, server.endpoint)
            command = [sys.executable, "-m", "benchmarks.pipeline_worker", "consume"]
            consumers = [
                await stack.enter_async_context(driver(command, environment))
                for _ in range(self._number)
            ]
            await where.meter.start(
                {f"consumer {n}": each.pid for n, each in enumerate(consumers, start=1)}
            )
            started: datetime = await where.connection.fetchval("SELECT clock_timestamp()")
            for each in consumers:
                await each.tell("go")
            await charged(where, orders, consumers[0])
            await where.meter.stop()
        sample = await charged_sample(where, orders, started)
        used = sample.resources.cpu_s if sample.resources else {}
        own = sum(cpu for name, cpu in used.items() if name.startswith("consumer"))
        return replace(sample, cpu_s=own)
