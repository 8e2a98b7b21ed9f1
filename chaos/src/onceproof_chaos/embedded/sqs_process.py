"""Starts the embedded SQS server as a process that cannot outlive its parent."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from onceproof_chaos.embedded.server import EmbeddedServer, spawn

_START_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.02


class EmbeddedSqs(EmbeddedServer):
    """The server of `onceproof_chaos.embedded.sqs`; usable as a context manager.

    Args:
        directory: where its log and port file go; made if it does not exist.
    """

    region: Final = "us-east-1"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def endpoint_url(self) -> str:
        """URL for SQS clients, once started."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """What an AWS client needs in its environment; the server takes any credentials."""
        return {
            "AWS_ACCESS_KEY_ID": "embedded",
            "AWS_SECRET_ACCESS_KEY": "embedded",
            "AWS_DEFAULT_REGION": self.region,
        }

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> str:
        """Start the server and wait until it listens; its endpoint URL. Blocks for about 2 s.

        Raises:
            BrokerUnavailableError: it did not start; the message holds the end of its log.
        """
        if self._process is not None:
            return self.endpoint_url
        self._directory.mkdir(parents=True, exist_ok=True)
        log = self._directory / "sqs.log"
        port_file = self._directory / "sqs.port"
        port_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "onceproof_chaos.embedded.sqs", "--exit-on-eof"]
        with log.open("wb") as output:
            self._process = process = spawn([*command, "--port-file", str(port_file)], output)
        self._until_up(
            process, port_file.exists, what="the embedded SQS server", log=log,
            timeout_s=_START_TIMEOUT_S, poll_s=_POLL_S,
        )  # fmt: skip
        self._port = int(port_file.read_text())
        return self.endpoint_url

    def stop(self) -> None:
        """Stop the server; its queues are gone. Harmless when it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
