"""The HTTP face of the order API: check all before the transaction, explain every refusal."""

from __future__ import annotations

from typing import Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from onceproof.idempotency import parse_key
from onceproof.service.problems import (
    EXCEPTION_HANDLERS,
    ProblemError,
    read_body,
    require_json,
    validated,
)
from onceproof_producer.orders import OrderExistsError, Orders
from onceproof_producer.tracing import ROUTE, ServerSpans
from onceproof_producer.validation import ORDER_ID, OrderRequest

REPLAYED: Final = "Idempotent-Replayed"


def create_app(orders: Orders, *, max_body_bytes: int = 65536) -> Starlette:
    """`POST /orders` and `GET /orders/{order_id}`.

    Args:
        orders: where they are written and read.
        max_body_bytes: a larger request body is refused with 413.
    """

    async def place(request: Request) -> Response:
        require_json(request)
        key = parse_key(request.headers.getlist("idempotency-key"))
        body = await read_body(request, max_body_bytes)
        placed = await orders.place(validated(OrderRequest, body), key, body)
        headers = dict(placed.response.headers)
        if placed.replayed:
            headers[REPLAYED] = "true"
        return Response(placed.response.body, placed.response.status, headers=headers)

    async def show(request: Request) -> Response:
        order_id = request.path_params["order_id"]
        order = await orders.get(order_id) if ORDER_ID.fullmatch(order_id) else None
        if order is None:
            raise ProblemError(404, detail="There is no order with this id.")
        return JSONResponse(
            {
                "order_id": order.order_id,
                "amount": order.amount,
                "currency": order.currency,
                "status": "accepted",
                "event_id": order.event_id,
                "created_at": order.created_at.isoformat(),
            }
        )

    return Starlette(
        routes=[
            Route(ROUTE, place, methods=["POST"]),
            Route(f"{ROUTE}/{{order_id}}", show, methods=["GET"]),
        ],
        middleware=[Middleware(ServerSpans)],
        exception_handlers={**EXCEPTION_HANDLERS, OrderExistsError: _on_order_exists},
    )


async def _on_order_exists(_request: Request, _error: Exception) -> Response:
    return ProblemError(
        409,
        type="order-exists",
        title="Order exists",
        detail="An order with this id was placed under another Idempotency-Key.",
    ).response()
