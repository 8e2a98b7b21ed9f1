"""A stand-in for the other system: an HTTP endpoint that does what it is asked, and remembers it.

An email that was sent and a parcel that was booked cannot be rolled back. So an effect is recorded in a
transaction of its own, whatever becomes of the handler's: any POST below `ONCEPROOF_EFFECTS_URL` is one
row of `prove.effects`. With an Idempotency-Key header a repetition at the same path is answered like the
first time and recorded once, as good providers do. By path, because several systems may be asked under
one key.
"""

from __future__ import annotations

import json
from typing import Final

import asyncpg
from aiohttp import web

from onceproof_chaos.environment import asyncpg_url
from onceproof_chaos.prove.ground import APPLICATION
from onceproof_chaos.prove.servers import Server, hang_up
from onceproof_chaos.prove.traps import HttpTrap

_RECORD: Final = """
    INSERT INTO prove.effects (path, idempotency_key, body) VALUES ($1, $2, $3)
    ON CONFLICT (path, idempotency_key) DO NOTHING RETURNING id
"""
_EARLIER: Final = "SELECT id FROM prove.effects WHERE path = $1 AND idempotency_key = $2"


class Effects(Server):
    """The other system of one run. `trap` holds a call that is recorded and not answered.

    Args:
        database_url: with the schema `prove`.
    """

    def __init__(self, database_url: str) -> None:
        super().__init__()
        self.trap = HttpTrap()
        self._database_url = asyncpg_url(database_url)
        self._pool: asyncpg.Pool | None = None

    async def start(self) -> None:
        """Listen on a free port of this machine."""
        self._pool = await asyncpg.create_pool(
            self._database_url,
            min_size=1,
            max_size=4,
            server_settings={"application_name": APPLICATION},
        )
        await super().start()

    async def stop(self) -> None:
        """Stop; what was recorded stays."""
        await self.trap.close()
        await super().stop()
        if self._pool is not None:
            await self._pool.close()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Record a POST; anything else is refused."""
        if request.method != "POST":
            return web.json_response({"error": "an effect is a POST"}, status=405)
        text = await request.text()
        try:
            body = json.dumps(json.loads(text))
        except ValueError:
            body = json.dumps(text)
        key = request.headers.get("Idempotency-Key")
        try:
            number, now = await self._record(request.path, key, body)
        except asyncpg.DataError as error:
            return web.json_response({"error": f"it cannot be recorded: {error}"}, status=400)
        if not await self.trap.held():
            return hang_up(request)
        headers = {} if now else {"Idempotent-Replayed": "true"}
        return web.json_response({"id": number}, status=201 if now else 200, headers=headers)

    async def _record(self, path: str, key: str | None, body: str) -> tuple[int, bool]:
        assert self._pool is not None  # noqa: S101 - started
        number = await self._pool.fetchval(_RECORD, path, key, body)
        if number is not None:
            return int(number), True
        return int(await self._pool.fetchval(_EARLIER, path, key)), False


__all__ = ["Effects"]
