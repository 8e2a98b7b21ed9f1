"""Decide what happens to each delivery: run it, and ack, release, or reject it by how it ended."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime

from opentelemetry.trace import INVALID_SPAN, Span, Status, StatusCode, use_span

from onceproof import metrics
from onceproof.consumer import tracing
from onceproof.consumer.acker import Ack, Acker
from onceproof.consumer.gate import Gate
from onceproof.consumer.handler import Outcome, Work
from onceproof.consumer.inflight import InFlight, InHand, State
from onceproof.consumer.settings import ConsumerSettings
from onceproof.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    DatabaseUnavailableError,
    PermanentError,
    TransientError,
)
from onceproof.ports import Message, Subscriber
from onceproof.telemetry import DEDUP_HIT, OUTCOME

logger = logging.getLogger(__name__)


class Settler:
    """Takes deliveries in hand through their transaction to their end.

    Args:
        subscriber: where they came from.
        work: runs the handlers.
        acker: takes what is done.
        in_flight: the messages in hand; each is removed when it is settled.
        gate: closed when the database turns out to be away.
        settings: of the consumer.
        rng: source of the jitter.
    """

    def __init__(
        self,
        subscriber: Subscriber,
        work: Work,
        acker: Acker,
        in_flight: InFlight,
        gate: Gate,
        settings: ConsumerSettings,
        rng: random.Random | None = None,
    ) -> None:
        self._subscriber = subscriber
        self._work = work
        self._acker = acker
        self._in_flight = in_flight
        self._gate = gate
        self._settings = settings
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not cryptography
        # All of them from 0 on: a series that begins with its first event shows no increase for it.
        self._settled = {outcome: metrics.messages_processed.labels(outcome) for outcome in Outcome}

    async def settle(self, items: Sequence[InHand]) -> None:
        """Process deliveries in one transaction; one by one when together they fail."""
        ours = [item for item in items if not self._drop_lapsed(item)]
        if not ours:
            return
        if len(ours) > 1 and await self._attempt(ours, last_resort=False):
            return
        for item in ours:
            if len(ours) == 1 or not self._drop_lapsed(item):
                await self._attempt([item], last_resort=True)

    async def release(self, items: Sequence[InHand], delay_s: float) -> None:
        """Give messages back in one request, to be delivered again after `delay_s` seconds."""
        for item in items:
            self._in_flight.remove(item)
        ours = [item for item in items if not item.lapsed]
        for item in ours:
            tracing.released(item, delay_s)
        if ours:
            messages = [item.message for item in ours]
            await self._subscriber.release(messages, delay_s)

    async def reject(self, message: Message, reason: str) -> None:
        """Move a message to the DLQ with its reason; where that fails it comes again by itself."""
        self._settled[Outcome.REJECTED].inc()
        logger.error("message %s goes to the DLQ: %s", message.message_id, reason)
        try:
            await self._subscriber.reject(message, reason)
        except (BrokerUnavailableError, ConfigurationError) as error:
            logger.error("message %s stays in the queue: %s", message.message_id, error)  # noqa: TRY400

    def _drop_lapsed(self, item: InHand) -> bool:
        """Whether the message lapsed while it waited: somebody else has it, so it is let go."""
        if not (self._settings.fixes.visibility_heartbeat and item.lapsed):
            return False
        self._in_flight.remove(item)
        tracing.lapsed(item)
        self._settled[Outcome.STALE].inc()
        return True

    async def _attempt(self, items: Sequence[InHand], *, last_resort: bool) -> bool:
        for item in items:
            item.state = State.WORKING
        spans = tracing.handling(
            self._settings, self._subscriber.queue, items, calls_out=self._work.calls_out
        )
        first = spans[0]
        started = time.monotonic()
        try:
            with nullcontext() if first is INVALID_SPAN else use_span(first, end_on_exit=False):
                outcomes = await self._work.run([item.delivery for item in items])
        except (Exception, asyncio.CancelledError) as raised:
            error = _failure(raised)
            if error is None:
                _end(spans, Outcome.RETRIED)
                raise
            for span in spans:
                span.record_exception(error)
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            if not last_resort and not isinstance(error, DatabaseUnavailableError):
                _end(spans, Outcome.RETRIED)
                logger.warning(
                    "batch of %d failed, its messages are tried one by one: %s", len(items), error
                )
                return False
            outcome = Outcome.REJECTED if isinstance(error, PermanentError) else Outcome.RETRIED
            _end(spans, outcome)
            for item in items:
                await self._failed(item, error)
            return True
        except BaseException:
            _end(spans, Outcome.RETRIED)
            raise
        self._done(items, spans, outcomes, time.monotonic() - started)
        return True

    def _done(
        self,
        items: Sequence[InHand],
        spans: Sequence[Span],
        outcomes: Sequence[Outcome],
        seconds: float,
    ) -> None:
        now = datetime.now(UTC)
        for outcome, count in Counter(outcomes).items() if len(items) > 1 else ((outcomes[0], 1),):
            self._settled[outcome].inc(count)
            if outcome is Outcome.DUPLICATE:
                metrics.dedup_hits.inc(count)
        for item, span, outcome in zip(items, spans, outcomes, strict=True):
            if outcome is not Outcome.DUPLICATE:
                metrics.charge_seconds.observe(seconds)
                age = now - item.delivery.event.time
                metrics.end_to_end_seconds.observe(max(age.total_seconds(), 0.0))
            if span is not INVALID_SPAN:
                _end([span], outcome)
            self._in_flight.remove(item)
            if outcome.settled:
                item.state = State.DONE
                self._acker.add(Ack(item, span.get_span_context()))

    async def _failed(self, item: InHand, error: Exception) -> None:
        if isinstance(error, PermanentError):
            self._in_flight.remove(item)
            await self.reject(item.message, str(error) or type(error).__name__)
            return
        self._settled[Outcome.RETRIED].inc()
        if isinstance(error, DatabaseUnavailableError):
            self._gate.close(str(error))
        delay_s = self._backoff_s(item.delivery.attempt, error)
        expected = isinstance(error, TransientError | TimeoutError)
        logger.warning(
            "event %s failed at attempt %d, again in %.1f s: %s",
            item.delivery.event.id, item.delivery.attempt, delay_s, str(error) or type(error).__name__,
            exc_info=None if expected else error,
        )  # fmt: skip
        await self.release([item], delay_s)

    def _backoff_s(self, attempt: int, error: Exception) -> float:
        wished = error.retry_after_s if isinstance(error, TransientError) else None
        if wished is not None:
            return wished * self._rng.uniform(1.0, 1.2)
        settings = self._settings
        ceiling = min(settings.backoff_max_s, settings.backoff_s * 2 ** min(attempt - 1, 30))
        return self._rng.uniform(ceiling / 2, ceiling)


def _failure(raised: BaseException) -> Exception | None:
    """What a handler's failure is, or None when it is this worker that is being cancelled."""
    if isinstance(raised, Exception):
        return raised
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        return None
    # Something that the handler awaited was cancelled: that must not end the worker.
    return TransientError("the handler was cancelled from within")


def _end(spans: Sequence[Span], outcome: Outcome) -> None:
    for span in spans:
        span.set_attributes({OUTCOME: outcome.value, DEDUP_HIT: outcome is Outcome.DUPLICATE})
        span.end()
