"""An engine whose sessions cannot wait for ever on a lock or hold one for ever.

A consumer that stalls inside its transaction holds the inbox row that its successor needs. The lock
timeout bounds the successor's wait, the idle-in-transaction timeout ends the zombie's transaction.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from onceproof.errors import ConfigurationError

_EXPECTED: Final = "expected postgresql://user:password@host:5432/name"
_PARAMETERS: Final = frozenset(
    {"host", "port", "user", "password", "database", "passfile", "ssl", "target_session_attrs"}
)
"""Of the URL's query string: what asyncpg's `connect` takes from text."""


def normalise_url(url: str) -> URL:
    """Any `postgres://` or `postgresql://` URL as one for the asyncpg driver.

    Raises:
        ConfigurationError: it is not a Postgres URL. The message does not repeat the URL, which may
            hold a password.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError(f"the database URL cannot be parsed; {_EXPECTED}") from None
    if parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise ConfigurationError(
            f"the database URL is for {parsed.get_backend_name()!r}; only postgresql is supported"
        )
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise ConfigurationError(f"the database URL has no valid port; {_EXPECTED}")
    query = dict(parsed.query)
    if "sslmode" in query:  # libpq's name, which every managed database's URL has
        query["ssl"] = query.pop("sslmode")
    unknown = sorted(set(query) - _PARAMETERS)
    if unknown:
        raise ConfigurationError(
            f"the database URL has unknown parameters: {', '.join(unknown)}; "
            f"known: sslmode, {', '.join(sorted(_PARAMETERS))}"
        )
    return parsed.set(drivername="postgresql+asyncpg", query=query)


def create_engine(
    url: str,
    *,
    application_name: str,
    pool_size: int = 10,
    connect_timeout_s: float = 5.0,
    lock_timeout_s: float = 10.0,
    idle_in_transaction_timeout_s: float = 60.0,
    statement_timeout_s: float = 30.0,
) -> AsyncEngine:
    """An asyncpg engine with bounded waits.

    Args:
        url: Postgres URL; the driver part is replaced.
        application_name: shown in `pg_stat_activity`.
        pool_size: connections at most. There is no overflow, so that the number of transactions in
            flight is what was asked for.
        connect_timeout_s: seconds for a connect, and for waiting for a free connection times two.
        lock_timeout_s: seconds that a statement may wait for a lock.
        idle_in_transaction_timeout_s: seconds after which Postgres ends an idle transaction.
        statement_timeout_s: seconds that a statement may run.
    """
    return create_async_engine(
        normalise_url(url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=connect_timeout_s * 2,
        pool_pre_ping=False,
        hide_parameters=True,  # they are customers' data, and errors go to logs and traces
        connect_args={
            "timeout": connect_timeout_s,
            # The server's own timeout does not reach us when the network swallows its answer.
            "command_timeout": statement_timeout_s + connect_timeout_s,
            # Of asyncpg's own cache, which SQLAlchemy passes by: for ever, there are few.
            "max_cached_statement_lifetime": 0,
            "server_settings": {
                "application_name": application_name,
                "lock_timeout": f"{round(lock_timeout_s * 1000)}",
                "idle_in_transaction_session_timeout": f"{round(idle_in_transaction_timeout_s * 1000)}",
                "statement_timeout": f"{round(statement_timeout_s * 1000)}",
                # Postgres notices within seconds that a killed client's host is gone.
                "tcp_keepalives_idle": "5",
                "tcp_keepalives_interval": "2",
                "tcp_keepalives_count": "3",
            },
        },
    )
