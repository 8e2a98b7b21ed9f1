"""Wake the relay as soon as there is something to send.

NOTIFY inside the order's transaction would take an instance-wide lock at commit and serialise all
producers. So it is sent after the commit, on a connection of its own, and many commits share one. A
notification that is lost costs nothing but the relay's poll interval, so its commit need not wait for
the disk either.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, NoReturn

from sqlalchemy.ext.asyncio import AsyncEngine

from onceproof.errors import TransientError
from onceproof.postgres import Connection, Connections, translated

logger = logging.getLogger(__name__)

CHANNEL: Final = "onceproof_outbox"
_NOTIFY: Final = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, '')"


class Waker:
    """Sends coalesced notifications from a producer.

    Args:
        engine: where the outbox is.
        min_interval_s: seconds between notifications at least; a burst of commits shares one.
    """

    def __init__(self, engine: AsyncEngine, *, min_interval_s: float = 0.005) -> None:
        self._connections = Connections(engine)
        self._min_interval_s = min_interval_s
        self._due = asyncio.Event()

    def wake(self) -> None:
        """Ask for a notification. Call after the commit; never blocks."""
        self._due.set()

    async def run(self) -> None:
        """Send what `wake` asks for, until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                with translated():
                    await self._connections.run(lambda c: c.fetchrow(_NOTIFY, CHANNEL))
            except TransientError as error:
                logger.debug("relay not woken, it will poll: %s", error)
            await asyncio.sleep(self._min_interval_s)


class Listener:
    """Sets `event` on each notification, over a connection of its own that it reopens when lost."""

    def __init__(
        self, engine: AsyncEngine, event: asyncio.Event, *, reconnect_s: float = 2.0
    ) -> None:
        self._connections = Connections(engine)
        self._event = event
        self._reconnect_s = reconnect_s

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            try:
                with translated():
                    await self._connections.run(self._listen)
            except TransientError as error:
                logger.warning("wake-up connection lost, the relay polls meanwhile: %s", error)
            await asyncio.sleep(self._reconnect_s)

    async def _listen(self, connection: Connection) -> NoReturn:
        closed = asyncio.Event()
        connection.add_termination_listener(lambda _: closed.set())
        await connection.add_listener(CHANNEL, self._notified)
        self._event.set()  # what was committed while nobody listened
        await closed.wait()
        raise ConnectionResetError("the server closed the wake-up connection")

    def _notified(self, *_: object) -> None:
        self._event.set()
