"""Memory of one consumer process, and how much it grows over many messages.

The library's consumer with an effect in SQL, as in the end-to-end contest, because a growth that
shows in a million messages must be looked at in more than a thousand. The first fifth fills pools,
caches and the allocator's arenas; growth is counted from there to the end.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

import psutil

from benchmarks.bench import Bench
from benchmarks.end_to_end import worker_environment
from benchmarks.figures import Sample
from benchmarks.null_broker import deliveries
from benchmarks.peers.process import Driver, driver
from benchmarks.peers.queues import charged_sample, empty, written
from benchmarks.queue_ceiling import publish
from benchmarks.queue_content import fresh_queue

_CHUNK: Final = 10_000
_AHEAD: Final = 20_000
"""Messages in the queue at most, so that it is the consumer's memory that grows, not the broker's."""
_POLL_S: Final = 0.1


class ConsumerMemory:
    """A consumer process and its memory.

    Args:
        at: the servers.
        client: an SQS client for filling the queue.
        messages: orders that it consumes.
    """

    name = "consumer"

    def __init__(self, at: Bench, client: Any, messages: int) -> None:  # noqa: ANN401
        self._at = at
        self._client = client
        self._messages = messages

    async def prepare(self) -> None:
        """Nothing to get ready."""

    async def measure(self, repeat: int) -> Sample:
        """Consume them all; `repeat` changes nothing."""
        del repeat
        where = self._at.where
        server = await self._at.queue_server()
        await empty(where)
        async with fresh_queue(self._client) as (queue, url):
            environment = worker_environment(where, queue, server.endpoint)
            command = [sys.executable, "-m", "benchmarks.pipeline_worker", "work"]
            async with driver(command, environment) as consumer:
                await where.meter.start({"worker": consumer.pid})
                started = await where.connection.fetchval("SELECT clock_timestamp()")
                sizes = await self._feed(consumer, url)
                await where.meter.stop()
        sample = await charged_sample(where, self._messages, started)
        settled = next(rss for done, rss in sizes if done >= self._messages / 5)
        last = sizes[-1][1]
        return Sample(
            sample.orders, sample.seconds, sample.cpu_s, 0, sample.resources,
            values={
                "consumer_rss_mb": max(rss for _, rss in sizes),
                "growth_percent": (last - settled) / settled * 100,
            },
        )  # fmt: skip

    async def _feed(self, consumer: Driver, url: str) -> list[tuple[int, float]]:
        """Keep the queue filled until all are charged; (charged so far, RSS in MB) over time."""
        process = psutil.Process(consumer.pid)
        sizes: list[tuple[int, float]] = []
        sent = 0
        while True:
            done = await written(self._at.where)
            sizes.append((done, process.memory_info().rss / 1e6))
            if done >= self._messages:
                return sizes
            if sent < self._messages and sent - done < _AHEAD:
                chunk = min(_CHUNK, self._messages - sent)
                messages = await asyncio.to_thread(deliveries, chunk, sent)
                await publish(self._client, url, [each.body.decode() for each in messages])
                sent += chunk
            elif consumer.ended:
                return sizes
            else:
                await asyncio.sleep(_POLL_S)
