"""The dedup window: an event must be remembered for longer than any queue can bring it back.

A message may wait in the queue for the whole of its retention, then in the DLQ for the whole of that
one's, and be redriven by a person at the very end. An inbox that has forgotten it by then charges
again. This is checked at start-up, against what the broker itself says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from onceproof.errors import DedupWindowError
from onceproof.ports import QueueInfo

_DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class DedupWindow:
    """How long an event may stay away and still come back, in seconds.

    Args:
        queue_s: retention of the queue.
        dead_letter_s: retention of the DLQ, 0 without one.
        redrive_s: how long after that a redriven message may wait again: the queue's retention.
    """

    queue_s: float
    dead_letter_s: float
    redrive_s: float

    @classmethod
    def of(cls, queue: QueueInfo) -> DedupWindow:
        """The window of a queue as the broker describes it."""
        if queue.dead_letter is None:
            return cls(queue.retention_s, 0.0, 0.0)
        return cls(queue.retention_s, queue.dead_letter.retention_s, queue.retention_s)

    @property
    def known(self) -> bool:
        """Whether the broker reports its retention; ElasticMQ, for one, does not."""
        return math.isfinite(self.total_s)

    @property
    def total_s(self) -> float:
        """Seconds for which an event must be remembered at least."""
        return self.queue_s + self.dead_letter_s + self.redrive_s


def check_dedup_window(queue: QueueInfo, inbox_retention_s: float) -> DedupWindow:
    """Compare the inbox's retention with the queue's window, where the broker reports that.

    Returns:
        The window; when it is not `known`, nothing was compared and somebody else must.

    Raises:
        DedupWindowError: the inbox would forget too early; the message has the numbers.
    """
    window = DedupWindow.of(queue)
    if window.known and inbox_retention_s < window.total_s:
        raise DedupWindowError(
            f"the inbox keeps events for {inbox_retention_s / _DAY_S:.2f} days, but queue "
            f"{queue.name!r} can bring one back after {window.total_s / _DAY_S:.2f} days "
            f"(queue {window.queue_s / _DAY_S:.2f} + DLQ {window.dead_letter_s / _DAY_S:.2f} + "
            f"redrive {window.redrive_s / _DAY_S:.2f}). Raise the inbox retention to at least "
            f"{window.total_s:.0f} s, or shorten the queues' retention."
        )
    return window
