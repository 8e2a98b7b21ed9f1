"""An SQS server on this machine, made from moto, that a proof can rely on.

moto's SQS is made for single-threaded tests. Three things would spoil a verdict, and are put right
in front of it (`sqs_wsgi`) and in subclasses of its model (`sqs_model`):

- Its model has no lock: a delete rebuilds the list of messages while a send appends to it, and the
  sent message is gone. Here one lock is held for each request.
- Its long poll holds the request's thread and asks every second. Here a poll that finds nothing
  waits, outside of the lock, for the next request that changes something or for the next message
  that becomes visible, and asks moto only when there is something to have. Idle costs nothing.
- It accepts every receipt handle that a message ever had, so that a zombie's late ack deletes the
  delivery of its successor. Here only the latest handle is valid, as on ElasticMQ and FIFO queues.

A consumer that was killed in its long poll must not be given a message either: the connection is
looked at before each attempt, as otherwise every kill would cost a delivery that nobody made.

Run it with `python -m onceproof_chaos.embedded.sqs`, or from Python by `EmbeddedSqs`.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from pathlib import Path

from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from onceproof_chaos.embedded.sqs_model import install
from onceproof_chaos.embedded.sqs_wsgi import SerialisedSqs


class _Handler(MotoRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body are written apart: with Nagle's algorithm every answer would wait 40 ms.
    disable_nagle_algorithm = True

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """No access log: thousands of lines a second that nobody reads."""


def serve(host: str, port: int, port_file: Path | None) -> None:
    """Serve until the process is ended; port 0 takes a free one and writes it to `port_file`."""
    install()
    application = SerialisedSqs(create_backend_app("sqs"))
    server = make_server(host, port, application, threaded=True, request_handler=_Handler)
    if port_file is not None:
        partial = port_file.with_suffix(".partial")
        partial.write_text(str(server.port))
        partial.replace(port_file)
    server.serve_forever()


def _exit_with_parent() -> None:
    """End when stdin closes, which the kernel does however the parent process ends."""

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def main() -> None:
    """Command line of the server."""
    parser = argparse.ArgumentParser(description="An SQS server on this machine, made from moto.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--port-file", type=Path, help="where to write the port when ready")
    parser.add_argument("--exit-on-eof", action="store_true", help="end when stdin is closed")
    arguments = parser.parse_args()
    if arguments.exit_on_eof:
        _exit_with_parent()
    serve(arguments.host, arguments.port, arguments.port_file)


if __name__ == "__main__":
    main()
