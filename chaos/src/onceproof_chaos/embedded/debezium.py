"""Debezium Server's distribution, fetched once by Maven and kept in the user's cache folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from onceproof.errors import ConfigurationError
from onceproof_chaos.embedded import maven

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
    if _java() is None:
        return f"Java {_JAVA} or newer is not installed; JAVA_HOME may name one"
    return maven.missing(_folder())


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
    maven.fetch(
        folder,
        "Debezium Server",
        lambda temporary: [
            "dependency:copy", f"-Dartifact={_ARTIFACT}", f"-DoutputDirectory={temporary}",
        ],
        _unpacked,
        timeout_s=_FETCH_S,
    )  # fmt: skip
    return folder


def java() -> str:
    """A Java that is new enough.

    Raises:
        ConfigurationError: there is none.
    """
    if (found := _java()) is None:
        raise ConfigurationError(f"Debezium Server cannot run: {why_not()}")
    return found


def _java() -> str | None:
    for candidate in _javas():
        if os.access(candidate, os.X_OK):
            told = subprocess.run(
                [candidate, "-version"], capture_output=True, text=True, check=False
            )
            found = re.search(r'version "(\d+)', told.stderr + told.stdout)
            if found and int(found[1]) >= _JAVA:
                return candidate
    return None


def _javas() -> list[str]:
    """JAVA_HOME's, the PATH's, and those that are installed."""
    home = os.environ.get("JAVA_HOME")
    on_path = shutil.which("java")
    return [
        *([f"{home}/bin/java"] if home else []),
        *([on_path] if on_path else []),
        *map(str, sorted(Path("/usr/lib/jvm").glob("*/bin/java"), reverse=True)),
    ]


def _unpacked(temporary: Path) -> Path:
    folder = temporary / "unpacked"
    shutil.unpack_archive(temporary / f"debezium-server-dist-{VERSION}.tar.gz", folder)
    return next(folder.iterdir())


def _folder() -> Path:
    return maven.cached(f"debezium-server-{VERSION}")


def main() -> None:
    """Fetch now, so that nobody waits for it later; says where it is, or why there is none."""
    try:
        sys.stderr.write(f"Debezium Server: {fetch()}\n")
    except ConfigurationError as error:
        sys.stderr.write(f"no Debezium Server: {error}\n")


if __name__ == "__main__":
    main()
