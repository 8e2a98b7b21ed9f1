"""Accepting an order: everything that was promised is in one transaction, or nothing is.

The order, the event that tells about it and the answer that the client gets are committed together.
A client that lost the answer repeats the request and gets the same one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from opentelemetry import trace

from onceproof.crashpoints import PRODUCER_AFTER_COMMIT, crash_point
from onceproof.errors import PermanentError
from onceproof.events import ORDER_PLACED, Event
from onceproof.idempotency import StoredResponse, fingerprint
from onceproof.outbox import Intake, NothingDoneError
from onceproof.postgres import Connection, Connections, translated
from onceproof.telemetry import EVENT_ID, ORDER_ID, current_traceparent
from onceproof_producer.dual_write import DirectPublisher
from onceproof_producer.validation import OrderRequest

SOURCE: Final = "/onceproof/orders"
SCOPE: Final = "POST /orders"

PLACE: Final = """
    INSERT INTO orders (order_id, amount, currency, event_id)
    SELECT key, CAST(data->>'amount' AS bigint), data->>'currency', event_id FROM request
    ON CONFLICT (order_id) DO NOTHING
    RETURNING true
"""
_SELECT: Final = (
    "SELECT order_id, amount, currency, event_id, created_at FROM orders WHERE order_id = $1"
)


class OrderExistsError(PermanentError):
    """The order's id is taken by an order under another Idempotency-Key."""


@dataclass(frozen=True, slots=True)
class Order:
    """An accepted order; `amount` in minor units."""

    order_id: str
    amount: int
    currency: str
    event_id: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Placed:
    """The answer to a client, and whether it had been given before."""

    response: StoredResponse
    replayed: bool


class Orders:
    """Writes and reads orders.

    Args:
        connections: of the database of orders, outbox and idempotency keys.
        queue: destination of the events.
        wake: called after a commit that left something in the outbox; must not block.
        direct: publishes after the commit instead of through the outbox. None: the outbox.
    """

    def __init__(
        self,
        connections: Connections,
        queue: str,
        *,
        wake: Callable[[], None] | None = None,
        direct: DirectPublisher | None = None,
    ) -> None:
        self._connections = connections
        self._intake = Intake(
            connections, PLACE, scope=SCOPE, destination=None if direct else queue
        )
        self._wake = wake
        self._direct = direct

    async def place(self, order: OrderRequest, key: str, body: bytes) -> Placed:
        """Accept an order once per idempotency key.

        Args:
            order: the validated request.
            key: the client's idempotency key.
            body: the request's exact bytes, for telling a repetition from a reused key.

        Raises:
            KeyInProgressError, KeyReusedError: see `onceproof.idempotency`.
            OrderExistsError: the order's id is taken. Nothing was written.
            TransientError: the database is away or busy. Nothing was written.
            OutcomeUnknownError: the database's reply was lost.
            InjectedDropError: committed, and a crash point drops the answer.
        """
        event = Event(
            type=ORDER_PLACED,
            data=order.model_dump(),
            key=order.order_id,
            source=SOURCE,
            traceparent=current_traceparent(),
        )
        trace.get_current_span().set_attributes({ORDER_ID: order.order_id, EVENT_ID: event.id})
        response = _accepted(order, event)
        same_request = fingerprint("POST", "/orders", body)
        try:
            before = await self._intake.accept(key, same_request, event, response)
        except NothingDoneError:
            raise OrderExistsError(f"order {order.order_id} exists already") from None
        if before is not None:
            return Placed(before, replayed=True)
        crash_point(PRODUCER_AFTER_COMMIT, order.order_id, 1, event.id)
        if self._direct is not None:
            await self._direct.publish(event)
        elif self._wake is not None:
            self._wake()
        return Placed(response, replayed=False)

    async def get(self, order_id: str) -> Order | None:
        """The order, or None.

        Raises:
            DatabaseUnavailableError: try again later.
        """

        async def fetch(connection: Connection) -> Any:  # noqa: ANN401 - asyncpg ships no types
            return await connection.fetchrow(_SELECT, order_id)

        with translated():
            row = await self._connections.run(fetch)
        return Order(*row) if row else None


def _accepted(order: OrderRequest, event: Event) -> StoredResponse:
    body = order.model_dump() | {"status": "accepted", "event_id": event.id}
    return StoredResponse(
        status=201,
        body=json.dumps(body).encode(),
        headers={"Location": f"/orders/{order.order_id}", "Content-Type": "application/json"},
    )
