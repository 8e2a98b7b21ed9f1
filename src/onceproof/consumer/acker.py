"""Ack in batches: one request for up to ten messages, because requests are what SQS charges for.

An ack that fails needs no retry: the message comes again and the inbox recognises it.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from opentelemetry.trace import Link, SpanContext

from onceproof import metrics
from onceproof.consumer.inflight import InHand
from onceproof.consumer.tracing import identity
from onceproof.ports import SettleResult, Subscriber
from onceproof.telemetry import BATCH_COUNT, RESULT, SpanKind, describe_messages, messaging_span

logger = logging.getLogger(__name__)

BATCH = 10


@dataclass(frozen=True, slots=True)
class Ack:
    """A message to ack, and the span that processed it."""

    item: InHand
    processed_in: SpanContext


class Acker:
    """Collects acks and sends them, each batch after at most `linger_s` seconds."""

    def __init__(self, subscriber: Subscriber, *, linger_s: float, system: str) -> None:
        self._subscriber = subscriber
        self._linger_s = linger_s
        self._system = system
        self._waiting: list[Ack] = []
        self._sending: list[Ack] = []
        self._full = asyncio.Event()
        self._some = asyncio.Event()

    @property
    def unacked(self) -> list[Ack]:
        """What is not known to be acked: it waits, or its request has no answer yet."""
        return [*self._sending, *self._waiting]

    def add(self, ack: Ack) -> None:
        """Have a message acked soon."""
        self._waiting.append(ack)
        self._some.set()
        if len(self._waiting) >= BATCH:
            self._full.set()

    async def run(self) -> None:
        """Send batches until cancelled; `flush` sends what is left."""
        while True:
            await self._some.wait()
            try:
                async with asyncio.timeout(self._linger_s):
                    await self._full.wait()
            except TimeoutError:
                pass
            await self.flush()

    async def flush(self) -> None:
        """Send everything that waits."""
        batch, self._waiting = self._waiting, []
        self._some.clear()
        self._full.clear()
        if not batch:
            return
        self._sending = batch
        try:
            await self._send(batch)
        except asyncio.CancelledError:
            # At a stop `run` is cancelled in the middle; the last `flush` asks again.
            self._waiting = batch + self._waiting
            raise
        finally:
            self._sending = []

    async def _send(self, batch: list[Ack]) -> None:
        late = sum(ack.item.lapsed for ack in batch)
        single = batch[0] if len(batch) == 1 else None
        with messaging_span(
            self._system,
            "ack",
            "settle",
            self._subscriber.queue,
            kind=SpanKind.CLIENT,
            # Alone, an ack belongs into its order's trace; a batch can only link to several.
            parent=single.processed_in if single else None,
            attributes=identity(single.item) if single else {BATCH_COUNT: len(batch)},
            links=[Link(ack.processed_in, identity(ack.item)) for ack in batch],
        ) as span:
            results = await self._subscriber.ack([ack.item.message for ack in batch])
            describe_messages(
                span,
                (
                    identity(ack.item) | {RESULT: _result(result)}
                    for ack, result in zip(batch, results, strict=True)
                ),
            )
        metrics.stale_acks.inc(max(late, sum(result.stale for result in results)))
        for result in results:
            if not result.ok and not result.stale:
                logger.warning("ack failed, the message comes again: %s", result.error)


def _result(result: SettleResult) -> str:
    if result.ok:
        return "confirmed"
    return "stale" if result.stale else "not_confirmed"
