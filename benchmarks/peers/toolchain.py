"""Builds the peers on demand, each apart from this project and outside of its folder.

Their packages stay out of the project's lock file: a Python peer has a virtual environment of its own
with pinned versions, a Go peer its own go.mod, Debezium Server is fetched by Maven. What was built is
kept in a cache folder, under a name that changes with what it was built from.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import Final

from benchmarks.contest import NotRunError

_HERE: Final = Path(__file__).parent
_BUILD_S: Final = 900.0
_UV: Final = _HERE.parent.parent / ".tools" / "bin" / "uv"


def cache() -> Path:
    """The cache folder: `ONCEPROOF_BENCH_CACHE`, else one in the user's cache folder."""
    given = os.environ.get("ONCEPROOF_BENCH_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else base / "onceproof-bench"


async def python_driver(peer: str) -> list[str]:
    """The command of a Python peer's driver, in a virtual environment made on demand.

    Raises:
        NotRunError: it cannot be made.
    """
    requirements = _HERE / peer / "requirements.txt"
    uv = str(_UV) if _UV.exists() else shutil.which("uv")
    if uv is None:
        raise NotRunError("needs uv for its virtual environment: `make setup` installs it")
    target = cache() / f"{peer}-{_digest(requirements)}"
    python = target / "bin" / "python"
    if not (target / ".complete").exists():
        await run_tool(uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(target))
        await run_tool(
            uv, "pip", "install", "--quiet", "--python", str(python),
            "--requirement", str(requirements),
        )  # fmt: skip
        (target / ".complete").touch()
    return [str(python), str(_HERE / peer / "driver.py")]


async def go_driver(peer: str) -> list[str]:
    """The command of a Go peer's driver, built on demand.

    Raises:
        NotRunError: there is no Go, or it cannot be built.
    """
    folder = _HERE / peer
    go = required("go", "Go")
    binary = cache() / f"{peer}-{_digest(*sorted(folder.glob('*.go')), folder / 'go.sum')}"
    if not binary.exists():
        await run_tool(
            go, "build", "-p", "2", "-buildvcs=false", "-o", str(binary), ".", folder=folder
        )
    return [str(binary)]


async def go_program(package: str) -> list[str]:
    """The command of a Go program, `module/path@version`, installed on demand.

    Raises:
        NotRunError: there is no Go, or it is not to be had.
    """
    go = required("go", "Go")
    folder = cache() / hashlib.sha256(package.encode()).hexdigest()[:12]
    binary = folder / package.partition("@")[0].rpartition("/")[2]
    if not binary.exists():
        await run_tool(go, "install", package, environment={"GOBIN": str(folder)})
    return [str(binary)]


def required(program: str, name: str) -> str:
    """The path of a program.

    Raises:
        NotRunError: it is not installed.
    """
    found = shutil.which(program)
    if found is None:
        raise NotRunError(f"needs {name}: {program} is not on the PATH")
    return found


async def run_tool(
    *command: str, folder: Path | None = None, environment: dict[str, str] | None = None
) -> str:
    """Run a build step; its output.

    Raises:
        NotRunError: it failed or took too long; the message has the end of what it printed.
    """
    await asyncio.to_thread(cache().mkdir, parents=True, exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    step = f"{Path(command[0]).name} {command[1]}"
    try:
        async with asyncio.timeout(_BUILD_S):
            out, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        raise NotRunError(f"{step} did not end in {_BUILD_S:.0f} s") from None
    text = out.decode(errors="replace")
    if process.returncode:
        raise NotRunError(f"{step} failed: {' '.join(text.split())[-300:]}")
    return text


def _digest(*files: Path) -> str:
    content = hashlib.sha256()
    for file in files:
        content.update(file.read_bytes())
    return content.hexdigest()[:12]
