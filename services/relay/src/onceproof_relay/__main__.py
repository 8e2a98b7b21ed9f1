"""`onceproof-relay`: moves outbox rows to the broker."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time

from onceproof import metrics
from onceproof.errors import TransientError
from onceproof.outbox import Listener, OutboxStore, Relay, RelaySettings, delete_published
from onceproof.postgres import check, create_engine
from onceproof.service import (
    Runtime,
    alongside,
    clean_up,
    connect_broker,
    run_service,
    watch_database,
)
from onceproof_relay.settings import RelayServiceSettings

logger = logging.getLogger(__name__)

GAUGE_INTERVAL_S = 5.0
_GAUGE_SHARE = 10
"""A look at the backlog that takes long is made again after so many times its duration."""
_CONNECTIONS = 6
"""Three are held: to listen, to claim, to mark. The others are for clean-up, gauges and watch."""


def main() -> int:
    """Run the relay; the exit code."""
    return run_service(RelayServiceSettings, relay)


async def relay(runtime: Runtime[RelayServiceSettings]) -> None:
    """Relay until asked to stop."""
    settings = runtime.settings
    engine = create_engine(
        settings.database_url.get_secret_value(),
        application_name="onceproof-relay",
        pool_size=_CONNECTIONS,
    )
    try:
        await runtime.until_ready("database", lambda: check(engine, "onceproof"))
        async with connect_broker(settings) as broker:
            await runtime.until_ready("broker", broker.subscriber(settings.queue).describe)
            store = OutboxStore(engine, relay=f"{socket.gethostname()}-{os.getpid()}")
            wakeup = asyncio.Event()
            async with alongside(
                Listener(engine, wakeup).run(),
                watch_database(engine, runtime.health),
                _watch_backlog(store),
                clean_up(
                    lambda: delete_published(engine, older_than_s=settings.retention_s),
                    every_s=settings.cleanup_s,
                    what="published rows",
                ),
            ):
                runtime.started()
                await Relay(
                    store,
                    broker,
                    wakeup=wakeup,
                    on_health=runtime.watch,
                    settings=RelaySettings(
                        batch_size=settings.batch_size,
                        batches_in_flight=settings.batches_in_flight,
                        lease_s=settings.lease_s,
                        poll_s=settings.poll_s,
                        linger_s=settings.linger_s,
                        backoff_s=settings.backoff_s,
                        backoff_max_s=settings.backoff_max_s,
                        system=settings.messaging_system,
                    ),
                ).run(runtime.stop)
    finally:
        await engine.dispose()


async def _watch_backlog(store: OutboxStore) -> None:
    while True:
        asked = time.monotonic()
        try:
            pending, oldest_age_s = await store.pending()
        except TransientError as error:
            logger.debug("backlog unknown: %s", error)
        else:
            metrics.outbox_pending.set(pending)
            metrics.outbox_oldest_age.set(oldest_age_s)
        await asyncio.sleep(max(GAUGE_INTERVAL_S, _GAUGE_SHARE * (time.monotonic() - asked)))


if __name__ == "__main__":
    sys.exit(main())
