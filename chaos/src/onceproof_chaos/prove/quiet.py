"""Wait until nothing is on its way any more: an invariant asked earlier calls the late ones lost.

Quiet means: the queue is empty, also of what a dead consumer holds; no transaction of a consumer has
written and not ended; and the user's tables and the other system's records did not change over two
windows in a row, each longer than the visibility timeout.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Final

import asyncpg

from onceproof.errors import BrokerUnavailableError
from onceproof.ports import Subscriber
from onceproof_chaos.environment import asyncpg_url
from onceproof_chaos.prove.ground import APPLICATION, Place

_POLL_S: Final = 0.1
_WINDOWS: Final = 2
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
        """Wait until all is quiet; None then, else what was still going on."""
        deadline = time.monotonic() + timeout_s
        connection = await self._connect()
        try:
            previous: tuple[int, int, State] | None = None
            quiet_since = time.monotonic()
            while True:
                queued = await self._queued()
                writing, crowded = await connection.fetchrow(_OPEN, APPLICATION)
                self.crowded |= crowded
                level = queued, writing, await _state(connection, self._place.tables)
                now = time.monotonic()
                if level != previous or queued or writing:
                    previous, quiet_since = level, now
                elif now - quiet_since >= self._window_s * _WINDOWS:
                    return None
                if now > deadline:
                    return (
                        f"not quiet after {timeout_s:.0f} s: {max(queued, 0)} messages in the queue, "
                        f"{writing} open transactions that have written"
                    )
                await asyncio.sleep(_POLL_S)
        finally:
            await connection.close()

    async def until_empty(self, *, timeout_s: float) -> None:
        """Wait until the queue is empty, or no longer than so many seconds."""
        deadline = time.monotonic() + timeout_s
        while await self._queued() and time.monotonic() < deadline:  # noqa: ASYNC110 - SQS has no event
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
            asyncpg_url(self._place.database_url), server_settings={"application_name": APPLICATION}
        )

    async def _queued(self) -> int:
        try:
            return (await self._subscriber.depth()).total
        except BrokerUnavailableError:
            return -1  # unknown is not empty


async def _state(connection: asyncpg.Connection, tables: Iterable[str]) -> State:
    query = " UNION ALL ".join(
        _DIGEST.format(name=f"$prove${table}$prove$", table=table) for table in (*tables, _EFFECTS)
    )
    return {row[0]: row[1] for row in await connection.fetch(query)}


def written(before: State, after: State) -> tuple[str, ...]:
    """The user's tables that changed."""
    return tuple(t for t in after if t != _EFFECTS and before.get(t) != after[t])


__all__ = ["Quiet", "State", "written"]
