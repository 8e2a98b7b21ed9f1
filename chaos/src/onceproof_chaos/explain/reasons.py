"""Why a message came again: a closed list, and what each answer must bring with it.

An answer without evidence is a guess, and an engineer at three in the morning acts on it. So every
explanation names what it follows from; and where a fact is missing, the answer is `unknown`, with the
fact that would have decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from onceproof_chaos.spans import Span

_SHORT: Final = 8


class Reason(StrEnum):
    """Why a delivery was made, beyond the first of its order.

    `HANDLER_FAILED` is no failure of delivery at all: the consumer itself asked for it. It has a name of
    its own because it happens daily, and every other name would send the reader looking for a crash.
    """

    CRASHED_BEFORE_COMMIT = "consumer_crashed_before_commit"
    ACK_LOST = "committed_but_ack_lost"
    VISIBILITY_EXPIRED = "visibility_expired_while_working"
    HANDLER_FAILED = "handler_failed_and_gave_it_back"
    RELAY_SENT_TWICE = "relay_sent_it_twice"
    PRODUCER_SENT_AGAIN = "producer_sent_again"
    REDRIVEN = "redriven_from_the_dlq"
    BROKER = "broker_redelivered_for_no_visible_reason"
    UNKNOWN = "unknown"

    @property
    def words(self) -> str:
        """In words."""
        return _WORDS[self]


_WORDS: Final = {
    Reason.CRASHED_BEFORE_COMMIT: "consumer crashed before commit",
    Reason.ACK_LOST: "committed, but the ack was lost",
    Reason.VISIBILITY_EXPIRED: "visibility expired while still working (zombie)",
    Reason.HANDLER_FAILED: "the handler failed and gave it back",
    Reason.RELAY_SENT_TWICE: "the relay sent it twice",
    Reason.PRODUCER_SENT_AGAIN: "the producer sent it again",
    Reason.REDRIVEN: "redriven from the DLQ",
    Reason.BROKER: "the broker redelivered for no visible reason",
    Reason.UNKNOWN: "unknown",
}


class Source(StrEnum):
    """Where a piece of evidence was found."""

    SPAN = "span"
    FAULT = "fault"
    ROW = "row"


@dataclass(frozen=True, slots=True)
class Clue:
    """One piece of evidence.

    Args:
        source: where it was found.
        ref: what to look for there: trace and span id, line of `faults.jsonl`, table and key.
        says: what follows from it, in words.
        at: Unix time in seconds; None where it has none.
    """

    source: Source
    ref: str
    says: str
    at: float | None = None

    @classmethod
    def span(cls, span: Span, says: str) -> Clue:
        """From a span."""
        return cls(Source.SPAN, f"{span.trace_id}/{span.span_id}", says, span.end)

    @classmethod
    def row(cls, table: str, key: object, says: str, at: float | None = None) -> Clue:
        """From a row of a table."""
        return cls(Source.ROW, f"{table} {key}", says, at)

    @classmethod
    def fault(cls, line: int, says: str, at: float) -> Clue:
        """From a line of the fault log, counted from 1."""
        return cls(Source.FAULT, f"faults.jsonl:{line}", says, at)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"source": self.source.value, "ref": self.ref, "says": self.says, "at": self.at}


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one delivery was made.

    Args:
        event_id: the event.
        message_id: the broker's id of the message.
        attempt: delivery of that message, from 1; 1 where the message itself is the repetition.
        reason: out of the closed list.
        text: the reason in one sentence, with who and when.
        clues: the evidence.
        missing: what would have to be known, where the reason is unknown.
    """

    event_id: str
    message_id: str
    attempt: int
    reason: Reason
    text: str
    clues: Sequence[Clue] = ()
    missing: Sequence[str] = ()

    @property
    def key(self) -> tuple[str, int]:
        """Message and attempt."""
        return self.message_id, self.attempt

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "event_id": self.event_id,
            "message_id": self.message_id,
            "attempt": self.attempt,
            "reason": self.reason.value,
            "text": self.text,
            "evidence": [clue.as_json() for clue in self.clues],
            "missing": list(self.missing),
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """A reason before it is tied to a delivery; `text` is a clause without a full stop."""

    reason: Reason
    text: str
    clues: Sequence[Clue] = ()
    missing: Sequence[str] = ()


def unknown(text: str, *missing: str, clues: Sequence[Clue] = ()) -> Finding:
    """The finding that a fact is missing, and which."""
    return Finding(Reason.UNKNOWN, text, clues, missing)


def short(identifier: str) -> str:
    """The part of an id that people compare: UUIDs of one second begin alike, so their end."""
    return identifier if len(identifier) <= _SHORT + 3 else f"...{identifier[-_SHORT:]}"


__all__ = ["Clue", "Explanation", "Finding", "Reason", "Source", "short", "unknown"]
