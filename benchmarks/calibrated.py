"""Contenders whose runs last about as long as was asked for."""

from __future__ import annotations

from typing import ClassVar

from benchmarks.bench import Bench
from benchmarks.figures import Sample
from benchmarks.null_broker import DUPLICATE_EVERY


class Calibrated:
    """A contender that does so many orders a run; a subclass says how.

    Args:
        at: the servers.
        name: of the contender.
    """

    WARM_UP: ClassVar[int] = 300
    """Orders of the first run, which is not looked at."""
    LONG_WARM_UP: ClassVar[int] = 3000
    """Orders of the second, by which the length of the others is fitted."""
    SLOW_PER_S: ClassVar[float] = 0
    """Who is not faster than this in the first run has its length fitted by that one."""

    def __init__(self, at: Bench, name: str) -> None:
        self.name = name
        self.at = at
        self._orders = 0

    async def prepare(self) -> None:
        """Warm up, and find out how many orders fill the time of a run."""
        warm = await self.run(self.WARM_UP)
        if warm.orders_per_s > self.SLOW_PER_S:
            warm = await self.run(self.LONG_WARM_UP)
        wanted = warm.orders_per_s * self.at.scale.seconds
        # Whole twenties, as every twentieth has a duplicate, and not too few to be timed.
        self._orders = max(round(wanted / DUPLICATE_EVERY) * DUPLICATE_EVERY, self.WARM_UP)

    async def measure(self, repeat: int) -> Sample:
        """One timed run; `repeat` changes nothing."""
        del repeat
        return await self.run(self._orders)

    async def run(self, orders: int) -> Sample:
        """Do `orders` orders.

        Raises:
            InvalidRunError: not every order was done exactly once.
        """
        raise NotImplementedError
