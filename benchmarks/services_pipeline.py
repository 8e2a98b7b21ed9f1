"""The pipeline as it is deployed, hardened and naive: what the guarantees cost, or do not.

Producer, relay, consumer and payment provider are the services, each a process of its own, with their
defaults; orders come by HTTP. The clock runs from the first request until the last charge is written.
There are no duplicates in these runs, because naive would charge them twice and its runs would not
count; and an order is what the API takes, which is less than 200 bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import aiohttp

from benchmarks.bench import Bench
from benchmarks.calibrated import Calibrated
from benchmarks.elasticmq import CREDENTIALS, REGION
from benchmarks.figures import InvalidRunError, Sample, require_charged_once
from benchmarks.peers.queues import empty, until_written, written
from benchmarks.ports import free_port
from benchmarks.queue_content import fresh_queue
from benchmarks.service_process import service
from benchmarks.sqs_requests import RequestCounter
from onceproof.postgres import upgrade

_CLIENTS: Final = 16
_STUCK_S: Final = 120.0
_ROLES: Final = ("producer", "relay", "consumer", "provider")


@dataclass(frozen=True, slots=True)
class _Running:
    processes: Mapping[str, int]
    orders_url: str


class ServicesPipeline(Calibrated):
    """All services in one variant.

    Args:
        at: the servers.
        client: an SQS client for making queues.
        variant: `hardened` or `naive`.
        count_requests: through a counting proxy; then the time is not to be used.
    """

    LONG_WARM_UP = 1000

    def __init__(
        self,
        at: Bench,
        client: Any,  # noqa: ANN401 - aiobotocore has no types
        variant: str,
        *,
        count_requests: bool = False,
    ) -> None:
        super().__init__(at, variant)
        self._client = client
        self._count = count_requests

    async def prepare(self) -> None:
        """Make the provider's tables; see `Calibrated.prepare`."""
        await upgrade(self.at.where.library_url(), "provider")
        await super().prepare()

    async def run(self, orders: int) -> Sample:
        """Place `orders` orders.

        Raises:
            InvalidRunError: not every order was charged exactly once, in either ledger.
        """
        server = await self.at.queue_server()
        where = self.at.where
        await where.connection.execute(
            "TRUNCATE onceproof.outbox, onceproof.idempotency_keys, captures"
        )
        await empty(where)
        if not self._count:
            return await self._run(orders, server.endpoint, None)
        async with RequestCounter(server.endpoint) as counter:
            return await self._run(orders, counter.endpoint, counter)

    async def _run(self, orders: int, endpoint: str, counter: RequestCounter | None) -> Sample:
        where = self.at.where
        async with (
            fresh_queue(self._client) as (queue, _),
            self._services(endpoint, queue) as running,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=_CLIENTS)) as http,
        ):
            if counter is not None:
                counter.reset()
            await where.meter.start(running.processes)
            started: datetime = await where.connection.fetchval("SELECT clock_timestamp()")
            try:
                async with asyncio.timeout(_STUCK_S):
                    await place(http, running.orders_url, orders)
                    await until_written(where, orders)
            except TimeoutError:
                raise InvalidRunError(
                    f"{await written(where)} of {orders} orders were charged in {_STUCK_S:.0f} s"
                ) from None
            await where.meter.stop()
            requests = counter.counts() if counter else None
        resources = await where.meter.collect()
        found = await where.connection.fetchrow(
            "SELECT count(*) AS charges, count(DISTINCT order_id) AS orders, max(created_at) AS at, "
            "(SELECT count(*) FROM captures) AS captures FROM charges"
        )
        require_charged_once(
            asked=orders, charges=found["charges"], charged_orders=found["orders"], given_back=0
        )
        require_charged_once(
            asked=orders, charges=found["captures"], charged_orders=found["orders"], given_back=0
        )
        sample = Sample(
            orders,
            (found["at"] - started).total_seconds(),
            sum(resources.cpu_s.get(role, 0.0) for role in _ROLES),
            0,
            resources,
            requests,
        )
        peak = resources.peak_rss_mb.get("consumer")
        return sample if peak is None else replace(sample, values={"consumer_rss_mb": peak})

    @asynccontextmanager
    async def _services(self, endpoint: str, queue: str) -> AsyncIterator[_Running]:
        orders_port, provider_port = free_port(), free_port()
        shared = {
            **CREDENTIALS,
            "ONCEPROOF_VARIANT": self.name,
            "ONCEPROOF_DATABASE_URL": self.at.where.library_url(),
            "ONCEPROOF_SQS_ENDPOINT_URL": endpoint,
            "ONCEPROOF_SQS_REGION": REGION,
            "ONCEPROOF_QUEUE": queue,
            "ONCEPROOF_LOG_LEVEL": "WARNING",
            "ONCEPROOF_HTTP_HOST": "127.0.0.1",
            "ONCEPROOF_PROVIDER_URL": f"http://127.0.0.1:{provider_port}",
        }
        # Naive has no outbox, so it has no relay either.
        roles = [role for role in _ROLES if role != "relay" or self.name != "naive"]
        ports = {"producer": orders_port, "provider": provider_port}
        async with AsyncExitStack() as stack:
            processes = {}
            for role in roles:
                own = {"ONCEPROOF_HTTP_PORT": str(ports[role])} if role in ports else {}
                processes[role] = await stack.enter_async_context(
                    service(f"onceproof_{role}", free_port(), shared | own)
                )
            yield _Running(processes, f"http://127.0.0.1:{orders_port}/orders")


async def place(http: aiohttp.ClientSession, url: str, orders: int) -> None:
    """Place orders, `_CLIENTS` at a time.

    Raises:
        InvalidRunError: one was not accepted.
    """
    numbers = iter(range(orders))

    async def one_after_the_other() -> None:
        for number in numbers:
            order = {"order_id": f"o-{number:012d}", "amount": 1999, "currency": "EUR"}
            async with http.post(
                url, json=order, headers={"Idempotency-Key": f"k-{number:012d}"}
            ) as answer:
                if answer.status != 201:
                    raise InvalidRunError(
                        f"an order was answered {answer.status}: {(await answer.text())[:200]}"
                    )
                await answer.read()

    await asyncio.gather(*(one_after_the_other() for _ in range(_CLIENTS)))
