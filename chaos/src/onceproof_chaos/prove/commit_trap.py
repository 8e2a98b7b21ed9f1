"""Holds a transaction inside its COMMIT: everything done, nothing durable. No driver has to be patched.

A deferred constraint trigger runs at COMMIT, before it is durable. Ours takes a ticket and then waits
at a gate, both advisory locks; the gate is shut while the trap is armed. Only the first transaction gets
the ticket, so a successor passes while a zombie is held. To fail the commit its backend is ended, which
rolls back: exactly what a crash at this moment does.

One trigger for each table, because effect and deduplication in two transactions are only told apart by
the tables that they write.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import asyncpg

from onceproof.errors import ConfigurationError
from onceproof_chaos.backend import Instance
from onceproof_chaos.environment import asyncpg_url
from onceproof_chaos.plan import Fault

_GATE: Final = 0x0DCE_9001
_TICKET: Final = 0x0DCE_9002
_POLL_S: Final = 0.02
_END_TIMEOUT_S: Final = 5.0

_FUNCTION: Final = f"""
    CREATE FUNCTION prove.commit_point() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF pg_catalog.pg_try_advisory_xact_lock({_TICKET}, tg_relid::int) THEN
            SET LOCAL lock_timeout = 0; -- of the consumer: this lock is none of its own
            PERFORM pg_catalog.pg_advisory_xact_lock_shared({_GATE}, tg_relid::int);
        END IF;
        RETURN NULL;
    END $$
"""
_TRIGGER: Final = """
    CREATE CONSTRAINT TRIGGER prove_commit_point AFTER INSERT OR UPDATE OR DELETE ON {table}
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION prove.commit_point()
"""
_HELD: Final = """
    SELECT pid FROM pg_locks
     WHERE locktype = 'advisory' AND NOT granted AND classid = $1::bigint::oid AND objid = $2::oid
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_ALIVE: Final = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1::int[])"


async def install_commit_points(connection: asyncpg.Connection, tables: Sequence[str]) -> None:
    """Add the trigger to tables, given as quoted `schema.table`. The schema `prove` must exist."""
    await connection.execute(_FUNCTION)
    for table in tables:
        await connection.execute(_TRIGGER.format(table=table))


class CommitTrap:
    """Holds the next transaction that has written to `table`, at its COMMIT.

    Args:
        database_url: with the commit points installed.
        table: quoted `schema.table`.
    """

    def __init__(self, database_url: str, table: str) -> None:
        self.faults: Sequence[Fault] = ()
        self._url = asyncpg_url(database_url)
        self._table = table
        self._connection: asyncpg.Connection | None = None
        self._oid = 0
        self._held: list[int] = []

    async def arm(self) -> None:
        """Shut the gate."""
        self._connection = await asyncpg.connect(self._url)
        self._oid = await self._connection.fetchval("SELECT $1::text::regclass::oid", self._table)
        await self._connection.execute("SELECT pg_advisory_lock($1, $2::int)", _GATE, self._oid)

    async def sprung(self, consumer: Instance) -> None:  # noqa: ARG002 - only one consumer runs then
        """Wait until a transaction stands at the gate."""
        while not self._held:
            self._held = await self._waiting()
            await asyncio.sleep(_POLL_S)

    async def release(self, *, go_on: bool, refuse_s: float = 0.0) -> None:  # noqa: ARG002
        """Open the gate; before that, end who stands there if it may not go on.

        Raises:
            ConfigurationError: nobody stands there any more who could go on.
        """
        connection = self._connection
        if connection is None:
            return
        if go_on:
            await self._still_held()
        else:
            for pid in self._held:
                await connection.execute("SELECT pg_terminate_backend($1)", pid)
            await self._until_ended(connection)
        await self.close()

    async def close(self) -> None:
        """Open the gate."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _still_held(self) -> None:
        """Make sure that who goes on now is a zombie, and not somebody who has given up long ago."""
        if not set(self._held) <= set(await self._waiting()):
            raise ConfigurationError(
                "the COMMIT was cancelled before the end of the stall, so no zombie went on: raise the "
                "transaction_timeout of Postgres, or the consumer's own, for the proof"
            )

    async def _until_ended(self, connection: asyncpg.Connection) -> None:
        deadline = time.monotonic() + _END_TIMEOUT_S
        while await connection.fetchval(_ALIVE, self._held) and time.monotonic() < deadline:  # noqa: ASYNC110 - Postgres has no event for the end of a session
            await asyncio.sleep(_POLL_S)

    async def _waiting(self) -> list[int]:
        assert self._connection is not None  # noqa: S101 - armed before
        rows = await self._connection.fetch(_HELD, _GATE, self._oid)
        return [row[0] for row in rows]


__all__ = ["CommitTrap", "install_commit_points"]
