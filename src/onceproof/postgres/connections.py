"""Bare asyncpg connections, for a transaction that is a single statement.

A session of SQLAlchemy's asyncio layer costs more CPU than such a statement costs Postgres, and wraps it
in a BEGIN and a COMMIT of their own round trips; asyncpg's own pool asks the server to reset a
connection each time it is given back, which is one more. So connections are borrowed from an engine,
whose URL, timeouts and limits apply, and kept on a stack: the one used last is used next, and its
prepared statements and its buffers are warm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from onceproof.postgres.failures import is_connection_failure, translated

Result = TypeVar("Result")
Connection = Any
"""An `asyncpg.Connection`, which ships no types."""


@dataclass(slots=True, eq=False)
class _Borrowed:
    """A connection out of the engine's pool, and asyncpg's own underneath."""

    pooled: AsyncConnection
    driver: Connection
    kept: bool
    """Set up to stay here, so it is not as the pool made it and does not go back."""


class Connections:
    """Lends connections of an engine's pool, up to `size` at a time; who comes next waits.

    Within `async with` they stay open between statements, and are closed at its end; such blocks may
    overlap. Outside, a connection is borrowed for one `run` and given back to the pool.

    Args:
        engine: whose connections. Its pool must have room for `size` next to what else it is used for.
        size: connections at most.
        setup: statements for each connection that stays open.
    """

    def __init__(self, engine: AsyncEngine, *, size: int = 10, setup: Sequence[str] = ()) -> None:
        self._engine = engine
        self._setup = setup
        self._free = asyncio.Semaphore(size)
        self._idle: list[_Borrowed] = []
        self._blocks = 0
        self.opened = 0
        """How many connections were taken from the pool so far."""

    @property
    def keeping(self) -> bool:
        """Whether connections stay open between statements."""
        return self._blocks > 0

    async def run(self, use: Callable[[Connection], Awaitable[Result]]) -> Result:
        """Lend a connection to `use`, which must leave no transaction and no session state behind.

        A connection on which something else than a statement failed is not used again.

        Raises:
            DatabaseUnavailableError: there is no connection; `use` was not called.
            Exception: whatever `use` raised, as it is; see `translated`.
        """
        async with self._free:
            borrowed = await self._take()
            usable = True
            try:
                return await use(borrowed.driver)
            except BaseException as error:
                usable = _is_usable(borrowed.driver, error)
                raise
            finally:
                if usable and borrowed.kept and self._blocks:
                    self._idle.append(borrowed)
                else:
                    await _give_back(borrowed, usable=usable)

    async def __aenter__(self) -> Self:
        self._blocks += 1
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._blocks -= 1
        if not self._blocks:
            idle, self._idle = self._idle, []
            await asyncio.gather(*(_give_back(borrowed) for borrowed in idle))

    async def _take(self) -> _Borrowed:
        while self._idle:
            borrowed = self._idle.pop()
            if not borrowed.driver.is_closed():
                return borrowed
            await _give_back(borrowed, usable=False)
        with translated():
            return await self._open()

    async def _open(self) -> _Borrowed:
        pooled = await self._engine.connect()
        self.opened += 1
        try:
            driver: Connection = (await pooled.get_raw_connection()).driver_connection
            borrowed = _Borrowed(pooled, driver, kept=self.keeping)
            if borrowed.kept:
                # SQLAlchemy has each value encoded by a function of its own, in Python.
                await driver.reset_type_codec("jsonb", schema="pg_catalog")
                for statement in self._setup:
                    await driver.execute(statement)
        except BaseException:
            await _close(pooled)
            raise
        return borrowed


def _is_usable(connection: Connection, error: BaseException) -> bool:
    """Whether a connection may be used again after this error.

    Only when Postgres answered that a statement failed. Cancelled or timed out in the middle, what the
    connection would say next is unknown.
    """
    return (
        isinstance(error, asyncpg.PostgresError)
        and not is_connection_failure(error)
        and not connection.is_in_transaction()
    )


async def _give_back(borrowed: _Borrowed, *, usable: bool = True) -> None:
    if not usable:
        borrowed.driver.terminate()  # to say goodbye would be to wait for an answer
    if borrowed.kept or not usable:
        await _close(borrowed.pooled)
    else:
        await borrowed.pooled.close()


async def _close(pooled: AsyncConnection) -> None:
    """Close for good, so that the pool opens another in its place."""
    try:
        await pooled.invalidate()
    finally:
        await pooled.close()
