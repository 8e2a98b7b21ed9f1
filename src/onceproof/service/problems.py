"""Every refusal of a service is an RFC 9457 problem document, so that a client can tell them apart.

The status code alone cannot: a 409 may mean "come back later" or "never", and after a 5xx a client
must know whether the request may have been carried out. `type` says which it is. A document tells
the client about its own request and nothing about our insides.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from onceproof.errors import InjectedDropError, OutcomeUnknownError, TransientError
from onceproof.idempotency import InvalidKeyError, KeyInProgressError, KeyReusedError

MEDIA_TYPE: Final = "application/problem+json"

_TYPE_PREFIX: Final = "urn:onceproof:problem:"
_BODY_TIMEOUT_S: Final = 10.0
_DISCARD_BYTES: Final = 8 * 1024 * 1024
_RETRY_AFTER_S: Final = 1.0
_MAX_ERRORS: Final = 20

M = TypeVar("M", bound=BaseModel)


@dataclass(eq=False)
class ProblemError(Exception):
    """Raise it anywhere below a route to answer with a problem document.

    Args:
        status: HTTP status code.
        type: short name, e.g. `idempotency-key-reused`, sent as a URN. None means that the status
            code says it all (`about:blank`).
        title: what the type means; the status code's own phrase by default.
        detail: what is wrong with this request, for the client to read.
        errors: one entry per invalid part of the body, `{"pointer": "#/amount", "detail": ...}`.
        headers: further response headers.
    """

    status: int
    type: str | None = None
    title: str | None = None
    detail: str | None = None
    errors: Sequence[Mapping[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> Response:
        """The problem document as a response."""
        document: dict[str, Any] = {
            "type": _TYPE_PREFIX + self.type if self.type else "about:blank",
            "title": self.title or HTTPStatus(self.status).phrase,
            "status": self.status,
        }
        if self.detail is not None:
            document["detail"] = self.detail
        if self.errors:
            document["errors"] = [dict(error) for error in self.errors]
        # ASCII escapes: what a client sent may be quoted here, lone surrogates included.
        return Response(
            json.dumps(document), self.status, headers=dict(self.headers), media_type=MEDIA_TYPE
        )


def retry_after(seconds: float | None) -> dict[str, str]:
    """A Retry-After header in whole seconds, at least one."""
    return {"Retry-After": str(max(1, math.ceil(seconds or _RETRY_AFTER_S)))}


def require_json(request: Request) -> None:
    """Refuse a body that does not say that it is JSON.

    Raises:
        ProblemError: 415.
    """
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise ProblemError(415, detail="The Content-Type must be application/json.")


def validated(model: type[M], body: bytes) -> M:
    """Parse a JSON body as `model`, which should forbid unknown fields and be strict.

    Raises:
        ProblemError: 400 when it is not UTF-8 JSON, 422 when it is not what the model asks for.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False, include_context=False, include_input=False)
    if errors[0]["type"] == "json_invalid":
        raise ProblemError(
            400, type="malformed-json", title="Malformed JSON", detail=errors[0]["msg"]
        )
    raise ProblemError(
        422,
        type="invalid-body",
        title="Invalid body",
        errors=[
            {"pointer": _pointer(error["loc"]), "detail": error["msg"]}
            for error in errors[:_MAX_ERRORS]
        ],
    )


def _pointer(location: Sequence[int | str]) -> str:
    # RFC 6901 as a URI fragment, the way that RFC 9457 shows it.
    return "#" + "".join(
        "/" + quote(str(part).replace("~", "~0").replace("/", "~1"), safe="~") for part in location
    )


async def read_body(request: Request, limit: int, *, timeout_s: float = _BODY_TIMEOUT_S) -> bytes:
    """The request's body, of at most `limit` bytes, whether its length was announced or not.

    Raises:
        ProblemError: 413 beyond the limit, 408 after `timeout_s` seconds, 400 when it ends early.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            chunks = request.stream()
            announced = request.headers.get("content-length", "")
            if not (announced.isdecimal() and int(announced) > limit):
                async for chunk in chunks:
                    body += chunk
                    if len(body) > limit:
                        break
                else:
                    return bytes(body)
            if "expect" not in request.headers:  # else the client still waits for leave to send
                await _discard(chunks)
    except TimeoutError:
        raise ProblemError(408, headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise ProblemError(400, detail="The request ended early.") from None
    raise ProblemError(
        413, detail=f"The body may have {limit} bytes at most.", headers={"Connection": "close"}
    )


async def _discard(chunks: AsyncIterator[bytes]) -> None:
    # A connection that is closed with unread data is reset, and the client may never see the 413.
    discarded = 0
    async for chunk in chunks:
        discarded += len(chunk)
        if discarded > _DISCARD_BYTES:
            return


async def _on_problem(_request: Request, error: ProblemError) -> Response:
    return error.response()


async def _on_http_exception(_request: Request, error: HTTPException) -> Response:
    return ProblemError(error.status_code, headers=error.headers or {}).response()


async def _on_invalid_key(_request: Request, error: InvalidKeyError) -> Response:
    return ProblemError(
        400, type="idempotency-key-invalid", title="Invalid Idempotency-Key", detail=f"{error}."
    ).response()


async def _on_key_reused(_request: Request, error: KeyReusedError) -> Response:
    return ProblemError(
        422, type="idempotency-key-reused", title="Idempotency-Key reused", detail=f"{error}."
    ).response()


async def _on_key_in_progress(_request: Request, error: KeyInProgressError) -> Response:
    return ProblemError(
        409,
        type="idempotency-key-in-progress",
        title="Request in progress",
        detail=f"{error}.",
        headers=retry_after(error.retry_after_s),
    ).response()


async def _on_transient(_request: Request, error: TransientError) -> Response:
    return ProblemError(
        503,
        type="temporarily-unavailable",
        title="Temporarily unavailable",
        detail="The request was not carried out. Try again later.",
        headers=retry_after(error.retry_after_s),
    ).response()


async def _on_outcome_unknown(_request: Request, _error: Exception) -> Response:
    return ProblemError(
        500,
        type="outcome-unknown",
        title="Outcome unknown",
        detail="The request may have been carried out. Repeat it with the same Idempotency-Key.",
    ).response()


async def _on_anything_else(_request: Request, _error: Exception) -> Response:
    return ProblemError(500).response()


EXCEPTION_HANDLERS: Final[Mapping[Any, Callable[[Request, Any], Awaitable[Response]]]] = {
    ProblemError: _on_problem,
    HTTPException: _on_http_exception,
    InvalidKeyError: _on_invalid_key,
    KeyReusedError: _on_key_reused,
    KeyInProgressError: _on_key_in_progress,
    TransientError: _on_transient,
    OutcomeUnknownError: _on_outcome_unknown,
    InjectedDropError: _on_outcome_unknown,
    Exception: _on_anything_else,
}
"""For `Starlette(exception_handlers=...)`: library errors, 404, 405 and 500 as problem documents.

A `TransientError` is answered as "not carried out"; a service that loses the reply to its COMMIT
raises `OutcomeUnknownError` instead.
"""
