"""An effect in SQL: claimed and done in one round trip, one event or many alike.

Where the whole effect of an event is in the caller's database, Python has nothing to do between the
claim and the commit. Then both are one statement, see `onceproof.inbox.statement`, and what a
transaction of several round trips costs, on either side, is not paid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from onceproof.consumer.handler import Outcome, outcomes, pass_point
from onceproof.crashpoints import CONSUMER_AFTER_CHARGE, CONSUMER_BEFORE_CHARGE, crash_points
from onceproof.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    OnceproofError,
    OutcomeUnknownError,
    PermanentError,
)
from onceproof.inbox.statement import NO_EVENT_ID, Returns, claim_with_effect, miscount
from onceproof.ports import Delivery
from onceproof.postgres import DRIVER_ERRORS, Connection, Connections, translated
from onceproof.postgres.failures import (
    DATA_EXCEPTION,
    first_line,
    is_reply_lost,
    meaning,
    sqlstate,
    without_data,
)
from onceproof.variants import Fixes

_READ_ONLY: Final = "SELECT current_setting('transaction_read_only')::bool"

# The data cannot be what the statement takes it for, or there is none: that is about this event, which
# never changes. A CHECK or a foreign key is about what else is there, which may be on its way: the
# deposit before a withdrawal, the row that is referred to.
_NOT_NULL: Final = "23502"


@dataclass(frozen=True, slots=True)
class SqlEffect:
    """What an event does, as one SQL statement that reads from `events` and returns rows.

    `events` has a row for each event that was not processed before, in the order of their ids:
    `event_id`, `key` (CloudEvents `subject`), `type`, `time`, `data` (jsonb), `attempt` (delivery count,
    from 1), and `event` (jsonb, all of it). One row or many: the statement is the same, e.g.

        INSERT INTO shipments (event_id, sku) SELECT event_id, data->>'sku' FROM events
        RETURNING event_id

    Where all are duplicates, `events` is empty, and an effect must return and change nothing. At the
    start it is run so once, and taken back.

    Data that the statement cannot take (a failed cast, a NULL where there must be none) sends its event
    to the DLQ; other errors are tried again, a CHECK or a foreign key among them. In a batch that fails,
    each event is tried alone.

    Args:
        statement: the SQL, without parameters. A data-modifying statement needs `RETURNING`.
        returns: what must come back, or everything is taken back; alone, such an event goes to the DLQ.
            It is a guard: an event whose `UPDATE` finds no row is lost without it, and an
            `UPDATE ... FROM events` changes a row once, however many events of a batch are about it.
            `"event_id"`: a column of this name, with the id of each event once. `"count"`: as many rows
            as events, whatever is in them; enough where one row for one event is certain, as for an
            `INSERT ... SELECT ... FROM events` into a table without the id. None: anything, for effects
            that may skip events or return several rows for one.
    """

    statement: str
    returns: Returns = "event_id"


class EffectTransaction:
    """Claims deliveries and has their effect, in one statement that is a transaction.

    Args:
        consumer: name under which events are claimed.
        connections: where the statement runs.
        effect: what is done.
        fixes: without `inbox` nothing is claimed, which is what the naive variant shows.
    """

    calls_out = False

    def __init__(
        self, consumer: str, connections: Connections, effect: SqlEffect, fixes: Fixes
    ) -> None:
        self._consumer = consumer
        self._connections = connections
        self._inbox = fixes.inbox
        returns = effect.returns
        if returns == "event_id" and not fixes.dedup_on_event_id:
            returns = "count"  # what is claimed has other names
        self._statement = claim_with_effect(effect.statement, inbox=fixes.inbox, returns=returns)
        self._with_no_events = claim_with_effect(
            effect.statement, inbox=fixes.inbox, returns=returns or "count"
        )

    async def run(self, deliveries: Sequence[Delivery]) -> list[Outcome]:
        """Claim and have the effect; see `Work.run`.

        Raises:
            DatabaseUnavailableError: nothing is known to have happened.
            OutcomeUnknownError: the reply was lost; the redelivery decides.
            TransientError: a deadlock, or a wait that was too long.
            PermanentError: the effect cannot take an event's data, or did not return what it must.
            OnceproofError: another error of Postgres, in words without the customer's data.
        """
        pass_point(CONSUMER_BEFORE_CHARGE, deliveries)
        given = deliveries
        if self._inbox and len(deliveries) > 1:
            # A relay may have sent the same event twice into one batch.
            given = list(
                {delivery.dedup_key: delivery for delivery in reversed(deliveries)}.values()
            )

        # Before a connection is lent, which would not outlive an error that is not Postgres'.
        arguments = self._arguments(given)

        async def execute(connection: Connection) -> list[Delivery]:
            return await self._execute(connection, given, arguments)

        try:
            fresh = await self._connections.run(execute)
        except DRIVER_ERRORS as error:
            # Without the cause: it has the row in its words, which logs and traces would keep.
            raise _meaning(error) from None
        # No await between the commit and its crash point, or the moment would have passed.
        return outcomes(deliveries, fresh)

    async def probe(self) -> None:
        """Ask whether the database can be written to; see `Work.probe`."""

        async def ask(connection: Connection) -> bool:
            return bool(await connection.fetchval(_READ_ONLY))

        with translated():
            if await self._connections.run(ask):
                raise DatabaseUnavailableError("the database is read-only")

    async def check(self) -> None:
        """Run the statement with no events and take it back: one that is wrong costs no message.

        Raises:
            ConfigurationError: it is wrong, a table or a right that it needs is missing, or it returns
                something for no events.
            TransientError: it could not be asked; `DatabaseUnavailableError` where nobody answered.
        """

        async def attempt(connection: Connection) -> None:
            transaction = connection.transaction()
            await transaction.start()
            try:
                await connection.fetch(self._with_no_events, *self._arguments([]))
            finally:
                await transaction.rollback()

        try:
            with translated():
                await self._connections.run(attempt)
        except asyncpg.PostgresError as error:
            raise ConfigurationError(_wrong(error)) from error

    async def _execute(
        self, connection: Connection, given: Sequence[Delivery], arguments: Sequence[Any]
    ) -> list[Delivery]:
        if not crash_points.is_armed(CONSUMER_AFTER_CHARGE):
            return _fresh(given, await connection.fetch(self._statement, *arguments))
        # Between effect and commit there is a moment only in a transaction of several round trips.
        async with connection.transaction():
            fresh = _fresh(given, await connection.fetch(self._statement, *arguments))
            pass_point(CONSUMER_AFTER_CHARGE, fresh)
        return fresh

    def _arguments(self, given: Sequence[Delivery]) -> Sequence[Any]:
        return (
            self._consumer,
            [delivery.dedup_key for delivery in given],
            [_json_of(delivery) for delivery in given],
            [delivery.message.attempt for delivery in given],
            # As `Event` read it: a time without a zone, or none at all, is another one to Postgres.
            [delivery.event.time.timestamp() for delivery in given],
        )


def _fresh(given: Sequence[Delivery], claimed: Iterable[Sequence[str]]) -> list[Delivery]:
    keys = {row[0] for row in claimed}
    return [delivery for delivery in given if delivery.dedup_key in keys]


def _json_of(delivery: Delivery) -> str:
    """The event as text: its own bytes where they are UTF-8, so that numbers stay as they were written.

    Raises:
        PermanentError: it has a character that no encoding has.
    """
    body = delivery.message.body
    try:
        # As `Event.decode` tells UTF-8 from what else JSON may be, which Postgres does not take.
        if body[:1] == b"{" and body[1:2] != b"\x00":
            return body.decode()
        return delivery.event.encode().decode()
    except UnicodeError:
        raise PermanentError("the event has a lone surrogate, which is no character") from None


def _meaning(error: Exception) -> OnceproofError:
    """What a failed statement means for its events."""
    if is_reply_lost(error):
        return OutcomeUnknownError(f"reply of the database lost: {first_line(error)}")
    if meant := meaning(error):
        return meant
    if said := miscount(error):
        return PermanentError(said)
    state = sqlstate(error)
    if state.startswith(DATA_EXCEPTION) or state == _NOT_NULL:
        return PermanentError(f"the effect does not take this event: {without_data(error)}")
    return OnceproofError(f"the effect failed: {without_data(error)}")


def _wrong(error: Exception) -> str:
    """What is wrong with a statement that failed with no events, and what to do about it."""
    if said := miscount(error):
        return f"{said}, and must do nothing for none: give an aggregate HAVING count(*) > 0"
    if NO_EVENT_ID in str(error):
        return (
            "the effect returns no column event_id: add RETURNING event_id, or to a SELECT the column "
            '(see SqlEffect for returns="count" and returns=None)'
        )
    return f"the effect is not a statement that can run: {error}"
