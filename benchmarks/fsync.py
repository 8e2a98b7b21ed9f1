"""`pg_test_fsync`: how long this disk takes to make a write durable, which no commit can undercut."""

from __future__ import annotations

import asyncio
import re
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.contest import NotRunError

_LINE: Final = re.compile(
    r"^\s*(open_datasync|fdatasync|fsync|fsync_writethrough|open_sync)\s+"
    r"([\d.]+) ops/sec\s+([\d.]+) usecs/op",
    re.MULTILINE,
)
_SECTION: Final = "Compare file sync methods using one 8kB write"


async def microseconds_per_sync(pgbench: Path, seconds: int) -> dict[str, float]:
    """Microseconds of one 8 kB write made durable, by method.

    Args:
        pgbench: `pg_test_fsync` comes with it, in the same folder.
        seconds: for each method.

    Raises:
        NotRunError: there is no such program, or it failed.
    """
    program = pgbench.with_name("pg_test_fsync")
    if not program.exists():
        raise NotRunError(f"needs pg_test_fsync, which is not beside {pgbench}")
    with tempfile.TemporaryDirectory(prefix="onceproof-fsync-") as directory:
        process = await asyncio.create_subprocess_exec(
            str(program), f"--filename={directory}/file", f"--secs-per-test={seconds}",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            text = await _first_section(process)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.communicate()
    found = parse(text)
    if not found:
        raise NotRunError(f"pg_test_fsync said nothing of use: {text[-200:]!r}")
    return found


async def _first_section(process: asyncio.subprocess.Process) -> str:
    """Output up to the second comparison: the others say nothing about commits."""
    assert process.stdout is not None  # noqa: S101 - a pipe
    text = ""
    while line := (await process.stdout.readline()).decode(errors="replace"):
        text += line
        if _SECTION not in line and line.startswith("Compare file sync methods"):
            break
    return text


def parse(text: str) -> dict[str, float]:
    """The first section's methods; those that the system has not are left out."""
    _, _, section = text.partition(_SECTION)
    section = section.partition("Compare file sync methods")[0]
    return {name: float(usecs) for name, _, usecs in _LINE.findall(section)}
