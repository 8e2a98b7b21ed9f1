"""asyncpg itself for the few statements that run thousands of times a second.

SQLAlchemy's asyncio layer costs several times what such a statement costs asyncpg, and wraps each in a
BEGIN and a COMMIT of their own round trips. The connections are still the engine's: its URL, timeouts
and limits apply, and what is borrowed here is missing there.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from onceproof.errors import DatabaseUnavailableError
from onceproof.postgres.failures import is_connection_failure, translated


@dataclass(slots=True, eq=False)
class _Borrowed:
    """A connection out of the engine's pool, and asyncpg's own underneath."""

    pooled: AsyncConnection
    driver: Any
    healthy: bool = True


@dataclass(slots=True)
class DirectConnections:
    """Connections for single statements, each its own transaction, one round trip.

    Args:
        engine: whose connections.
        keep: how many stay open between statements inside `kept`; outside of it none does.
        setup: statements for each connection that is kept. It is closed at the end, not given back.
    """

    engine: AsyncEngine
    keep: int = 1
    setup: Sequence[str] = ()
    opened: int = 0
    """How many connections were opened so far."""
    _idle: list[_Borrowed] = field(default_factory=list)
    _keeping: int = 0

    @property
    def keeping(self) -> bool:
        """Whether a block of `kept` runs."""
        return self._keeping > 0

    @asynccontextmanager
    async def kept(self) -> AsyncGenerator[None]:
        """Keep connections open between statements while the block runs."""
        self._keeping += 1
        try:
            yield
        finally:
            self._keeping -= 1
            if not self._keeping:
                while self._idle:
                    await _close(self._idle.pop())

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Any]:
        """An asyncpg connection that nobody else uses meanwhile.

        Raises:
            DatabaseUnavailableError: the database is away, or went away during the block.
            TransientError: a lock or the statement timeout was in the way of the block.
        """
        with translated(), _usable():
            borrowed = self._idle.pop() if self._idle else await self._open()
            try:
                yield borrowed.driver
            except asyncpg.PostgresError as error:
                borrowed.healthy = not is_connection_failure(error)
                raise
            except BaseException:
                # Cancelled or timed out in the middle: what the connection would say next is unknown.
                borrowed.healthy = False
                raise
            finally:
                await self._give_back(borrowed)

    async def _open(self) -> _Borrowed:
        pooled = await self.engine.connect()
        self.opened += 1
        try:
            driver: Any = (await pooled.get_raw_connection()).driver_connection
            if self._keeping:
                for statement in self.setup:
                    await driver.execute(statement)
        except BaseException:
            await pooled.invalidate()
            await pooled.close()
            raise
        return _Borrowed(pooled, driver)

    async def _give_back(self, borrowed: _Borrowed) -> None:
        if not borrowed.healthy:
            await _close(borrowed)
        elif self._keeping and len(self._idle) < self.keep:
            self._idle.append(borrowed)
        elif self._keeping and self.setup:
            await _close(borrowed)
        else:
            await borrowed.pooled.close()


@contextlib.contextmanager
def _usable() -> Iterator[None]:
    """The driver's word for a connection that the server ended while nobody used it."""
    try:
        yield
    except asyncpg.InternalClientError as error:
        raise DatabaseUnavailableError(f"database unavailable: {error}") from error


async def _close(borrowed: _Borrowed) -> None:
    """Close for good: its session is not as the pool made it, or not usable any more."""
    with contextlib.suppress(OSError, asyncpg.InterfaceError, asyncpg.PostgresError):
        await borrowed.pooled.invalidate()
    await borrowed.pooled.close()
