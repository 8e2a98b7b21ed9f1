"""Everything outside of the operator that a drill or a campaign works with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Self

import aiohttp

from onceproof.service import Broker, connect_broker
from onceproof_chaos.admin_client import AdminClient
from onceproof_chaos.drain import Drain
from onceproof_chaos.environment import Servers, Stage, asyncpg_url
from onceproof_chaos.kafka import look_on
from onceproof_chaos.traces import TraceStore
from onceproof_operator.cluster import Cluster
from onceproof_operator.settings import OperatorSettings


@dataclass(frozen=True)
class World:
    """Cluster, admin ports, databases, broker and trace store."""

    settings: OperatorSettings
    cluster: Cluster
    http: aiohttp.ClientSession
    admin: AdminClient
    broker: Broker
    traces: TraceStore
    admission: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a drill or campaign looks whether it may begin, and says that it does."""

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: OperatorSettings) -> AsyncIterator[Self]:
        """Connect to what needs a connection; nothing is asked yet.

        Raises:
            ConfigurationError: there is no cluster, or no client of the broker can be made.
        """
        async with AsyncExitStack() as stack:
            # Each armed pod holds a connection of its own while it is waited for.
            connector = aiohttp.TCPConnector(limit=0)
            http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
            yield cls(
                settings=settings,
                cluster=await stack.enter_async_context(Cluster.connect(settings.namespace)),
                http=http,
                admin=AdminClient(http),
                broker=await stack.enter_async_context(_broker(settings)),
                traces=TraceStore(http, settings.traces_url),
            )

    @property
    def database_url(self) -> str:
        """The pipeline's database, for asyncpg."""
        return asyncpg_url(self.settings.database_url.get_secret_value())

    @property
    def provider_database_url(self) -> str:
        """The provider's database, for asyncpg."""
        return asyncpg_url(self.settings.provider_database_url.get_secret_value())

    @property
    def window_s(self) -> float:
        """Seconds without change that make one quiet window."""
        return self.settings.visibility_s + 0.5

    def drain(self) -> Drain:
        """Watches queue, outbox and ledgers of the installation."""
        settings = self.settings
        place = Stage(
            servers=Servers(self.database_url, settings.sqs_endpoint_url, {}),
            database_url=self.database_url,
            provider_database_url=self.provider_database_url,
            queue=settings.queue,
            dead_letter_queue=settings.dead_letter_queue,
            postgres_version="",
        )
        return Drain(place, self.broker, window_s=self.window_s)


def _broker(settings: OperatorSettings) -> AbstractAsyncContextManager[Broker]:
    """A client that looks on: in the pipeline's Kafka group it would take partitions from it."""
    if settings.broker == "kafka":
        return look_on(settings.kafka(), settings.queue)
    return connect_broker(settings)
