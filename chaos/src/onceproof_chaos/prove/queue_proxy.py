"""Stands between a consumer and its queue: sees what is handed out and what is acked, and may hold it.

It knows a few operations of SQS and passes everything on as it is, in either of the two protocols that
clients speak (JSON and query). The signature of a request covers the host's name, so a server that
checks signatures, as AWS does, refuses what went through here; the embedded one and ElasticMQ do not.
"""

from __future__ import annotations

import json
import re
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
_HIDES: Final = frozenset({_RECEIVE, "ChangeMessageVisibility", "ChangeMessageVisibilityBatch"})
_VISIBILITY: Final = re.compile(r'VisibilityTimeout"?\s*[=:]\s*"?(\d+)')
"""In either protocol."""
_MESSAGE_ID: Final = re.compile(rb"<MessageId>([^<]+)</MessageId>")
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
        self.longest_visibility_s = 0
        """Seconds for which the consumer itself asked to have messages hidden."""
        self.redelivered = 0
        """How often a message was handed out that had been before."""
        self._handed_out: set[str] = set()
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
        action = operation(request.headers.get("X-Amz-Target", ""), body, request.query_string)
        if action in _HIDES:
            hidden_s = visibility(body, request.query_string)
            self.longest_visibility_s = max(self.longest_visibility_s, hidden_s)
        if action in _ACKS and not await self.traps[BEFORE_ACK].held():
            return hang_up(request)
        try:
            response = await self._ask(request, body, action)
        except (aiohttp.ClientError, TimeoutError):
            return hang_up(request)
        if action == _RECEIVE and (ids := message_ids(response.body)):
            self.redelivered += len(self._handed_out & ids)
            self._handed_out |= ids
            passed = await self.traps[AFTER_RECEIVE].held()
        elif action in _ACKS:
            passed = await self.traps[AFTER_ACK].held()
        else:
            passed = True
        return response if passed else hang_up(request)

    async def _ask(self, request: web.Request, body: bytes, action: str) -> web.Response:
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
        if action == _FIND:
            content = content.replace(_origin(self._upstream), _origin(self.url))
        response = web.Response(status=reply.status, body=content)
        response.headers.extend((k, v) for k, v in headers.items() if k.lower() != "content-type")
        response.headers["Content-Type"] = headers.get("Content-Type", "application/x-amz-json-1.0")
        return response


def operation(target: str, body: bytes, query: str = "") -> str:
    """The operation of a request: by its `X-Amz-Target` header, or `Action` in a form or the URL."""
    if target:
        return target.rpartition(".")[2]
    for form in (body.decode(errors="replace"), query):
        if found := parse_qs(form).get("Action"):
            return found[0]
    return ""


def visibility(body: bytes, query: str = "") -> int:
    """The longest visibility timeout in seconds that a request asks for; 0 when it asks for none."""
    found = _VISIBILITY.findall(f"{body.decode(errors='replace')}&{query}")
    return max(map(int, found), default=0)


def message_ids(reply: object) -> set[str]:
    """The messages in an answer to ReceiveMessage."""
    if not isinstance(reply, bytes):
        return set()
    try:
        document = json.loads(reply)
    except ValueError:
        return {found.decode() for found in _MESSAGE_ID.findall(reply)}
    messages = document.get("Messages") if isinstance(document, dict) else None
    return {message["MessageId"] for message in messages or ()}


def _origin(url: str) -> bytes:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".encode()


__all__ = ["QueueProxy", "message_ids", "operation", "visibility"]
