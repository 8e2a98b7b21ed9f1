"""What a dead letter would do if it were redriven: charge, be absorbed, or nobody can know.

The inbox says whether an event was processed, as long as it remembers. An event that is older than
that may have been processed and forgotten: sending it again may charge again, and the inbox cannot
say so. That is the one case in which a redrive does harm, so it is refused unless asked for.

A message that is not in the inbox may all the same have been charged at a payment provider, by a
consumer that died before its commit. Then it is the provider's Idempotency-Key that absorbs it,
within the provider's own retention.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from onceproof.dlq.letter import Letter
from onceproof.inbox import DedupWindow
from onceproof.ports import QueueInfo

Lookup = Callable[[Collection[str]], Awaitable[set[str]]]
"""Which of these event ids are in the consumer's inbox."""

_DAY_S: Final = 86400.0


class Fate(StrEnum):
    """What a redrive of a message would do."""

    WOULD_CHARGE = "would_charge"
    ALREADY_CHARGED = "already_charged"
    PAST_WINDOW = "past_dedup_window"
    MALFORMED = "malformed"
    UNCHECKED = "unchecked"
    """Nobody asked the inbox, because no database was given."""


@dataclass(frozen=True, slots=True)
class Horizon:
    """How old an event may be for the inbox to still know of it when the redriven message comes.

    Args:
        max_age_s: seconds; infinity when it is not known.
        why: how it was computed.
    """

    max_age_s: float
    why: str

    @classmethod
    def of(cls, queue: QueueInfo, inbox_retention_s: float | None) -> Horizon:
        """The horizon of a queue.

        The redriven message may wait in the queue for the whole of its retention once more, so that
        much of what the inbox remembers cannot be used up beforehand. Without `inbox_retention_s`
        the inbox is taken to remember as long as the consumer's start-up check demands.
        """
        window = DedupWindow.of(queue)
        if inbox_retention_s is None:
            age = window.total_s - window.redrive_s if window.known else math.inf
            return cls(
                age,
                f"queue {_days(window.queue_s)} + DLQ {_days(window.dead_letter_s)} of retention"
                if window.known
                else "the broker does not report its retention",
            )
        waits_s = window.redrive_s if math.isfinite(window.redrive_s) else 0.0
        return cls(
            inbox_retention_s - waits_s,
            f"inbox {_days(inbox_retention_s)} - queue {_days(waits_s)}, which a redriven message "
            "may wait",
        )

    @property
    def known(self) -> bool:
        """Whether anything can be refused by it."""
        return math.isfinite(self.max_age_s)

    def is_past(self, age_s: float | None) -> bool:
        """Whether the inbox may have forgotten an event of this age; of unknown age, it may have."""
        return self.known and (age_s is None or age_s > self.max_age_s)


@dataclass(frozen=True, slots=True)
class Judged:
    """A letter and what is known of its redrive; `charged` is None when the inbox was not asked."""

    letter: Letter
    charged: bool | None
    past_window: bool

    @property
    def fate(self) -> Fate:
        """In one word; what is certain goes before what may be."""
        if self.letter.event is None:
            return Fate.MALFORMED
        if self.charged:
            return Fate.ALREADY_CHARGED
        if self.past_window:
            return Fate.PAST_WINDOW
        return Fate.UNCHECKED if self.charged is None else Fate.WOULD_CHARGE


class Judge:
    """Judges letters.

    Args:
        horizon: how old an event may be.
        charged: asks the inbox; None where there is no database.
    """

    def __init__(self, horizon: Horizon, charged: Lookup | None) -> None:
        self._horizon = horizon
        self._charged = charged

    @property
    def horizon(self) -> Horizon:
        """How old an event may be."""
        return self._horizon

    @property
    def asks_inbox(self) -> bool:
        """Whether it is known what was charged."""
        return self._charged is not None

    async def judge(self, letters: Sequence[Letter], now: datetime | None = None) -> list[Judged]:
        """Judge letters in order, with one question to the inbox.

        Raises:
            DatabaseUnavailableError: the inbox did not answer.
        """
        now = now or datetime.now(UTC)
        known: set[str] | None = None
        if self._charged is not None:
            ids = {letter.event.id for letter in letters if letter.event}
            known = await self._charged(ids) if ids else set()
        return [
            Judged(
                letter,
                None if known is None or letter.event is None else letter.event.id in known,
                letter.event is not None and self._horizon.is_past(letter.age_s(now)),
            )
            for letter in letters
        ]


def _days(seconds: float) -> str:
    return f"{seconds / _DAY_S:.2f} d"
