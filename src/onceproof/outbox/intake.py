"""A request accepted once, in one round trip: its key, its change, its event and its answer.

It does what `idempotency.claim`, a change, `append` and `idempotency.store` do in a transaction of six
round trips, where the change is one SQL statement and the answer is known beforehand. That a request
was accepted before is told by a second statement.
"""

from __future__ import annotations

import hmac
import json
from typing import Any, Final

from onceproof.events import Event
from onceproof.idempotency import KeyInProgressError, KeyReusedError, StoredResponse, lock_id
from onceproof.outbox.write import REQUEST, event_arguments, write, write_failure
from onceproof.postgres import DRIVER_ERRORS, Connection, Connections

# The lock is the one of `idempotency.claim`, and for the same reason: while somebody works on the key
# others are told to come back, and do not wait. A response that was committed since this statement's
# snapshot is met all the same, by ON CONFLICT.
_CLAIMED: Final = """
WITH onceproof_key AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock($7) AS free
), onceproof_claimed AS (
    INSERT INTO onceproof.idempotency_keys (scope, key, fingerprint, status, headers, body)
    SELECT CAST($8 AS text), CAST($9 AS text), CAST($10 AS bytea), CAST($11 AS smallint),
           CAST(CAST($12 AS text) AS jsonb), CAST($13 AS bytea)
    FROM onceproof_key WHERE free
    ON CONFLICT (scope, key) DO NOTHING
    RETURNING true
), request AS ("""

_OUTCOME: Final = """
    (SELECT free FROM onceproof_key) AS free, EXISTS (SELECT FROM onceproof_claimed) AS claimed,
"""

_FIND: Final = """
    SELECT fingerprint, status, CAST(headers AS text), body
    FROM onceproof.idempotency_keys WHERE scope = $1 AND key = $2
"""


class Intake:
    """Accepts requests of one kind.

    Args:
        connections: of the database with the change's tables, the outbox and the idempotency keys.
        change: see `SqlWrite`.
        scope: what an idempotency key is unique within, e.g. `POST /orders`.
        destination: queue or topic of the events; None appends none, which is what the naive variant
            shows.
    """

    def __init__(
        self, connections: Connections, change: str, *, scope: str, destination: str | None
    ) -> None:
        self._connections = connections
        self._scope = scope
        self._destination = destination
        self._statement = accept(change, append=destination is not None)

    async def accept(
        self, key: str, fingerprint: bytes, event: Event, response: StoredResponse
    ) -> StoredResponse | None:
        """Have the change, append the event and store the response, all of it or nothing.

        Args:
            key: from `idempotency.parse_key`.
            fingerprint: from `idempotency.fingerprint`, of this request.
            event: with its `traceparent`.
            response: the answer, if it is accepted now.

        Returns:
            None if it was accepted now; the response that was given before, for a repeated request.

        Raises:
            KeyInProgressError: another transaction holds the key.
            KeyReusedError: the stored response answers a different request.
            NothingDoneError: the change returned no row; nothing was written.
            DatabaseUnavailableError, TransientError: nothing was written; try again later.
            OutcomeUnknownError: the reply was lost; a repeated request tells.
            OnceproofError: the statement is wrong, or refuses what it was to write; nothing was written.
            EventTooLargeError, MalformedEventError: see `append`.
        """
        arguments = (
            *event_arguments(event, self._destination),
            lock_id(self._scope, key), self._scope, key, fingerprint,
            response.status, json.dumps(dict(response.headers)), response.body,
        )  # fmt: skip

        async def execute(connection: Connection) -> tuple[Any, Any]:
            row = await connection.fetchrow(self._statement, *arguments)
            if row["claimed"] or not row["free"]:
                return row, None
            return row, await connection.fetchrow(_FIND, self._scope, key)

        try:
            row, found = await self._connections.run(execute)
        except DRIVER_ERRORS as error:
            raise write_failure(error) from None  # the cause has the row in its words
        if row["claimed"]:
            return None
        if found is None:  # held by somebody, or forgotten in this very moment
            raise KeyInProgressError
        stored, status, headers, body = found
        if not hmac.compare_digest(stored, fingerprint):
            raise KeyReusedError("the Idempotency-Key was used for a different request")
        return StoredResponse(status, body, json.loads(headers))


def accept(change: str, *, append: bool) -> str:
    """The statement of an `Intake`.

    Its parameters are those of `REQUEST` and, from `$7`: lock, scope, key, fingerprint, status, headers
    (JSON as text) and body.
    """
    rest = write(change, append=append, also=_OUTCOME)
    return f"{_CLAIMED}{REQUEST} FROM onceproof_claimed){rest}"
