"""Waiting for something to become true, never longer than said, and never for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_EVERY_S = 0.3


def until(
    within_s: float, what: str, probe: Callable[[], T | None], *, every_s: float = _EVERY_S
) -> T:
    """The probe's first answer that is true.

    Args:
        within_s: seconds at most.
        what: is waited for, for the message.
        probe: asks; None or False is "not yet".
        every_s: seconds between two questions.

    Raises:
        AssertionError: it did not become true in time.
    """
    deadline = time.monotonic() + within_s
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {within_s:.0f} s: {what}; last answer: {answer!r}")
        time.sleep(every_s)
