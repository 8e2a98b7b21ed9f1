"""One request at a time in front of moto's SQS, and long polls that wait without holding the lock.

Why this exists is told in `onceproof_chaos.embedded.sqs`.
"""

from __future__ import annotations

import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from moto.sqs.models import sqs_backends

from onceproof_chaos.embedded.sqs_model import EmbeddedQueue

_ACCOUNT: Final = "123456789012"
"""moto's default account, which every access key belongs to."""
_SCOPE: Final = re.compile(r"Credential=[^/]+/\d+/([a-z0-9-]+)/")
_READ_ONLY: Final = frozenset({"GetQueueUrl", "GetQueueAttributes", "ListQueues"})

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


class SerialisedSqs:
    """WSGI middleware: one request at a time, and long polls that wait without holding the lock.

    Args:
        application: moto's own WSGI application.
    """

    def __init__(self, application: Application) -> None:
        self._application = application
        self._changed = threading.Condition()

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length) if length else b""
        action = _action(environ)
        poll = _long_poll(body) if action == "ReceiveMessage" else None
        if poll is not None:
            return self._receive(environ, start_response, *poll)
        with self._changed:
            reply = self._answer(environ, start_response, body)
            if action not in _READ_ONLY:
                self._changed.notify_all()
        return reply

    def _receive(
        self,
        environ: Environ,
        start_response: Callable[..., Any],
        request: dict[str, Any],
        wait_s: float,
    ) -> Iterable[bytes]:
        body = json.dumps(request | {"WaitTimeSeconds": 0}).encode()
        deadline = time.monotonic() + wait_s
        with self._changed:
            while True:
                queue = _queue(environ, request)
                over = time.monotonic() >= deadline
                if queue is None or queue.has_message() or over:
                    if _disconnected(environ):
                        raise ConnectionResetError("the client is gone")
                    stored = queue.stored() if queue else 0
                    answer = _Captured()
                    parts = self._answer(environ, answer, body)
                    if queue is not None and queue.stored() < stored:
                        # moto redrives in a receive: the DLQ's receivers have something to get.
                        self._changed.notify_all()
                    if (
                        queue is None
                        or over
                        or answer.status != 200
                        or b'"Messages"' in b"".join(parts)
                    ):
                        return answer.replay(start_response, parts)
                if queue is not None:
                    self._changed.wait(min(deadline - time.monotonic(), queue.next_change_s()))

    def _answer(
        self, environ: Environ, start_response: Callable[..., Any], body: bytes
    ) -> list[bytes]:
        inner = dict(environ)
        inner["wsgi.input"] = io.BytesIO(body)
        inner["CONTENT_LENGTH"] = str(len(body))
        queue = _queue(environ, _parsed(body))
        if queue is not None:
            queue.release_lapsed_groups()
        EmbeddedQueue.counting = _action(environ) == "GetQueueAttributes"
        response = self._application(inner, start_response)
        try:
            return list(response)
        finally:
            close = getattr(response, "close", None)
            if close is not None:
                close()


class _Captured:
    """A `start_response` that keeps the head until it is known that this is the answer."""

    def __init__(self) -> None:
        self.status = 0
        self._head: tuple[Any, ...] = ()

    def __call__(self, status: str, *rest: Any) -> None:  # noqa: ANN401 - WSGI's own signature
        self.status = int(status.split(maxsplit=1)[0])
        self._head = (status, *rest)

    def replay(self, start_response: Callable[..., Any], parts: list[bytes]) -> list[bytes]:
        start_response(*self._head)
        return parts


def _action(environ: Environ) -> str:
    return str(environ.get("HTTP_X_AMZ_TARGET", "")).removeprefix("AmazonSQS.")


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _long_poll(body: bytes) -> tuple[dict[str, Any], float] | None:
    request = _parsed(body)
    wait = request.get("WaitTimeSeconds")
    # Anything else goes to moto as it is, which knows the error to answer.
    if type(wait) is not int or not 0 < wait <= 20:
        return None
    return request, float(wait)


def _queue(environ: Environ, request: dict[str, Any]) -> EmbeddedQueue | None:
    scope = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
    url = request.get("QueueUrl")
    if scope is None or not isinstance(url, str):
        return None
    backend = sqs_backends[_ACCOUNT][scope[1]]
    queue = backend.queues.get(url.rpartition("/")[2])
    return queue if isinstance(queue, EmbeddedQueue) else None


def _disconnected(environ: Environ) -> bool:
    connection: socket.socket | None = environ.get("werkzeug.socket")
    if connection is None:
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
