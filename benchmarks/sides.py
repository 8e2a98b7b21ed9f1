"""Contenders made of sides: whatever can `measure(amount) -> Sample` by itself.

A side prepares its tables with `Database.settle` and checks them with `Database.counts`, between which
the meter runs; see `benchmarks.database`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, Protocol

from benchmarks.bench import Bench
from benchmarks.figures import Resources, Sample

CLIENT: Final = "client"
_WARM_UP: Final = 1000


class Side(Protocol):
    """Does so many orders, or works for so many seconds."""

    async def measure(self, amount: int, /) -> Sample:
        """One timed run.

        Raises:
            InvalidRunError: the work was not done exactly once for each order.
        """
        ...


async def _nothing() -> None:
    return None


class SideContender:
    """A side as a contender, with the length of its runs fitted to the time that was asked for.

    Args:
        at: the servers.
        name: of the contender.
        side: the one.
        seconds: it is told seconds instead of a number of orders.
        leave: closes the side's connections, so that their backends report what they did.
    """

    def __init__(
        self,
        at: Bench,
        name: str,
        side: Side,
        *,
        seconds: bool = False,
        leave: Callable[[], Awaitable[None]] = _nothing,
    ) -> None:
        self.name = name
        self._at = at
        self._side = side
        self._seconds = seconds
        self._leave = leave
        self._amount = 1

    async def prepare(self) -> None:
        """Warm up, and find out how many orders fill the time of a run."""
        if self._seconds:
            await self._side.measure(1)
            self._amount = max(round(self._at.scale.seconds), 1)
            return
        await self._side.measure(_WARM_UP)
        warm = await self._side.measure(_WARM_UP)
        # A multiple of every batch size.
        orders = round(warm.orders_per_s * self._at.scale.seconds / 100) * 100
        self._amount = max(orders, _WARM_UP)

    async def measure(self, repeat: int) -> Sample:
        """One timed run; `repeat` changes nothing."""
        del repeat
        sample = await self._side.measure(self._amount)
        await self._leave()
        used = await self._at.where.meter.collect()
        return replace(sample, resources=with_client(used, sample.cpu_s))


def with_client(used: Resources, cpu_s: float) -> Resources:
    """Resources of a run whose client has measured its own CPU time."""
    return replace(used, cpu_s={CLIENT: cpu_s, **used.cpu_s})
