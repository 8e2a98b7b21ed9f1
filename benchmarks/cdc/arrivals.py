"""When each event was received from its queue, by readers that wait for the next one."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from types import TracebackType
from typing import Any, Final, Self

from benchmarks.figures import InvalidRunError
from benchmarks.queue_content import BATCH

_READERS: Final = 4
_WAIT_S: Final = 1


class Arrivals:
    """Reads a queue while it is used as a context. What it reads stays invisible and is never deleted.

    Args:
        client: of the queue server.
        url: of the queue.
    """

    def __init__(self, client: Any, url: str) -> None:  # noqa: ANN401 - aiobotocore has no types
        self._client = client
        self._url = url
        self._readers: list[asyncio.Task[None]] = []
        self._more = asyncio.Event()
        self.at: dict[str, float] = {}
        self.seen: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        self._readers = [asyncio.create_task(self._read()) for _ in range(_READERS)]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)

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

    async def _read(self) -> None:
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
