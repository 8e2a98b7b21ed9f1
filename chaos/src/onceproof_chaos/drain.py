"""Wait until nothing is on its way any more. A verdict before that would call late orders lost.

Quiet means: the queue is empty, the outbox is empty, no fault is being carried out, and the ledgers
did not change over two windows in a row, each longer than the visibility timeout, because what a dead
consumer held is seen by nobody until that has passed.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from onceproof.brokers.dead_letter import REASON
from onceproof.errors import BrokerUnavailableError
from onceproof.service import Broker
from onceproof_chaos.environment import Stage, asyncpg_url

_POLL_S: Final = 0.25
_QUIET_WINDOWS: Final = 2
_DLQ_VISIBILITY_S: Final = 600.0

PENDING: Final = (
    "SELECT count(*) FROM onceproof.outbox AS row WHERE published_at IS NULL "
    "AND NOT EXISTS (SELECT FROM onceproof.outbox_slots AS slot "
    "WHERE row.seq > slot.from_seq AND row.seq <= slot.confirmed_seq)"
)
"""Events that neither a relay has marked nor a replication slot has passed."""
_PIPELINE: Final = f"""
    SELECT ({PENDING}) AS pending,
           (SELECT count(*) FROM charges) AS charges,
           (SELECT count(*) FROM orders) AS orders
"""  # noqa: S608 - a constant of ours
_PROVIDER: Final = "SELECT count(*) FROM captures"


@dataclass(frozen=True, slots=True)
class Level:
    """How much is still on its way, and what the ledgers hold."""

    queued: int
    pending: int
    orders: int
    charges: int
    captures: int

    @property
    def empty(self) -> bool:
        """Whether nothing is on its way."""
        return self.queued == 0 and self.pending == 0


class QuietWindows:
    """Tells when nothing has happened for two windows in a row.

    Args:
        window_s: seconds of one window; longer than the visibility timeout.
    """

    def __init__(self, window_s: float) -> None:
        self.total_s = window_s * _QUIET_WINDOWS
        self._previous: object = None
        self._since = time.monotonic()

    def over(self, level: object, *, idle: bool) -> bool:
        """Whether both windows have passed, now that `level` is seen.

        Args:
            level: what is going on; a level that differs from the one before begins them anew.
            idle: whether that is nothing; if not, they begin anew as well.
        """
        now = time.monotonic()
        if level != self._previous or not idle:
            self._previous, self._since = level, now
            return False
        return now - self._since >= self.total_s


class Drain:
    """Watches a stage until it is quiet.

    Args:
        stage: what to watch.
        broker: client for the queue.
        window_s: seconds without change that make one quiet window.
    """

    def __init__(self, stage: Stage, broker: Broker, *, window_s: float) -> None:
        self._stage = stage
        self._subscribers = [broker.subscriber(queue) for queue in stage.queues]
        self._dead_letters = broker.subscriber(stage.dead_letter_queue)
        self._window_s = window_s

    async def until_quiet(
        self,
        *,
        timeout_s: float,
        idle: Callable[[], bool],
        enough: Callable[[], bool] = lambda: False,
    ) -> str | None:
        """Wait until all is quiet, or `enough` says that waiting is no longer needed.

        Args:
            timeout_s: seconds at most.
            idle: whether no fault is being carried out.
            enough: ends the wait early.

        Returns:
            None when quiet, else what was still going on.
        """
        deadline = time.monotonic() + timeout_s
        pipeline = await asyncpg.connect(asyncpg_url(self._stage.database_url))
        provider = await asyncpg.connect(asyncpg_url(self._stage.provider_database_url))
        try:
            windows = QuietWindows(self._window_s)
            while not enough():
                level = await self._level(pipeline, provider)
                if windows.over(level, idle=level.empty and idle()):
                    return None
                if time.monotonic() > deadline:
                    return (
                        f"not quiet after {timeout_s:.0f} s: {level.queued} messages in the queue, "
                        f"{level.pending} rows in the outbox, "
                        f"{'no' if idle() else 'a'} fault in progress"
                    )
                await asyncio.sleep(_POLL_S)
            return None
        finally:
            await pipeline.close()
            await provider.close()

    async def dead_letters(self) -> list[dict[str, Any]]:
        """What is in the DLQ; the messages stay there, and who looks next sees them again."""
        rows, seen = [], []
        while messages := await self._dead_letters.receive(
            # A short poll may come back empty on AWS although there are messages.
            max_messages=10,
            wait_s=2,
            visibility_s=_DLQ_VISIBILITY_S,
        ):
            seen += messages
            for message in messages:
                order_id, event_id = _identity(message.body)
                rows.append(
                    {
                        "message_id": message.message_id,
                        "body": message.body.decode(errors="replace"),
                        "attempt": message.attempt,
                        "reason": message.attributes.get(REASON),
                        "order_id": order_id,
                        "event_id": event_id,
                    }
                )
        await self._dead_letters.release(seen, 0)
        return rows

    async def _level(self, pipeline: asyncpg.Connection, provider: asyncpg.Connection) -> Level:
        try:
            queued = sum([(await each.depth()).total for each in self._subscribers])
        except BrokerUnavailableError:
            queued = -1  # unknown is not empty
        row = await pipeline.fetchrow(_PIPELINE)
        return Level(
            queued=queued,
            pending=row["pending"],
            orders=row["orders"],
            charges=row["charges"],
            captures=await provider.fetchval(_PROVIDER),
        )


def _identity(body: bytes) -> tuple[str | None, str | None]:
    """Order and event of a message, as far as its body says."""
    try:
        document = json.loads(body)
    except ValueError:
        return None, None
    if not isinstance(document, dict):
        return None, None
    subject, event_id = document.get("subject"), document.get("id")
    return (
        subject if isinstance(subject, str) else None,
        event_id if isinstance(event_id, str) else None,
    )
