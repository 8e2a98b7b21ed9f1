"""What a charge must look like.

The rules are those of the order API, written down again: the provider is somebody else's system,
and sharing code with its clients would let both be wrong together.
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


class ChargeRequest(BaseModel):
    """The body of `POST /charges`."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    order_id: Annotated[str, Field(pattern=f"^{ORDER_ID.pattern}$")]
    amount: Annotated[int, Field(ge=1, le=MAX_AMOUNT)]
    currency: Currency
