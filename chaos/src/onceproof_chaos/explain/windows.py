"""When a delivery that nobody reported was made, and whether anybody can have read it.

A message is not delivered before it was sent, nor before its delivery before; the broker says when the
first one was. If no receive span of that time is missing, nobody who lived has read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from onceproof_chaos.explain.events import EventStory
from onceproof_chaos.explain.processes import Processes
from onceproof_chaos.spans import Span

CLOCKS_S: Final = 0.25
"""Seconds by which the broker's clock may differ from the consumers'."""


@dataclass(frozen=True, slots=True)
class Window:
    """From when to when, in Unix seconds; `span` has the broker's word for it, where there is one."""

    since: float
    until: float
    span: Span | None = None


def window_of(event: EventStory, message: str, attempt: int) -> Window | None:
    """When an unseen delivery can have been made; None when nothing bounds it."""
    if attempt == 1 and (at := event.first_received_at(message)) is not None:
        return Window(at - CLOCKS_S, at + CLOCKS_S, _who_says_when(event, message))
    later = min(
        (d for (m, n), d in event.deliveries.items() if m == message and n > attempt),
        key=lambda d: d.attempt,
        default=None,
    )
    earlier = _latest_before(event, message, attempt)
    if later is None or earlier is None or attempt == 1:
        return None
    return Window(earlier, max(later.known_at - (later.visibility_s or 0.0), earlier))


def unread(event: EventStory, message: str, attempt: int, processes: Processes) -> bool:
    """Whether it is certain that nobody has read an unseen delivery."""
    window = window_of(event, message, attempt)
    if window is None and attempt > 1:
        before = _latest_before(event, message, attempt)
        window = Window(before, float("inf")) if before is not None else None
    if window is None:
        sent = [send.span.start for send in event.sends if send.message_id == message]
        window = Window(min(sent), float("inf")) if sent else None
    return window is not None and not processes.lost_receives(window.since, window.until)


def _latest_before(event: EventStory, message: str, attempt: int) -> float | None:
    """The latest moment before which a delivery cannot have been made.

    A process that stood still learned of the delivery before long after the broker had made it, so what
    counts is when it asked.
    """
    known = [d.asked_at for (m, n), d in event.deliveries.items() if m == message and n < attempt]
    first = event.first_received_at(message)
    return max([*known, *([] if first is None else [first])], default=None)


def _who_says_when(event: EventStory, message: str) -> Span | None:
    deliveries = [d for (m, _), d in event.deliveries.items() if m == message]
    for delivery in sorted(deliveries, key=lambda d: d.attempt):
        if delivery.first_received_at is not None:
            return delivery.sightings[0].span
    return None


__all__ = ["CLOCKS_S", "Window", "unread", "window_of"]
