"""What an order must look like: whatever passes here can be charged, and nothing else gets in.

A number that JSON cannot tell from another (1, 1.0, true) would be money that two parties read
differently, so the types are strict and amounts are whole minor units.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_AMOUNT: Final = 99_999_999
"""In minor units, e.g. 999 999.99 EUR."""

ORDER_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")

Currency = Literal[
    "AUD", "CAD", "CHF", "CZK", "DKK", "EUR", "GBP", "JPY", "NOK", "PLN", "SEK", "USD"
]


class OrderRequest(BaseModel):
    """The body of `POST /orders`. The client chooses the order's id."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    order_id: Annotated[str, Field(pattern=f"^{ORDER_ID.pattern}$")]
    amount: Annotated[int, Field(ge=1, le=MAX_AMOUNT)]
    currency: Currency
