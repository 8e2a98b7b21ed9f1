"""`onceproof-relay-cdc`: stands beside Debezium Server, and runs it where no pod does."""

from __future__ import annotations

import random
import sys
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine

from onceproof.outbox import delete_published
from onceproof.outbox.dispatch import Dispatcher
from onceproof.outbox.slot import Slot
from onceproof.postgres import check, create_engine
from onceproof.service import (
    Runtime,
    alongside,
    clean_up,
    connect_broker,
    run_service,
    watch_database,
)
from onceproof.service.asgi import serve
from onceproof_relay.cdc.door import Door
from onceproof_relay.cdc.server import keep_running
from onceproof_relay.cdc.settings import CdcSettings
from onceproof_relay.cdc.watch import require_made, watch


def main() -> int:
    """Run it; the exit code."""
    return run_service(CdcSettings, relay)


async def relay(runtime: Runtime[CdcSettings]) -> None:
    """Stand beside Debezium until asked to stop."""
    settings = runtime.settings
    engine = create_engine(
        settings.database_url.get_secret_value(), application_name="onceproof-relay", pool_size=4
    )
    try:
        await runtime.until_ready("database", lambda: check(engine, "onceproof"))
        slot = Slot(engine, settings.slot)
        async with connect_broker(settings) as broker:
            await runtime.until_ready("broker", broker.subscriber(settings.queue).describe)
            await runtime.until_ready("slot", lambda: require_made(slot))
            # A failed event is sent again by Debezium's client; there is no backoff of ours.
            dispatcher = Dispatcher(
                broker,
                settings.messaging_system,
                0.0,
                0.0,
                random.Random(),  # noqa: S311
            )
            door = Door(dispatcher, runtime.watch)
            async with alongside(
                serve(
                    door.app(), settings.door_host, settings.door_port, runtime.stop,
                    settings.drain_timeout_s,
                ),
                watch(slot, settings.watch_s, settings.idle_grace_s, runtime.watch),
                watch_database(engine, runtime.health),
                clean_up(
                    # With a connection of its own: the watch keeps the other slot's.
                    partial(
                        _delete_sent, engine, Slot(engine, settings.slot), settings.retention_s
                    ),
                    every_s=settings.cleanup_s,
                    what="sent rows",
                ),
                *([keep_running(settings, runtime.stop)] if settings.debezium_home else []),
            ):  # fmt: skip
                runtime.started()
                await runtime.stop.wait()
    finally:
        await engine.dispose()


async def _delete_sent(engine: AsyncEngine, slot: Slot, older_than_s: float) -> int:
    return await slot.delete_sent(older_than_s=older_than_s) + await delete_published(
        engine,
        older_than_s=older_than_s,  # those that a polling relay or a reconciliation has sent
    )


if __name__ == "__main__":
    sys.exit(main())
