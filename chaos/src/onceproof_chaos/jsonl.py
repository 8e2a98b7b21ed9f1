"""JSON lines, the format of a run folder: appended line by line, so a crash keeps what was written.

A run is judged from its files alone, possibly on another machine and much later. So whatever cannot
be read is an error with file and line, never an empty list that would look like a quiet run.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self, TextIO, TypeVar

_Row = TypeVar("_Row")
_MODE: Final = 0o644


class RunFolderError(ValueError):
    """A run folder, or a file in it, is missing or cannot be read; the message names it."""


def dumps(document: Mapping[str, Any]) -> str:
    """One line of JSON without the line end."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def read(
    path: Path, parse: Callable[[Mapping[str, Any]], _Row], *, torn_ok: bool = False
) -> Iterator[_Row]:
    """The rows of a JSON lines file, each through `parse`.

    Args:
        path: the file.
        parse: makes a row of an object; raises ValueError, TypeError or KeyError for a bad one.
        torn_ok: skip lines that are not JSON, as a writer that is killed in mid-line leaves them.

    Raises:
        RunFolderError: the file is missing, a line is bad, or not one of its lines is JSON.
    """
    good, torn = 0, ""
    try:
        with path.open(encoding="utf-8", errors="replace" if torn_ok else "strict") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    document = json.loads(line)
                except (ValueError, RecursionError) as error:
                    torn = f"{path}:{number}: {error}"
                    if torn_ok:
                        continue
                    raise RunFolderError(torn) from None
                row = _row(document, parse, f"{path}:{number}")
                good += 1
                yield row
    except FileNotFoundError:
        raise RunFolderError(f"{path} is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from None
    if torn and not good:
        raise RunFolderError(torn)


def _row(document: object, parse: Callable[[Mapping[str, Any]], _Row], where: str) -> _Row:
    if not isinstance(document, dict):
        raise RunFolderError(f"{where}: not an object but {type(document).__name__}")
    try:
        return parse(document)
    except KeyError as error:
        raise RunFolderError(f"{where}: missing field {error}") from None
    except (ValueError, TypeError) as error:
        raise RunFolderError(f"{where}: {error}") from None


def read_document(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object.

    Raises:
        RunFolderError: it is missing or is no JSON object.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFolderError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise RunFolderError(f"{path} is not a JSON object")
    return document


def write_atomic(path: Path, text: str) -> None:
    """Replace `path` in one step: a reader sees the old text or the new one, never half of it."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.chmod(_MODE)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole JSON lines file atomically."""
    write_atomic(path, "".join(f"{dumps(row)}\n" for row in rows))


class Appender:
    """Appends lines to a file and flushes each, so that a crash of the harness keeps them.

    Args:
        target: a file, or a stream of somebody else's such as standard output, which stays open.
    """

    def __init__(self, target: Path | TextIO) -> None:
        self._owned = isinstance(target, Path)
        self._file = target.open("a", encoding="utf-8") if isinstance(target, Path) else target

    def append(self, document: Mapping[str, Any]) -> None:
        """Write one line."""
        self._file.write(f"{dumps(document)}\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file, if it was opened here. Closing twice is fine."""
        if self._owned:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
