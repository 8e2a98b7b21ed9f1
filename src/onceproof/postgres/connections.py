"""Bare asyncpg connections, for a transaction that is a single statement.

A session of SQLAlchemy's asyncio layer costs more CPU than such a statement costs Postgres, and
asyncpg's own pool asks the server to reset a connection each time it is given back, which is a round
trip for nothing where no statement changes the session. So this keeps connections on a stack: the one
used last is used next, and its prepared statements and its buffers are warm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import asyncpg
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from onceproof.postgres.engine import connect_arguments, normalise_url
from onceproof.postgres.failures import is_connection_failure, translated

Result = TypeVar("Result")
Connection = Any
"""An `asyncpg.Connection`, which ships no types."""

_CLOSE_TIMEOUT_S: Final = 5.0


class Connections:
    """Up to `size` connections with bounded waits, opened when they are needed.

    Use it as an async context manager, or call `close`. Arguments as of `create_engine`.

    Raises:
        ConfigurationError: the URL is not one of Postgres.
    """

    def __init__(
        self,
        url: str,
        *,
        application_name: str,
        size: int = 10,
        connect_timeout_s: float = 5.0,
        lock_timeout_s: float = 10.0,
        idle_in_transaction_timeout_s: float = 60.0,
        statement_timeout_s: float = 30.0,
    ) -> None:
        # The dialect knows which part of the URL is which of asyncpg's arguments.
        _, where = dialect().create_connect_args(normalise_url(url))  # type: ignore[no-untyped-call]
        self._arguments = where | connect_arguments(
            application_name=application_name,
            connect_timeout_s=connect_timeout_s,
            lock_timeout_s=lock_timeout_s,
            idle_in_transaction_timeout_s=idle_in_transaction_timeout_s,
            statement_timeout_s=statement_timeout_s,
        )
        self._arguments["max_cached_statement_lifetime"] = 0  # for ever: there are few
        self._free = asyncio.Semaphore(size)
        self._idle: list[Connection] = []

    async def run(self, use: Callable[[Connection], Awaitable[Result]]) -> Result:
        """Lend a connection to `use`, which must leave no transaction and no session state behind.

        A connection on which something else than a statement failed is not used again.

        Raises:
            DatabaseUnavailableError: there is no connection; `use` was not called.
            Exception: whatever `use` raised.
        """
        async with self._free:
            connection = await self._take()
            try:
                result = await use(connection)
            except asyncpg.PostgresError as error:
                if is_connection_failure(error) or connection.is_in_transaction():
                    connection.terminate()
                else:
                    self._idle.append(connection)
                raise
            except BaseException:
                connection.terminate()
                raise
            self._idle.append(connection)
            return result

    async def close(self) -> None:
        """Close every connection that is not lent."""
        idle, self._idle = self._idle, []
        closing = (connection.close(timeout=_CLOSE_TIMEOUT_S) for connection in idle)
        await asyncio.gather(*closing, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _take(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        with translated():
            return await asyncpg.connect(**self._arguments)
