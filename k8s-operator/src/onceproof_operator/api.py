"""One request to the API server: with a time-out, repeated while the server is away, refusals in words.

The API server goes away for some seconds when it is upgraded or short of memory, and answers 429 when
many ask at once. Neither says anything about the pipeline, so neither may end a drill.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import tenacity
from kubernetes_asyncio.client.exceptions import ApiException

logger = logging.getLogger(__name__)

REQUEST_S: Final = 30.0
_PATIENCE_S: Final = 60.0
_WAIT: Final = tenacity.wait_exponential(multiplier=0.2, max=5.0) + tenacity.wait_random(0, 0.5)
_PASSING: Final = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)


class ClusterError(Exception):
    """The API server refused, or was away for too long; the message says what was asked of it.

    Args:
        message: in words.
        status: HTTP status, None when no answer came.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ForbiddenError(ClusterError):
    """The operator's ServiceAccount lacks a right; the message names it."""


async def ask(
    asked: str,
    call: Callable[..., Awaitable[Any]],
    *args: object,
    patience_s: float = _PATIENCE_S,
    also_passing: frozenset[int] = frozenset(),
    **options: object,
) -> Any:  # noqa: ANN401 - the client ships no types
    """Call the client, again with jittered backoff while the server is away or overloaded.

    Args:
        asked: what it is in the words of a Role, e.g. `delete pods`.
        call: of the client; it must be harmless to repeat.
        args: for it.
        patience_s: seconds after which it is not repeated any more.
        also_passing: more HTTP statuses that pass by themselves.
        options: for it.

    Raises:
        ForbiddenError: the right to do this is missing.
        ClusterError: any other refusal, or no answer.
    """

    def passes(error: BaseException) -> bool:
        if isinstance(error, ApiException):
            return error.status in _PASSING | also_passing
        return isinstance(error, aiohttp.ClientError | OSError)

    async def once() -> Any:  # noqa: ANN401 - as above
        return await call(*args, **{"_request_timeout": REQUEST_S} | options)

    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(passes),
        wait=_WAIT,
        stop=tenacity.stop_after_delay(patience_s),
        before_sleep=partial(_away, asked),
        reraise=True,
    )
    try:
        return await retrying(once)
    except ApiException as error:
        raise _refusal(asked, error) from error
    except (aiohttp.ClientError, OSError) as error:
        raise unreachable(asked, error) from error


def unreachable(asked: str, error: Exception) -> ClusterError:
    """No answer, or one that broke off."""
    return ClusterError(f"{asked}: the API server: {_brief(error)}")


def _refusal(asked: str, error: ApiException) -> ClusterError:
    if error.status == HTTPStatus.FORBIDDEN:
        return ForbiddenError(
            f"the operator's ServiceAccount may not {asked}; grant it by a Role, as the chart does",
            error.status,
        )
    return ClusterError(f"{asked}: {_brief(error)}", error.status)


def _brief(error: BaseException) -> str:
    """Without the answer's headers and body, which the client's own text repeats in full."""
    if not isinstance(error, ApiException):
        return str(error) or type(error).__name__
    try:
        words = json.loads(error.body or "")["message"]
    except (TypeError, ValueError, KeyError):
        words = error.reason
    return f"HTTP {error.status}: {words}"


def _away(asked: str, state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    logger.warning("%s, trying again: %s", asked, _brief(error) if error else "no answer")
