"""What an audit log says: its records, and what follows from them for the next redrive."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final


class Step(StrEnum):
    """What a record says. Those above the line are about one message."""

    SENDING = "sending"
    """About to be sent. Without a later record: it may have been."""
    SENT = "sent"
    """The source queue confirmed it; about to be deleted from the DLQ."""
    NOT_SENT = "not_sent"
    """Not confirmed; it stays in the DLQ."""
    DELETED = "deleted"
    """The DLQ confirmed that it is gone."""
    NOT_DELETED = "not_deleted"
    """Sent, but still in the DLQ as far as is known. Deleted when it is seen again."""
    GONE = "gone"
    """Sent before a crash, and not in the DLQ when all of it was looked at: it had been deleted."""
    SKIPPED = "skipped"
    """Left in the DLQ; the detail says why."""
    # ---
    STARTED = "started"
    RESUMED = "resumed"
    STOPPED = "stopped"
    """Ended early; the next redrive with this log resumes it."""
    FINISHED = "finished"


_ABOUT_RUNS: Final = frozenset({Step.STARTED, Step.RESUMED, Step.STOPPED, Step.FINISHED})

_BEGINNING: Final = b'{"at":"'


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the log.

    Args:
        step: what was done, or is about to be.
        redrive: id of the redrive.
        message_id: of the dead letter; None when the record is about the redrive as a whole.
        event_id: of its event.
        key: of its event, e.g. the order.
        detail: what else there is to say, as JSON types.
        at: UTC, ISO 8601.
    """

    step: Step
    redrive: str
    message_id: str | None = None
    event_id: str | None = None
    key: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    at: str = field(default_factory=_now)

    def line(self) -> bytes:
        """The record as one line of JSON."""
        document: dict[str, Any] = {
            "at": self.at,
            "redrive": self.redrive,
            "step": self.step,
            "message_id": self.message_id,
            "event_id": self.event_id,
            "key": self.key,
            "detail": dict(self.detail) or None,
        }
        document = {name: value for name, value in document.items() if value is not None}
        return json.dumps(document, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> Record | None:
        """A record, or None for a line that is none: a kill may have cut it off."""
        try:
            document = json.loads(line)
            step = Step(document["step"])
            record = cls(
                step,
                str(document["redrive"]),
                document.get("message_id"),
                document.get("event_id"),
                document.get("key"),
                dict(document.get("detail", {})),
                str(document["at"]),
            )
        except (ValueError, TypeError, KeyError):
            return None
        complete = step in _ABOUT_RUNS or isinstance(record.message_id, str)
        return record if complete else None

    @staticmethod
    def may_be_cut_off(line: bytes) -> bool:
        """Whether a line that is no record may be the beginning of one."""
        text = line.rstrip(b"\n")
        return text.startswith(_BEGINNING) or _BEGINNING.startswith(text)


@dataclass(slots=True)
class Trail:
    """What follows from the records so far.

    Args:
        queue: source queue whose DLQ was redriven; None in an empty log.
        open: id of the redrive that did not finish.
        unconfirmed: messages that were sent and whose deletion is not confirmed, with the ids of
            their events, of every redrive in the log. They are to be deleted, not sent again.
        sent: messages that the open redrive sent.
        in_doubt: messages that it was about to send when it was killed: they may have been sent.
        deleted: those of them that are gone from the DLQ.
        not_sent: messages whose last attempt was not confirmed, and why.
        skipped: messages that were left, and why.
        events: which message each event went out with in the open redrive.
        torn: lines that a kill cut off.
    """

    queue: str | None = None
    open: str | None = None
    unconfirmed: dict[str, str | None] = field(default_factory=dict)
    sent: set[str] = field(default_factory=set)
    in_doubt: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    not_sent: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    events: dict[str, str] = field(default_factory=dict)
    torn: int = 0

    def add(self, record: Record) -> None:
        """Take one more record into account."""
        if record.step in _ABOUT_RUNS:
            self._run(record)
        elif record.message_id is not None:
            self._message(record, record.message_id)

    def reasons(self) -> Counter[str]:
        """How many messages were left, by reason."""
        return Counter(self.skipped.values())

    def _run(self, record: Record) -> None:
        queue = record.detail.get("queue")
        if isinstance(queue, str):
            self.queue = queue
        if record.step is Step.STARTED:
            self.sent, self.in_doubt, self.deleted, self.events = set(), set(), set(), {}
        if record.step in {Step.STARTED, Step.RESUMED}:
            # Looked at anew by every pass, perhaps with other options.
            self.not_sent, self.skipped = {}, {}
        self.open = None if record.step is Step.FINISHED else record.redrive

    def _message(self, record: Record, message_id: str) -> None:
        match record.step:
            case Step.SENDING:
                self.in_doubt.add(message_id)
            case Step.SENT:
                self.sent.add(message_id)
                self.in_doubt.discard(message_id)
                self.unconfirmed[message_id] = record.event_id
                self.not_sent.pop(message_id, None)
                self.skipped.pop(message_id, None)
                if record.event_id is not None:
                    self.events[record.event_id] = message_id
            case Step.NOT_SENT:
                self.in_doubt.discard(message_id)
                self.not_sent[message_id] = str(record.detail.get("error"))
            case Step.DELETED | Step.GONE:
                self.unconfirmed.pop(message_id, None)
                self.deleted.add(message_id)
            case Step.SKIPPED:
                self.skipped[message_id] = str(record.detail.get("why"))
            case _:
                pass
