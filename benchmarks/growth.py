"""Memory of a consumer over many messages: a process of its own that takes messages made as it goes.

    python -m benchmarks.growth DATABASE_URL MESSAGES

The first fifth fills pools, caches and the allocator's arenas; growth is counted from there to the end.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import psutil
import uvloop

from benchmarks.effect import CHARGE
from benchmarks.figures import InvalidRunError
from benchmarks.null_broker import DUPLICATE_EVERY, NullSubscriber, order_event
from onceproof.consumer import Consumer, ConsumerSettings
from onceproof.ports import Message, SettleResult
from onceproof.postgres import Connections, create_engine

_ROOT: Final = Path(__file__).resolve().parent.parent
_BATCH: Final = 50
_CONNECTIONS: Final = 8
_LOOKS: Final = 100


class Endless(NullSubscriber):
    """Makes each message when it is asked for, and looks at this process's memory on the way.

    Args:
        messages: how many to hand out; one in 21 is a duplicate of one before.
    """

    def __init__(self, messages: int) -> None:
        super().__init__([])
        self._total = messages
        self._made = 0
        self._orders = 0
        self._past: deque[bytes] = deque(maxlen=DUPLICATE_EVERY * 10)
        self._process = psutil.Process()
        self.rss_mb: list[float] = []

    @property
    def orders(self) -> int:
        """Distinct orders so far."""
        return self._orders

    async def receive(
        self, *, max_messages: int, wait_s: float, visibility_s: float
    ) -> list[Message]:
        """Up to ten; see `NullSubscriber.receive`."""
        del wait_s, visibility_s
        number = min(max_messages, 10, self._total - self._made)
        if not number:
            await self.finished.wait()
        return [self._make() for _ in range(number)]

    async def ack(self, messages: Sequence[Message]) -> list[SettleResult]:
        """Count."""
        looked = self.acked * _LOOKS // self._total
        self.acked += len(messages)
        if self.acked * _LOOKS // self._total > looked:
            self.rss_mb.append(self._process.memory_info().rss / 1e6)
        if self.acked == self._total:
            self._finish()
        return [SettleResult(message.message_id) for message in messages]

    def _make(self) -> Message:
        self._made += 1
        again = self._made % (DUPLICATE_EVERY + 1) == 0
        if again:
            body = self._past[0]
        else:
            body = order_event(self._orders).encode()
            self._orders += 1
            self._past.append(body)
        message_id = f"m-{self._made}"
        return Message(body, message_id, message_id, 1 + again, visible_until=math.inf)


async def growth(database_url: str, messages: int) -> dict[str, float]:
    """Consume `messages`; memory in MB (10^6 bytes) and its growth in percent.

    Raises:
        InvalidRunError: not every order was charged exactly once.
    """
    subscriber = Endless(messages)
    engine = create_engine(database_url, application_name="growth", pool_size=_CONNECTIONS + 1)
    async with Connections(engine, size=_CONNECTIONS + 1) as connections:
        consumer = Consumer(
            subscriber,
            connections,
            effect=CHARGE,
            settings=ConsumerSettings("growth", concurrency=_CONNECTIONS, batch_size=_BATCH),
        )
        started = time.perf_counter()
        await consumer.run(subscriber.finished)
        seconds = time.perf_counter() - started

        async def count(connection: Any) -> tuple[int, int]:  # noqa: ANN401 - asyncpg has no types
            row = await connection.fetchrow(
                "SELECT count(*), count(DISTINCT order_id) FROM charges"
            )
            return int(row[0]), int(row[1])

        charges, orders = await connections.run(count)
    if not charges == orders == subscriber.orders or subscriber.given_back:
        raise InvalidRunError(f"{subscriber.orders} orders, {charges} charges for {orders}")
    settled, last = subscriber.rss_mb[len(subscriber.rss_mb) // 5], subscriber.rss_mb[-1]
    return {
        "messages": messages,
        "orders_per_s": orders / seconds,
        "settled_mb": settled,
        "last_mb": last,
        "largest_mb": max(subscriber.rss_mb),
        "growth_percent": (last - settled) / settled * 100,
    }


async def measure(database_url: str, messages: int) -> dict[str, float]:
    """The same in a process of its own, whose memory is nobody else's.

    Raises:
        InvalidRunError: the process failed; the message has its last words.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.growth", database_url, str(messages),
        cwd=_ROOT, env=dict(os.environ),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, error = await process.communicate()
    if process.returncode:
        raise InvalidRunError(f"the consumer failed: {error.decode(errors='replace')[-500:]}")
    found: dict[str, float] = json.loads(out)
    return found


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(growth(sys.argv[1], int(sys.argv[2])))))
