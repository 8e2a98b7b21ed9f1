"""Debezium Server's distribution, fetched once by Maven and kept in the user's cache folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from onceproof.errors import ConfigurationError

VERSION: Final = "3.6.0.Final"
_JAVA: Final = 21
_FETCH_S: Final = 1800.0
_ARTIFACT: Final = f"io.debezium:debezium-server-dist:{VERSION}:tar.gz"


def installed() -> Path | None:
    """The unpacked distribution, if it was fetched."""
    folder = _folder()
    return folder if folder.is_dir() else None


def why_not() -> str | None:
    """Why no Debezium can be started here; None if it can, after a download where need be."""
    if java() is None:
        return f"Java {_JAVA} or newer is not installed; JAVA_HOME may name one"
    if installed() is None and shutil.which("mvn") is None:
        return "Maven, which fetches it, is not installed"
    return None


def java() -> str | None:
    """A Java that is new enough: JAVA_HOME's, the PATH's, or one of those that are installed."""
    for candidate in _javas():
        if os.access(candidate, os.X_OK):
            told = subprocess.run(
                [candidate, "-version"], capture_output=True, text=True, check=False
            )
            found = re.search(r'version "(\d+)', told.stderr + told.stdout)
            if found and int(found[1]) >= _JAVA:
                return candidate
    return None


def fetch() -> Path:
    """The unpacked distribution, fetched when needed: 0.8 GB, some minutes.

    Raises:
        ConfigurationError: it cannot be had; the message has the end of what Maven printed.
    """
    folder = _folder()
    if folder.is_dir():
        return folder
    if (reason := why_not()) is not None:
        raise ConfigurationError(f"Debezium Server needs Java {_JAVA} and Maven: {reason}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Made elsewhere and moved: a folder by that name is always complete.
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        done = subprocess.run(
            [  # noqa: S607 - Maven is where the PATH says
                "mvn", "dependency:copy", "--quiet", "--batch-mode", f"-Dartifact={_ARTIFACT}",
                f"-DoutputDirectory={temporary}",
            ],
            cwd=temporary, capture_output=True, text=True, timeout=_FETCH_S, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            tail = (done.stdout + done.stderr)[-2000:]
            raise ConfigurationError(f"Maven could not fetch Debezium Server:\n{tail}")
        unpacked = Path(temporary) / "unpacked"
        unpacked.mkdir()
        archive = Path(temporary) / f"debezium-server-dist-{VERSION}.tar.gz"
        shutil.unpack_archive(archive, unpacked)
        try:
            next(unpacked.iterdir()).rename(folder)
        except OSError:  # somebody else was faster
            if not folder.is_dir():
                raise
    return folder


def _javas() -> list[str]:
    home = os.environ.get("JAVA_HOME")
    on_path = shutil.which("java")
    return [
        *([f"{home}/bin/java"] if home else []),
        *([on_path] if on_path else []),
        *map(str, sorted(Path("/usr/lib/jvm").glob("*/bin/java"), reverse=True)),
    ]


def _folder() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "onceproof" / f"debezium-server-{VERSION}"


def main() -> None:
    """Fetch now, so that nobody waits for it later; says where it is, or why there is none."""
    try:
        sys.stderr.write(f"Debezium Server: {fetch()}\n")
    except ConfigurationError as error:
        sys.stderr.write(f"no Debezium Server: {error}\n")


if __name__ == "__main__":
    main()
