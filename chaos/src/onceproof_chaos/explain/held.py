"""Which process held which delivery, read from spans alone, for the truth that explanations are held to.

Deliberately not `deliveries`: a mistake there must not be able to hide itself here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from onceproof.telemetry import (
    CRASH_POINT_SPAN,
    DELIVERY_ATTEMPT,
    EVENT_ID,
    FIRST_RECEIVED_AT,
    LAPSED_SPAN,
    MESSAGE_EVENT,
    MESSAGE_ID,
    OUTCOME,
    RELEASED_SPAN,
    RESULT,
)
from onceproof_chaos.spans import Span

_TYPE: Final = "messaging.operation.type"
_COMMITTED: Final = frozenset({"processed", "ack_lost"})
NEVER: Final = float("inf")

Key = tuple[str, int]
"""Message and attempt."""


@dataclass(slots=True)
class Held:
    """One delivery as its process had it. Times are Unix seconds, `NEVER` where nothing is known.

    Args:
        event: the event.
        instance: the process.
        asked_at: when it asked for messages.
        got_at: when it had this one.
        done_at: when its handling ended.
        outcome: how.
        acked_at: when the broker had confirmed its ack.
        gone: whether it was let go or given back.
    """

    event: str
    instance: str
    asked_at: float
    got_at: float
    done_at: float = NEVER
    outcome: str = ""
    acked_at: float = NEVER
    gone: bool = False


class Deliveries:
    """Every delivery that a span names, and every send."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self.held: dict[Key, Held] = {}
        self.highest: dict[str, int] = defaultdict(int)
        self.first: dict[str, float] = {}
        self.sends: list[tuple[Span, list[tuple[str, str]]]] = []
        self.crashes = {(s.trace_id, s.span_id): s for s in spans if s.name == CRASH_POINT_SPAN}
        for span in sorted(spans, key=lambda span: span.end):
            if span.attributes.get(_TYPE) == "send":
                told = _told(span)
                sent = [(str(m[EVENT_ID]), str(m[MESSAGE_ID])) for m in told if m.get(MESSAGE_ID)]
                self.sends.append((span, sent))
            else:
                self._read(span)

    def _read(self, span: Span) -> None:
        kind = span.attributes.get(_TYPE)
        for message in (*_told(span), span.attributes):
            if MESSAGE_ID not in message or DELIVERY_ATTEMPT not in message:
                continue
            key = (str(message[MESSAGE_ID]), int(message[DELIVERY_ATTEMPT]))
            self.highest[key[0]] = max(self.highest[key[0]], key[1])
            if FIRST_RECEIVED_AT in message:
                self.first[key[0]] = float(message[FIRST_RECEIVED_AT])
            held = self.held.setdefault(
                key, Held(str(message[EVENT_ID]), span.instance, span.start, span.end)
            )
            if kind == "receive":
                held.asked_at, held.got_at = span.start, span.end
            elif kind == "process":
                held.done_at, held.outcome = span.end, str(span.attributes.get(OUTCOME, ""))
            elif kind == "settle" and message.get(RESULT) == "confirmed":
                held.acked_at = span.end
            elif span.name in {LAPSED_SPAN, RELEASED_SPAN}:
                held.gone = True

    def in_hand(self, crash: Span, until: float) -> Iterator[tuple[Key, Held]]:
        """Deliveries that a process had when it stood, not acked yet, or was given up to `until`."""
        for key, held in self.held.items():
            if held.instance != crash.instance or held.acked_at <= crash.end:
                continue
            if held.got_at <= crash.end or (until > crash.end and held.asked_at <= crash.end):
                yield key, held

    def unseen(self) -> Iterator[Key]:
        """Deliveries that were made, for a later one was, and that no process reported."""
        for message, highest in self.highest.items():
            for attempt in range(1, highest):
                if (message, attempt) not in self.held:
                    yield message, attempt

    def committed(self, key: Key, rows: frozenset[tuple[str, int]]) -> bool | None:
        """Whether a row with this event and number is this delivery's; None when it may be another's.

        An event that was sent twice has two deliveries of each number, and a row names no message.
        """
        held = self.held[key]
        if (held.event, key[1]) not in rows:
            return False
        others = [
            other
            for (message, attempt), other in self.held.items()
            if other.event == held.event and attempt == key[1] and message != key[0]
        ]
        if any(other.outcome in _COMMITTED for other in others):
            return False
        return None if any(not other.outcome and not other.gone for other in others) else True


def _told(span: Span) -> list[Mapping[str, Any]]:
    return [event["attributes"] for event in span.events if event.get("name") == MESSAGE_EVENT]


__all__ = ["NEVER", "Deliveries", "Held", "Key"]
