"""A change and its event, written by one SQL statement: one round trip, and no transaction left open.

For changes that are all SQL; `append` is for those in which Python decides between statements.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from onceproof.errors import OnceproofError, OutcomeUnknownError, PermanentError
from onceproof.events import Event
from onceproof.postgres import DRIVER_ERRORS, Connections
from onceproof.postgres.failures import first_line, is_reply_lost, meaning, without_data
from onceproof.telemetry import current_traceparent

# An error is the only way in which a statement can take itself back; its text is this cast's argument,
# which must not be a constant, or the statement would fail when it is planned.
_NOTHING_DONE: Final = "onceproof: the change returned"

REQUEST: Final = """
    SELECT CAST($1 AS text) AS event_id, CAST($2 AS text) AS key, CAST($3 AS text) AS type,
           CAST(CAST($4 AS text) AS jsonb)->'data' AS data, CAST($4 AS text) AS payload,
           CAST($5 AS text) AS traceparent, CAST($6 AS text) AS destination
"""
"""The event that a change reads as `request`; see `event_arguments`."""
_APPEND: Final = """, onceproof_appended AS (
    INSERT INTO onceproof.outbox (id, destination, key, type, payload, traceparent)
    SELECT event_id, destination, key, type, payload, traceparent FROM request
)"""
_DONE: Final = f"""
    CASE WHEN (SELECT count(*) FROM onceproof_change) = (SELECT count(*) FROM request) THEN true
         ELSE CAST(format('{_NOTHING_DONE} %s rows', (SELECT count(*) FROM onceproof_change))
                   AS boolean) END AS done
"""  # noqa: S608 - all of it is ours


class NothingDoneError(PermanentError):
    """The change returned no row, so nothing was written: what was asked for cannot be done."""


class SqlWrite:
    """Writes changes of one kind with their events.

    Args:
        connections: of the database with the change's tables and the outbox.
        change: SQL that reads from `request`, a row with `event_id`, `key`, `type` and `data` (jsonb) of
            the event, and returns one row when it has done something; without parameters. For example

                INSERT INTO orders (id, amount) SELECT key, CAST(data->>'amount' AS bigint) FROM request
                ON CONFLICT DO NOTHING RETURNING 1

        destination: queue or topic of the events.
    """

    def __init__(self, connections: Connections, change: str, destination: str) -> None:
        self._connections = connections
        self._destination = destination
        self._statement = f"WITH request AS ({REQUEST}){write(change)}"

    async def write(self, event: Event) -> Event:
        """Have the change and append the event, or neither.

        Returns:
            The event as it will be sent, with its `traceparent`.

        Raises:
            NothingDoneError: the change returned no row; nothing was written.
            DatabaseUnavailableError, TransientError: nothing was written; try again later.
            OutcomeUnknownError: the reply was lost.
            OnceproofError: the statement is wrong, or refuses what it was to write; nothing was written.
            EventTooLargeError, MalformedEventError: see `append`.
        """
        if event.traceparent is None:
            event = replace(event, traceparent=current_traceparent())
        arguments = event_arguments(event, self._destination)
        try:
            await self._connections.run(lambda c: c.fetchval(self._statement, *arguments))
        except DRIVER_ERRORS as error:
            raise write_failure(error) from None  # the cause has the row in its words
        return event


def write(change: str, *, append: bool = True, also: str = "") -> str:
    """The rest of a statement behind its `request`: the change, the event, and what it returns.

    Args:
        change: see `SqlWrite`.
        append: append the event to the outbox.
        also: further columns of the one row that is returned.
    """
    appended = _APPEND if append else ""
    return f""", onceproof_change AS (
{change.strip().rstrip(";")}
){appended}
SELECT {also}{_DONE}"""


def event_arguments(event: Event, destination: str | None) -> tuple[str | None, ...]:
    """Values for `REQUEST`.

    Raises:
        EventTooLargeError, MalformedEventError: see `append`.
    """
    payload = event.encode().decode()
    return (event.id, event.key, event.type, payload, event.traceparent, destination)


def write_failure(error: Exception) -> OnceproofError:
    """What a failed statement means."""
    if _NOTHING_DONE in str(error):
        return NothingDoneError("the change did nothing")
    if is_reply_lost(error):
        return OutcomeUnknownError(f"reply of the database lost: {first_line(error)}")
    return meaning(error) or OnceproofError(f"the change failed: {without_data(error)}")
