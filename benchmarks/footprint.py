"""What the library costs beside throughput: a disarmed crash point, and memory."""

from __future__ import annotations

import resource
import subprocess
import sys
import timeit
from typing import Final

import psutil

from onceproof.crashpoints import CONSUMER_AFTER_COMMIT, crash_point

_CALLS: Final = 20_000
_ROUNDS: Final = 50
_IMPORTS: Final = "import onceproof_consumer.__main__; print('ready', flush=True); input()"


def crash_point_ns() -> float:
    """Nanoseconds for passing a crash point that nothing armed, with the call; best of many rounds."""

    def loop(calls: int) -> float:
        return timeit.timeit(
            "crash_point(point, 'o-000000000001', 1, 'e')",
            globals={"crash_point": crash_point, "point": CONSUMER_AFTER_COMMIT},
            number=calls,
        )

    loop(_CALLS)
    return min(loop(_CALLS) for _ in range(_ROUNDS)) / _CALLS * 1e9


def imports_rss_mb() -> float:
    """Resident memory in MB (10^6 bytes) of a process that has imported the consumer service."""
    with subprocess.Popen(
        [sys.executable, "-c", _IMPORTS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None  # noqa: S101 - both are pipes
        assert process.stdout is not None  # noqa: S101
        process.stdout.readline()
        rss = psutil.Process(process.pid).memory_info().rss
        process.stdin.write(b"\n")
        process.stdin.close()
    return rss / 1e6


def own_peak_rss_mb() -> float:
    """Peak of this process in MB; it holds the prepared messages as well."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
