"""The audit log of redrives: what was done to which message, written before and after it was done.

A file of JSON lines and not a table, because

- the redrive must be possible while the database is what is broken, and its log must be too;
- broker and database share no transaction, so a table would be no more atomic with a send than a
  file is; an fsync costs less than a commit;
- whoever writes up the incident attaches it.

Every record is on the disk (fsync) before the step that it announces is taken: `sending` before a
send, `sent` after it and before the delete, `deleted` after that. So after a kill the file tells what
was certainly done and what may have been, and the next redrive goes on from there.
"""

from __future__ import annotations

import getpass
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from onceproof.dlq.letter import Letter
from onceproof.dlq.trail import Record, Step, Trail
from onceproof.errors import OnceproofError

if sys.platform != "win32":
    import fcntl

_MODE: Final = 0o640


class AuditLogError(OnceproofError):
    """The log cannot be read, locked or written, so nothing is redriven. The message says why."""


class AuditLog:
    """Appends records. Made by `open_audit_log`.

    Args:
        path: of the file, for messages.
        descriptor: of the file, opened for appending and locked.
        trail: what the file says so far.
    """

    def __init__(self, path: Path, descriptor: int, trail: Trail) -> None:
        self.path = path
        self._descriptor = descriptor
        self.trail = trail

    def begin(self, queue: str, detail: Mapping[str, Any]) -> bool:
        """Start a redrive, or resume the one that did not finish; whether it is resumed.

        Raises:
            AuditLogError: the log is of another queue.
        """
        if self.trail.queue not in {None, queue}:
            raise AuditLogError(
                f"{self.path} is the audit log of {self.trail.queue!r}; give --audit another "
                f"file for {queue!r}"
            )
        resumed = self.trail.open is not None
        redrive = self.trail.open or f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid4().hex[:6]}"
        step = Step.RESUMED if resumed else Step.STARTED
        self._write([Record(step, redrive, detail={"queue": queue, "by": _who(), **detail})])
        return resumed

    @property
    def redrive(self) -> str:
        """Id of the redrive that was begun.

        Raises:
            AuditLogError: none was.
        """
        if self.trail.open is None:
            raise AuditLogError("no redrive was begun")
        return self.trail.open

    def write(self, step: Step, letters: Iterable[tuple[Letter, Mapping[str, Any]]]) -> None:
        """Record one step for several messages, on the disk when this returns.

        Raises:
            AuditLogError: it is not on the disk: do not take the step.
        """
        redrive = self.redrive
        self._write(
            Record(step, redrive, letter.id, letter.event_id, letter.key, detail)
            for letter, detail in letters
        )

    def gone(self, message_ids: Iterable[str]) -> None:
        """Record that messages, sent before a crash, are in the DLQ no more.

        Raises:
            AuditLogError: as of `write`.
        """
        redrive = self.redrive
        self._write(
            Record(Step.GONE, redrive, message_id, self.trail.unconfirmed[message_id])
            for message_id in list(message_ids)
        )

    def end(self, step: Step, detail: Mapping[str, Any]) -> None:
        """Record how the redrive ended: `finished`, or `stopped` and to be resumed.

        Raises:
            AuditLogError: as of `write`.
        """
        self._write([Record(step, self.redrive, detail=detail)])

    def _write(self, records: Iterable[Record]) -> None:
        records = list(records)
        if not records:
            return
        try:
            self._put(b"".join(record.line() for record in records))
        except OSError as error:
            raise AuditLogError(
                f"the audit log {self.path} cannot be written, so nothing more is redriven: {error}"
            ) from error
        for record in records:
            self.trail.add(record)

    def _put(self, lines: bytes) -> None:
        while lines:
            lines = lines[os.write(self._descriptor, lines) :]
        os.fsync(self._descriptor)


@contextmanager
def open_audit_log(path: Path) -> Iterator[AuditLog]:
    """Open a log, or make it; one process at a time.

    Raises:
        AuditLogError: it is not an audit log, another process writes to it, or it cannot be opened.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, _MODE)
    except OSError as error:
        raise AuditLogError(f"the audit log {path} cannot be opened: {error}") from error
    try:
        _lock(descriptor, path)
        trail = read_trail(path)
        if _is_cut_off(descriptor):
            # What a kill left of a line stays in the file, on a line of its own.
            os.write(descriptor, b"\n")
        sync_folder(path.parent)
        yield AuditLog(path, descriptor, trail)
    finally:
        os.close(descriptor)  # and with it the lock


def read_trail(path: Path, *, missing_ok: bool = False) -> Trail:
    """What a log says, without changing it.

    Args:
        path: of the log.
        missing_ok: no file is an empty log.

    Raises:
        AuditLogError: it is not an audit log, or cannot be read.
    """
    trail = Trail()
    if missing_ok and not path.exists():
        return trail
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                record = Record.parse(line)
                if record is not None:
                    trail.add(record)
                elif number == 1 and not Record.may_be_cut_off(line):
                    raise AuditLogError(f"{path} is not an audit log; give --audit another file")
                else:
                    trail.torn += 1
    except OSError as error:
        raise AuditLogError(f"the audit log {path} cannot be read: {error}") from error
    return trail


def sync_folder(folder: Path) -> None:
    """Make a new name in a folder survive a power cut, where the system knows how."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise AuditLogError(
            f"another redrive writes to {path} at this moment: let it finish, or stop it with Ctrl-C"
        ) from error


def _is_cut_off(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}" if sys.platform != "win32" else "unknown"
    return f"{user}@{socket.gethostname()}"
