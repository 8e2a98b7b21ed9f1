"""A client of the mail service: an HTTP API that sends an email for each POST.

With an Idempotency-Key it sends once for each key, as such services do. An email that has left cannot be
rolled back, so this key is all there is against a second one.
"""

from __future__ import annotations

import os
from typing import Any

import aiohttp


async def send(email: dict[str, Any], *, idempotency_key: str | None = None) -> None:
    """Send an email.

    Args:
        email: `order_id` and `recipient`.
        idempotency_key: the same for each attempt at the same email.

    Raises:
        aiohttp.ClientError: it is not known whether it was sent.
    """
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
    async with (
        aiohttp.ClientSession() as http,
        http.post(os.environ["ONCEPROOF_EFFECTS_URL"], json=email, headers=headers) as response,
    ):
        response.raise_for_status()
