"""The consumer process of a proof: the user's handler in the library's `Consumer`, or their own loop.

It is a service like the others: settings from the environment, an admin port with the crash points, and
the same shutdown. So what is proved is what runs in production.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy.ext.asyncio import async_sessionmaker

from onceproof.brokers.sqs import SqsBroker
from onceproof.consumer import Consumer, ConsumerSettings, SqlEffect
from onceproof.errors import ConfigurationError
from onceproof.postgres import Connections, check, create_engine
from onceproof.service import Runtime, ServiceSettings, run_service
from onceproof.variants import HARDENED
from onceproof_chaos.prove.points import Kind
from onceproof_chaos.prove.target import load_target

CONSUMER_NAME = "prove"
"""Identity under which the library's inbox claims events."""


class ProveServiceSettings(ServiceSettings):
    """Environment variables `ONCEPROOF_*`. Times in seconds."""

    prove_target: str
    prove_kind: Kind
    prove_path: Path = Path()
    prove_inbox: bool = True
    queue: str
    queue_url: str = ""
    sqs_endpoint_url: str | None = None
    sqs_region: str = "eu-central-1"
    effects_url: str = ""
    visibility_s: float = 30.0
    concurrency: int = 4


@dataclass(frozen=True, slots=True)
class LoopRuntime:
    """What a consumer loop of one's own gets.

    Args:
        queue: name of the queue.
        queue_url: its URL.
        sqs_endpoint_url: of the SQS server; None is AWS.
        region: AWS region.
        database_url: `postgresql://...`.
        effects_url: where effects in the other system are asked for, by POST.
        visibility_s: visibility timeout of the queue in seconds.
        stop: set when the process is to end.
    """

    queue: str
    queue_url: str
    sqs_endpoint_url: str | None
    region: str
    database_url: str
    effects_url: str
    visibility_s: float
    stop: asyncio.Event


def main() -> int:
    """Run the consumer; the exit code."""
    return run_service(ProveServiceSettings, consume)


async def consume(runtime: Runtime[ProveServiceSettings]) -> None:
    """Consume until asked to stop."""
    settings = runtime.settings
    target = load_target(settings.prove_target, settings.prove_path, settings.prove_kind)
    database_url = settings.database_url.get_secret_value()
    if settings.prove_kind is Kind.LOOP:
        loop = LoopRuntime(
            queue=settings.queue,
            queue_url=settings.queue_url,
            sqs_endpoint_url=settings.sqs_endpoint_url,
            region=settings.sqs_region,
            database_url=database_url,
            effects_url=settings.effects_url,
            visibility_s=settings.visibility_s,
            stop=runtime.stop,
        )
        runtime.started()
        await target(loop)
        if not runtime.stop.is_set():
            raise ConfigurationError(
                f"{settings.prove_target} returned by itself; a loop consumes until runtime.stop is set"
            )
        return
    engine = create_engine(
        database_url, application_name=CONSUMER_NAME, pool_size=settings.concurrency + 2
    )
    effect = target if isinstance(target, SqlEffect) else None
    batch = effect is None and settings.prove_kind is Kind.BATCH
    connections = Connections(engine, size=settings.concurrency + 1)
    try:
        await runtime.until_ready("database", lambda: check(engine, "onceproof"))
        async with (
            connections,
            SqsBroker.connect(
                endpoint_url=settings.sqs_endpoint_url, region=settings.sqs_region
            ) as broker,
        ):
            subscriber = broker.subscriber(settings.queue)
            await runtime.until_ready("broker", subscriber.describe)
            consumer = Consumer(
                subscriber,
                connections if effect else async_sessionmaker(engine, expire_on_commit=False),
                None if batch or effect else target,
                handle_batch=target if batch else None,
                effect=effect,
                settings=consumer_settings(settings),
                on_health=runtime.watch,
            )
            runtime.started()
            await consumer.run(runtime.stop)
    finally:
        await engine.dispose()


def consumer_settings(settings: ProveServiceSettings) -> ConsumerSettings:
    """As in production, with short times."""
    return ConsumerSettings(
        name=CONSUMER_NAME,
        concurrency=settings.concurrency,
        visibility_s=settings.visibility_s,
        wait_s=5.0,
        backoff_s=0.2,
        backoff_max_s=1.0,
        drain_timeout_s=5.0,
        fixes=replace(HARDENED, inbox=settings.prove_inbox),
    )
