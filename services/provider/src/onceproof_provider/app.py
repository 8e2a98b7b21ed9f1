"""The provider's API, as its clients see it: charge, and look up what was charged."""

from __future__ import annotations

from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from onceproof.crashpoints import PROVIDER_AFTER_CAPTURE, crash_point
from onceproof.errors import InjectedDropError
from onceproof.idempotency import fingerprint, parse_key
from onceproof.service.problems import (
    EXCEPTION_HANDLERS,
    ProblemError,
    read_body,
    require_json,
    validated,
)
from onceproof_provider.ledger import Ledger
from onceproof_provider.misbehaviour import Misbehaviour
from onceproof_provider.validation import ORDER_ID, ChargeRequest

ROUTE: Final = "/charges"
REPLAYED: Final = "Idempotent-Replayed"


def create_app(
    ledger: Ledger, *, misbehaviour: Misbehaviour | None = None, max_body_bytes: int = 65536
) -> Starlette:
    """`POST /charges` and `GET /charges?order_id=`.

    Args:
        ledger: where captures are written.
        misbehaviour: injected latency and faults; None: none.
        max_body_bytes: a larger request body is refused with 413.
    """
    behaviour = misbehaviour or Misbehaviour()

    async def charge(request: Request) -> Response:
        require_json(request)
        key = _optional_key(request)
        body = await read_body(request, max_body_bytes)
        wanted = validated(ChargeRequest, body)
        await behaviour.before_capture()
        charged, now = await ledger.capture(wanted, key, fingerprint("POST", ROUTE, body))
        if not now:
            return JSONResponse(charged.as_json(), 200, headers={REPLAYED: "true"})
        try:
            crash_point(PROVIDER_AFTER_CAPTURE, charged.order_id, 1, key or "")
        except InjectedDropError:
            await behaviour.withhold(request)
            raise
        return JSONResponse(charged.as_json(), 201)

    async def of_order(request: Request) -> Response:
        order_id = request.query_params.get("order_id", "")
        if ORDER_ID.fullmatch(order_id) is None:
            raise ProblemError(400, detail="The query needs order_id, an order's id.")
        charges = await ledger.of_order(order_id)
        return JSONResponse({"charges": [found.as_json() for found in charges]})

    return Starlette(
        routes=[
            Route(ROUTE, charge, methods=["POST"]),
            Route(ROUTE, of_order, methods=["GET"]),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
    )


def _optional_key(request: Request) -> str | None:
    values = request.headers.getlist("idempotency-key")
    return parse_key(values) if values else None
