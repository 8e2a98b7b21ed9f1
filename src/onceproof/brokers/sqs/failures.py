"""What a failed SQS call means: who is away, and whether the request may have been carried out.

A refused connection or an error document proves that nothing was done. A connection that broke in
the middle proves nothing, and neither does a server-side error: the outcome is unknown, and whoever
reads the result must be told, because a second send then makes a duplicate.
"""

from __future__ import annotations

from typing import Final

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
)
from botocore.parsers import ResponseParserError

from onceproof.errors import BrokerUnavailableError, OnceproofError, QueueNotFoundError

CALL_FAILURES: Final = (
    BotoCoreError,
    ClientError,
    ResponseParserError,
    aiohttp.ClientError,
    OSError,  # includes TimeoutError
)
"""Everything that a call through the client raises for a fault of broker, network or request."""

UNKNOWN: Final = "outcome unknown: "
"""Prefix of the error text of a request that may have been carried out."""

_NO_QUEUE: Final = frozenset(
    {
        "AWS.SimpleQueueService.NonExistentQueue",
        "QueueDoesNotExist",
        "NonExistentQueue",
    }
)
_STALE: Final = (
    "ReceiptHandleIsInvalid",
    "InvalidReceiptHandle",
    "MessageNotInflight",
    "receipt handle has expired",
)


def is_missing_queue(error: BaseException) -> bool:
    """Whether the broker says that the queue does not exist."""
    return isinstance(error, ClientError) and _code(error) in _NO_QUEUE


def is_stale(code: str, message: str) -> bool:
    """Whether a refused ack or extension means that the receipt is not the valid one any more."""
    return any(mark in code or mark in message for mark in _STALE)


def outcome_is_unknown(error: BaseException) -> bool:
    """Whether the request may have been carried out although it failed."""
    if isinstance(error, ClientError):
        return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) >= 500
    if isinstance(error, EndpointConnectionError):
        # aiobotocore reports every connection error as this one; only the cause tells them apart.
        return not isinstance(error.kwargs.get("error"), aiohttp.ClientConnectorError)
    if isinstance(error, ConnectTimeoutError):
        return False
    # ReadTimeoutError and ConnectionClosedError are HTTPClientErrors; what is left of
    # BotoCoreError (no credentials, bad parameters) happens before a request is sent.
    return isinstance(error, HTTPClientError) or not isinstance(error, BotoCoreError)


def code_and_reason(error: BaseException) -> tuple[str, str]:
    """The broker's error code (empty for network faults) and one line for people."""
    if isinstance(error, ClientError):
        message = error.response.get("Error", {}).get("Message") or "no message"
        return _code(error), f"{_code(error)}: {message}"
    return "", f"broker unavailable: {str(error) or type(error).__name__}"


def error_text(error: BaseException, queue: str) -> str:
    """The text for `SendResult.error` and `SettleResult.error`."""
    if is_missing_queue(error):
        return f"queue {queue!r} does not exist"
    prefix = UNKNOWN if outcome_is_unknown(error) else ""
    return prefix + code_and_reason(error)[1]


def translated(error: BaseException, queue: str) -> OnceproofError:
    """The library's exception for a failed call; raise it `from error`."""
    if is_missing_queue(error):
        return QueueNotFoundError(
            f"queue {queue!r} does not exist; create it, or correct the queue name and region"
        )
    return BrokerUnavailableError(f"SQS queue {queue!r}: {code_and_reason(error)[1]}")


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code") or "Unknown")
