"""One round of a relay between its writers and its readers: set up, used, checked, put away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.cdc.arrivals import Arrivals, arrivals_of
from benchmarks.cdc.offering import Offering, offering_of
from benchmarks.cdc.relays import Kind, Running, relay_of
from benchmarks.contest import NotRunError
from benchmarks.figures import InvalidRunError
from benchmarks.peers.relays import Target
from benchmarks.queue_content import fresh_queue

TABLES: Final = ("onceproof.outbox", "orders")
WARM_UP_S: Final = 1.0
WARM_UP_PER_S: Final = 50
WITHIN_S: Final = 90.0
"""A dead relay's lease of 30 s is in it."""


@dataclass(frozen=True, slots=True)
class Round:
    """What is there during a round; `relay` is None where nobody relays."""

    offering: Offering
    arrivals: Arrivals
    relay: Running | None
    to: Target

    def running(self) -> Running:
        """The relay.

        Raises:
            NotRunError: nobody relays.
        """
        if self.relay is None:
            raise NotRunError("nobody relays")
        return self.relay


@asynccontextmanager
async def around(at: Bench, client: Any, kind: Kind) -> AsyncIterator[Round]:  # noqa: ANN401
    """A queue, an empty outbox, and a relay that has sent its first events.

    Args:
        at: the servers.
        client: of the queue server.
        kind: the relay.
    """
    server = await at.queue_server()
    await at.where.connection.execute(f"TRUNCATE {', '.join(TABLES)}")
    async with (
        fresh_queue(client) as (queue, url),
        AsyncExitStack() as stack,
        offering_of(at.where, kind, queue) as offering,
        arrivals_of(client, url) as arrivals,
    ):
        relay = None
        to = Target(server.endpoint, queue, url)
        if kind.runs:
            relay = await stack.enter_async_context(relay_of(at, kind, to))
            await relay.start()
        warm = await offering.offer(WARM_UP_PER_S, WARM_UP_S)
        if relay is not None:
            await arrivals.until(len(warm), WITHIN_S)
        await at.where.settle(*TABLES)
        yield Round(offering, arrivals, relay, to)


def require_each(committed: set[str], arrivals: Arrivals, *, again: bool = False) -> None:
    """Refuse a round in which an event was lost, or came twice where nothing failed.

    Args:
        committed: ids of all events.
        arrivals: what was read.
        again: whether duplicates are in order, because something was killed.

    Raises:
        InvalidRunError: with what is wrong.
    """
    missing = len(committed - arrivals.at.keys())
    twice = arrivals.seen.total() - len(arrivals.seen)
    if missing or (twice and not again):
        raise InvalidRunError(
            f"of {len(committed)} events {missing} did not arrive, and {twice} messages were duplicates"
        )
