"""One transaction: claim in the inbox, run the handler, commit. Effectively once is made here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Final, Protocol

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker

from onceproof.crashpoints import (
    CONSUMER_AFTER_CHARGE,
    CONSUMER_AFTER_COMMIT,
    CONSUMER_BEFORE_CHARGE,
    crash_point,
    crash_points,
)
from onceproof.errors import (
    DatabaseUnavailableError,
    InjectedDropError,
    OnceproofError,
    OutcomeUnknownError,
)
from onceproof.inbox import claim, claim_many
from onceproof.ports import Delivery
from onceproof.postgres import translated
from onceproof.postgres.failures import without_data
from onceproof.variants import Fixes

Handler = Callable[[AsyncSession, Delivery], Awaitable[None]]
"""`async def handle(session, delivery)`: effects go through `session`, which is committed for you."""

BatchHandler = Callable[[AsyncSession, Sequence[Delivery]], Awaitable[None]]
"""`async def handle_batch(session, deliveries)`: the same for several messages in one transaction."""


class Outcome(StrEnum):
    """How a delivery ended; the label of `onceproof_messages_processed_total`."""

    PROCESSED = "processed"
    DUPLICATE = "duplicate"
    STALE = "stale"
    RETRIED = "retried"
    REJECTED = "rejected"
    ACK_LOST = "ack_lost"

    @property
    def settled(self) -> bool:
        """Whether the message is done and may be acked."""
        return self in {Outcome.PROCESSED, Outcome.DUPLICATE}


_READ_ONLY: Final = text("SELECT current_setting('transaction_read_only')::bool")


class Work(Protocol):
    """What is done with deliveries, in a database transaction of its own for each call."""

    @property
    def calls_out(self) -> bool:
        """Whether somebody's code runs meanwhile, which may pass on the trace that it is in."""
        ...

    async def run(self, deliveries: Sequence[Delivery]) -> list[Outcome]:
        """Process deliveries together; one outcome for each, in order.

        Raises:
            DatabaseUnavailableError: nothing is known to have happened.
            OutcomeUnknownError: the reply to the COMMIT was lost; the redelivery decides.
            OnceproofError: Postgres did not take a statement, in words without the customer's data.
            Exception: whatever else the handler raised. The transaction was rolled back.
        """
        ...

    async def probe(self) -> None:
        """Ask whether the database can be written to.

        Raises:
            DatabaseUnavailableError: not now.
        """
        ...

    async def check(self) -> None:
        """Refuse what cannot run, before the first message is received.

        Raises:
            ConfigurationError: with what is wrong.
            TransientError: it could not be asked; again later.
        """
        ...


class Transaction:
    """Runs handlers, each call in a database transaction of its own.

    Args:
        consumer: name under which events are claimed.
        sessions: makes the handler's session.
        handle: handler for one delivery.
        handle_batch: handler for several; used for one as well when there is no `handle`.
        fixes: without `inbox` nothing is claimed, which is what the naive variant shows.
        timeout_s: seconds after which a handler is cancelled and its transaction rolled back.
    """

    calls_out = True

    def __init__(
        self,
        consumer: str,
        sessions: async_sessionmaker[AsyncSession],
        handle: Handler | None,
        handle_batch: BatchHandler | None,
        fixes: Fixes,
        timeout_s: float | None = None,
    ) -> None:
        self._consumer = consumer
        self._sessions = sessions
        self._handle = handle
        self._handle_batch = handle_batch
        self._fixes = fixes
        self._timeout_s = timeout_s

    async def run(self, deliveries: Sequence[Delivery]) -> list[Outcome]:
        """Claim, run the handler, commit; see `Work.run`."""
        pass_point(CONSUMER_BEFORE_CHARGE, deliveries)
        # Around the session too: to close it is to roll back, on a connection that may be gone.
        try:
            async with asyncio.timeout(self._timeout_s):
                with translated(statements_only=True):
                    return await self._run(deliveries)
        except DBAPIError as error:
            # Where in the handler, but not the driver's words: they have the row, and this is logged.
            told = OnceproofError(f"a statement of the handler failed: {without_data(error)}")
            raise told.with_traceback(error.__traceback__) from None

    async def _run(self, deliveries: Sequence[Delivery]) -> list[Outcome]:
        async with self._sessions() as session:
            with translated():
                # Connect here, where a refused connection can only be the database's.
                connection = await session.connection()
                # On the connection: to have the session run a statement costs as much CPU again.
                fresh = await self._claim(connection, deliveries)
                if not fresh:
                    await session.rollback()
                    return [Outcome.DUPLICATE] * len(deliveries)
            await self._effect(session, fresh)
            pass_point(CONSUMER_AFTER_CHARGE, fresh)
            await self._commit(session)
            # No await between the commit and its crash point, or the moment would have passed.
            return outcomes(deliveries, fresh)

    async def probe(self) -> None:
        """Ask whether the database can be written to; see `Work.probe`."""
        with translated():
            async with self._sessions() as session:
                # A standby answers, but cannot record a claim until it is promoted.
                if await session.scalar(_READ_ONLY):
                    raise DatabaseUnavailableError("the database is read-only")

    async def check(self) -> None:
        """Nothing: a handler shows only when it runs whether it can."""

    async def _claim(
        self, connection: AsyncConnection, deliveries: Sequence[Delivery]
    ) -> list[Delivery]:
        if not self._fixes.inbox:
            return list(deliveries)
        if len(deliveries) == 1:
            claimed = await claim(connection, self._consumer, deliveries[0].dedup_key)
            return list(deliveries) if claimed else []
        keys = await claim_many(connection, self._consumer, (d.dedup_key for d in deliveries))
        fresh: dict[str, Delivery] = {}
        for delivery in deliveries:  # a relay may have sent the same event twice into one batch
            if delivery.dedup_key in keys:
                fresh.setdefault(delivery.dedup_key, delivery)
        return list(fresh.values())

    async def _effect(self, session: AsyncSession, fresh: Sequence[Delivery]) -> None:
        if self._handle_batch is not None and (len(fresh) > 1 or self._handle is None):
            await self._handle_batch(session, fresh)
            return
        assert self._handle is not None  # noqa: S101 - the consumer's constructor checks it
        for delivery in fresh:
            await self._handle(session, delivery)

    async def _commit(self, session: AsyncSession) -> None:
        try:
            with translated():
                await session.commit()
        except DatabaseUnavailableError as error:
            raise OutcomeUnknownError(f"reply to the COMMIT lost: {error}") from None


def pass_point(point: str, deliveries: Sequence[Delivery]) -> None:
    """Pass a crash point with each of the deliveries."""
    if crash_points.is_armed(point):
        for delivery in deliveries:
            _pass(point, delivery)


def outcomes(deliveries: Sequence[Delivery], fresh: Sequence[Delivery]) -> list[Outcome]:
    """What became of `deliveries` now that the transaction of the `fresh` among them is committed.

    Passes the crash point after the commit, so there must be no await between the two.
    """
    if not crash_points.is_armed(CONSUMER_AFTER_COMMIT):
        if len(fresh) == len(deliveries):
            return [Outcome.PROCESSED] * len(deliveries)
        done = {id(delivery): Outcome.PROCESSED for delivery in fresh}
    else:
        done = {id(delivery): _committed(delivery) for delivery in fresh}
    return [done.get(id(delivery), Outcome.DUPLICATE) for delivery in deliveries]


def _committed(delivery: Delivery) -> Outcome:
    try:
        _pass(CONSUMER_AFTER_COMMIT, delivery)
    except InjectedDropError:
        return Outcome.ACK_LOST
    return Outcome.PROCESSED


def _pass(point: str, delivery: Delivery) -> None:
    event = delivery.event
    crash_point(
        point, event.key or event.id, delivery.attempt, event.id, delivery.message.message_id
    )
