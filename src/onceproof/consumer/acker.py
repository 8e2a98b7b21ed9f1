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
from onceproof.ports import Subscriber
from onceproof.telemetry import (
    BATCH_COUNT,
    DELIVERY_ATTEMPT,
    EVENT_ID,
    MESSAGE_ID,
    ORDER_ID,
    SpanKind,
    messaging_span,
)

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
        self._full = asyncio.Event()
        self._some = asyncio.Event()

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
        try:
            await self._send(batch)
        except asyncio.CancelledError:
            # At a stop `run` is cancelled in the middle; the last `flush` asks again.
            self._waiting = batch + self._waiting
            raise

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
            attributes=_attributes(single) if single else {BATCH_COUNT: len(batch)},
            links=[Link(ack.processed_in, _attributes(ack)) for ack in batch],
        ):
            results = await self._subscriber.ack([ack.item.message for ack in batch])
        metrics.stale_acks.inc(max(late, sum(result.stale for result in results)))
        for result in results:
            if not result.ok and not result.stale:
                logger.warning("ack failed, the message comes again: %s", result.error)


def _attributes(ack: Ack) -> dict[str, str | int]:
    delivery = ack.item.delivery
    return {
        MESSAGE_ID: delivery.message.message_id,
        EVENT_ID: delivery.event.id,
        ORDER_ID: delivery.event.key or "",
        DELIVERY_ATTEMPT: delivery.attempt,
    }
