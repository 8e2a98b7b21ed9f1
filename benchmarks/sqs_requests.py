"""Counts requests to an SQS server, whoever makes them and in whatever language.

A proxy that understands nothing but where a request begins: it passes bytes on as they come and looks
for the header or the parameter that names the operation. It costs CPU and a hop, so requests are counted
in runs of their own, whose time is not used.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from typing import Final, Self
from urllib.parse import urlsplit

# In JSON the operation is a header, in the query protocol a parameter of the body.
_OPERATION: Final = re.compile(
    rb"(?:x-amz-target:\s*AmazonSQS\.|[?&\n]Action=)([A-Za-z]+)", re.IGNORECASE
)
_LONGEST: Final = 80
"""Bytes that are looked at again, lest a name that two reads share is missed or taken short."""


class RequestCounter:
    """A counting proxy; use it as an asynchronous context manager.

    Args:
        upstream: URL of the server.
    """

    def __init__(self, upstream: str) -> None:
        parsed = urlsplit(upstream)
        self._upstream = (parsed.hostname or "127.0.0.1", parsed.port or 80)
        self._counts: Counter[str] = Counter()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def endpoint(self) -> str:
        """URL for the clients.

        Raises:
            RuntimeError: it does not run.
        """
        if self._server is None:
            raise RuntimeError("the proxy does not run")
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    def counts(self) -> dict[str, int]:
        """Requests by operation since the start or the last `reset`."""
        return dict(self._counts)

    def reset(self) -> None:
        """Count from zero."""
        self._counts.clear()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            for writer in list(self._open):
                writer.close()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            writer.close()
            return
        self._open |= {writer, upstream_writer}
        try:
            with contextlib.suppress(ConnectionError, RuntimeError):
                await asyncio.gather(
                    self._pass_on(reader, upstream_writer, Operations(self._counts)),
                    self._pass_on(upstream_reader, writer, None),
                )
        finally:
            for each in (writer, upstream_writer):
                self._open.discard(each)
                each.close()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        operations: Operations | None,
    ) -> None:
        while data := await reader.read(65536):
            if operations is not None:
                operations.see(data)
            writer.write(data)
            await writer.drain()
        # uvloop raises a RuntimeError where the other side has closed already.
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()


class Operations:
    """Finds the names of operations in a connection's bytes, in whatever pieces they come.

    Args:
        counts: gets one more for each.
    """

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self._rest = b""

    def see(self, data: bytes) -> None:
        """Look at the next bytes that the client sent."""
        window = self._rest + data
        done = 0
        for found in _OPERATION.finditer(window):
            # A name at the very end may go on in the next piece.
            if found.end() == len(window):
                self._rest = window[found.start() :]
                return
            self._counts[found[1].decode()] += 1
            done = found.end()
        self._rest = window[max(done, len(window) - _LONGEST) :]
