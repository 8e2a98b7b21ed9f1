"""What spans tell about deliveries and sends, collected by message.

A delivery is known by its message and its attempt. No single span tells its whole life: the receive
span says who got it, the process span how it ended if its process lived to say so, and the crash point's
span where it stood if not.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from onceproof.telemetry import (
    CRASH_POINT,
    CRASH_POINT_SPAN,
    DELIVERY_ATTEMPT,
    EVENT_ID,
    FIRST_RECEIVED_AT,
    HEARTBEAT_S,
    LAPSED_SPAN,
    MESSAGE_EVENT,
    MESSAGE_ID,
    ORDER_ID,
    OUTCOME,
    RELEASED_SPAN,
    RESULT,
    SENDER,
    STATE,
    VISIBILITY_S,
)
from onceproof_chaos.spans import Span

_OPERATION_TYPE: Final = "messaging.operation.type"
CONFIRMED: Final = "confirmed"
WAITING: Final = "waiting"
DONE: Final = "done"
"""States of a delivery in hand."""
SETTLED: Final = frozenset({"processed", "duplicate", "ack_lost"})
"""Outcomes after which nothing but the ack was left to do."""


class What(StrEnum):
    """What a span saw of a delivery."""

    RECEIVED = "received"
    HANDLED = "handled"
    STOOD = "stood at a crash point"
    HELD = "in hand when its process stood at a crash point"
    LAPSED = "lapsed"
    RELEASED = "released"
    ACKED = "acked"


@dataclass(frozen=True, slots=True)
class Sighting:
    """One span that names a delivery; `attributes` are the message's own."""

    what: What
    span: Span
    attributes: Mapping[str, Any]

    @property
    def result(self) -> str:
        """Of an ack: confirmed, stale or not_confirmed; empty where it does not say."""
        return str(self.attributes.get(RESULT, ""))

    @property
    def outcome(self) -> str:
        """Of a handling."""
        return str(self.span.attributes.get(OUTCOME, ""))

    @property
    def point(self) -> str:
        """Of a crash point."""
        return str(self.span.attributes.get(CRASH_POINT, ""))


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of one message, by all that is known of it. Times are Unix seconds."""

    event_id: str
    message_id: str
    attempt: int
    sightings: Sequence[Sighting]

    def of(self, what: What) -> list[Sighting]:
        """Sightings of one kind, oldest first."""
        return [sighting for sighting in self.sightings if sighting.what is what]

    @property
    def instances(self) -> list[str]:
        """Processes that had it: one, or the broker made one delivery twice."""
        return sorted({sighting.span.instance for sighting in self.sightings})

    @property
    def instance(self) -> str:
        """The process that had it."""
        return self.sightings[0].span.instance

    @property
    def who(self) -> str:
        """Its process in words, for the start of a sentence."""
        return f"{self.sightings[0].span.service} {self.instance}".strip()

    @property
    def received(self) -> Sighting | None:
        """The receive request that brought it."""
        return next(iter(self.of(What.RECEIVED)), None)

    @property
    def known_at(self) -> float:
        """When its process had it at the latest."""
        return min(s.span.end if s.what is What.RECEIVED else s.span.start for s in self.sightings)

    @property
    def asked_at(self) -> float:
        """When its process asked for it, which is before it had it."""
        return self.received.span.start if self.received else self.known_at

    @property
    def handled(self) -> Sighting | None:
        """Its last handling; a batch that fails is handled again, one by one."""
        return max(self.of(What.HANDLED), key=lambda s: s.span.end, default=None)

    @property
    def outcome(self) -> str:
        """How it ended, empty where nobody lived to say so."""
        return self.handled.outcome if self.handled else ""

    @property
    def settled(self) -> bool:
        """Whether nothing but the ack was left to do."""
        return self.outcome in SETTLED

    def state_at(self, crash: Span) -> str | None:
        """How far it was when its process stood at a crash point; None when it was not in hand."""
        for held in self.of(What.HELD):
            if (held.span.trace_id, held.span.span_id) == (crash.trace_id, crash.span_id):
                return str(held.attributes.get(STATE, ""))
        return None

    @property
    def visibility_s(self) -> float | None:
        """The visibility timeout that was asked for, in the whole seconds of SQS."""
        value = self.received.span.attributes.get(VISIBILITY_S) if self.received else None
        return math.ceil(float(value)) if value is not None else None

    @property
    def heartbeat_s(self) -> float | None:
        """Seconds between two extensions by its consumer, 0 without any; None where nobody says."""
        value = self.received.span.attributes.get(HEARTBEAT_S) if self.received else None
        return float(value) if value is not None else None

    @property
    def own_until(self) -> float | None:
        """Up to when nobody else can have been given the message, even if it was never extended."""
        return None if self.visibility_s is None else self.asked_at + self.visibility_s

    @property
    def first_received_at(self) -> float | None:
        """When the broker first gave its message to anybody, by the broker's own word."""
        for sighting in self.sightings:
            if (value := sighting.attributes.get(FIRST_RECEIVED_AT)) is not None:
                return float(value)
        return None

    def attribute(self, name: str) -> tuple[str, Sighting] | None:
        """An attribute of the message, and the sighting that has it."""
        return next(
            ((str(s.attributes[name]), s) for s in self.sightings if s.attributes.get(name)), None
        )


@dataclass(frozen=True, slots=True)
class Send:
    """One send of one event.

    Without a confirmation the message may have been sent, under an id that nobody learned.
    """

    event_id: str
    message_id: str | None
    confirmed: bool
    sender: str
    span: Span


def deliveries_of(spans: Iterable[Span]) -> dict[str, dict[tuple[str, int], Delivery]]:
    """Deliveries by event, then by message and attempt."""
    found: dict[tuple[str, str, int], list[Sighting]] = defaultdict(list)
    for span in spans:
        for sighting in _sightings(span):
            named = sighting.attributes
            if named.get(EVENT_ID) and named.get(MESSAGE_ID):
                attempt = int(named.get(DELIVERY_ATTEMPT, 1))
                found[str(named[EVENT_ID]), str(named[MESSAGE_ID]), attempt].append(sighting)
    deliveries: dict[str, dict[tuple[str, int], Delivery]] = defaultdict(dict)
    for (event, message, attempt), sightings in found.items():
        ordered = sorted(sightings, key=lambda s: (s.span.start, s.span.end))
        deliveries[event][message, attempt] = Delivery(event, message, attempt, ordered)
    return deliveries


def sends_of(spans: Iterable[Span]) -> dict[str, list[Send]]:
    """Sends by event, oldest first."""
    sends: dict[str, list[Send]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: span.end):
        if span.attributes.get(_OPERATION_TYPE) != "send":
            continue
        for message in _messages(span):
            sends[str(message.get(EVENT_ID, ""))].append(
                Send(
                    event_id=str(message.get(EVENT_ID, "")),
                    message_id=str(message[MESSAGE_ID]) if message.get(MESSAGE_ID) else None,
                    confirmed=message.get(RESULT) == CONFIRMED,
                    sender=str(span.attributes.get(SENDER, "")),
                    span=span,
                )
            )
    return sends


def orders_of(spans: Iterable[Span]) -> dict[str, str]:
    """Order by event, as far as spans say."""
    named = (attributes for span in spans for attributes in (span.attributes, *_messages(span)))
    return {
        str(attributes[EVENT_ID]): str(attributes[ORDER_ID])
        for attributes in named
        if attributes.get(EVENT_ID) and attributes.get(ORDER_ID)
    }


def events_in(span: Span) -> set[str]:
    """Events that a span about several messages names."""
    return {str(message[EVENT_ID]) for message in _messages(span) if message.get(EVENT_ID)}


def _sightings(span: Span) -> Iterator[Sighting]:
    operation = span.attributes.get(_OPERATION_TYPE)
    if operation in {"receive", "settle"}:
        what = What.RECEIVED if operation == "receive" else What.ACKED
        yield from (Sighting(what, span, message) for message in _messages(span))
    elif operation == "process":
        yield Sighting(What.HANDLED, span, span.attributes)
    elif span.name == CRASH_POINT_SPAN:
        if span.is_consumer_crash:
            yield Sighting(What.STOOD, span, span.attributes)
        yield from (Sighting(What.HELD, span, message) for message in _messages(span))
    elif span.name == LAPSED_SPAN:
        yield Sighting(What.LAPSED, span, span.attributes)
    elif span.name == RELEASED_SPAN:
        yield Sighting(What.RELEASED, span, span.attributes)


def _messages(span: Span) -> list[Mapping[str, Any]]:
    """Attributes of each message of a span about several."""
    return [
        event.get("attributes") or {} for event in span.events if event.get("name") == MESSAGE_EVENT
    ]


__all__ = [
    "CONFIRMED",
    "DONE",
    "WAITING",
    "Delivery",
    "Send",
    "Sighting",
    "What",
    "deliveries_of",
    "events_in",
    "orders_of",
    "sends_of",
]
