"""A peer's driver as the harness sees it: a process with a few words on its pipes.

`driver setup` makes the peer's tables and ends. `driver work` prints `ready` and works until its stdin
is closed. `driver enqueue` prints `ready`, waits for a line, enqueues `BENCH_ORDERS` orders and prints
`done`. In the environment: `BENCH_DSN` (libpq's URL), `BENCH_TUNED=1` for the settings that the peer's
documentation recommends, `BENCH_BROKEN=1` for the negative control: no guard against duplicates.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import IO, Final

from benchmarks.contest import NotRunError
from benchmarks.figures import InvalidRunError

_READY_S: Final = 180.0
_END_S: Final = 20.0
_LOG_CHARS: Final = 600
_WORDS: Final = frozenset({"ready", "done"})


class Driver:
    """A running driver.

    Its stdout is read all the time: a peer that logs there would stand still when the pipe is full.

    Args:
        process: with its stdin and stdout as pipes.
        log: its stderr.
    """

    def __init__(self, process: asyncio.subprocess.Process, log: IO[bytes]) -> None:
        self._process = process
        self._log = log
        self._words: set[str] = set()
        self._lines: deque[str] = deque(maxlen=20)
        self._heard = asyncio.Condition()
        self._ended = False
        self._reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it has ended, or says nothing more."""
        return self._ended or self._process.returncode is not None

    async def heard(self, word: str, within_s: float) -> None:
        """Wait until it has printed a line that is `word`; other lines are its own affair.

        Raises:
            InvalidRunError: it ended, or said nothing of the kind in time.
        """
        try:
            async with asyncio.timeout(within_s), self._heard:
                await self._heard.wait_for(lambda: word in self._words or self.ended)
        except TimeoutError:
            raise InvalidRunError(
                f"did not say {word!r} in {within_s:.0f} s: {self.log()}"
            ) from None
        if word not in self._words:
            raise InvalidRunError(f"ended before it said {word!r}: {self.log()}")

    async def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - a pipe
        while line := await self._process.stdout.readline():
            word = line.decode(errors="replace").strip()
            if word not in _WORDS:
                self._lines.append(word)
                continue
            async with self._heard:
                self._words.add(word)
                self._heard.notify_all()
        async with self._heard:
            self._ended = True
            self._heard.notify_all()

    async def tell(self, line: str) -> None:
        """Write a line to its stdin."""
        assert self._process.stdin is not None  # noqa: S101 - a pipe
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()

    def log(self) -> str:
        """The end of what it logged, on one line."""
        self._log.seek(0)
        text = f"{' '.join(self._lines)} {self._log.read().decode(errors='replace')}"
        return " ".join(text.split())[-_LOG_CHARS:] or "it logged nothing"

    async def stop(self) -> None:
        """Close its stdin and wait for its end; kill it if it does not come."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await self._process.wait()
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        await self._reading


@asynccontextmanager
async def driver(
    command: Sequence[str], environment: Mapping[str, str], *, ready_s: float = _READY_S
) -> AsyncIterator[Driver]:
    """A driver that has said `ready`.

    Raises:
        InvalidRunError: it did not get ready.
    """
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, **environment},
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
        )  # fmt: skip
        running = Driver(process, log)
        try:
            await running.heard("ready", ready_s)
            yield running
        finally:
            await running.stop()


async def run_driver(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run a driver that does something and ends.

    Raises:
        NotRunError: it failed.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    if process.returncode:
        text = " ".join(out.decode(errors="replace").split())[-_LOG_CHARS:]
        raise NotRunError(f"its set-up failed: {text}")
