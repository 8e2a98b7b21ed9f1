"""What the embedded servers have in common."""

from __future__ import annotations

import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from onceproof.errors import BrokerUnavailableError


class EmbeddedServer(ABC):
    """A server of one run; usable as a context manager."""

    @abstractmethod
    def start(self) -> object:
        """Start the server and wait until it can be used."""

    @abstractmethod
    def stop(self) -> None:
        """Stop the server. Harmless when it does not run."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _until_up(
        self,
        process: subprocess.Popen[bytes],
        up: Callable[[], bool],
        *,
        what: str,
        log: Path,
        timeout_s: float,
        poll_s: float,
    ) -> None:
        """Wait until the server is up; one that does not come up is stopped.

        Args:
            process: of the server.
            up: whether it is.
            what: its name, for the error.
            log: what it printed.
            timeout_s: seconds at most.
            poll_s: seconds between two looks.

        Raises:
            BrokerUnavailableError: it ended, or took too long; the message holds the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while not up():
            if process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                tail = log.read_text(errors="replace")[-2000:]
                raise BrokerUnavailableError(f"{what} did not start:\n{tail}")
            time.sleep(poll_s)


def spawn(command: Sequence[str], output: BinaryIO) -> subprocess.Popen[bytes]:
    """Start a server that ends when its stdin does, with everything that it prints in `output`."""
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        # Ctrl-C in the terminal is for the parent, which then stops this one in its turn.
        start_new_session=True,
    )
