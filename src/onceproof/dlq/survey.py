"""Look at a dead-letter queue: how much there is, how old, and why; one message; a random sample."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from onceproof.dlq.judge import Horizon
from onceproof.dlq.letter import Letter
from onceproof.dlq.sweep import Sweep

_BATCH: Final = 40
_REASON_CHARS: Final = 160
_ID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NUMBER: Final = re.compile(r"\d+")

Looked = Callable[[int], None]
"""Told how many more messages were looked at."""


def nothing(_count: int) -> None:
    """A `Looked` for callers that show nothing."""


@dataclass(slots=True)
class Group:
    """Messages with the same type and reason; ids and numbers in a reason do not tell them apart."""

    type: str | None
    reason: str
    count: int = 0
    oldest: datetime | None = None
    newest: datetime | None = None
    example: str = ""

    def add(self, letter: Letter) -> None:
        """Count one more."""
        self.count += 1
        self.example = self.example or letter.id
        if letter.born is not None:
            self.oldest = min(self.oldest or letter.born, letter.born)
            self.newest = max(self.newest or letter.born, letter.born)

    def as_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "type": self.type,
            "reason": self.reason,
            "count": self.count,
            "oldest": self.oldest.isoformat() if self.oldest else None,
            "newest": self.newest.isoformat() if self.newest else None,
            "example": self.example,
        }


@dataclass(slots=True)
class Survey:
    """What is in the DLQ.

    Args:
        looked_at: how many messages.
        malformed: those of them that are no events.
        past_window: those whose event is older than the inbox remembers.
        groups: by event type and reason, the largest first.
        elsewhere: messages that somebody else holds, approximate on SQS.
        complete: whether all messages were looked at.
    """

    looked_at: int = 0
    malformed: int = 0
    past_window: int = 0
    groups: list[Group] = field(default_factory=list)
    elsewhere: int = 0
    complete: bool = False


async def survey(
    sweep: Sweep, horizon: Horizon, now: datetime, on_progress: Looked = nothing
) -> Survey:
    """Count everything.

    Raises:
        BrokerUnavailableError: of the queue.
    """
    found = Survey()
    groups: dict[tuple[str | None, str], Group] = {}
    async with aclosing(sweep.batches(_BATCH)) as batches:
        async for batch in batches:
            for letter in map(Letter.of, batch):
                found.looked_at += 1
                found.malformed += letter.event is None
                found.past_window += letter.event is not None and horizon.is_past(letter.age_s(now))
                kind = letter.event.type if letter.event else None
                reason = generalised(letter.reason)
                groups.setdefault((kind, reason), Group(kind, reason)).add(letter)
            on_progress(len(batch))
    found.groups = sorted(groups.values(), key=lambda group: -group.count)
    found.elsewhere, found.complete = sweep.elsewhere, sweep.complete
    return found


async def find(sweep: Sweep, name: str, on_progress: Looked = nothing) -> Letter | None:
    """The first message with this id, event id or key; None when it was not among those looked at.

    Raises:
        BrokerUnavailableError: of the queue.
    """
    async with aclosing(sweep.batches(_BATCH)) as batches:
        async for batch in batches:
            on_progress(len(batch))
            for letter in map(Letter.of, batch):
                if letter.answers_to(name):
                    return letter
    return None


async def sample(
    sweep: Sweep, size: int, rng: random.Random, on_progress: Looked = nothing
) -> list[Letter]:
    """A random sample of all messages: the first ones that a broker gives are seldom typical.

    Raises:
        BrokerUnavailableError: of the queue.
    """
    chosen: list[Letter] = []
    seen = 0
    async with aclosing(sweep.batches(_BATCH)) as batches:
        async for batch in batches:
            for message in batch:
                seen += 1
                if len(chosen) < size:
                    chosen.append(Letter.of(message))
                elif (place := rng.randrange(seen)) < size:
                    chosen[place] = Letter.of(message)
            on_progress(len(batch))
    return chosen


def generalised(reason: str) -> str:
    """A reason without what is different in each message."""
    first_line = (reason.splitlines() or [""])[0][:_REASON_CHARS]
    return _NUMBER.sub("<n>", _ID.sub("<id>", first_line))
