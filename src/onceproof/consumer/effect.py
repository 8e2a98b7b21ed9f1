"""An effect in SQL: claimed and done in one round trip, one event or many alike.

Where the whole effect of an event is in the caller's database, Python has nothing to do between the
claim and the commit. Then both are one statement, see `onceproof.inbox.statement`, and what a
transaction of several round trips costs, on either side, is not paid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

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
from onceproof.inbox.statement import claim_with_effect, miscount
from onceproof.ports import Delivery
from onceproof.postgres import DRIVER_ERRORS, Connection, Connections, translated
from onceproof.postgres.failures import first_line, meaning
from onceproof.variants import Fixes

_READ_ONLY: Final = "SELECT current_setting('transaction_read_only')::bool"

# Class 22: the data cannot be what the statement takes it for. 23502, 23514: it breaks NOT NULL or a
# CHECK. All of them are about this event, which never changes. A foreign key is not among them: the
# row that it needs may be on its way; nor are missing tables and rights, which a roll-out mends.
_DATA_EXCEPTION: Final = "22"
_BROKEN_BY_EVENT: Final = frozenset({"23502", "23514"})


@dataclass(frozen=True, slots=True)
class SqlEffect:
    """What an event does, as one SQL statement that reads from `events` and returns rows.

    `events` has a row for each event that was not processed before, in the order of their ids:
    `event_id`, `key` (CloudEvents `subject`), `type`, `time`, `data` (jsonb), `attempt` (delivery count,
    from 1), and `event` (jsonb, all of it). One row or many: the statement is the same, e.g.

        INSERT INTO shipments (sku) SELECT data->>'sku' FROM events RETURNING 1

    Data that the statement cannot take (a failed cast, a NULL or a CHECK violated) sends its event to
    the DLQ with Postgres' words; other errors are tried again. In a batch that fails, each event is
    tried alone.

    Args:
        statement: the SQL, without parameters. A data-modifying statement needs `RETURNING`.
        one_row_each: require one row for each event, and take everything back when it is not so; alone,
            such an event goes to the DLQ. It is a guard: an event whose `UPDATE` finds no row is lost
            without it, and an `UPDATE ... FROM events` changes a row once, however many events of a
            batch are about it. Off for effects that may skip events or return several rows for one.
    """

    statement: str
    one_row_each: bool = True


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
        self._statement = claim_with_effect(
            effect.statement, inbox=fixes.inbox, counted=effect.one_row_each
        )

    async def run(self, deliveries: Sequence[Delivery]) -> list[Outcome]:
        """Claim and have the effect; see `Work.run`.

        Raises:
            DatabaseUnavailableError: nothing is known to have happened.
            OutcomeUnknownError: the reply was lost; the redelivery decides.
            TransientError: a deadlock, or a wait that was too long.
            PermanentError: the effect cannot take an event's data, or did nothing for it.
        """
        pass_point(CONSUMER_BEFORE_CHARGE, deliveries)
        given = deliveries
        if self._inbox and len(deliveries) > 1:
            # A relay may have sent the same event twice into one batch.
            given = list(
                {delivery.dedup_key: delivery for delivery in reversed(deliveries)}.values()
            )

        async def execute(connection: Connection) -> list[Delivery]:
            return await self._execute(connection, given)

        try:
            fresh = await self._connections.run(execute)
        except DRIVER_ERRORS as error:
            meant = _meaning(error)
            if meant is None:
                raise
            raise meant from error
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
        """Have Postgres parse the statement, so that one that is wrong ends the start and no message.

        Raises:
            ConfigurationError: it is wrong, or a table that it needs is missing.
            DatabaseUnavailableError: it could not be asked.
        """

        async def prepare(connection: Connection) -> None:
            await connection.prepare(self._statement)

        try:
            with translated():
                await self._connections.run(prepare)
        except asyncpg.PostgresError as error:
            raise ConfigurationError(
                f"the effect is not a statement that can run: {error}"
            ) from error

    async def _execute(self, connection: Connection, given: Sequence[Delivery]) -> list[Delivery]:
        if not crash_points.is_armed(CONSUMER_AFTER_CHARGE):
            return _fresh(given, await self._fetch(connection, given))
        # Between effect and commit there is a moment only in a transaction of several round trips.
        async with connection.transaction():
            fresh = _fresh(given, await self._fetch(connection, given))
            pass_point(CONSUMER_AFTER_CHARGE, fresh)
        return fresh

    async def _fetch(
        self, connection: Connection, given: Sequence[Delivery]
    ) -> Iterable[Sequence[str]]:
        found: Iterable[Sequence[str]] = await connection.fetch(
            self._statement,
            self._consumer,
            [delivery.dedup_key for delivery in given],
            [_json_of(delivery) for delivery in given],
            [delivery.message.attempt for delivery in given],
        )
        return found


def _fresh(given: Sequence[Delivery], claimed: Iterable[Sequence[str]]) -> list[Delivery]:
    keys = {row[0] for row in claimed}
    return [delivery for delivery in given if delivery.dedup_key in keys]


def _json_of(delivery: Delivery) -> str:
    """The event's own bytes, so that Postgres sees numbers as they were written."""
    try:
        return delivery.message.body.decode()
    except UnicodeDecodeError:  # JSON may be UTF-16, which a broker with binary bodies carries
        return delivery.event.encode().decode()


def _meaning(error: Exception) -> OnceproofError | None:
    """What a failed statement means for its events; None where it says nothing about them."""
    if isinstance(error, asyncpg.PostgresConnectionError | asyncpg.InterfaceError | OSError):
        return OutcomeUnknownError(f"reply of the database lost: {first_line(error)}")
    if meant := meaning(error):
        return meant
    state = str(getattr(error, "sqlstate", ""))
    if state.startswith(_DATA_EXCEPTION) or state in _BROKEN_BY_EVENT:
        return PermanentError(
            miscount(error) or f"the effect does not take this event: {first_line(error)}"
        )
    return None
