"""The command line in a process of its own, as its users run it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil

ONCEPROOF: Final = (sys.executable, "-c", "from onceproof.cli import main; main()")

ANY_AWS: Final = {
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "x",
    "AWS_DEFAULT_REGION": "us-east-1",
}
"""Credentials for an SQS server that asks for some, and takes any."""


def run_program(
    *command: str, timeout_s: float = 110, cwd: Path | None = None, columns: int = 200
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; its exit code and what it printed, in so many columns."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        cwd=cwd,
        env={**os.environ, "COLUMNS": str(columns)},
    )


def alive(process: psutil.Process) -> bool:
    """Whether it runs; one that nobody has waited for does not."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def until(condition: Callable[[], object]) -> None:
    """Wait until it is true; a minute at most."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
