"""One order at a time: a fault then meets nobody but the order that it was meant for.

A kill takes everything that its process has in hand. Under a steady load that would be whichever orders
happen to be on their way, and what becomes of them would be chance; here nothing else is on its way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Self

import asyncpg

from onceproof.errors import BrokerUnavailableError
from onceproof.ports import Subscriber
from onceproof.service import Broker
from onceproof_chaos.drain import PENDING
from onceproof_chaos.environment import Stage, asyncpg_url
from onceproof_chaos.workload import Order

_FIRST_POLL_S: Final = 0.03
_MAX_POLL_S: Final = 0.25


class Quiet:
    """Tells whether anything is on its way.

    Args:
        pipeline: connection to the pipeline's database.
        queues: the queues that an order goes through.
        idle: whether no fault is being carried out.
    """

    def __init__(
        self,
        pipeline: asyncpg.Connection,
        queues: Sequence[Subscriber],
        idle: Callable[[], bool],
    ) -> None:
        self._pipeline = pipeline
        self._queues = queues
        self._idle = idle

    @classmethod
    @asynccontextmanager
    async def of(
        cls, place: Stage, broker: Broker, idle: Callable[[], bool]
    ) -> AsyncIterator[Self]:
        """One for a stage; its connection is closed at the end."""
        pipeline = await asyncpg.connect(asyncpg_url(place.database_url))
        try:
            yield cls(pipeline, [broker.subscriber(queue) for queue in place.queues], idle)
        finally:
            await pipeline.close()

    async def __call__(self) -> bool:
        """Whether outbox and queues are empty, in-flight messages included, and no fault is going on."""
        # The outbox first: a row is marked after its message is in the queue, so what is not in the
        # outbox any more is seen in the queue, or was handled.
        if not self._idle() or await self._pipeline.fetchval(PENDING):
            return False
        try:
            # In the sequence in which an order goes through them, for the same reason.
            for queue in self._queues:
                if (await queue.depth()).total:
                    return False
            return self._idle()
        except BrokerUnavailableError:
            return False


async def one_at_a_time(
    orders: Sequence[Order],
    place: Callable[[Order], Awaitable[None]],
    quiet: Callable[[], Awaitable[bool]],
    *,
    timeout_s: float,
) -> list[str]:
    """Place each order when the one before it has come to its end.

    Args:
        orders: in sequence.
        place: places one; returns when its client has an outcome.
        quiet: whether nothing is on its way.
        timeout_s: seconds to wait for that, after each order.

    Returns:
        The orders that were not alone, because one before them had not come to its end in time.
    """
    crowded = []
    settled = True
    for order in orders:
        if not settled:
            crowded.append(order.order_id)
        await place(order)
        settled = await _until(quiet, timeout_s)
    return crowded


async def _until(condition: Callable[[], Awaitable[bool]], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    pause_s = _FIRST_POLL_S
    while not await condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(pause_s)
        pause_s = min(1.5 * pause_s, _MAX_POLL_S)
    return True


__all__ = ["Quiet", "one_at_a_time"]
