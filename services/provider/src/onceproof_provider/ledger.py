"""The ledger: one row per capture, and the UNIQUE idempotency key is what keeps captures single.

A capture is one INSERT and its own transaction. Of requests that come together with one key, the
first inserts, the others wait on its index entry and then find the key taken. Nobody looks first
and inserts later, so there is no moment in between.

Keys are kept as long as the ledger, that is without limit. Real providers forget them after a day
or a month, and a client that repeats a charge after that pays twice.
"""

from __future__ import annotations

import hmac
import uuid
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from onceproof.errors import DatabaseUnavailableError, OutcomeUnknownError, TransientError
from onceproof.idempotency import KeyReusedError
from onceproof.postgres import translated
from onceproof_provider.validation import ChargeRequest

_CAPTURE: Final = text(
    """
    INSERT INTO captures (id, order_id, amount, currency, idempotency_key, fingerprint)
    VALUES (:id, :order_id, :amount, :currency, :key, :fingerprint)
    ON CONFLICT (idempotency_key) DO NOTHING
    RETURNING id
    """
)
_BY_KEY: Final = text(
    """
    SELECT id, order_id, amount, currency, fingerprint
      FROM captures
     WHERE idempotency_key = :key
    """
)
_BY_ORDER: Final = text(
    """
    SELECT id, order_id, amount, currency
      FROM captures
     WHERE order_id = :order_id
     ORDER BY created_at, id
    """
)
# Deadlock, lock not available, statement timeout: nothing was captured.
_BUSY_STATES: Final = frozenset({"40P01", "55P03", "57014"})


@dataclass(frozen=True, slots=True)
class Charge:
    """Money that was taken; `amount` in minor units."""

    charge_id: str
    order_id: str
    amount: int
    currency: str

    def as_json(self) -> dict[str, Any]:
        """The charge as the API shows it."""
        return {
            "charge_id": self.charge_id,
            "order_id": self.order_id,
            "amount": self.amount,
            "currency": self.currency,
            "status": "captured",
        }


class Ledger:
    """Captures, and finds what was captured."""

    def __init__(self, engine: AsyncEngine) -> None:
        # One statement is one transaction: no BEGIN and COMMIT around it.
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def capture(
        self, charge: ChargeRequest, key: str | None, fingerprint: bytes
    ) -> tuple[Charge, bool]:
        """Take the money, once per key; without a key each time.

        Returns:
            The charge, and whether it was captured now (False: an earlier request did).

        Raises:
            KeyReusedError: the key belongs to a charge with another fingerprint.
            TransientError: the database is away or busy. Nothing was captured.
            OutcomeUnknownError: the database went away in the middle.
        """
        with translated():
            async with self._engine.connect() as connection:
                capture_id = await self._insert(connection, charge, key, fingerprint)
                if capture_id is not None:
                    taken = Charge(capture_id, charge.order_id, charge.amount, charge.currency)
                    return taken, True
                earlier = (await connection.execute(_BY_KEY, {"key": key})).one()
        if not hmac.compare_digest(earlier.fingerprint, fingerprint):
            raise KeyReusedError("the Idempotency-Key was used for a different request")
        return Charge(earlier.id, earlier.order_id, earlier.amount, earlier.currency), False

    async def of_order(self, order_id: str) -> list[Charge]:
        """Every capture for an order, oldest first.

        Raises:
            DatabaseUnavailableError: try again later.
        """
        with translated():
            async with self._engine.connect() as connection:
                rows = await connection.execute(_BY_ORDER, {"order_id": order_id})
                return [Charge(*row) for row in rows]

    async def _insert(
        self, connection: AsyncConnection, charge: ChargeRequest, key: str | None, digest: bytes
    ) -> str | None:
        parameters = charge.model_dump() | {
            "id": f"ch_{uuid.uuid4().hex}",
            "key": key,
            "fingerprint": digest,
        }
        try:
            with translated():
                capture_id: str | None = await connection.scalar(_CAPTURE, parameters)
        except DatabaseUnavailableError as error:
            raise OutcomeUnknownError("the reply to the INSERT was lost") from error
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) in _BUSY_STATES:
                raise TransientError("the database is busy") from error
            raise
        return capture_id
