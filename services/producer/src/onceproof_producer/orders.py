"""Accepting an order: everything that was promised is in one transaction, or nothing is.

The order, the event that tells about it and the answer that the client gets are committed together.
A client that lost the answer repeats the request and gets the same one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from opentelemetry import trace
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from onceproof.crashpoints import PRODUCER_AFTER_COMMIT, crash_point
from onceproof.errors import (
    DatabaseUnavailableError,
    OutcomeUnknownError,
    PermanentError,
    TransientError,
)
from onceproof.events import ORDER_PLACED, Event
from onceproof.idempotency import StoredResponse, claim, fingerprint, store
from onceproof.outbox import appended_with, outbox_parameters
from onceproof.postgres import translated
from onceproof.telemetry import EVENT_ID, ORDER_ID, current_traceparent
from onceproof_producer.dual_write import DirectPublisher
from onceproof_producer.validation import OrderRequest

SOURCE: Final = "/onceproof/orders"
SCOPE: Final = "POST /orders"

_ORDER: Final = """
    INSERT INTO orders (order_id, amount, currency, event_id)
    VALUES (:order_id, :amount, :currency, :event_id)
    ON CONFLICT (order_id) DO NOTHING
    RETURNING true AS inserted
"""
_INSERT: Final = text(_ORDER)
_INSERT_AND_APPEND: Final = text(appended_with(_ORDER))
_SELECT: Final = text(
    "SELECT order_id, amount, currency, event_id, created_at FROM orders WHERE order_id = :order_id"
)
# Serialisation failure, deadlock, lock not available, statement timeout: nothing was done, and
# another attempt may succeed.
_BUSY_STATES: Final = frozenset({"40001", "40P01", "55P03", "57014"})


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
        engine: the database of orders, outbox and idempotency keys.
        queue: destination of the events.
        wake: called after a commit that left something in the outbox; must not block.
        direct: publishes after the commit instead of through the outbox. None: the outbox.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        queue: str,
        *,
        wake: Callable[[], None] | None = None,
        direct: DirectPublisher | None = None,
    ) -> None:
        self._engine = engine
        self._queue = queue
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
            OutcomeUnknownError: the reply to the COMMIT was lost.
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
        async with AsyncSession(self._engine) as session:
            answer = await self._write(session, order, event, key, body)
            if answer.replayed:
                return answer
            await _commit(session)
            crash_point(PRODUCER_AFTER_COMMIT, order.order_id, 1, event.id)
        if self._direct is not None:
            await self._direct.publish(event)
        elif self._wake is not None:
            self._wake()
        return answer

    async def get(self, order_id: str) -> Order | None:
        """The order, or None.

        Raises:
            DatabaseUnavailableError: try again later.
        """
        with translated():
            async with self._engine.connect() as connection:
                row = (await connection.execute(_SELECT, {"order_id": order_id})).one_or_none()
        return Order(*row) if row else None

    async def _write(
        self, session: AsyncSession, order: OrderRequest, event: Event, key: str, body: bytes
    ) -> Placed:
        same_request = fingerprint("POST", "/orders", body)
        try:
            stored = await claim(session, SCOPE, key, same_request)
            if stored is not None:
                return Placed(stored, replayed=True)
            values = {**order.model_dump(), "event_id": event.id}
            statement = _INSERT
            if self._direct is None:
                statement = _INSERT_AND_APPEND
                values |= outbox_parameters(event, self._queue)
            with translated():
                inserted = await session.scalar(statement, values)
            if inserted is None:
                raise OrderExistsError(f"order {order.order_id} exists already")
            response = _accepted(order, event)
            await store(session, SCOPE, key, same_request, response)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) in _BUSY_STATES:
                raise TransientError("the database is busy") from error
            raise
        return Placed(response, replayed=False)


async def _commit(session: AsyncSession) -> None:
    try:
        with translated():
            await session.commit()
    except DatabaseUnavailableError as error:
        raise OutcomeUnknownError("the reply to the COMMIT was lost") from error


def _accepted(order: OrderRequest, event: Event) -> StoredResponse:
    body = order.model_dump() | {"status": "accepted", "event_id": event.id}
    return StoredResponse(
        status=201,
        body=json.dumps(body).encode(),
        headers={"Location": f"/orders/{order.order_id}", "Content-Type": "application/json"},
    )
