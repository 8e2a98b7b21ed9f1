"""How long a relay that was woken lets rows gather, so that a request to the broker is not for one.

A relay that has caught up with a steady stream of commits is woken by every few of them, and would claim
and send one or two rows at a time: as many requests as events, each of them paid for, and a claim and a
mark for each. A few milliseconds later the same request takes ten.

An event that comes alone must not wait for others that do not come. So the pause follows from how many
rows came lately: as long as they take to fill a request, and none where hardly a second would come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_KEPT: Final = 0.7
"""How much an earlier claim counts for after each further one: some three claims make the rate."""
_WORTH_IT: Final = 2
"""Rows to be expected within the longest pause; for fewer there is none."""


@dataclass(slots=True)
class Linger:
    """The recent rate of rows, and the pause that follows from it. Times are on one monotonic clock.

    Args:
        linger_s: longest pause in seconds; 0 is never any.
        fill: rows that one request to the broker takes.
    """

    linger_s: float
    fill: int = 10
    _rows: float = 0.0
    _seconds: float = 0.0
    _claimed_at: float | None = None

    def claimed(self, rows: int, now: float) -> None:
        """Take note of a claim at `now` that found so many rows, which may be none."""
        if self._claimed_at is not None:
            # What the first one found had come in a time that nobody knows.
            self._rows = _KEPT * self._rows + rows
            self._seconds = _KEPT * self._seconds + now - self._claimed_at
        self._claimed_at = now

    def delay_s(self, now: float) -> float:
        """Seconds to let rows gather before a claim that could be made at `now`."""
        if self._claimed_at is None or self._rows == 0:
            return 0.0
        # The time since the last claim is part of it, or the first event after a quiet night would
        # find the rate of the evening.
        seconds = self._seconds + now - self._claimed_at
        if self._rows * self.linger_s < _WORTH_IT * seconds:
            return 0.0
        return min(self.fill * seconds / self._rows, self.linger_s)
