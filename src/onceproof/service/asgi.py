"""Serve an ASGI app inside a service's own event loop, with signals left to the service.

Uvicorn as a program owns the process: it takes SIGTERM, ends the process when a port is taken, and
writes an access log. Here it is one task among others: it stops when the service's stop event is
set, lets the requests in flight finish, and hands errors up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from onceproof.errors import ConfigurationError

logger = logging.getLogger(__name__)

_BACKLOG = 2048


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    app: ASGIApp,
    host: str,
    port: int,
    stop: asyncio.Event,
    drain_timeout_s: float,
    *,
    on_bound: Callable[[int], None] | None = None,
) -> None:
    """Serve until `stop` is set and the requests in flight are answered.

    Args:
        app: the application; its lifespan is the caller's business.
        host: address to listen on.
        port: TCP port; 0 picks a free one, which `on_bound` and a log line tell.
        stop: set it to refuse new connections and drain.
        drain_timeout_s: seconds after which requests that still run are cancelled.
        on_bound: called with the port as soon as connections are accepted.

    Raises:
        ConfigurationError: the address cannot be listened on.
    """
    listener = _listen(host, port)
    try:
        bound = int(listener.getsockname()[1])
        server = _Server(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                log_level=logging.WARNING,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=math.ceil(drain_timeout_s),
            )
        )
        logger.info("serving HTTP on port %d", bound)
        if on_bound is not None:
            on_bound(bound)
        await _serve_until(stop, server, listener)
    finally:
        listener.close()


async def _serve_until(stop: asyncio.Event, server: _Server, listener: socket.socket) -> None:
    async def exit_on_stop() -> None:
        await stop.wait()
        server.should_exit = True

    watcher = asyncio.create_task(exit_on_stop())
    try:
        await server.serve(sockets=[listener])
    finally:
        watcher.cancel()
        # Uvicorn closes these itself unless it was cancelled.
        for open_server in getattr(server, "servers", ()):
            open_server.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server(
            (host, port),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=_BACKLOG,
        )
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; "
            "choose another address or end the process that uses it"
        ) from error
