"""Which driver errors mean that the database is away, as opposed to that a statement was wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import asyncpg
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from onceproof.errors import DatabaseUnavailableError, TransientError

DRIVER_ERRORS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
"""What asyncpg raises when it is used without SQLAlchemy."""

# Class 08: connection exception. 57P01..57P03: shut down, crashed, starting up. 53: no resources,
# of which 53300 is too many connections. 25P03: our idle transaction was ended. 25006: the server is
# read-only, as a standby is until a failover has promoted it.
_UNAVAILABLE_CLASSES: Final = ("08", "53")
_UNAVAILABLE_STATES: Final = frozenset({"57P01", "57P02", "57P03", "25P03", "25006"})
# Ends the session whatever the state: a database that accepts no connections now, a role or database
# that is not there yet, a password in rotation.
_SESSION_ENDED: Final = frozenset({"FATAL", "PANIC"})


DATA_EXCEPTION: Final = "22"
"""SQLSTATE class: the data cannot be what a statement takes it for."""
_WORD_BEGINS: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")


def is_connection_failure(error: BaseException) -> bool:
    """Whether the database is away, not the statement wrong."""
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return True
        error = _driver_error(error)
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        return (
            getattr(error, "severity_en", None) in _SESSION_ENDED
            or state in _UNAVAILABLE_STATES
            or state.startswith(_UNAVAILABLE_CLASSES)
        )
    if isinstance(error, asyncpg.InterfaceError | InterfaceError):
        # The driver's class for its own misuse as well, e.g. two statements at once: only the
        # message tells.
        return "closed" in str(error)
    # An internal error is the driver's word for a session that the server ended while nobody used it.
    return isinstance(
        error, OSError | TimeoutError | PoolTimeoutError | asyncpg.InternalClientError
    )


def is_reply_lost(error: BaseException) -> bool:
    """Whether the connection broke under a statement of the bare driver: it may have been done."""
    return isinstance(error, asyncpg.PostgresConnectionError | asyncpg.InterfaceError | OSError)


def is_retryable(error: BaseException) -> bool:
    """Whether the database was there but this transaction lost: deadlock, lock or statement timeout."""
    state = sqlstate(error)
    return state.startswith("40") or state in {"55P03", "57014"}


def meaning(error: Exception) -> TransientError | None:
    """The library's error for one of a driver or of SQLAlchemy; None where the statement is wrong."""
    if is_connection_failure(error):
        return DatabaseUnavailableError(f"database unavailable: {first_line(error)}")
    if is_retryable(error):
        return TransientError(f"transaction not possible now: {first_line(error)}")
    return None


def first_line(error: Exception) -> str:
    """What the driver says, without the detail below: that holds the row, which is a customer's."""
    said = _driver_error(error)
    return (str(said).splitlines() or [type(said).__name__])[0]


def without_data(error: Exception) -> str:
    """What the driver says, and the SQLSTATE, without the customer's data.

    Of an error of class 22 it is the condition's name alone: Postgres' words quote the value.
    """
    state, said = sqlstate(error), first_line(error)
    if state.startswith(DATA_EXCEPTION):
        name = type(_driver_error(error)).__name__.removesuffix("Error")
        said = _WORD_BEGINS.sub(" ", name).lower()
    return f"{said} ({state})" if state else said


def sqlstate(error: BaseException) -> str:
    """Postgres' code of what went wrong, five characters; empty where it was not Postgres."""
    return str(getattr(_driver_error(error), "sqlstate", None) or "")


@contextmanager
def translated(*, statements_only: bool = False) -> Iterator[None]:
    """Turn a lost connection into `DatabaseUnavailableError` and a lost race into `TransientError`.

    Args:
        statements_only: translate only what came from a statement on an open connection. For code
            that talks to other systems too, whose network errors must not be taken for ours.
    """
    try:
        yield
    except DBAPIError as error:
        _raise_translated(error)
    except (PoolTimeoutError, *DRIVER_ERRORS) as error:
        if statements_only:
            raise
        _raise_translated(error)


def _raise_translated(error: Exception) -> NoReturn:
    meant = meaning(error)
    if meant is None:
        raise error
    raise meant from None  # the cause has the row in its words, which logs and traces would keep


def _driver_error(error: BaseException) -> BaseException:
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig.__cause__ or error.orig
    return error
