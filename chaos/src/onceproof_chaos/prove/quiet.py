"""Wait until nothing is on its way any more: an invariant asked earlier calls the late ones lost.

Quiet means: the queue is empty, also of what a dead consumer holds; no transaction of a consumer has
written and not ended; and the user's tables and the other system's records did not change over two
windows in a row, each longer than the visibility timeout.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import asyncpg

from onceproof.errors import BrokerUnavailableError
from onceproof.ports import Subscriber
from onceproof_chaos.drain import QuietWindows
from onceproof_chaos.environment import asyncpg_url
from onceproof_chaos.prove.ground import APPLICATION, Place

_POLL_S: Final = 0.1
_QUERY_TIMEOUT_S: Final = 10.0
"""A consumer that has locked a table must not hold us up for ever."""
_EFFECTS: Final = "prove.effects"
_OPEN: Final = """
    SELECT count(*) FILTER (WHERE datname = current_database() AND backend_xid IS NOT NULL
                              AND pid <> pg_backend_pid() AND application_name <> $1) AS writing,
           count(*) >= current_setting('max_connections')::int - 10 AS crowded
      FROM pg_stat_activity WHERE backend_type = 'client backend'
"""
# The whole row: a bare alias would be a column of that name, where the table has one.
_DIGEST: Final = """
    SELECT {name} AS name,
           md5(coalesce(string_agg((r.*)::text, ' ' ORDER BY (r.*)::text COLLATE "C"), ''))
      FROM {table} r
"""

State = Mapping[str, str]
"""Digest of the rows of each table."""


@dataclass(frozen=True, slots=True)
class _Level:
    """What is going on: messages in the queue, transactions that have written, rows.

    `queued` is None where the broker does not answer, `state` where a table is locked.
    """

    queued: int | None
    writing: int
    state: State | None

    @property
    def idle(self) -> bool:
        """Whether nothing is going on, as far as one look can tell. What is unknown is not idle."""
        return self.queued == 0 and not self.writing and self.state is not None


class Quiet:
    """Watches one run.

    Args:
        place: what it works on.
        subscriber: of its queue.
        window_s: seconds without change that make one quiet window.
    """

    def __init__(self, place: Place, subscriber: Subscriber, *, window_s: float) -> None:
        self._place = place
        self._subscriber = subscriber
        self._window_s = window_s
        self.crowded = False
        """Whether the server was seen nearly out of connections: what failed then, failed of that."""

    async def until_quiet(self, *, timeout_s: float) -> str | None:
        """Wait until all is quiet; None then, else what was still going on.

        Args:
            timeout_s: seconds for it, beside the windows in which it is seen.
        """
        windows = QuietWindows(self._window_s)
        timeout_s += windows.total_s
        deadline = time.monotonic() + timeout_s
        connection = await self._connect()
        try:
            previous: State | None = None
            changed: tuple[str, ...] = ()
            while True:
                level = await self._level(connection)
                if windows.over(level, idle=level.idle):
                    return None
                changed = _changed(previous, level.state) or changed
                previous = level.state
                if time.monotonic() > deadline:
                    return f"not quiet after {timeout_s:.0f} s: {_going_on(level, changed)}"
                await asyncio.sleep(_POLL_S)
        finally:
            await connection.close()

    async def until_empty(self, *, timeout_s: float) -> None:
        """Wait until the queue is empty, or no longer than so many seconds."""
        deadline = time.monotonic() + timeout_s
        while await self._queued() != 0 and time.monotonic() < deadline:  # noqa: ASYNC110 - SQS has no event
            await asyncio.sleep(_POLL_S)

    async def state(self) -> State:
        """What the tables hold now."""
        connection = await self._connect()
        try:
            return await _state(connection, self._place.tables)
        finally:
            await connection.close()

    async def effects(self) -> int:
        """How many effects the other system has recorded."""
        connection = await self._connect()
        try:
            return int(await connection.fetchval("SELECT count(*) FROM prove.effects"))
        finally:
            await connection.close()

    async def _connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(
            asyncpg_url(self._place.database_url),
            command_timeout=_QUERY_TIMEOUT_S,
            server_settings={"application_name": APPLICATION},
        )

    async def _level(self, connection: asyncpg.Connection) -> _Level:
        queued = await self._queued()
        writing, crowded = await connection.fetchrow(_OPEN, APPLICATION)
        self.crowded |= crowded
        try:
            return _Level(queued, writing, await _state(connection, self._place.tables))
        except TimeoutError:
            return _Level(queued, writing, None)

    async def _queued(self) -> int | None:
        try:
            return (await self._subscriber.depth()).total
        except BrokerUnavailableError:
            return None


async def _state(connection: asyncpg.Connection, tables: Iterable[str]) -> State:
    query = " UNION ALL ".join(
        _DIGEST.format(name=f"$prove${table}$prove$", table=table) for table in (*tables, _EFFECTS)
    )
    return {row[0]: row[1] for row in await connection.fetch(query)}


def written(before: State, after: State) -> tuple[str, ...]:
    """The user's tables that changed."""
    return tuple(table for table in _changed(before, after) if table != _EFFECTS)


def _changed(before: State | None, after: State | None) -> tuple[str, ...]:
    if before is None or after is None:
        return ()
    return tuple(table for table in after if before.get(table) != after[table])


def _going_on(level: _Level, changed: Iterable[str]) -> str:
    queued = "an unknown number of" if level.queued is None else level.queued
    words = [
        f"{queued} messages in the queue",
        f"{level.writing} open transactions that have written",
    ]
    if level.state is None:
        words.append(f"the tables cannot be read within {_QUERY_TIMEOUT_S:.0f} s; is one locked?")
    if changed:
        words.append(f"the last change was in {', '.join(changed)}")
    return ", ".join(words)


__all__ = ["Quiet", "State", "written"]
