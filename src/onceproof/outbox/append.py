"""Append an event in the caller's transaction: both are committed, or neither."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from onceproof.events import Event
from onceproof.telemetry import current_traceparent

_COLUMNS: Final = "id, destination, key, type, payload, traceparent"
_VALUES: Final = (
    "CAST(:outbox_id AS text), CAST(:outbox_destination AS text), CAST(:outbox_key AS text), "
    "CAST(:outbox_type AS text), CAST(:outbox_payload AS text), CAST(:outbox_traceparent AS text)"
)
_INSERT: Final = f"INSERT INTO onceproof.outbox ({_COLUMNS}) SELECT {_VALUES}"
_WITH: Final = """
    WITH written AS ({statement}), appended AS ({insert} FROM written) SELECT * FROM written
"""

_APPEND: Final = text(_INSERT)


async def append(session: AsyncSession | AsyncConnection, event: Event, destination: str) -> Event:
    """Add `event` to the outbox, to be sent to the queue or topic `destination` after the commit.

    The trace context of this moment travels inside the event, because by the time that a relay sends
    it, the request that caused it is over.

    Returns:
        The event as it will be sent, with its `traceparent`.

    Raises:
        EventTooLargeError: no broker would take it. Nothing was written.
        MalformedEventError: no consumer would take it. Nothing was written.
    """
    if event.traceparent is None:
        event = replace(event, traceparent=current_traceparent())
    await session.execute(_APPEND, outbox_parameters(event, destination))
    return event


def appended_with(statement: str) -> str:
    """One statement that does what `statement` does and appends an event for the row that it returns.

    It saves the round trip of a second statement. Nothing is appended where no row is returned, so an
    `INSERT ... ON CONFLICT DO NOTHING RETURNING true` appends only when it has inserted. Its
    parameters are those of `statement` and of `outbox_parameters`.

    Args:
        statement: SQL that writes and has a RETURNING clause, for one row at most.
    """
    return _WITH.format(statement=statement, insert=_INSERT)


def outbox_parameters(event: Event, destination: str) -> dict[str, str | None]:
    """Values for the parameters of `appended_with`; set the event's `traceparent` before.

    Raises:
        EventTooLargeError, MalformedEventError: see `append`.
    """
    return {
        "outbox_id": event.id,
        "outbox_destination": destination,
        "outbox_key": event.key,
        "outbox_type": event.type,
        "outbox_payload": event.encode().decode(),
        "outbox_traceparent": event.traceparent,
    }
