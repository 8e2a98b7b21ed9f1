"""The lock in front of moto: its model must never see two requests at once.

Losing a message by that race takes luck, so the load test beside this one does not prove the lock.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from onceproof_chaos.embedded.sqs_wsgi import SerialisedSqs

CLIENTS = 4


class Overlap:
    """A WSGI application that waits for company in each request, and counts how much came."""

    def __init__(self) -> None:
        self.peak = 0
        self._inside = 0
        self._changed = threading.Condition()

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        del environ
        with self._changed:
            self._inside += 1
            self.peak = max(self.peak, self._inside)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.peak > 1, timeout=0.1)
            self._inside -= 1
        start_response("200 OK", [])
        return [b"{}"]


@pytest.mark.parametrize("action", ["SendMessageBatch", "DeleteMessageBatch", "ReceiveMessage"])
def test_requests_reach_moto_one_at_a_time(action: str) -> None:
    def request(application: Callable[..., Any]) -> None:
        environ = {"HTTP_X_AMZ_TARGET": f"AmazonSQS.{action}", "wsgi.input": io.BytesIO()}
        assert list(application(environ, lambda *_: None)) == [b"{}"]

    def peak(overlap: Overlap, application: Callable[..., Any]) -> int:
        with ThreadPoolExecutor(CLIENTS) as pool:
            for done in [pool.submit(request, application) for _ in range(CLIENTS)]:
                done.result()
        return overlap.peak

    served = Overlap()
    assert peak(served, SerialisedSqs(served)) == 1
    unprotected = Overlap()
    assert peak(unprotected, unprotected) > 1
