"""The handler: charge the order at the provider, and record the charge in our transaction.

The provider is another system, so its effect cannot be rolled back. The Idempotency-Key makes the
provider itself recognise a repetition: that covers a crash between its capture and our commit.
"""

from __future__ import annotations

from typing import Annotated, Final

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from onceproof.errors import OutcomeUnknownError, PermanentError, TransientError
from onceproof.events import ORDER_PLACED
from onceproof.ports import Delivery
from onceproof.telemetry import outgoing_headers

_RECORD: Final = text("""
    INSERT INTO charges (order_id, event_id, amount, currency, provider_charge_id, delivery_attempt)
    VALUES (:order_id, :event_id, :amount, :currency, :provider_charge_id, :delivery_attempt)
""")

_REFUSALS: Final = frozenset({400, 413, 415, 422})
"""Answers that are about this order. A 401 or 404 is about our key or our URL, and mends itself for all
orders once somebody has corrected that; it must not empty the queue into the DLQ."""


class OrderPlaced(BaseModel):
    """Payload of the event; `amount` in minor units of `currency`."""

    model_config = ConfigDict(strict=True, extra="ignore")

    order_id: Annotated[str, Field(min_length=1, max_length=64)]
    amount: Annotated[int, Field(gt=0)]
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]


class Payments:
    """Charges orders at a payment provider.

    Args:
        http: client session.
        base_url: of the provider.
        timeout_s: seconds for one request.
        idempotency_key: send the Idempotency-Key. Off only to show why it is needed.
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        base_url: str,
        *,
        timeout_s: float,
        idempotency_key: bool = True,
    ) -> None:
        self._http = http
        self._url = f"{base_url.rstrip('/')}/charges"
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._idempotency_key = idempotency_key

    async def handle(self, session: AsyncSession, delivery: Delivery) -> None:
        """Charge one order.

        Raises:
            PermanentError: the event is not one that can be charged, or the provider refuses it.
            OutcomeUnknownError: the provider's answer was lost.
            TransientError: the provider could not be reached or is failing.
        """
        order = _order(delivery)
        charge_id = await self._charge(order, delivery.dedup_key)
        await session.execute(
            _RECORD,
            {
                "order_id": order.order_id,
                "event_id": delivery.event.id,
                "amount": order.amount,
                "currency": order.currency,
                "provider_charge_id": charge_id,
                "delivery_attempt": delivery.attempt,
            },
        )

    async def _charge(self, order: OrderPlaced, key: str) -> str:
        headers = outgoing_headers()
        if self._idempotency_key:
            headers["Idempotency-Key"] = key
        try:
            async with self._http.post(
                self._url, json=order.model_dump(), headers=headers, timeout=self._timeout
            ) as response:
                if response.status in _REFUSALS:
                    reason = (await response.text())[:300]
                    raise PermanentError(f"the provider refused: {response.status} {reason}")
                if response.status >= 400:
                    raise TransientError(f"the provider answered {response.status}")
                document = await response.json()
        except aiohttp.ClientConnectorError as error:
            raise TransientError(f"the provider cannot be reached: {error}") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OutcomeUnknownError(
                f"the provider's answer was lost: {str(error) or type(error).__name__}"
            ) from error
        charge_id = document.get("charge_id") if isinstance(document, dict) else None
        if not isinstance(charge_id, str):
            raise OutcomeUnknownError("the provider's answer has no charge_id")
        return charge_id


def _order(delivery: Delivery) -> OrderPlaced:
    if delivery.event.type != ORDER_PLACED:
        raise PermanentError(f"not an order: event type {delivery.event.type!r}")
    try:
        return OrderPlaced.model_validate(delivery.event.data)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'data'}: {item['msg']}"
            for item in error.errors(include_input=False, include_url=False)
        )
        raise PermanentError(f"not a chargeable order: {problems}") from None
