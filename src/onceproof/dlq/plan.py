"""What is to be redriven and what must stay, decided in one place for the redrive and its dry run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from onceproof.dlq.judge import Fate, Judge, Judged
from onceproof.dlq.letter import Letter
from onceproof.dlq.sweep import Sweep
from onceproof.errors import ConfigurationError

_BATCH: Final = 40
BEYOND_MAX: Final = "beyond_max"
"""Reason for leaving a message: enough others would be sent."""


class Only(StrEnum):
    """Which messages to redrive."""

    ALL = "all"
    NOT_CHARGED = "not-charged"


@dataclass(frozen=True, slots=True)
class RedriveSettings:
    """How to redrive.

    Args:
        rate_per_s: messages per second.
        most: messages at most, over all resumptions; None is all that there are.
        only: which messages.
        past_dedup_window: also those whose event is older than the inbox remembers.
        patience_s: seconds to wait for what somebody else holds, e.g. a killed redrive.
        backoff_s: pause before a failed send is tried again; it doubles.
    """

    rate_per_s: float = 10.0
    most: int | None = None
    only: Only = Only.ALL
    past_dedup_window: bool = False
    patience_s: float = 65.0
    backoff_s: float = 0.5

    def as_json(self) -> dict[str, Any]:
        """For the audit log."""
        return {
            "rate_per_s": self.rate_per_s, "max": self.most, "only": self.only,
            "past_dedup_window": self.past_dedup_window,
        }  # fmt: skip


def why_left(judged: Judged, settings: RedriveSettings) -> str | None:
    """Why a message must stay in the DLQ; None when it may be redriven."""
    if judged.fate is Fate.MALFORMED:
        return Fate.MALFORMED
    if settings.only is Only.NOT_CHARGED and judged.charged:
        return Fate.ALREADY_CHARGED
    if judged.past_window and not settings.past_dedup_window:
        return Fate.PAST_WINDOW
    return None


def check_settings(settings: RedriveSettings, judge: Judge) -> None:
    """Refuse what cannot be decided later.

    Raises:
        ConfigurationError: the message says which option is missing.
    """
    if settings.only is Only.NOT_CHARGED and not judge.asks_inbox:
        raise ConfigurationError(
            "--only not-charged needs the inbox: give --database-url (ONCEPROOF_DATABASE_URL)"
        )
    if not judge.horizon.known and not settings.past_dedup_window:
        raise ConfigurationError(
            f"{judge.horizon.why}, so it cannot be told which events the inbox still remembers. Give "
            "--inbox-retention, in seconds, as the consumer has it (ONCEPROOF_INBOX_RETENTION_S), or "
            "--past-dedup-window if a second charge is acceptable"
        )


@dataclass(slots=True)
class Forecast:
    """What a redrive would do now.

    Args:
        would_send: messages that would be sent, by what would become of them (`Fate`).
        left: messages that would stay in the DLQ, by reason.
        elsewhere: messages that somebody else holds, approximate on SQS.
        complete: whether all messages were looked at.
        takes_s: how long sending would take at the rate, in seconds.
    """

    would_send: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    elsewhere: int = 0
    complete: bool = False
    takes_s: float = 0.0

    @property
    def sends(self) -> int:
        """How many messages would be sent."""
        return self.would_send.total()

    def as_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "sends": self.sends,
            "would_send": dict(self.would_send),
            "left": dict(self.left),
            "elsewhere": self.elsewhere,
            "complete": self.complete,
            "takes_s": self.takes_s,
        }


async def forecast(
    sweep: Sweep,
    judge: Judge,
    settings: RedriveSettings,
    on_progress: Callable[[int], None] = lambda _count: None,
) -> Forecast:
    """Look at every message and change nothing.

    Raises:
        ConfigurationError: the redrive would be refused as a whole.
        BrokerUnavailableError: of the queue.
        DatabaseUnavailableError: of the inbox.
    """
    check_settings(settings, judge)
    found = Forecast()
    async with aclosing(sweep.batches(_BATCH)) as batches:
        async for batch in batches:
            for judged in await judge.judge([Letter.of(message) for message in batch]):
                why = why_left(judged, settings)
                if why is None and settings.most is not None and found.sends >= settings.most:
                    why = BEYOND_MAX
                if why is None:
                    found.would_send[judged.fate] += 1
                else:
                    found.left[why] += 1
            on_progress(len(batch))
    found.elsewhere, found.complete = sweep.elsewhere, sweep.complete
    found.takes_s = found.sends / settings.rate_per_s
    return found
