"""A small HTTP server on a thread of its own: it must answer while the event loop stands still.

That is also why it is the standard library's server and not the ASGI stack of the services: a parked
process has no running loop to serve from.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

import onceproof.metrics  # noqa: F401 - a process shows all metrics, also those that it never counts
from onceproof.crashpoints import Armed, CrashPoints, crash_points

logger = logging.getLogger(__name__)

MAX_WAIT_S: Final = 60.0
MAX_BODY_BYTES: Final = 1024 * 1024


@dataclass
class Health:
    """What `/readyz` reports: every named dependency must be ready; a reason says why one is not."""

    _reasons: dict[str, str] = field(default_factory=dict)

    def ready(self, dependency: str) -> None:
        """The dependency works."""
        self._reasons.pop(dependency, None)

    def not_ready(self, dependency: str, reason: str) -> None:
        """The dependency does not work; `reason` must hold no secret."""
        self._reasons[dependency] = reason

    @property
    def reasons(self) -> dict[str, str]:
        """Dependency to reason, for those that are not ready."""
        return dict(self._reasons)


class AdminServer:
    """Serves `/healthz`, `/readyz`, `/metrics` and, only when chaos is enabled, `/crash-points`.

    Args:
        host: address to listen on.
        port: TCP port; 0 picks a free one, see `port` after `start`.
        health: what `/readyz` reports.
        chaos: serve the crash points. Off unless somebody asked for it.
        points: the crash points to serve; the process's own by default.
    """

    def __init__(
        self,
        host: str,
        port: int,
        health: Health,
        *,
        chaos: bool = False,
        points: CrashPoints = crash_points,
    ) -> None:
        routes: dict[tuple[str, str], Callable[[_Request], _Response]] = {
            ("GET", "/healthz"): lambda _: _Response(HTTPStatus.OK, {"status": "ok"}),
            ("GET", "/readyz"): lambda _: _readyz(health),
            ("GET", "/metrics"): lambda _: _metrics(),
        }
        if chaos:
            routes |= {
                ("PUT", "/crash-points"): lambda request: _arm(points, request),
                ("GET", "/crash-points"): lambda _: _list(points),
                ("DELETE", "/crash-points"): lambda request: _disarm(points, request),
                ("GET", "/crash-points/reached"): lambda request: _reached(points, request),
            }

        class Handler(_Handler):
            routing = routes

        self._server = _Server((host, port), Handler)
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The TCP port that is listened on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Serve on a daemon thread."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="admin", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop serving; harmless when it was never started, or twice."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, _request: Any, client_address: Any) -> None:  # noqa: ANN401 - the base's
        """A client that hung up is no error of ours; the base class prints a traceback."""
        logger.debug("admin request from %s broke off", client_address)


@dataclass(frozen=True, slots=True)
class _Request:
    query: Mapping[str, list[str]]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Response:
    status: HTTPStatus
    body: Any
    content_type: str = "application/json"

    def encode(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


class _Handler(BaseHTTPRequestHandler):
    routing: Mapping[tuple[str, str], Callable[[_Request], _Response]]
    protocol_version = "HTTP/1.1"
    timeout = MAX_WAIT_S + 5

    def do_GET(self) -> None:
        self._respond()

    def do_PUT(self) -> None:
        self._respond()

    def do_DELETE(self) -> None:
        self._respond()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Probes come every few seconds; their access log is noise."""

    def _respond(self) -> None:
        url = urlsplit(self.path)
        response = self._answer(url.path, url.query)
        body = response.encode()
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer(self, path: str, query: str) -> _Response:
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            return _Response(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": "body too large"})
        body = self.rfile.read(int(length))
        route = self.routing.get((self.command, path))
        if route is None:
            return _Response(
                HTTPStatus.NOT_FOUND,
                {"error": f"no {self.command} {path}; crash points are served only with chaos on"},
            )
        try:
            return route(_Request(parse_qs(query), body))
        except ValueError as error:
            return _Response(HTTPStatus.BAD_REQUEST, {"error": str(error)})


def _readyz(health: Health) -> _Response:
    reasons = health.reasons
    if reasons:
        return _Response(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "not ready"} | reasons)
    return _Response(HTTPStatus.OK, {"status": "ready"})


def _metrics() -> _Response:
    return _Response(HTTPStatus.OK, generate_latest(), CONTENT_TYPE_LATEST)


def _arm(points: CrashPoints, request: _Request) -> _Response:
    try:
        document = json.loads(request.body)
    except ValueError as error:
        raise ValueError(f"body is not JSON: {error}") from None
    if not isinstance(document, list) or not all(isinstance(item, dict) for item in document):
        raise ValueError("body must be a JSON list of faults")
    points.arm([Armed.from_json(item) for item in document])
    return _list(points)


def _list(points: CrashPoints) -> _Response:
    return _Response(HTTPStatus.OK, [fault.as_json() for fault in points.armed()])


def _disarm(points: CrashPoints, request: _Request) -> _Response:
    points.disarm(request.query.get("id"))
    return _list(points)


def _reached(points: CrashPoints, request: _Request) -> _Response:
    wait_s = min(float(request.query.get("wait", ["0"])[0]), MAX_WAIT_S)
    after = int(request.query.get("after", ["0"])[0])
    reached = points.reached(after=after, wait_s=max(wait_s, 0.0))
    return _Response(HTTPStatus.OK, [item.as_json() for item in reached])
