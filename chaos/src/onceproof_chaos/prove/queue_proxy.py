"""Stands between a consumer and its queue: sees what is handed out and what is acked, and may hold it.

It knows a few operations of SQS and passes everything on as it is, in either of the two protocols that
clients speak (JSON and query). The signature of a request covers the host's name, so a server that
checks signatures, as AWS does, refuses what went through here; the embedded one and ElasticMQ do not.
"""

from __future__ import annotations

import json
from typing import Final
from urllib.parse import parse_qs, urlsplit

import aiohttp
from aiohttp import web

from onceproof_chaos.prove.points import AFTER_ACK, AFTER_RECEIVE, BEFORE_ACK
from onceproof_chaos.prove.servers import Server, hang_up
from onceproof_chaos.prove.traps import HttpTrap

_RECEIVE: Final = "ReceiveMessage"
_ACKS: Final = frozenset({"DeleteMessage", "DeleteMessageBatch"})
_FIND: Final = "GetQueueUrl"
_HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "te", "upgrade", "expect"}
)
_TIMEOUT: Final = aiohttp.ClientTimeout(total=60.0)
"""Longer than any long poll."""


class QueueProxy(Server):
    """A proxy in front of an SQS server.

    Args:
        upstream: URL of the server.
    """

    def __init__(self, upstream: str) -> None:
        super().__init__()
        self.traps: Final = {
            AFTER_RECEIVE: HttpTrap(),
            BEFORE_ACK: HttpTrap(),
            AFTER_ACK: HttpTrap(),
        }
        self._upstream = upstream.rstrip("/")
        self._http: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Listen on a free port of this machine."""
        self._http = aiohttp.ClientSession(
            auto_decompress=False,
            timeout=_TIMEOUT,
            connector=aiohttp.TCPConnector(limit=0),  # a long poll holds one for its duration
        )
        await super().start()

    async def stop(self) -> None:
        """Stop; polls in progress end."""
        for trap in self.traps.values():
            await trap.close()
        await super().stop()
        if self._http is not None:
            await self._http.close()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on, unless a trap says otherwise."""
        body = await request.read()
        action = operation(request.headers.get("X-Amz-Target", ""), body)
        if action in _ACKS and not await self.traps[BEFORE_ACK].held():
            return hang_up(request)
        try:
            response = await self._ask(request, body)
        except aiohttp.ClientError:
            return hang_up(request)
        if action == _RECEIVE and has_messages(response.body or b""):
            passed = await self.traps[AFTER_RECEIVE].held()
        elif action in _ACKS:
            passed = await self.traps[AFTER_ACK].held()
        else:
            passed = True
        return response if passed else hang_up(request)

    async def _ask(self, request: web.Request, body: bytes) -> web.Response:
        assert self._http is not None  # noqa: S101 - started
        async with self._http.request(
            request.method,
            self._upstream + request.path_qs,
            data=body,
            # With the client's Host, so that the queue's URL in an answer leads here again.
            headers={k: v for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP},
        ) as reply:
            content = await reply.read()
            headers = {k: v for k, v in reply.headers.items() if k.lower() not in _HOP_BY_HOP}
        if operation(request.headers.get("X-Amz-Target", ""), body) == _FIND:
            content = content.replace(_origin(self._upstream), _origin(self.url))
        response = web.Response(status=reply.status, body=content)
        response.headers.extend((k, v) for k, v in headers.items() if k.lower() != "content-type")
        response.headers["Content-Type"] = headers.get("Content-Type", "application/x-amz-json-1.0")
        return response


def operation(target: str, body: bytes) -> str:
    """The operation of a request: by its `X-Amz-Target` header, or `Action` in a form."""
    if target:
        return target.rpartition(".")[2]
    return parse_qs(body.decode(errors="replace")).get("Action", [""])[0]


def has_messages(reply: object) -> bool:
    """Whether an answer to ReceiveMessage holds any."""
    if not isinstance(reply, bytes):
        return False
    try:
        document = json.loads(reply)
    except ValueError:
        return b"<Message>" in reply
    return isinstance(document, dict) and bool(document.get("Messages"))


def _origin(url: str) -> bytes:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".encode()


__all__ = ["QueueProxy", "has_messages", "operation"]
