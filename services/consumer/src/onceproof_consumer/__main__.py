"""`onceproof-consumer`: charges each order once."""

from __future__ import annotations

import logging
import sys

import aiohttp
from sqlalchemy.ext.asyncio import async_sessionmaker

from onceproof.consumer import Consumer, ConsumerSettings
from onceproof.errors import DedupWindowError
from onceproof.inbox import check_dedup_window, delete_processed
from onceproof.ports import QueueInfo
from onceproof.postgres import check, create_engine
from onceproof.service import (
    Runtime,
    alongside,
    clean_up,
    connect_broker,
    run_service,
    watch_database,
)
from onceproof_consumer.payment import Payments
from onceproof_consumer.queue_watch import watch_queue
from onceproof_consumer.settings import ConsumerServiceSettings

logger = logging.getLogger(__name__)


def main() -> int:
    """Run the consumer; the exit code."""
    return run_service(ConsumerServiceSettings, consume)


async def consume(runtime: Runtime[ConsumerServiceSettings]) -> None:
    """Consume until asked to stop."""
    settings = runtime.settings
    engine = create_engine(
        settings.database_url.get_secret_value(),
        application_name="onceproof-consumer",
        pool_size=settings.concurrency + 2,
    )
    try:
        await runtime.until_ready("database", lambda: check(engine, "onceproof", "consumer"))
        async with (
            connect_broker(settings, stall_s=settings.visibility_s) as broker,
            aiohttp.ClientSession() as http,
        ):
            subscriber = broker.subscriber(settings.queue)
            queue = await runtime.until_ready("broker", subscriber.describe)
            check_queue(queue, settings)
            payments = Payments(
                http,
                settings.provider_url,
                timeout_s=settings.provider_timeout_s,
                idempotency_key=settings.fixes.idempotency_key,
            )
            consumer = Consumer(
                subscriber,
                async_sessionmaker(engine, expire_on_commit=False),
                payments.handle,
                settings=consumer_settings(settings),
                on_health=runtime.watch,
            )
            async with alongside(
                clean_up(
                    lambda: delete_processed(
                        engine, settings.consumer_name, older_than_s=settings.inbox_retention_s
                    ),
                    every_s=settings.inbox_cleanup_s,
                    what="inbox",
                ),
                watch_database(engine, runtime.health),
                watch_queue(
                    broker.subscriber,
                    settings.queue,
                    inbox_retention_s=settings.inbox_retention_s if settings.fixes.inbox else None,
                    interval_s=settings.queue_watch_s,
                ),
            ):
                runtime.started()
                await consumer.run(runtime.stop)
    finally:
        await engine.dispose()


def consumer_settings(settings: ConsumerServiceSettings) -> ConsumerSettings:
    """The library's settings from the service's."""
    return ConsumerSettings(
        name=settings.consumer_name,
        concurrency=settings.concurrency,
        prefetch=settings.prefetch,
        receives=settings.receives,
        wait_s=settings.wait_s,
        visibility_s=settings.visibility_s,
        handler_timeout_s=settings.handler_timeout_s,
        backoff_s=settings.backoff_s,
        backoff_max_s=settings.backoff_max_s,
        drain_timeout_s=settings.drain_timeout_s,
        system=settings.messaging_system,
        fixes=settings.fixes,
    )


def check_queue(queue: QueueInfo, settings: ConsumerServiceSettings) -> None:
    """Refuse what loses or doubles money, and warn loudly about what only hurts.

    Raises:
        DedupWindowError: the inbox forgets while the queue can still deliver, and nobody said that
            this is acceptable.
    """
    if queue.dead_letter is None:
        logger.warning(
            "queue %r has no DLQ: a message that cannot be processed comes again until its retention "
            "ends and is lost then. Create a queue and set it as the redrive policy of %r.",
            queue.name, queue.name,
        )  # fmt: skip
    if not settings.fixes.inbox:
        return
    try:
        window = check_dedup_window(queue, settings.inbox_retention_s)
    except DedupWindowError as error:
        if not settings.allow_short_inbox:
            raise
        logger.warning("started although %s", error)
        return
    if not window.known:
        logger.warning(
            "the broker does not report the retention of %r, so it cannot be checked that the inbox "
            "remembers long enough: it keeps events for %.1f days, which must exceed the retention of "
            "queue and DLQ together plus that of the queue once more.",
            queue.name, settings.inbox_retention_s / 86400,
        )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
