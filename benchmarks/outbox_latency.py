"""What the outbox adds to the time from an order's commit to the broker's confirmation.

Both sides commit the same orders at the same moments (an open loop: a slow answer does not slow down
the load), in one transaction for what became due within a tick. Directly, they are handed to eight
senders that take up to ten at once. Through the outbox they are rows: the producer wakes the relay, and
the relay claims and sends. The clock starts when the commit has returned.

Writer, relay and senders share one process, on both sides.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.bench import Bench
from benchmarks.database import Database
from benchmarks.figures import Sample
from benchmarks.latency import Latency
from benchmarks.null_broker import order_event
from benchmarks.queue_content import BATCH, IN_FLIGHT, fresh_queue, require_each_once
from benchmarks.relaying import Relayed
from onceproof.brokers.sqs import SqsBroker
from onceproof.outbox import Listener, OutboxStore, Relay, Waker
from onceproof.ports import Outgoing, SendResult

_TICK_S: Final = 0.005
_WARM_UP_S: Final = 0.5
_CALIBRATION: Final = 5000
_INSERT: Final = """
    INSERT INTO onceproof.outbox (id, destination, key, type, payload, traceparent)
    SELECT id, $1, key, $2, payload, $3
    FROM unnest($4::text[], $5::text[], $6::text[]) AS o (id, key, payload)
"""
# Without an outbox the order itself is still committed.
_INSERT_BARE: Final = """
    INSERT INTO orders (order_id, amount, currency, event_id)
    SELECT key, 1999, 'EUR', id FROM unnest($1::text[], $2::text[]) AS o (id, key)
"""


class _Confirmed:
    """A publisher that notes when each message was confirmed; a batch's, when all of it was."""

    def __init__(self, broker: SqsBroker, expected: int) -> None:
        self._broker = broker
        self._expected = expected
        self.at: dict[str, float] = {}
        self.done = asyncio.Event()

    async def send(self, destination: str, messages: Sequence[Outgoing]) -> list[SendResult]:
        """Send and note."""
        results = await self._broker.send(destination, messages)
        now = time.perf_counter()
        self.at |= {result.id: now for result in results if result.ok}
        if len(self.at) >= self._expected:
            self.done.set()
        return results


class AddedLatency:
    """Half of what the relay can do, offered in turn to the outbox and to a direct publisher.

    Args:
        at: the servers.
        engine: of the relay.
        broker: where to.
        client: a client for making and reading queues.
    """

    name = "outbox - direct"

    def __init__(
        self,
        at: Bench,
        engine: AsyncEngine,
        broker: SqsBroker,
        client: Any,  # noqa: ANN401 - aiobotocore has no types
    ) -> None:
        self._at = at
        self._engine = engine
        self._broker = broker
        self._client = client
        self._orders_per_s = 0.0

    async def prepare(self) -> None:
        """Find out what the relay can do."""
        relay = Relayed(self._at.where, self._engine, self._broker, self._client)
        await relay.measure(_CALIBRATION)
        self._orders_per_s = (await relay.measure(_CALIBRATION)).orders_per_s / 2

    async def measure(self, repeat: int) -> Sample:
        """One run of each; which is first changes with `repeat`.

        Raises:
            InvalidRunError: an order was not in the queue exactly once.
        """
        found = {}
        cpu, started = time.process_time(), time.perf_counter()
        for through_outbox in (True, False) if repeat % 2 else (False, True):
            found[through_outbox] = await self.run(
                self._orders_per_s, self._at.scale.seconds, through_outbox=through_outbox
            )
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        outbox, direct = found[True], found[False]
        return Sample(
            outbox.orders + direct.orders, seconds, cpu, 0,
            values={
                "added_p50_ms": outbox.p50_ms - direct.p50_ms,
                "added_p99_ms": outbox.p99_ms - direct.p99_ms,
                "outbox_p50_ms": outbox.p50_ms, "direct_p50_ms": direct.p50_ms,
                "outbox_p99_ms": outbox.p99_ms, "direct_p99_ms": direct.p99_ms,
                "offered_orders_per_s": self._orders_per_s,
            },
        )  # fmt: skip

    async def run(self, orders_per_s: float, seconds: float, *, through_outbox: bool) -> Latency:
        """Offer `orders_per_s` to one side, after a warm-up that does not count.

        Raises:
            InvalidRunError: an order was not in the queue exactly once.
        """
        where = self._at.where
        orders = round(orders_per_s * (seconds + _WARM_UP_S))
        await where.connection.execute("TRUNCATE onceproof.outbox, orders")
        await where.settle("onceproof.outbox", "orders")
        async with fresh_queue(self._client) as (queue, url):
            confirmed = _Confirmed(self._broker, orders)
            side = _Outbox if through_outbox else _Direct
            committed = await side(where, self._engine, queue, confirmed).run(orders, orders_per_s)
            await require_each_once(self._client, url, orders)
        counted = list(committed)[round(orders_per_s * _WARM_UP_S) :]
        return Latency.of([confirmed.at[one] - committed[one] for one in counted])


class _Side:
    """Commits orders as they become due; the time of each commit by event id."""

    def __init__(
        self, where: Database, engine: AsyncEngine, queue: str, confirmed: _Confirmed
    ) -> None:
        self.where = where
        self.engine = engine
        self.queue = queue
        self.confirmed = confirmed

    async def run(self, orders: int, orders_per_s: float) -> dict[str, float]:
        """Offer the load and wait until all of it is confirmed."""
        raise NotImplementedError

    async def commit(self, messages: Sequence[Outgoing]) -> None:
        """Commit what is due, and see to it that it is sent."""
        raise NotImplementedError

    async def offer(self, orders: int, orders_per_s: float) -> dict[str, float]:
        """The open loop."""
        events = [order_event(number) for number in range(orders)]
        messages = [Outgoing(event.id, event.encode(), event.key) for event in events]
        committed: dict[str, float] = {}
        started = time.perf_counter()
        while len(committed) < orders:
            elapsed = time.perf_counter() - started
            due = min(orders, int(elapsed * orders_per_s) + 1)
            part = messages[len(committed) : due]
            if part:
                await self.commit(part)
                now = time.perf_counter()
                committed |= {message.id: now for message in part}
                self.tell(part)
            await asyncio.sleep(_TICK_S)
        return committed

    def tell(self, messages: Sequence[Outgoing]) -> None:
        """After the commit."""
        raise NotImplementedError


class _Outbox(_Side):
    async def run(self, orders: int, orders_per_s: float) -> dict[str, float]:
        woken = asyncio.Event()
        self._waker = Waker(self.engine)
        duties = [
            asyncio.create_task(Listener(self.engine, woken).run()),
            asyncio.create_task(self._waker.run()),
        ]
        relay = Relay(OutboxStore(self.engine, relay="relay"), self.confirmed, wakeup=woken)
        relaying = asyncio.create_task(relay.run(self.confirmed.done))
        try:
            await asyncio.wait_for(woken.wait(), 10)  # it listens
            committed = await self.offer(orders, orders_per_s)
            await asyncio.wait_for(relaying, 60)
        finally:
            for duty in duties:
                duty.cancel()
            await asyncio.gather(*duties, return_exceptions=True)
        return committed

    async def commit(self, messages: Sequence[Outgoing]) -> None:
        event = order_event(0)
        await self.where.connection.execute(
            _INSERT, self.queue, event.type, event.traceparent,
            [message.id for message in messages], [message.key for message in messages],
            [message.body.decode() for message in messages],
        )  # fmt: skip

    def tell(self, messages: Sequence[Outgoing]) -> None:
        del messages
        self._waker.wake()


class _Direct(_Side):
    async def run(self, orders: int, orders_per_s: float) -> dict[str, float]:
        self._waiting: asyncio.Queue[Outgoing] = asyncio.Queue()
        senders = [asyncio.create_task(self._send()) for _ in range(IN_FLIGHT)]
        try:
            committed = await self.offer(orders, orders_per_s)
            await asyncio.wait_for(self.confirmed.done.wait(), 60)
        finally:
            for sender in senders:
                sender.cancel()
            await asyncio.gather(*senders, return_exceptions=True)
        return committed

    async def commit(self, messages: Sequence[Outgoing]) -> None:
        await self.where.connection.execute(
            _INSERT_BARE,
            [message.id for message in messages],
            [message.key for message in messages],
        )

    def tell(self, messages: Sequence[Outgoing]) -> None:
        for message in messages:
            self._waiting.put_nowait(message)

    async def _send(self) -> None:
        while True:
            part = [await self._waiting.get()]
            while len(part) < BATCH and not self._waiting.empty():
                part.append(self._waiting.get_nowait())
            await self.confirmed.send(self.queue, part)
