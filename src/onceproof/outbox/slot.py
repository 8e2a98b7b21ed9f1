"""The replication slot through which change data capture reads the outbox: made, watched, found lost.

A slot is the reader's only position. As long as it is there, nothing committed after it was made is
missed, whoever dies. It can be lost, though: dropped, left behind by a failover, or invalidated when it
would keep more WAL than `max_slot_wal_keep_size`. Then events were committed that nobody will read, and
nothing in the database says so, unless somebody looks. Here somebody does.

Progress is kept as one row for the slot instead of a mark on each event. It rests on three readings, in
this order: every `seq` up to `complete` is committed or rolled back (`onceproof.outbox.floor`); then the
WAL's end, which lies behind all these commits; later the slot's confirmed position. When that has
reached the WAL's end of before, the reader has sent every row up to `complete`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from onceproof.errors import ConfigurationError
from onceproof.outbox import slot_statements as statements
from onceproof.outbox.floor import Floor
from onceproof.postgres import Connection, Connections, translated

DEFAULT_SLOT: Final = "onceproof_outbox"
"""Of the slot, and of its publication."""
_NAME: Final = re.compile(r"[a-z0-9_]{1,63}")


class SlotState(StrEnum):
    """What a slot can be, as far as its reader is concerned."""

    READ = "read"
    """Somebody reads it."""
    IDLE = "idle"
    """It is there and nobody reads it: it keeps WAL."""
    UNREGISTERED = "unregistered"
    """It was not made by `create`, or that is not done yet: where it begins is not known."""
    LOST = "lost"
    """Gone, or invalidated: events were committed that it will never give out."""
    ABSENT = "absent"
    """It was never made."""


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """A look at a slot. Sizes in bytes.

    Args:
        slot: its name.
        state: see `SlotState`.
        destination: events that it is for; None: all.
        from_seq: rows up to there may have been committed before the slot was made.
        confirmed_seq: rows from `from_seq` up to there were sent.
        lag_bytes: WAL that its reader has not confirmed.
        retained_bytes: WAL that the server keeps for it.
        safe_bytes: WAL that can still be written before it is invalidated; None: there is no limit.
        why_lost: what happened to it.
        there: whether the server has a slot by that name.
    """

    slot: str
    state: SlotState
    destination: str | None = None
    from_seq: int = 0
    confirmed_seq: int = 0
    lag_bytes: int = 0
    retained_bytes: int = 0
    safe_bytes: int | None = None
    why_lost: str = ""
    there: bool = False

    @property
    def usable(self) -> bool:
        """Whether a reader finds there what was committed since it was made."""
        return self.state in {SlotState.READ, SlotState.IDLE}


class Slot:
    """A slot on the outbox of one database.

    Args:
        engine: of that database; its role needs REPLICATION to create or drop.
        name: of slot and publication: lower-case letters, digits and underscores.

    Raises:
        ConfigurationError: the name is none.
        DatabaseUnavailableError, TransientError: from every method.
    """

    def __init__(self, engine: AsyncEngine, name: str = DEFAULT_SLOT) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"{name!r} is no name of a replication slot: lower-case letters, digits, underscores"
            )
        self.name = name
        self._connections = Connections(engine, size=1)
        self._floor = Floor()
        self._fence: tuple[int, int] | None = None

    async def create(self, destination: str | None = None) -> SlotStatus:
        """Make publication and slot, as far as they are not there, and register them.

        May be repeated, also after a crash in the middle.

        Args:
            destination: publish only events for this queue or topic, for a sink that knows one.

        Raises:
            ConfigurationError: the server has no logical decoding, the slot is lost, see `replace`, or
                it is registered for other events.
        """
        with translated():
            return await self._connections.run(lambda c: self._create(c, destination))

    async def replace(self) -> SlotStatus:
        """Make a lost slot anew; rows that the old one has not sent stay pending, for `reconcile`.

        Raises:
            ConfigurationError: it is not lost.
        """

        async def anew(connection: Connection) -> SlotStatus:
            now = await self._status(connection)
            if now.state is not SlotState.LOST:
                raise ConfigurationError(f"slot {self.name} is not lost: it is {now.state}")
            await connection.execute(statements.UNPLACE, self.name)
            await connection.fetch(statements.DROP_INVALID, self.name)
            return await self._create(connection, now.destination)

        with translated():
            return await self._connections.run(anew)

    async def drop(self) -> int:
        """Make an end of it: slot, publication and registration, as far as they are there.

        What it is known to have sent is marked first, so that polling relays send the rest only: what it
        sent last, before anybody recorded it, comes twice.

        Returns:
            How many events were marked.

        Raises:
            ConfigurationError: somebody reads it.
        """

        async def end(connection: Connection) -> None:
            await connection.fetch(statements.DROP, self.name)
            await connection.execute(f'DROP PUBLICATION IF EXISTS "{self.name}"')
            await connection.execute(statements.UNREGISTER, self.name)

        in_use = ConfigurationError(f"somebody reads slot {self.name}: stop Debezium first")
        if (await self.status()).state is SlotState.READ:
            raise in_use
        settled = await self.settle()
        try:
            with translated():
                await self._connections.run(end)
        except asyncpg.ObjectInUseError:  # who was away when it was looked at
            raise in_use from None
        return settled

    async def settle(self, *, batch_size: int = 5_000) -> int:
        """Mark each event that it has sent as published, as a polling relay does; how many."""
        settled = 0
        while True:
            with translated():
                marked = await self._connections.run(
                    lambda c: c.fetchval(statements.SETTLE, self.name, batch_size)
                )
            settled += int(marked)
            if marked < batch_size:
                return settled

    async def status(self) -> SlotStatus:
        """Look at it."""
        with translated():
            return await self._connections.run(self._status)

    async def advance(self) -> SlotStatus:
        """Record what its reader has sent meanwhile, and look at it.

        One connection is to stay open between calls, see `watched`; without that nothing advances.
        """
        with translated():
            return await self._connections.run(self._advance)

    async def pending(self) -> tuple[int, float]:
        """Rows that are not known to be sent, and the age of the oldest of them in seconds."""
        with translated():
            row = await self._connections.run(
                lambda c: c.fetchrow(statements.UNSENT, self.name, True)
            )
        return int(row["rows"]), float(row["oldest_age_s"])

    async def delete_sent(self, *, older_than_s: float, batch_size: int = 1000) -> int:
        """Delete rows that were sent through the slot and are older than that; how many.

        Each batch of at most `batch_size` rows is a transaction of its own. Rows that are kept are what
        `reconcile` finds events by, should the slot be lost.
        """
        deleted, behind = 0, 0
        while True:
            arguments = (self.name, older_than_s, behind, batch_size)
            with translated():
                row = await self._connections.run(
                    lambda c, these=arguments: c.fetchrow(statements.DELETE_SENT, *these)  # type: ignore[misc]
                )
            deleted += int(row["rows"])
            if row["rows"] < batch_size:
                return deleted
            behind = row["last_seq"]

    def watched(self) -> Connections:
        """Use as `async with`: keeps the connection that `advance` needs."""
        return self._connections

    async def _create(self, connection: Connection, destination: str | None) -> SlotStatus:
        level = await connection.fetchval("SHOW wal_level")
        if level != "logical":
            raise ConfigurationError(
                f"change data capture needs wal_level = logical, the server has {level}: "
                "ALTER SYSTEM SET wal_level = logical, then restart it"
            )
        now = await self._status(connection)
        if now.state is SlotState.LOST:
            raise ConfigurationError(
                f"slot {self.name} is lost, and events with it: run onceproof outbox reconcile"
            )
        if now.usable and now.destination != destination:
            raise ConfigurationError(
                f"slot {self.name} is for {now.destination or 'all events'}, "
                f"not for {destination or 'all'}: use another name"
            )
        # The publication first: a slot gives out changes by the publications of their moment.
        if not await connection.fetchval(statements.HAS_PUBLICATION, self.name):
            literal = await connection.fetchval("SELECT quote_literal($1::text)", destination)
            await connection.execute(statements.publication(self.name, literal))
        if not now.there:
            await connection.fetchval(statements.CREATE, self.name)
        # Read after the slot was made: rows beyond it were begun, so committed, later than that.
        await connection.execute(statements.REGISTER, self.name, destination)
        return await self._status(connection)

    async def _status(self, connection: Connection) -> SlotStatus:
        row = await connection.fetchrow(statements.STATUS, self.name, statements.NOWHERE)
        if row is None:
            return SlotStatus(self.name, SlotState.ABSENT)
        state = _state(
            registered=row["registered"], there=row["there"], lost=row["lost"], active=row["active"]
        )
        return SlotStatus(
            slot=self.name,
            state=state,
            destination=row["destination"],
            from_seq=row["from_seq"],
            confirmed_seq=row["confirmed_seq"],
            lag_bytes=row["lag_bytes"],
            retained_bytes=row["retained_bytes"],
            safe_bytes=row["safe_bytes"],
            why_lost=row["why"] if state is SlotState.LOST else "",
            there=row["there"],
        )

    async def _advance(self, connection: Connection) -> SlotStatus:
        status = await self._status(connection)
        if not status.usable:
            self._fence = None
            return status
        await self._floor.now(connection, self._connections.opened)
        if self._fence is None and self._floor.complete > status.confirmed_seq:
            # The order matters: the WAL's end is read after `complete` is known.
            complete = self._floor.complete
            self._fence = complete, await connection.fetchval(statements.WAL_END)
        if self._fence is not None:
            complete, wal_end = self._fence
            confirmed = await connection.fetchval(statements.CONFIRM, self.name, complete, wal_end)
            if confirmed is not None:
                self._fence = None
                return replace(status, confirmed_seq=confirmed)
        return status


def _state(*, registered: bool, there: bool, lost: bool, active: bool) -> SlotState:
    if lost or (registered and not there):
        return SlotState.LOST
    if not registered:
        return SlotState.UNREGISTERED
    return SlotState.READ if active else SlotState.IDLE
