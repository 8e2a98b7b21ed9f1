"""How long who has caught up with a stream lets it gather, so that no request to the broker is for one.

A relay that is woken by every few of a steady stream of commits would claim and send one or two rows at
a time, and a consumer would receive one or two messages: as many requests as events, each of them paid
for, with a transaction for each. A few milliseconds later the same request takes ten.

An event that comes alone must not wait for others that do not come. So the pause follows from how many
came lately: as long as they take to fill a request, and none where hardly a second would come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_KEPT: Final = 0.7
"""How much an earlier look counts for after each further one: some three make the rate."""
_WORTH_IT: Final = 2
"""What must be expected within the longest pause; for less there is none."""


@dataclass(slots=True)
class Linger:
    """The recent rate, and the pause that follows from it. Times are on one monotonic clock.

    Args:
        linger_s: longest pause in seconds; 0 is never any.
        fill: what one request to the broker takes.
    """

    linger_s: float
    fill: int = 10
    _number: float = 0.0
    _seconds: float = 0.0
    _took_at: float | None = None

    def took(self, number: int, now: float) -> None:
        """Take note of a look at `now` that found so many, which may be none."""
        if self._took_at is not None:
            # What the first one found had come in a time that nobody knows.
            self._number = _KEPT * self._number + number
            self._seconds = _KEPT * self._seconds + now - self._took_at
        self._took_at = now

    def delay_s(self, now: float) -> float:
        """Seconds to wait before a look that could be made at `now`."""
        if self._took_at is None or self._number == 0:
            return 0.0
        # The time since the last look is part of it, or the first event after a quiet night would
        # find the rate of the evening.
        seconds = self._seconds + now - self._took_at
        if self._number * self.linger_s < _WORTH_IT * seconds:
            return 0.0
        return min(self.fill * seconds / self._number, self.linger_s)
