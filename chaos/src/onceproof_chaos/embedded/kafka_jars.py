"""The jars of a Kafka broker, fetched once by Maven and kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from onceproof.errors import ConfigurationError

POM: Final = Path(__file__).parent / "kafka_pom.xml"
_FETCH_S: Final = 900.0


def installed() -> Path | None:
    """The folder with the jars, if they were fetched."""
    folder = _folder()
    return folder if folder.is_dir() else None


def why_not() -> str | None:
    """Why no Kafka can be started here; None if it can, after a download where need be."""
    if shutil.which("java") is None:
        return "java is not installed"
    if installed() is None and shutil.which("mvn") is None:
        return "Maven, which fetches its jars, is not installed"
    return None


def fetch() -> Path:
    """The folder with the jars, fetched when needed: 120 MB, a minute or two.

    Raises:
        ConfigurationError: they cannot be had; the message has the end of what Maven printed.
    """
    folder = _folder()
    if folder.is_dir():
        return folder
    if (reason := why_not()) is not None:
        raise ConfigurationError(
            f"an embedded Kafka needs Java 17 and Maven: {reason}. "
            "Or name a running one: --kafka-bootstrap HOST:PORT"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Made elsewhere and moved: a folder by that name is always complete.
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        jars = Path(temporary) / "libs"
        done = subprocess.run(
            [  # noqa: S607 - Maven is where the PATH says
                "mvn", "--batch-mode", "--quiet", "--file", str(POM),
                "dependency:copy-dependencies", f"-DoutputDirectory={jars}", "-DincludeScope=runtime",
            ],
            cwd=temporary, capture_output=True, text=True, timeout=_FETCH_S, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            tail = (done.stdout + done.stderr)[-2000:]
            raise ConfigurationError(f"Maven could not fetch Kafka:\n{tail}")
        try:
            jars.rename(folder)
        except OSError:  # somebody else was faster
            if not folder.is_dir():
                raise
    return folder


def _folder() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "onceproof" / f"kafka-{hashlib.sha256(POM.read_bytes()).hexdigest()[:12]}"


def main() -> None:
    """Fetch now, so that nobody waits for it later; says where they are, or why there are none."""
    if installed() is None and why_not() is None:
        sys.stderr.write("fetching the jars of a Kafka broker, 120 MB, once\n")
    try:
        sys.stderr.write(f"Kafka: {fetch()}\n")
    except ConfigurationError as error:
        sys.stderr.write(f"no Kafka: {error}\n")


if __name__ == "__main__":
    main()
