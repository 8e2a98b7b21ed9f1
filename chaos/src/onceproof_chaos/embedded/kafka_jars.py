"""The jars of a Kafka broker, fetched once by Maven and kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Final

from onceproof.errors import ConfigurationError
from onceproof_chaos.embedded import maven

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
    return maven.missing(_folder())


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
    maven.fetch(
        folder,
        "Kafka",
        lambda temporary: [
            "--file", str(POM), "dependency:copy-dependencies",
            f"-DoutputDirectory={temporary / 'libs'}", "-DincludeScope=runtime",
        ],
        lambda temporary: temporary / "libs",
        timeout_s=_FETCH_S,
    )  # fmt: skip
    return folder


def _folder() -> Path:
    return maven.cached(f"kafka-{hashlib.sha256(POM.read_bytes()).hexdigest()[:12]}")


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
