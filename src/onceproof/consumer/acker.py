"""Ack in batches: one request for up to ten messages, because requests are what SQS charges for.

An ack that fails needs no retry: the message comes again and the inbox recognises it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from opentelemetry.trace import Link, SpanContext

from onceproof import metrics
from onceproof.consumer.inflight import InHand
from onceproof.consumer.tracing import identity
from onceproof.linger import Linger
from onceproof.ports import SettleResult, Subscriber
from onceproof.telemetry import (
    BATCH_COUNT,
    KAFKA,
    RESULT,
    SpanKind,
    describe_messages,
    messaging_span,
    recording,
)

logger = logging.getLogger(__name__)

BATCH: Final = 10
_REQUESTS: Final = 4
"""Calls of `Subscriber.ack` at once."""
_BACKLOG: Final = 1000
"""Acks that may wait before no more is received."""


@dataclass(frozen=True, slots=True)
class Ack:
    """A message to ack, and the span that processed it."""

    item: InHand
    processed_in: SpanContext


class Acker:
    """Collects acks and sends them in batches of ten, a smaller one after `linger_s` seconds at most.

    Several requests are in flight at once: with one, a broker that takes a while to answer would be
    what limits the consumer.
    """

    def __init__(self, subscriber: Subscriber, *, linger_s: float, system: str) -> None:
        self._subscriber = subscriber
        self._linger = Linger(linger_s, fill=BATCH)
        self._system = system
        self._waiting: list[Ack] = []
        self._sending: dict[asyncio.Task[None], list[Ack]] = {}
        self._full = asyncio.Event()
        self._some = asyncio.Event()
        self._keeps_up = asyncio.Event()
        self._keeps_up.set()
        self._requests = asyncio.Semaphore(_REQUESTS)

    @property
    def unacked(self) -> list[Ack]:
        """What is not known to be acked: it waits, or its request has no answer yet."""
        return [*(ack for batch in self._sending.values() for ack in batch), *self._waiting]

    def add(self, ack: Ack) -> None:
        """Have a message acked soon."""
        self._waiting.append(ack)
        if len(self._waiting) == 1:
            self._some.set()
        elif len(self._waiting) == BATCH:
            self._full.set()
        elif len(self._waiting) == _BACKLOG:
            self._keeps_up.clear()

    async def keeps_up(self) -> None:
        """Wait while too much waits to be acked: it is in memory, and its visibility runs."""
        await self._keeps_up.wait()

    async def run(self) -> None:
        """Send batches until cancelled; `flush` sends what is left."""
        try:
            while True:
                await self._some.wait()
                pause_s = self._linger.delay_s(time.monotonic())
                if len(self._waiting) < BATCH and pause_s:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(pause_s):
                            await self._full.wait()
                await self._requests.acquire()
                # Full requests now; what is left over waits for company.
                waiting = len(self._waiting)
                batch = self._take(waiting - waiting % BATCH or waiting)
                if not batch:  # a flush was faster
                    self._requests.release()
                    continue
                self._linger.took(len(batch), time.monotonic())
                request = asyncio.create_task(self._send(batch), name="ack")
                self._sending[request] = batch
                request.add_done_callback(self._answered)
        finally:
            # At a stop requests are cut off in the middle; the last `flush` asks again.
            cut_off = list(self._sending)
            for request in cut_off:
                request.cancel()
            await asyncio.gather(*cut_off, return_exceptions=True)

    async def flush(self) -> None:
        """Send everything that waits."""
        batch = self._take(len(self._waiting))
        if batch:
            await self._send(batch)

    def _take(self, most: int) -> list[Ack]:
        batch, self._waiting = self._waiting[:most], self._waiting[most:]
        if not self._waiting:
            self._some.clear()
        if len(self._waiting) < BATCH:
            self._full.clear()
        if len(self._waiting) < _BACKLOG:
            self._keeps_up.set()
        return batch

    def _answered(self, request: asyncio.Task[None]) -> None:
        batch = self._sending.pop(request)
        self._requests.release()
        if request.cancelled():
            self._waiting = batch + self._waiting
            self._some.set()  # for the last `flush`
        elif error := request.exception():
            logger.error("acks were not sent, the messages come again", exc_info=error)

    async def _send(self, batch: list[Ack]) -> None:
        late = sum(ack.item.lapsed for ack in batch)
        messages = [ack.item.message for ack in batch]
        if not recording():
            self._judge(late, await self._subscriber.ack(messages))
            return
        single = batch[0] if len(batch) == 1 else None
        with messaging_span(
            self._system,
            "commit" if self._system == KAFKA else "ack",
            "settle",
            self._subscriber.queue,
            kind=SpanKind.CLIENT,
            # Alone, an ack belongs into its order's trace; a batch can only link to several.
            parent=single.processed_in if single else None,
            attributes=identity(single.item) if single else {BATCH_COUNT: len(batch)},
            links=[Link(ack.processed_in, identity(ack.item)) for ack in batch],
        ) as span:
            results = await self._subscriber.ack(messages)
            describe_messages(
                span,
                (
                    identity(ack.item) | {RESULT: _result(result)}
                    for ack, result in zip(batch, results, strict=True)
                ),
            )
        self._judge(late, results)

    def _judge(self, late: int, results: Sequence[SettleResult]) -> None:
        metrics.stale_acks.inc(max(late, sum(result.stale for result in results)))
        for result in results:
            if not result.ok and not result.stale:
                logger.warning("ack failed, the message comes again: %s", result.error)


def _result(result: SettleResult) -> str:
    if result.ok:
        return "confirmed"
    return "stale" if result.stale else "not_confirmed"
