"""A small HTTP server in the harness, one for each run, at which a consumer can be held up."""

from __future__ import annotations

from typing import Final

from aiohttp import web

_MAX_BODY_BYTES: Final = 4 * 1024 * 1024
_STOP_TIMEOUT_S: Final = 0.5


class Server:
    """Listens on a free port of this machine; subclasses say what is answered."""

    def __init__(self) -> None:
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Base URL, once started."""
        return f"http://127.0.0.1:{self._port}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request, whatever its method and path."""
        raise NotImplementedError

    async def start(self) -> None:
        """Listen."""
        application = web.Application(client_max_size=_MAX_BODY_BYTES)
        application.router.add_route("*", "/{path:.*}", self.answer)
        # Cancelled when the client hangs up: the poll of a consumer that was killed must not be given a
        # message, which nobody would handle.
        self._runner = web.AppRunner(
            application,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=_STOP_TIMEOUT_S,
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening; requests in progress are cancelled. Twice is fine."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()


def hang_up(request: web.Request) -> web.Response:
    """Close the connection without an answer, as a network does."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=503)


__all__ = ["Server", "hang_up"]
