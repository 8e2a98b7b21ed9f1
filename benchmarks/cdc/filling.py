"""How a queue that nobody reads fills."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

from benchmarks.figures import InvalidRunError

_POLL_S: Final = 0.05
_STUCK_S: Final = 300.0

Filled = Sequence[tuple[float, int]]
"""Moments of `time.perf_counter`, and how many messages the queue had."""


async def filling(client: Any, url: str, messages: int) -> Filled:  # noqa: ANN401 - no types
    """Look at a queue until it has so many messages.

    Raises:
        InvalidRunError: it did not get them in time.
    """
    filled: list[tuple[float, int]] = []
    try:
        async with asyncio.timeout(_STUCK_S):
            while not filled or filled[-1][1] < messages:
                answer = await client.get_queue_attributes(
                    QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"]
                )
                found = int(answer["Attributes"]["ApproximateNumberOfMessages"])
                filled.append((time.perf_counter(), found))
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise InvalidRunError(
            f"{filled[-1][1] if filled else 0} of {messages} messages were in the queue "
            f"after {_STUCK_S:.0f} s"
        ) from None
    return filled


def when(filled: Filled, messages: float) -> float:
    """The first moment at which it had so many."""
    return next(at for at, found in filled if found >= messages)
