"""How the provider is made slow, refusing or silent, as payment providers are in practice.

The worst of the three is silence: the money is taken and the client sees a time-out. Only a client
that repeats the request under the same Idempotency-Key gets out of that without charging twice.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

from starlette.requests import Request

from onceproof.errors import TransientError


@dataclass(frozen=True)
class Misbehaviour:
    """Injected latency and faults; by default none.

    Args:
        latency_ms: milliseconds before each capture.
        jitter_ms: up to so many milliseconds more.
        fault_rate: share of requests, 0 to 1, refused before the capture.
        withhold_s: seconds for which a dropped answer is held back.
        stop: ends the holding back, so that the service can drain.
        rng: source of jitter and faults.
    """

    latency_ms: float = 0
    jitter_ms: float = 0
    fault_rate: float = 0
    withhold_s: float = 30
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    rng: random.Random = field(default_factory=random.Random)

    async def before_capture(self) -> None:
        """Take the time that a provider takes, and sometimes refuse.

        Raises:
            TransientError: an injected fault. Nothing was captured.
        """
        # Drawn together, so that what the n-th request gets does not depend on who sleeps longest.
        delay_s = (self.latency_ms + self.rng.uniform(0, self.jitter_ms)) / 1000
        refused = self.rng.random() < self.fault_rate
        if delay_s:
            await asyncio.sleep(delay_s)
        if refused:
            raise TransientError("injected fault")

    async def withhold(self, request: Request) -> None:
        """Hold the answer back until the client has gone, the service stops, or the time is up.

        The request's body must have been read.
        """
        ends = {
            asyncio.create_task(_disconnected(request)),
            asyncio.create_task(self.stop.wait()),
        }
        try:
            await asyncio.wait(ends, timeout=self.withhold_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
