"""Queues in Postgres, as a bound: enqueue and process with no broker in between.

The same orders, written one a transaction by eight connections while a worker claims and charges them.
The clock runs from the word to enqueue until the last charge is written, by the server's own clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

from benchmarks.bench import Bench
from benchmarks.calibrated import Calibrated
from benchmarks.contest import NotRunError
from benchmarks.database import Database
from benchmarks.figures import InvalidRunError, Sample, require_charged_once
from benchmarks.peers.process import Driver, driver, run_driver
from benchmarks.peers.toolchain import go_driver, python_driver

_STUCK_S: Final = 90.0
_POLL_S: Final = 0.02
_SETTLED_S: Final = 0.3
"""After the last order was seen charged, for a duplicate that is still on its way."""
_MAKERS: Final[dict[str, Callable[[], Awaitable[list[str]]]]] = {
    "pgqueuer": lambda: python_driver("pgqueuer"),
    "procrastinate": lambda: python_driver("procrastinate"),
    "dbos": lambda: python_driver("dbos"),
    "river": lambda: go_driver("river"),
}
PEERS: Final = tuple(_MAKERS)


class QueuePeer(Calibrated):
    """A peer with its defaults, or tuned by its own documentation.

    Args:
        at: the servers.
        peer: one of `PEERS`.
        tuned: which settings.
        broken: the negative control: duplicates are charged.
    """

    WARM_UP = 60
    LONG_WARM_UP = 400
    SLOW_PER_S = 60

    def __init__(self, at: Bench, peer: str, *, tuned: bool, broken: bool = False) -> None:
        super().__init__(at, f"{peer}, tuned" if tuned else peer)
        self._peer = peer
        self._environment = {
            "BENCH_DSN": at.where.libpq_url(),
            "BENCH_TUNED": "1" if tuned else "0",
            "BENCH_BROKEN": "1" if broken else "0",
        }
        self._command: list[str] = []

    async def prepare(self) -> None:
        """Build it, make its tables, and find out how many orders fill the time of a run."""
        if self.at.where.url.password:
            raise NotRunError("the peers' drivers take no password: give a server that trusts us")
        self._command = await _MAKERS[self._peer]()
        if self._peer not in self.at.installed:
            await run_driver([*self._command, "setup"], self._environment)
            self.at.installed.add(self._peer)
        await super().prepare()

    async def run(self, orders: int) -> Sample:
        """Enqueue and process `orders` orders.

        Raises:
            InvalidRunError: not every order was charged exactly once.
        """
        where = self.at.where
        await empty(where)
        environment = self._environment | {"BENCH_ORDERS": str(orders)}
        async with (
            driver([*self._command, "work"], environment) as worker,
            driver([*self._command, "enqueue"], environment) as producer,
        ):
            await where.meter.start({"worker": worker.pid, "producer": producer.pid})
            started: datetime = await where.connection.fetchval("SELECT clock_timestamp()")
            await producer.tell("go")
            await producer.heard("done", _STUCK_S)
            await charged(where, orders, worker)
            await where.meter.stop()
        return await charged_sample(where, orders, started)


async def empty(where: Database) -> None:
    """Have no orders, no inbox and no charges."""
    await where.connection.execute("TRUNCATE orders, onceproof.inbox, charges RESTART IDENTITY")
    await where.settle("orders", "onceproof.inbox", "charges")


async def charged(where: Database, orders: int, worker: Driver) -> None:
    """Wait until so many charges were written.

    The sequence of the charges' ids is looked at, which costs the same however many there are.

    Raises:
        InvalidRunError: the worker ended before, or it takes too long.
    """
    try:
        async with asyncio.timeout(_STUCK_S):
            await until_written(where, orders, lambda: worker.ended)
    except TimeoutError:
        raise InvalidRunError(
            f"{orders} orders were not charged in {_STUCK_S:.0f} s: {worker.log()}"
        ) from None
    if worker.ended:
        raise InvalidRunError(f"the worker ended: {worker.log()}")


async def until_written(
    where: Database, orders: int, over: Callable[[], bool] = lambda: False
) -> None:
    """Wait until so many charges were written, or until it is over."""
    while await written(where) < orders and not over():  # noqa: ASYNC110 - other processes write
        await asyncio.sleep(_POLL_S)


async def written(where: Database) -> int:
    """Charges that were written, committed or not."""
    # A sequence has no last value before its first.
    last = await where.connection.fetchval(
        "SELECT last_value FROM pg_sequences "
        "WHERE schemaname = 'public' AND sequencename = 'charges_id_seq'"
    )
    return int(last or 0)


async def charged_sample(where: Database, orders: int, started: datetime) -> Sample:
    """Check the charges, and the time until the last of them.

    Raises:
        InvalidRunError: not every order was charged exactly once.
    """
    resources = await where.meter.collect()
    await asyncio.sleep(_SETTLED_S)
    found = await where.connection.fetchrow(
        "SELECT count(*) AS charges, count(DISTINCT order_id) AS orders, max(created_at) AS at "
        "FROM charges"
    )
    require_charged_once(
        asked=orders, charges=found["charges"], charged_orders=found["orders"], given_back=0
    )
    seconds = (found["at"] - started).total_seconds()
    own = sum(value for name, value in resources.cpu_s.items() if name in {"worker", "producer"})
    return Sample(orders, seconds, own, 0, resources)
