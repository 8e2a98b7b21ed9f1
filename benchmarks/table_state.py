"""A table in a state of its own, put in the place of the real one for a run.

A state with ten million rows is made once, and its runs still alternate with those of an empty table.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.database import Database


class TableState:
    """A copy of a table: columns, indexes and settings, without rows.

    Args:
        where: the database.
        table: in the schema `onceproof`.
        state: what it is in, for people.
    """

    def __init__(self, where: Database, table: str, state: str) -> None:
        self._where = where
        self._table = table
        self._copy = f"{table}_of_" + "".join(c if c.isalnum() else "_" for c in state.lower())

    async def make(self) -> None:
        """Make the copy; put it in place to fill it."""
        execute, original = self._where.connection.execute, f"onceproof.{self._table}"
        await execute(f"CREATE TABLE onceproof.{self._copy} (LIKE {original} INCLUDING ALL)")
        # Storage parameters are the one thing that LIKE does not copy.
        options = await self._where.connection.fetchval(
            "SELECT array_to_string(reloptions, ', ') FROM pg_class WHERE oid = $1::regclass",
            original,
        )
        if options:
            await execute(f"ALTER TABLE onceproof.{self._copy} SET ({options})")

    @asynccontextmanager
    async def in_place(self) -> AsyncIterator[None]:
        """Have the copy's rows in the table, and the table's own out of the way."""
        aside = f"{self._table}_set_aside"
        await self._rename(self._table, aside)
        await self._rename(self._copy, self._table)
        try:
            yield
        finally:
            await self._rename(self._table, self._copy)
            await self._rename(aside, self._table)

    async def drop(self) -> None:
        """Remove the copy, if it was made."""
        await self._where.connection.execute(f"DROP TABLE IF EXISTS onceproof.{self._copy}")

    async def _rename(self, name: str, new: str) -> None:
        await self._where.connection.execute(f"ALTER TABLE onceproof.{name} RENAME TO {new}")
