"""What Maven fetches once, and the user's cache folder keeps."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from onceproof.errors import ConfigurationError


def cached(name: str) -> Path:
    """Where something of that name is kept, whether it is there or not."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "onceproof" / name


def missing(folder: Path) -> str | None:
    """Why a folder that is not in the cache cannot be fetched; None if it is, or can be."""
    if not folder.is_dir() and shutil.which("mvn") is None:
        return "Maven, which fetches it, is not installed"
    return None


def fetch(
    folder: Path,
    what: str,
    arguments: Callable[[Path], list[str]],
    result: Callable[[Path], Path],
    *,
    timeout_s: float,
) -> None:
    """Make a folder of the cache of what Maven brings.

    Args:
        folder: as `cached` gave it.
        what: its name, for the error.
        arguments: Maven's, given the temporary folder that it is to write to.
        result: the folder to keep, given the temporary one when Maven is done.
        timeout_s: seconds at most.

    Raises:
        ConfigurationError: Maven failed; the message has the end of what it printed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Made elsewhere and moved: a folder by that name is always complete.
    with tempfile.TemporaryDirectory(dir=folder.parent) as directory:
        temporary = Path(directory)
        done = subprocess.run(
            ["mvn", "--batch-mode", "--quiet", *arguments(temporary)],  # noqa: S607 - by the PATH
            cwd=temporary, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            tail = (done.stdout + done.stderr)[-2000:]
            raise ConfigurationError(f"Maven could not fetch {what}:\n{tail}")
        try:
            result(temporary).rename(folder)
        except OSError:  # somebody else was faster
            if not folder.is_dir():
                raise
