"""The producer as a process: settings, lifecycle, and the duties beside the API."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from onceproof.idempotency import delete_expired
from onceproof.outbox import Waker
from onceproof.postgres import Connections, check, create_engine
from onceproof.service import (
    Runtime,
    alongside,
    clean_up,
    connect_broker,
    run_service,
    watch_database,
)
from onceproof.service.asgi import serve
from onceproof_producer.app import create_app
from onceproof_producer.dual_write import DirectPublisher
from onceproof_producer.orders import Orders
from onceproof_producer.settings import ProducerSettings

_OTHERS: Final = 2
"""Connections beside those that write orders: for the duties, which may wait for each other."""


async def run(runtime: Runtime[ProducerSettings]) -> None:
    """Serve orders until the runtime is told to stop."""
    settings = runtime.settings
    engine = create_engine(
        settings.database_url.get_secret_value(),
        application_name=settings.service_name,
        pool_size=settings.pool_size + _OTHERS,
    )
    try:
        await runtime.until_ready("database", lambda: check(engine, "onceproof", "producer"))
        duties = (
            watch_database(engine, runtime.health),
            clean_up(
                lambda: delete_expired(engine, timedelta(seconds=settings.idempotency_retention_s)),
                every_s=settings.idempotency_cleanup_s,
                what="expired idempotency keys",
                # Several producers that started together must not delete together for ever.
                jitter=0.2,
            ),
        )
        connections = Connections(engine, size=settings.pool_size)
        async with (
            alongside(*duties),
            connections,
            _orders(runtime, engine, connections) as orders,
        ):
            await serve(
                create_app(orders, max_body_bytes=settings.max_body_bytes),
                settings.http_host,
                settings.http_port,
                runtime.stop,
                settings.drain_timeout_s,
                on_bound=lambda _: runtime.started(),
            )
    finally:
        await engine.dispose()


@asynccontextmanager
async def _orders(
    runtime: Runtime[ProducerSettings], engine: AsyncEngine, connections: Connections
) -> AsyncIterator[Orders]:
    settings = runtime.settings
    if not settings.fixes.outbox:
        async with connect_broker(settings) as broker:
            await runtime.until_ready("broker", broker.subscriber(settings.queue).describe)
            direct = DirectPublisher(broker, settings.queue, system=settings.messaging_system)
            yield Orders(connections, settings.queue, direct=direct)
    elif settings.notify:
        waker = Waker(engine)
        async with alongside(waker.run()):
            yield Orders(connections, settings.queue, wake=waker.wake)
    else:
        yield Orders(connections, settings.queue)


def main() -> int:
    """Run the service; its exit code."""
    return run_service(ProducerSettings, run)


if __name__ == "__main__":
    sys.exit(main())
