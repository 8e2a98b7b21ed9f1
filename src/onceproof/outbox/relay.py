"""The relay: claims pending rows, sends them with the broker's batch API, marks each by its result.

At least once by construction: a relay that dies between send and mark leaves its rows to be sent
again under new message ids, which is why consumers deduplicate on the event's id.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from onceproof import metrics
from onceproof.crashpoints import RELAY_AFTER_PUBLISH, RELAY_BEFORE_PUBLISH, crash_point
from onceproof.errors import InjectedDropError, TransientError
from onceproof.outbox.store import OutboxRow, OutboxStore, RowResult
from onceproof.ports import HealthListener, Outgoing, Publisher, SendResult
from onceproof.telemetry import (
    BATCH_COUNT,
    DELIVERY_ATTEMPT,
    EVENT_ID,
    MESSAGE_ID,
    ORDER_ID,
    SENDER,
    SpanKind,
    describe_messages,
    link_to,
    messaging_span,
    remote_context,
    sent_attributes,
)

logger = logging.getLogger(__name__)

_ERROR_CHARS: Final = 500


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """How a relay works.

    Args:
        batch_size: rows per claim. Several broker batches, so that their requests overlap.
        lease_s: seconds for which claimed rows are ours. Must exceed the broker's slowest answer, or
            another relay sends them again meanwhile.
        poll_s: seconds between looks at the table when nobody wakes the relay. The wake-up is an
            optimisation; this poll is what guarantees delivery.
        backoff_s: first delay of a failed row in seconds; it doubles with each attempt.
        backoff_max_s: longest delay of a failed row.
        database_backoff_s: pause in seconds when the database is away, or when not one row of a full
            batch could be sent, which means that the broker is.
        system: `messaging.system` in spans.
    """

    batch_size: int = 100
    lease_s: float = 30.0
    poll_s: float = 1.0
    backoff_s: float = 0.5
    backoff_max_s: float = 60.0
    database_backoff_s: float = 1.0
    system: str = "aws_sqs"


class Relay:
    """Moves outbox rows to a broker until it is stopped. Several run side by side.

    Args:
        store: the outbox.
        publisher: the broker.
        wakeup: set by whoever knows of new rows; see `Listener`.
        settings: how it works.
        rng: source of the jitter.
        on_health: told why the broker takes nothing at all (`broker`, reason), and None when it does.
    """

    def __init__(
        self,
        store: OutboxStore,
        publisher: Publisher,
        *,
        wakeup: asyncio.Event | None = None,
        settings: RelaySettings | None = None,
        rng: random.Random | None = None,
        on_health: HealthListener = lambda _dependency, _reason: None,
    ) -> None:
        self._on_health = on_health
        self._store = store
        self._publisher = publisher
        self._wakeup = wakeup or asyncio.Event()
        self._settings = settings or RelaySettings()
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not cryptography
        self._failed_at: float | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Relay until `stop` is set; a batch in hand is finished first."""
        stopper = asyncio.create_task(_forward(stop, self._wakeup))
        try:
            while not stop.is_set():
                self._wakeup.clear()
                if stop.is_set():
                    break
                try:
                    claimed, failed = await self._relay_batch()
                except TransientError as error:
                    logger.warning("outbox not reachable, trying again: %s", error)
                    await self._pause(stop, self._settings.database_backoff_s)
                    continue
                if not claimed:
                    self._forget_failure()
                    await self._pause(self._wakeup, self._settings.poll_s)
                elif failed == claimed >= self._settings.batch_size:
                    # Without a pause a long backlog would be claimed and failed through in a spin.
                    await self._pause(stop, self._settings.database_backoff_s)
        finally:
            stopper.cancel()
            await asyncio.gather(stopper, return_exceptions=True)

    async def run_once(self) -> int:
        """Claim, send and mark one batch; the number of rows claimed.

        Raises:
            TransientError: of the database; rows already sent stay claimed and are sent again.
        """
        claimed, _ = await self._relay_batch()
        return claimed

    async def _relay_batch(self) -> tuple[int, int]:
        """Rows claimed, and how many of them were not sent."""
        settings = self._settings
        rows = await self._store.claim(settings.batch_size, settings.lease_s)
        if not rows:
            return 0, 0
        by_destination: dict[str, list[OutboxRow]] = defaultdict(list)
        for row in rows:
            by_destination[row.destination].append(row)
        batches = await asyncio.gather(
            *(self._publish(destination, part) for destination, part in by_destination.items())
        )
        results = [result for batch in batches for result in batch]
        await self._store.mark(results)
        errors = [result.error for result in results if result.error is not None]
        failed = len(errors)
        nothing_taken = failed == len(results)
        self._failed_at = time.monotonic() if nothing_taken else None
        self._on_health("broker", errors[-1] if nothing_taken else None)
        metrics.published.inc(len(results) - failed)
        metrics.publish_failures.inc(failed)
        return len(rows), failed

    def _forget_failure(self) -> None:
        """Be healthy again: what failed here would be back by now if another relay had not sent it."""
        longest_s = self._settings.backoff_max_s
        if self._failed_at is not None and time.monotonic() - self._failed_at > longest_s:
            self._failed_at = None
            self._on_health("broker", None)

    async def _pause(self, until: asyncio.Event, seconds: float) -> None:
        await _wait(until, seconds * self._rng.uniform(0.8, 1.2))

    async def _publish(self, destination: str, rows: Sequence[OutboxRow]) -> list[RowResult]:
        dropped: dict[str, str] = {}
        to_send: list[OutboxRow] = []
        for row in rows:
            try:
                crash_point(RELAY_BEFORE_PUBLISH, row.key or "", row.attempts, row.id)
            except InjectedDropError as error:
                dropped[row.id] = str(error)
            else:
                to_send.append(row)
        sent = {result.id: result for result in await self._send(destination, to_send)}
        for row in to_send:
            try:
                crash_point(RELAY_AFTER_PUBLISH, row.key or "", row.attempts, row.id)
            except InjectedDropError as error:
                sent[row.id] = SendResult(row.id, error=f"outcome unknown: {error}")
        return [
            self._result(row, dropped.get(row.id) or sent[row.id].error, sent.get(row.id))
            for row in rows
        ]

    async def _send(self, destination: str, rows: Sequence[OutboxRow]) -> list[SendResult]:
        if not rows:
            return []
        single = rows[0] if len(rows) == 1 else None
        parent = remote_context(single.traceparent) if single else None
        with messaging_span(
            self._settings.system,
            "send",
            "send",
            destination,
            kind=SpanKind.PRODUCER,
            parent=parent,
            attributes={
                SENDER: "relay",
                **(_row_attributes(single) if single else {BATCH_COUNT: len(rows)}),
            },
            links=link_to(parent),
        ) as span:
            results = await self._publisher.send(
                destination,
                [Outgoing(row.id, row.payload.encode(), row.key) for row in rows],
            )
            for row, result in zip(rows, results, strict=True):
                if single:
                    span.set_attribute(MESSAGE_ID, result.message_id or "")
                elif created := remote_context(row.traceparent):
                    span.add_link(
                        created, _row_attributes(row) | {MESSAGE_ID: result.message_id or ""}
                    )
            describe_messages(
                span,
                (
                    _row_attributes(row) | sent_attributes(result.message_id, confirmed=result.ok)
                    for row, result in zip(rows, results, strict=True)
                ),
            )
        return results

    def _result(self, row: OutboxRow, error: str | None, sent: SendResult | None) -> RowResult:
        if error is None:
            return RowResult(row, message_id=sent.message_id if sent else None)
        delay_s = self._backoff_s(row.attempts)
        # A broker's words may hold what Postgres and logs cannot: NUL, or half a surrogate pair.
        storable = error.replace("\x00", " ").encode(errors="replace").decode()[:_ERROR_CHARS]
        logger.warning(
            "event %s not published at attempt %d, again in %.1f s: %s",
            row.id, row.attempts, delay_s, storable,
        )  # fmt: skip
        return RowResult(row, error=storable, delay_s=delay_s)

    def _backoff_s(self, attempts: int) -> float:
        """Full jitter over an exponential ceiling: failed rows must not come back in one wave."""
        settings = self._settings
        ceiling = min(settings.backoff_max_s, settings.backoff_s * 2 ** min(attempts - 1, 30))
        return self._rng.uniform(ceiling / 2, ceiling)


def _row_attributes(row: OutboxRow) -> dict[str, str | int]:
    return {EVENT_ID: row.id, ORDER_ID: row.key or "", DELIVERY_ATTEMPT: row.attempts}


async def _forward(stop: asyncio.Event, wakeup: asyncio.Event) -> None:
    await stop.wait()
    wakeup.set()


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
