"""A key is claimed, worked for and answered in one transaction, so that no crash leaves it stuck.

There is no "in progress" row that somebody would have to expire. A transaction-level advisory lock
says that a request is in progress; Postgres drops it with the transaction, however that ends. The
stored response commits together with the work that it reports, or neither does.

Two requests whose keys share a 64-bit hash exclude one another while both are in progress. The
second is told to come back later, which is harmless.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from sqlalchemy import LargeBinary, SmallInteger, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.sql import column

from onceproof.idempotency.keys import KeyInProgressError, KeyReusedError
from onceproof.postgres import translated

_LOCK: Final = text("SELECT pg_try_advisory_xact_lock(:lock)")

_FIND: Final = text(
    """
    SELECT fingerprint, status, headers, body
      FROM onceproof.idempotency_keys
     WHERE scope = :scope AND key = :key
    """
).columns(
    column("fingerprint", LargeBinary),
    column("status", SmallInteger),
    column("headers", JSONB),
    column("body", LargeBinary),
)

_STORE: Final = text(
    """
    INSERT INTO onceproof.idempotency_keys (scope, key, fingerprint, status, headers, body)
    VALUES (:scope, :key, :fingerprint, :status, :headers, :body)
    ON CONFLICT (scope, key) DO NOTHING
    RETURNING true
    """
).bindparams(bindparam("headers", type_=JSONB))

_DELETE_EXPIRED: Final = text(
    """
    DELETE FROM onceproof.idempotency_keys AS stale
     USING (SELECT scope, key
              FROM onceproof.idempotency_keys
             WHERE created_at < now() - CAST(:older_than AS interval)
             ORDER BY created_at
             LIMIT :batch_size
               FOR UPDATE SKIP LOCKED) AS batch
     WHERE stale.scope = batch.scope AND stale.key = batch.key
    """
)


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """The answer that was given, byte for byte."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


async def claim(
    session: AsyncSession, scope: str, key: str, fingerprint: bytes
) -> StoredResponse | None:
    """Take the key for the rest of the session's transaction, or get the answer given before.

    Call it first in the transaction, at READ COMMITTED. Two round trips.

    Args:
        session: its transaction is the one that does the work.
        scope: what the key is unique within, e.g. `POST /orders`, or tenant and route.
        key: from `parse_key`.
        fingerprint: from `fingerprint`, of this request.

    Returns:
        The response to replay, or None when the caller has to do the work and `store` its response.

    Raises:
        KeyInProgressError: another transaction holds the key.
        KeyReusedError: the stored response answers a different request.
        DatabaseUnavailableError: nothing was claimed.
    """
    with translated():
        if not await session.scalar(_LOCK, {"lock": lock_id(scope, key)}):
            raise KeyInProgressError
        # A statement of its own: its snapshot is taken after the lock, so it sees what the lock's
        # former holder committed.
        found = (await session.execute(_FIND, {"scope": scope, "key": key})).one_or_none()
    if found is None:
        return None
    if not hmac.compare_digest(found.fingerprint, fingerprint):
        raise KeyReusedError("the Idempotency-Key was used for a different request")
    return StoredResponse(found.status, found.body, found.headers)


async def store(
    session: AsyncSession, scope: str, key: str, fingerprint: bytes, response: StoredResponse
) -> None:
    """Write the response in the transaction that claimed the key; the caller commits.

    Raises:
        KeyInProgressError: another request stored a response under this key, so it was not claimed
            here. Roll back.
        DatabaseUnavailableError: nothing was stored.
    """
    with translated():
        inserted = await session.scalar(
            _STORE,
            {
                "scope": scope,
                "key": key,
                "fingerprint": fingerprint,
                "status": response.status,
                "headers": dict(response.headers),
                "body": response.body,
            },
        )
    if inserted is None:
        raise KeyInProgressError


async def delete_expired(
    engine: AsyncEngine, older_than: timedelta, *, batch_size: int = 1000
) -> int:
    """Forget responses older than `older_than`, a short transaction per `batch_size` rows.

    Safe to run in several processes at once. Returns how many rows were deleted.

    Raises:
        DatabaseUnavailableError: the batches before it stay deleted.
    """
    deleted = 0
    while True:
        with translated():
            async with engine.begin() as connection:
                result = await connection.execute(
                    _DELETE_EXPIRED, {"older_than": older_than, "batch_size": batch_size}
                )
        deleted += result.rowcount
        if result.rowcount < batch_size:
            return deleted


def lock_id(scope: str, key: str) -> int:
    """The advisory lock of whoever works on a request with this key."""
    # `person` keeps these apart from whatever else the database's users hash to advisory locks.
    digest = hashlib.blake2b(
        f"{scope}\0{key}".encode(), digest_size=8, person=b"onceproof.idem"
    ).digest()
    return int.from_bytes(digest, "big", signed=True)
