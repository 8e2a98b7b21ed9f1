"""What stands around a consumer in one run: the other system, and for own loops a proxy at the queue."""

from __future__ import annotations

from typing import Self

from aiobotocore.session import get_session

from onceproof.brokers.sqs.queues import SqsQueues
from onceproof.errors import ConfigurationError
from onceproof_chaos.prove.effects import Effects
from onceproof_chaos.prove.ground import Place
from onceproof_chaos.prove.points import AFTER_EFFECT
from onceproof_chaos.prove.queue_proxy import QueueProxy
from onceproof_chaos.prove.settings import ProveSettings
from onceproof_chaos.prove.traps import HttpTrap


class Doors:
    """Servers of one run; usable as an asynchronous context manager.

    Args:
        place: what the run works on.
        settings: of the proof.

    Raises:
        ConfigurationError: a loop needs an SQS server that a proxy can stand in front of.
    """

    def __init__(self, place: Place, settings: ProveSettings) -> None:
        self._place = place
        endpoint = place.servers.sqs_endpoint
        self._effects = Effects(place.database_url)
        self._queue: QueueProxy | None = None
        if not settings.kind.in_library:
            if endpoint is None or "amazonaws.com" in endpoint:
                raise ConfigurationError(
                    "an own loop is broken at a proxy in front of its queue, which AWS' signatures do "
                    "not allow; use the embedded SQS, or give --sqs-endpoint of an ElasticMQ"
                )
            self._queue = QueueProxy(endpoint)
        self.queue_url = ""

    @property
    def effects_url(self) -> str:
        """Where effects in the other system are asked for."""
        return f"{self._effects.url}/effects"

    @property
    def sqs_endpoint(self) -> str | None:
        """Where the consumer finds its queue; None is AWS."""
        return self._queue.url if self._queue else self._place.servers.sqs_endpoint

    @property
    def longest_visibility_s(self) -> int:
        """Seconds for which a loop itself asked to have messages hidden; 0 where it did not."""
        return self._queue.longest_visibility_s if self._queue else 0

    @property
    def redelivered(self) -> int | None:
        """How often a loop got a message that was handed out before; None where that is not seen."""
        return self._queue.redelivered if self._queue else None

    def trap(self, point: str) -> HttpTrap:
        """The trap at a point of these servers."""
        if point == AFTER_EFFECT:
            return self._effects.trap
        assert self._queue is not None  # noqa: S101 - the matrix has no such point otherwise
        return self._queue.traps[point]

    async def __aenter__(self) -> Self:
        await self._effects.start()
        if self._queue is not None:
            await self._queue.start()
            self.queue_url = await self._find_queue()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._queue is not None:
            await self._queue.stop()
        await self._effects.stop()

    async def _find_queue(self) -> str:
        """The queue's URL as the consumer must use it: through the proxy."""
        where = self._place.servers
        async with get_session().create_client(
            "sqs",
            region_name=where.region,
            endpoint_url=self.sqs_endpoint,
            aws_access_key_id=where.aws.get("AWS_ACCESS_KEY_ID"),
            aws_secret_access_key=where.aws.get("AWS_SECRET_ACCESS_KEY"),
        ) as client:
            return await SqsQueues(client).url(self._place.queue)


__all__ = ["Doors"]
