"""A trap holds a consumer up at one moment, once, so that a fault can be put exactly there.

`arm` before the events are published; `sprung` returns when the moment has come; `release` lets whoever
is held go on, or fails the call that it waits for. What differs between the kinds of traps is only who
holds the consumer: the consumer itself (a crash point of the library), an HTTP server in front of the
queue or in place of another system, or Postgres in the middle of a COMMIT.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final, Protocol

from onceproof_chaos.admin_client import AdminClient, AdminGoneError
from onceproof_chaos.backend import Instance
from onceproof_chaos.plan import Fault

_LONG_POLL_S: Final = 25.0
_RETRY_S: Final = 0.05


class Trap(Protocol):
    """One moment of one consumer."""

    @property
    def faults(self) -> Sequence[Fault]:
        """What the consumer arms in itself from its start; empty for traps from outside."""
        ...

    async def arm(self) -> None:
        """From now on the next passage is held."""
        ...

    async def sprung(self, consumer: Instance) -> None:
        """Wait until `consumer` is held."""
        ...

    async def release(self, *, go_on: bool, refuse_s: float = 0.0) -> None:
        """Let the held call go on, or fail it and whatever repeats it within `refuse_s` seconds."""
        ...

    async def close(self) -> None:
        """Disarm, and let go of everything. Twice is fine."""
        ...


class CrashPointTrap:
    """A crash point that the library's consumer passes by itself.

    The process parks, drops and resumes on its own; there is nothing to release.

    Args:
        fault: armed in the consumer from its start.
        admin: client for its admin port.
    """

    def __init__(self, fault: Fault, admin: AdminClient) -> None:
        self.faults: Sequence[Fault] = (fault,)
        self._admin = admin

    async def arm(self) -> None:
        """The consumer was started armed."""

    async def sprung(self, consumer: Instance) -> None:
        """Follow the reached crash points of the consumer."""
        while True:
            try:
                if await self._admin.reached(consumer.admin_url, wait_s=_LONG_POLL_S):
                    return
            except AdminGoneError:
                await asyncio.sleep(_RETRY_S)

    async def release(self, *, go_on: bool, refuse_s: float = 0.0) -> None:
        """Nothing is held from here."""

    async def close(self) -> None:
        """Nothing is held from here."""


class HttpTrap:
    """A passage of an HTTP server of ours; `held` is called by its request handler."""

    def __init__(self) -> None:
        self.faults: Sequence[Fault] = ()
        self._armed = False
        self._sprung = asyncio.Event()
        self._released: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._refuse_until = 0.0

    async def held(self) -> bool:
        """Pass; waits while the trap holds. Whether the call may go on."""
        if self._armed:
            self._armed = False
            self._sprung.set()
            return await asyncio.shield(self._released)
        return time.monotonic() >= self._refuse_until

    async def arm(self) -> None:
        """Hold the next call."""
        self._armed = True

    async def sprung(self, consumer: Instance) -> None:  # noqa: ARG002 - only one consumer runs then
        """Wait until a call is held."""
        await self._sprung.wait()

    async def release(self, *, go_on: bool, refuse_s: float = 0.0) -> None:
        """Answer the held call."""
        self._refuse_until = time.monotonic() + refuse_s
        if not self._released.done():
            self._released.set_result(go_on)

    async def close(self) -> None:
        """Let go."""
        self._armed = False
        await self.release(go_on=True)


async def first(trap: Trap, consumer: Instance, until: asyncio.Future[str | None]) -> bool:
    """Wait for the trap, or for `until`; whether the trap has sprung. `until` is over then, too."""
    sprung = asyncio.create_task(_sprung(trap, consumer))
    try:
        await asyncio.wait({sprung, until}, return_when=asyncio.FIRST_COMPLETED)
        if sprung.done():
            sprung.result()
            return True
        return False
    finally:
        sprung.cancel()
        until.cancel()
        await asyncio.gather(sprung, until, return_exceptions=True)


async def _sprung(trap: Trap, consumer: Instance) -> str | None:
    await trap.sprung(consumer)
    return None


__all__ = ["CrashPointTrap", "HttpTrap", "Trap", "first"]
