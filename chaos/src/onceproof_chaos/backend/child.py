"""What a forked child does to become a service: its own session, environment and log."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import threading
from collections.abc import Mapping


def become(module: str, environment: Mapping[str, str], log: str) -> None:
    """Run `module` as `python -m module` would, and exit with its exit code."""
    os.setsid()  # Ctrl-C in the terminal is the harness's to handle
    threading.Thread(target=_die_with_the_harness, name="harness-watch", daemon=True).start()
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(environment)
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _die_with_the_harness() -> None:
    """A service that outlived its harness would consume the next run's messages."""
    harness = multiprocessing.parent_process()
    if harness is not None:
        harness.join()
        os.kill(os.getpid(), signal.SIGKILL)
