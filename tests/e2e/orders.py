"""A client that wants its order placed: the same body and key, until the answer is definite."""

from __future__ import annotations

import time
from dataclasses import dataclass
from http import HTTPStatus

from tests.e2e.proxy import Answer, ask
from tests.e2e.waiting import until

AMOUNT = 1999
"""Minor units."""
_ATTEMPT_TIMEOUT_S = 2.0
_NOT_YET = frozenset(
    {HTTPStatus.CONFLICT, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
)


@dataclass(frozen=True)
class Placed:
    """What the client was promised; `at` is Unix time in seconds."""

    order: str
    status: int
    event_id: str
    attempts: int
    at: float


def place(producer: str, order: str, *, within_s: float = 60) -> Placed:
    """Place an order and wait for its 201.

    Args:
        producer: base URL of the order API.
        order: its id.
        within_s: seconds at most.

    Raises:
        AssertionError: it was refused, or not answered in time.
    """
    attempts = 0

    def attempt() -> Answer | None:
        nonlocal attempts
        attempts += 1
        answer = ask(
            f"{producer}/orders",
            {"order_id": order, "amount": AMOUNT, "currency": "EUR"},
            {"Idempotency-Key": f"place-{order}"},
            _ATTEMPT_TIMEOUT_S,
        )
        # Nothing, 5xx, and 409 while another attempt is at work: it may have arrived, so ask again.
        definite = HTTPStatus.OK <= answer.status < HTTPStatus.INTERNAL_SERVER_ERROR
        return answer if definite and answer.status not in _NOT_YET else None

    answer = until(within_s, f"a definite answer for order {order}", attempt)
    assert answer.status == HTTPStatus.CREATED, f"order {order}: {answer}"
    return Placed(order, answer.status, answer.json()["event_id"], attempts, time.time())
