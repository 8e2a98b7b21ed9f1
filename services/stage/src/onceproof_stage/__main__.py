"""`onceproof-stage`: makes payment requests of orders, in Kafka transactions."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace

from onceproof.brokers.kafka import FencedError, Stage, StageSettings, stage_group
from onceproof.errors import ConfigurationError, MalformedEventError
from onceproof.events import ORDER_PLACED, Event
from onceproof.service import Runtime, connect_broker, run_service
from onceproof_stage.settings import StageServiceSettings

logger = logging.getLogger(__name__)

SOURCE = "/onceproof/stage"


def main() -> int:
    """Run the stage; the exit code."""
    return run_service(StageServiceSettings, stage)


async def stage(runtime: Runtime[StageServiceSettings]) -> None:
    """Work until asked to stop, or until a successor under the same transactional id takes over."""
    settings = runtime.settings
    if settings.broker != "kafka":
        raise ConfigurationError("transactions are Kafka's: set ONCEPROOF_BROKER=kafka")
    async with connect_broker(settings) as broker:
        info = await runtime.until_ready("broker", broker.subscriber(settings.queue).describe)
        await runtime.until_ready("broker", broker.subscriber(settings.target).describe)
    kafka = settings.kafka(stall_s=settings.transaction_timeout_s)
    work = Stage(
        replace(kafka, group=stage_group(settings.kafka_group)),
        StageSettings(
            source=settings.queue,
            target=settings.target,
            transactional_id=settings.transactional_id,
            dead_letter=info.dead_letter.name if info.dead_letter else None,
            commit_interval_s=settings.commit_interval_s,
            timeout_s=settings.transaction_timeout_s,
        ),
        payment_request,
        on_health=runtime.watch,
    )
    runtime.started()
    try:
        await work.run(runtime.stop)
    except FencedError as error:
        # Not an error of this process: it stood still, and its work is being done.
        logger.warning("this one ends, a successor has taken over: %s", error)


def payment_request(order: Event) -> Event:
    """The same event for whoever takes payments: its identity stays, so that it is charged once.

    Raises:
        MalformedEventError: not an order.
    """
    if order.type != ORDER_PLACED:
        raise MalformedEventError(f"not an order: event type {order.type!r}")
    return replace(order, source=SOURCE)


if __name__ == "__main__":
    sys.exit(main())
