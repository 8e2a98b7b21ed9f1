"""A copy of a dead-letter queue in a file, made before anything is changed.

JSON lines: a head, one line for each message with its whole body, and a foot with the number of
messages and a digest, so that a file that was cut off in a copy is not taken for a complete one. The
file appears under its name only when it is complete and on the disk, and replaces nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from onceproof.dlq.audit import sync_folder
from onceproof.dlq.letter import Letter
from onceproof.dlq.port import DeadLetters
from onceproof.dlq.sweep import Sweep
from onceproof.errors import OnceproofError

_BATCH: Final = 40
_MODE: Final = 0o600
"""Bodies are customers' data."""


class SnapshotError(OnceproofError):
    """There is no snapshot; the message says why and what to do."""


class IncompleteSnapshotError(SnapshotError):
    """Some messages could not be had, so nothing was written."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot that was written."""

    path: Path
    messages: int
    sha256: str
    complete: bool
    elsewhere: int


class _File:
    """A file without its name; lines are counted into a digest."""

    def __init__(self, path: Path) -> None:
        if path.exists():
            raise _taken(path)
        self._path = path
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        descriptor = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
        self._file = os.fdopen(descriptor, "wb")
        self._digest = hashlib.sha256()

    def put(self, document: dict[str, Any]) -> None:
        """Append a line."""
        line = json.dumps(document, separators=(",", ":")).encode() + b"\n"
        self._digest.update(line)
        self._file.write(line)

    @property
    def sha256(self) -> str:
        """Of all lines so far."""
        return self._digest.hexdigest()

    def publish(self) -> None:
        """Give the file its name, unless somebody else has taken that meanwhile."""
        self._file.flush()
        os.fsync(self._file.fileno())
        try:
            # A link, because a rename would replace what is there.
            self._path.hardlink_to(self._partial)
        except FileExistsError:
            raise _taken(self._path) from None
        sync_folder(self._path.parent)

    def close(self) -> None:
        """Remove what was not published."""
        self._file.close()
        self._partial.unlink(missing_ok=True)


async def write_snapshot(
    path: Path,
    letters: DeadLetters,
    sweep: Sweep,
    *,
    allow_incomplete: bool = False,
    on_progress: Callable[[int], None] = lambda _count: None,
) -> Snapshot:
    """Write everything that is in the DLQ to a new file.

    Raises:
        SnapshotError: the file exists, or cannot be written.
        IncompleteSnapshotError: somebody else holds messages, and that was not allowed.
        BrokerUnavailableError: of the queue.
    """
    try:
        file = _File(path)
        try:
            return await _write(file, path, letters, sweep, allow_incomplete, on_progress)
        finally:
            file.close()
    except OSError as error:
        raise SnapshotError(f"the snapshot cannot be written: {error}") from error


async def _write(
    file: _File,
    path: Path,
    letters: DeadLetters,
    sweep: Sweep,
    allow_incomplete: bool,
    on_progress: Callable[[int], None],
) -> Snapshot:
    count = 0
    taken_at = datetime.now(UTC).isoformat(timespec="seconds")
    file.put({"snapshot": letters.name, "queue": letters.source.name, "taken_at": taken_at})
    async with aclosing(sweep.batches(_BATCH)) as batches:
        async for batch in batches:
            for message in batch:
                file.put(Letter.of(message).as_json())
            count += len(batch)
            on_progress(len(batch))
    if not sweep.complete and not allow_incomplete:
        raise IncompleteSnapshotError(
            f"{sweep.elsewhere} of about {count + sweep.elsewhere} messages are held by somebody "
            "else (a redrive, another look, a consumer of the DLQ), so nothing was written. Stop "
            "that, wait until its visibility timeout is over, and try again; or take what there is "
            "with --allow-incomplete"
        )
    sha256 = file.sha256
    file.put({"messages": count, "complete": sweep.complete, "sha256": sha256})
    file.publish()
    return Snapshot(path, count, sha256, sweep.complete, sweep.elsewhere)


def _taken(path: Path) -> SnapshotError:
    return SnapshotError(f"{path} exists already, and a snapshot overwrites nothing")
