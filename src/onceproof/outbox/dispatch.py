"""Sends claimed rows: broker batches by destination, crash points, spans, each row's own result."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from onceproof.crashpoints import (
    RELAY_AFTER_PUBLISH,
    RELAY_BEFORE_PUBLISH,
    crash_point,
    crash_points,
)
from onceproof.errors import InjectedDropError
from onceproof.outbox.store import OutboxRow, RowResult
from onceproof.ports import Outgoing, Publisher, SendResult
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
class Dispatcher:
    """Sends claimed rows to a broker.

    Args:
        publisher: the broker.
        system: `messaging.system` in spans.
        backoff_s: first delay of a failed row in seconds; it doubles with each attempt.
        backoff_max_s: longest delay of a failed row.
        rng: source of the jitter.
    """

    publisher: Publisher
    system: str
    backoff_s: float
    backoff_max_s: float
    rng: random.Random

    async def publish(self, rows: Sequence[OutboxRow]) -> list[RowResult]:
        """Send rows, which may go to several destinations; a result for each.

        Raises:
            RuntimeError: see `send`. For what the broker did, nothing is raised.
        """
        by_destination: dict[str, list[OutboxRow]] = defaultdict(list)
        for row in rows:
            by_destination[row.destination].append(row)
        batches = await asyncio.gather(
            *(self._publish(destination, part) for destination, part in by_destination.items())
        )
        return [result for batch in batches for result in batch]

    async def send(self, destination: str, rows: Sequence[OutboxRow]) -> list[SendResult]:
        """Send rows to one destination, under one span; a result for each, in their order.

        Raises:
            RuntimeError: the publisher's results are not those of the rows; nobody knows what was sent.
        """
        if not rows:
            return []
        single = rows[0] if len(rows) == 1 else None
        parent = remote_context(single.traceparent) if single else None
        with messaging_span(
            self.system,
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
            results = await self.publisher.send(
                destination,
                [Outgoing(row.id, row.payload.encode(), row.key) for row in rows],
            )
            _require_each_its_own(rows, results)
            if not span.is_recording():
                return results  # what follows costs more than the claim and the mark together
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

    async def _publish(self, destination: str, rows: Sequence[OutboxRow]) -> list[RowResult]:
        dropped = _dropped(RELAY_BEFORE_PUBLISH, rows)
        to_send = [row for row in rows if row.id not in dropped] if dropped else rows
        sent = await self.send(destination, to_send)
        unknown = _dropped(RELAY_AFTER_PUBLISH, to_send)
        results = [
            self._result(row, unknown.get(row.id, result.error), result.message_id)
            for row, result in zip(to_send, sent, strict=True)
        ]
        return results + [self._result(row, dropped[row.id]) for row in rows if row.id in dropped]

    def _result(
        self, row: OutboxRow, error: str | None, message_id: str | None = None
    ) -> RowResult:
        if error is None:
            return RowResult(row, message_id)
        delay_s = self.delay_s(row.attempts)
        # A broker's words may hold what Postgres and logs cannot: NUL, or half a surrogate pair.
        storable = error.replace("\x00", " ").encode(errors="replace").decode()[:_ERROR_CHARS]
        logger.warning(
            "event %s not published at attempt %d, again in %.1f s: %s",
            row.id, row.attempts, delay_s, storable,
        )  # fmt: skip
        return RowResult(row, error=storable, delay_s=delay_s)

    def delay_s(self, attempts: int) -> float:
        """Full jitter over an exponential ceiling: failed rows must not come back in one wave."""
        ceiling = min(self.backoff_max_s, self.backoff_s * 2 ** min(attempts - 1, 30))
        return self.rng.uniform(ceiling / 2, ceiling)


def _require_each_its_own(rows: Sequence[OutboxRow], results: Sequence[SendResult]) -> None:
    """A result that is taken for another row's marks an event as published that was not."""
    if [row.id for row in rows] != [result.id for result in results]:
        raise RuntimeError(
            "the publisher must return one result for each message, in their order, "
            "with the message's id; nothing of this batch is marked"
        )


def _dropped(point: str, rows: Sequence[OutboxRow]) -> dict[str, str]:
    """Pass the crash point with each row; why a row's publish is to fail, by event id."""
    if not crash_points.is_armed(point):
        return {}
    dropped = {}
    for row in rows:
        try:
            crash_point(point, row.key or "", row.attempts, row.id)
        except InjectedDropError as error:
            unknown = "outcome unknown: " if point == RELAY_AFTER_PUBLISH else ""
            dropped[row.id] = f"{unknown}{error}"
    return dropped


def _row_attributes(row: OutboxRow) -> dict[str, str | int]:
    return {EVENT_ID: row.id, ORDER_ID: row.key or "", DELIVERY_ATTEMPT: row.attempts}
