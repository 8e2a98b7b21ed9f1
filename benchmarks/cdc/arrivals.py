"""When each event was received from its queue, by readers that wait for the next one."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from benchmarks.figures import InvalidRunError
from benchmarks.queue_content import BATCH
from onceproof.service import alongside

_READERS: Final = 4
_WAIT_S: Final = 1


@asynccontextmanager
async def arrivals_of(client: Any, url: str) -> AsyncIterator[Arrivals]:  # noqa: ANN401 - no types
    """Read a queue meanwhile. What is read stays invisible and is never deleted.

    Args:
        client: of the queue server.
        url: of the queue.
    """
    arrivals = Arrivals(client, url)
    async with alongside(*(arrivals.read() for _ in range(_READERS))):
        yield arrivals


class Arrivals:
    """What was received so far: when each event came first, and how often."""

    def __init__(self, client: Any, url: str) -> None:  # noqa: ANN401 - aiobotocore has no types
        self._client = client
        self._url = url
        self._more = asyncio.Event()
        self.at: dict[str, float] = {}
        self.seen: Counter[str] = Counter()

    async def until(self, events: int, within_s: float) -> None:
        """Wait until so many distinct events were received.

        Raises:
            InvalidRunError: they did not come in time.
        """
        try:
            async with asyncio.timeout(within_s):
                while len(self.at) < events:
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise InvalidRunError(
                f"{len(self.at)} of {events} events arrived within {within_s:.0f} s"
            ) from None

    async def read(self) -> None:
        """Receive until cancelled."""
        while True:
            answer = await self._client.receive_message(
                QueueUrl=self._url, MaxNumberOfMessages=BATCH, WaitTimeSeconds=_WAIT_S
            )
            now = time.perf_counter()
            for message in answer.get("Messages", []):
                event_id = json.loads(message["Body"])["id"]
                self.seen[event_id] += 1
                self.at.setdefault(event_id, now)
            self._more.set()
