"""What happened to an order, one line a moment: sends, deliveries, crashes, money."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from onceproof_chaos.explain.deliveries import Delivery, Sighting, What
from onceproof_chaos.explain.events import EventStory, OrderStory
from onceproof_chaos.explain.processes import Processes
from onceproof_chaos.explain.reasons import short


class Kind(StrEnum):
    """What sort of moment, for whoever draws it."""

    STORED = "stored"
    SENT = "sent"
    RECEIVED = "received"
    CRASH_POINT = "crash_point"
    KILLED = "killed"
    RESUMED = "resumed"
    LAPSED = "lapsed"
    RELEASED = "released"
    HANDLED = "handled"
    COMMITTED = "committed"
    ACKED = "acked"
    CAPTURED = "captured"


@dataclass(frozen=True, slots=True)
class Moment:
    """One thing that happened.

    Args:
        at: Unix time in seconds.
        who: process or service.
        what: in words.
        kind: of the moment.
        message_id: of a delivery or send.
        attempt: of a delivery.
    """

    at: float
    who: str
    what: str
    kind: Kind
    message_id: str | None = None
    attempt: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self) | {"kind": self.kind.value}


_KINDS = {
    What.RECEIVED: Kind.RECEIVED,
    What.HANDLED: Kind.HANDLED,
    What.STOOD: Kind.CRASH_POINT,
    What.HELD: Kind.CRASH_POINT,
    What.LAPSED: Kind.LAPSED,
    What.RELEASED: Kind.RELEASED,
    What.ACKED: Kind.ACKED,
}


def moments_of(story: OrderStory, processes: Processes) -> list[Moment]:
    """Everything that happened to an order, in time's order."""
    moments = [
        Moment(row.created_at, "provider", _captured(row.idempotency_key), Kind.CAPTURED)
        for row in story.captures
    ]
    for event in story.events:
        moments += _of_event(event)
        for delivery in event.deliveries.values():
            moments += _of_delivery(delivery, processes)
    return sorted(moments, key=lambda moment: moment.at)


def _of_event(event: EventStory) -> Iterator[Moment]:
    if event.outbox is not None:
        text = f"event {short(event.event_id)} stored in the outbox"
        yield Moment(event.outbox.created_at, "producer", text, Kind.STORED)
    for send in event.sends:
        name = f"as message {short(send.message_id)}" if send.message_id else "without an answer"
        yield Moment(send.span.end, send.span.instance, f"sent {name}", Kind.SENT, send.message_id)
    for row in event.charges:
        text = f"charge row of delivery {row.delivery_attempt} (committed)"
        yield Moment(row.created_at, "database", text, Kind.COMMITTED, attempt=row.delivery_attempt)


def _of_delivery(delivery: Delivery, processes: Processes) -> Iterator[Moment]:
    def moment(at: float, who: str, what: str, kind: Kind) -> Moment:
        return Moment(at, who, what, kind, delivery.message_id, delivery.attempt)

    name = f"delivery {delivery.attempt} of {short(delivery.message_id)}"
    for sighting in delivery.sightings:
        if sighting.what is What.HELD:
            continue  # whatever happened to its process is a moment of its own
        words = f"{name}: {_words(sighting)}"
        yield moment(sighting.span.end, sighting.span.instance, words, _KINDS[sighting.what])
    for stall in processes.stalls_of(delivery.instance):
        gone = delivery.handled.span.end if delivery.handled else float("inf")
        if stall.until is not None and delivery.known_at <= stall.since < gone:
            words = f"{name}: its process stood still for {stall.seconds:.1f} s and went on"
            yield moment(stall.until, delivery.instance, words, Kind.RESUMED)
    end = processes.end_of(delivery.instance, delivery.known_at)
    if end is not None and _in_hand(delivery):
        words = f"{name}: its process was {end.told(delivery.event_id)}"
        yield moment(end.ended_at, delivery.instance, words, Kind.KILLED)


def _in_hand(delivery: Delivery) -> bool:
    """Whether a process that ended had the delivery still to do, or its ack."""
    if delivery.of(What.LAPSED) or delivery.of(What.RELEASED) or delivery.of(What.ACKED):
        return False
    return delivery.handled is None or delivery.settled


def _words(sighting: Sighting) -> str:
    error = sighting.span.status_message
    return {
        What.RECEIVED: "received",
        What.HANDLED: f"{sighting.outcome or 'ended'}{f' ({error})' if error else ''}",
        What.STOOD: f"reached {sighting.point}",
        What.HELD: "in hand",
        What.LAPSED: "let go, its visibility had expired",
        What.RELEASED: "given back",
        What.ACKED: f"ack {sighting.result or 'sent'}",
    }[sighting.what]


def _captured(key: str | None) -> str:
    return f"captured (key {short(key)})" if key else "captured (no key)"


__all__ = ["Kind", "Moment", "moments_of"]
