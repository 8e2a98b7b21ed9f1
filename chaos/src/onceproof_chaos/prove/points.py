"""The moments at which a consumer is broken, and how: the rows and columns of the result.

Each cell of the table is a run of its own with one fault in it. So a breach has one possible cause,
which a run with many faults cannot say of an invariant that speaks about whole tables.

Two families of points. Those named `consumer.*` are the library's crash points, passed by its `Consumer`
around the handler. The others are seen from outside, at the doors of the process: the queue, the
database's commit, the other system. They need no cooperation, so they work for a loop of any make.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from onceproof.crashpoints import (
    CONSUMER_AFTER_CHARGE,
    CONSUMER_AFTER_COMMIT,
    CONSUMER_BEFORE_CHARGE,
)


class Kind(StrEnum):
    """What was brought to be proved."""

    HANDLER = "handler"
    BATCH = "batch"
    LOOP = "loop"
    COMMAND = "command"

    @property
    def in_library(self) -> bool:
        """Whether the library's `Consumer` runs it."""
        return self in {Kind.HANDLER, Kind.BATCH}


class Act(StrEnum):
    """What is done at a point."""

    NONE = "none"
    KILL = "kill"
    STALL = "stall"
    DROP = "drop"
    AT_ONCE = "at once"
    LATER = "later"


CONTROL: Final = "control"
WITHOUT_INBOX: Final = "control.without_inbox"
AFTER_RECEIVE: Final = "broker.after_receive"
BEFORE_ACK: Final = "broker.before_ack"
AFTER_ACK: Final = "broker.after_ack"
BEFORE_COMMIT: Final = "database.before_commit"
AFTER_EFFECT: Final = "effects.after_record"
DUPLICATE: Final = "publish.duplicate"

CRASH_POINTS: Final = (CONSUMER_BEFORE_CHARGE, CONSUMER_AFTER_CHARGE, CONSUMER_AFTER_COMMIT)
_NO_NAME: Final = re.compile(r"[^\w.-]+")
_FAULTS: Final = (Act.KILL, Act.STALL, Act.DROP)

MEANING: Final = {
    CONTROL: "no fault",
    WITHOUT_INBOX: "no fault, but every event twice and nothing that recognises it",
    CONSUMER_BEFORE_CHARGE: "received, handler not started",
    CONSUMER_AFTER_CHARGE: "handler done, not committed",
    CONSUMER_AFTER_COMMIT: "committed, not acked",
    AFTER_RECEIVE: "handed out by the queue, not seen by the consumer",
    BEFORE_COMMIT: "COMMIT asked for, not done",
    BEFORE_ACK: "ack asked for, not done",
    AFTER_ACK: "ack done, answer not given",
    AFTER_EFFECT: "recorded by the other system, answer not given",
    DUPLICATE: "the same event under a new message id",
}
"""What a point is, for a person."""

ADVICE: Final = {
    CONTROL: "Handler, data or invariant do not fit together; read the consumer's log.",
    CONSUMER_BEFORE_CHARGE: "Look for work that is remembered only in the process, such as a buffer, "
    "although its messages are acked already.",
    CONSUMER_AFTER_CHARGE: "Look for an effect outside of the handler's session: a commit of its own, "
    "or a call to another system without an Idempotency-Key.",
    CONSUMER_AFTER_COMMIT: "Look for work that goes on after the handler returned, such as a task or a "
    "buffer; or for an effect that is repeated although it is committed.",
    AFTER_RECEIVE: "Look for a queue that deletes on receive, or work that only the process remembers.",
    BEFORE_COMMIT: "Look for effect and deduplication in two transactions, or an ack before the commit.",
    BEFORE_ACK: "Look for deduplication that is missing or not committed together with the effect.",
    AFTER_ACK: "Look for an ack before the commit: what is acked does not come again.",
    AFTER_EFFECT: "Look for a call without an Idempotency-Key, or with a new one at each attempt; or "
    "for an ack before the commit.",
    DUPLICATE: "Look for deduplication on the broker's message id, or one that reads first and writes "
    "later. Use the event's id, and INSERT it before the effect in the same transaction.",
}
"""Where to look when an invariant breaks there. It is a hint: the rows are the evidence."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: what is done, and where. `detail` is the table of a commit, else empty."""

    point: str
    act: Act
    detail: str = ""

    @property
    def row(self) -> str:
        """Point and detail, as in the result."""
        return f"{self.point} {self.detail}" if self.detail else self.point

    @property
    def slug(self) -> str:
        """Name for files."""
        words = [self.point, self.detail, "" if self.act is Act.NONE else self.act.value]
        return _NO_NAME.sub("-", "-".join(word for word in words if word))

    @property
    def is_control(self) -> bool:
        """Whether it injects nothing."""
        return self.act is Act.NONE

    @property
    def is_crash_point(self) -> bool:
        """Whether the consumer itself passes the point."""
        return self.point in CRASH_POINTS


def matrix(
    kind: Kind,
    *,
    effects: bool,
    tables: Sequence[str],
    inbox: bool = True,
    only: Sequence[str] = (),
) -> list[Cell]:
    """The cells for a consumer of this kind.

    Args:
        kind: what was brought.
        effects: whether it called the other system when nothing was broken.
        tables: those that it wrote to then; each commit to one is a point of a loop.
        inbox: whether the library deduplicates; only then it can be seen what happens without.
        only: points to keep; empty keeps all.

    Raises:
        ValueError: a point of `only` does not exist for this kind.
    """
    points = list(CRASH_POINTS) if kind.in_library else [AFTER_RECEIVE]
    details = [(point, "") for point in points]
    if effects:
        details.append((AFTER_EFFECT, ""))
    if not kind.in_library:
        details += [(BEFORE_COMMIT, table) for table in tables]
        details += [(BEFORE_ACK, ""), (AFTER_ACK, "")]
    cells = [Cell(point, act, detail) for point, detail in details for act in _FAULTS]
    cells += [Cell(DUPLICATE, act) for act in (Act.AT_ONCE, Act.LATER)]
    check_points(kind, only)
    cells = [cell for cell in cells if not only or cell.point in only]
    if kind.in_library and inbox:
        cells.append(Cell(WITHOUT_INBOX, Act.NONE))
    return cells


def check_points(kind: Kind, only: Sequence[str]) -> None:
    """Refuse points that do not exist for this kind.

    Raises:
        ValueError: with those that do.
    """
    outside = (AFTER_RECEIVE, BEFORE_COMMIT, BEFORE_ACK, AFTER_ACK)
    known = (*(CRASH_POINTS if kind.in_library else outside), AFTER_EFFECT, DUPLICATE)
    unknown = [point for point in only if point not in known]
    if unknown:
        raise ValueError(f"unknown point {', '.join(unknown)}; known here: {', '.join(known)}")


__all__ = [
    "ADVICE", "AFTER_ACK", "AFTER_EFFECT", "AFTER_RECEIVE", "BEFORE_ACK", "BEFORE_COMMIT", "CONTROL",
    "CRASH_POINTS", "DUPLICATE", "MEANING", "WITHOUT_INBOX", "Act", "Cell", "Kind", "check_points",
    "matrix",
]  # fmt: skip
