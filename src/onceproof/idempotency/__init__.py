"""Idempotency keys for HTTP: a repeated request gets the first one's answer, and its work once.

Around the work, in the caller's transaction:

    same_request = fingerprint("POST", "/orders", body)
    stored = await claim(session, "POST /orders", key, same_request)
    if stored is not None:
        return replay(stored)
    ...
    await store(session, "POST /orders", key, same_request, response)
    await session.commit()

`replay` and the translation of the three errors to 400, 409 and 422 are the web framework's part.
"""

from onceproof.idempotency.keys import (
    MAX_KEY_CHARS,
    InvalidKeyError,
    KeyInProgressError,
    KeyReusedError,
    fingerprint,
    parse_key,
)
from onceproof.idempotency.storage import StoredResponse, claim, delete_expired, lock_id, store

__all__ = [
    "MAX_KEY_CHARS",
    "InvalidKeyError",
    "KeyInProgressError",
    "KeyReusedError",
    "StoredResponse",
    "claim",
    "delete_expired",
    "fingerprint",
    "lock_id",
    "parse_key",
    "store",
]
