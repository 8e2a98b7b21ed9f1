"""`onceproof dlq redrive` as a process, and killing it at a chosen moment."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.figures import InvalidRunError

HOLD_S: Final = 5.0
_COMMAND: Final = "from onceproof.cli import main; main()"
_WORK_S: Final = 1800.0
_POLL_S: Final = 0.001
_CATCH_S: Final = 10.0
_INTO_THE_SEND_S: Final = 0.004
"""A send takes a few milliseconds; a kill at once would always strike before it."""


async def killed(
    log: Path,
    environment: Mapping[str, str],
    *,
    rate: float,
    deletions: int,
    within: str,
    hold_s: float = HOLD_S,
) -> str:
    """Start a redrive and kill it with SIGKILL.

    Args:
        log: its audit log.
        environment: where queue and database are.
        rate: messages per second.
        deletions: how many the log must have before the kill.
        within: the step that the log must end with: `sending` is between the record and the
            confirmation of a send, `sent` between that and the delete.
        hold_s: seconds after which its messages are visible again.

    Returns:
        The step that the log ended with.

    Raises:
        InvalidRunError: it ended by itself before.
    """
    process = await _start(log, environment, rate, hold_s)
    watched = _Watched(log)
    deadline = time.monotonic() + _WORK_S
    while watched.deletions < deletions or watched.last != within:
        if process.returncode is not None:
            _, errors = await process.communicate()
            raise InvalidRunError(f"the redrive ended before its kill:\n{errors.decode()}")
        if watched.deletions >= deletions:
            deadline = min(deadline, time.monotonic() + _CATCH_S)
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(_POLL_S)
        watched.look()
    if within == "sending":
        await asyncio.sleep(_INTO_THE_SEND_S)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    await process.communicate()
    watched.look()
    return watched.last


async def finished(
    log: Path, environment: Mapping[str, str], *, rate: float, hold_s: float = HOLD_S
) -> dict[str, Any]:
    """Run a redrive to its end; its summary.

    Raises:
        InvalidRunError: it failed.
    """
    process = await _start(log, environment, rate, hold_s)
    async with asyncio.timeout(_WORK_S):
        output, errors = await process.communicate()
    if process.returncode != 0:
        raise InvalidRunError(f"the redrive ended with {process.returncode}:\n{errors.decode()}")
    return dict(json.loads(output))


async def _start(
    log: Path, environment: Mapping[str, str], rate: float, hold_s: float
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", _COMMAND, "dlq", "redrive", "--yes", "--json",
        "--rate", str(rate), "--hold", str(hold_s), "--audit", str(log),
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


class _Watched:
    """Follows a growing log."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._offset = 0
        self.deletions = 0
        self.last = ""
        self.look()

    def look(self) -> None:
        """Read what was added."""
        if not self._log.exists():
            return
        with self._log.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        # Up to the last whole line, or one that is written just now would be missed.
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        self.deletions += whole.count(b'"step":"deleted"')
        if whole:
            last = whole.splitlines()[-1]
            self.last = json.loads(last)["step"] if last.endswith(b"}") else ""
