"""One event over all of its messages and deliveries, with its rows; and the events of one order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from onceproof_chaos.evidence import CaptureRow, ChargeRow, DeadLetterRow, InboxRow, OutboxRow
from onceproof_chaos.explain.deliveries import (
    CONFIRMED,
    Delivery,
    Send,
    What,
    deliveries_of,
    orders_of,
    sends_of,
)
from onceproof_chaos.explain.processes import Processes
from onceproof_chaos.explain.records import Records


@dataclass(frozen=True, slots=True)
class EventStory:
    """What is known of one event.

    Args:
        event_id: the event.
        deliveries: by message and attempt.
        sends: oldest first.
        charges: rows of the charges table.
        inbox: rows of the inbox.
        outbox: its row, where it has one.
    """

    event_id: str
    deliveries: Mapping[tuple[str, int], Delivery]
    sends: Sequence[Send]
    charges: Sequence[ChargeRow] = ()
    inbox: Sequence[InboxRow] = ()
    outbox: OutboxRow | None = None

    @property
    def messages(self) -> list[str]:
        """Messages that reached a consumer, in the order in which they were sent."""
        return sorted({message for message, _ in self.deliveries}, key=self.sent_at)

    def sent_at(self, message: str) -> float:
        """When a message was sent, as far as anybody knows: at the latest when it was delivered."""
        sent = [send.span.end for send in self.sends if send.message_id == message]
        return min([*sent, *(d.known_at for (m, _), d in self.deliveries.items() if m == message)])

    @property
    def began_at(self) -> float:
        """When the event is first heard of."""
        moments = [send.span.start for send in self.sends]
        moments += [delivery.known_at for delivery in self.deliveries.values()]
        if self.outbox is not None:
            moments.append(self.outbox.created_at)
        return min(moments, default=0.0)

    def attempts(self, message: str) -> int:
        """Number of deliveries of a message: the highest attempt that anybody saw."""
        return max(attempt for m, attempt in self.deliveries if m == message)

    def may_have_come(self, message: str, attempt: int) -> bool:
        """Whether a delivery of a message must have been made, or can have been, as it was not acked."""
        highest = self.attempts(message)
        if highest >= attempt:
            return True
        last = self.deliveries[message, highest]
        return highest == attempt - 1 and not any(
            ack.result == CONFIRMED for ack in last.of(What.ACKED)
        )

    def delivery(self, message: str, attempt: int) -> Delivery | None:
        """A delivery; None when no span names it."""
        return self.deliveries.get((message, attempt))

    def first_received_at(self, message: str) -> float | None:
        """When the broker first gave the message to anybody, as any later delivery says."""
        found = (
            d.first_received_at
            for (m, _), d in sorted(self.deliveries.items())
            if m == message and d.first_received_at is not None
        )
        return next(found, None)


@dataclass(frozen=True)
class OrderStory:
    """One order: its events in the order in which they began, and the money."""

    order_id: str
    events: Sequence[EventStory]
    captures: Sequence[CaptureRow] = ()
    dead_letters: Sequence[DeadLetterRow] = ()
    placed: bool = False
    """Whether the producer's table has the order."""


class Index:
    """All records by order and event, and what became of the processes."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.processes = Processes.of(records.spans, records.faults, whole=records.whole)
        self._deliveries = deliveries_of(records.spans)
        self._sends = sends_of(records.spans)
        self._charges = _grouped(records.rows.charges, lambda row: row.event_id)
        self._inbox = _grouped(records.rows.inbox, lambda row: row.event_id)
        self._outbox = {row.id: row for row in records.rows.outbox}
        self._captures = _grouped(records.rows.captures, lambda row: row.order_id)
        self._placed = {row.order_id for row in records.rows.orders}
        self._order_of = self._orders()

    def _orders(self) -> dict[str, str]:
        order_of = orders_of(self.records.spans)
        rows = self.records.rows
        order_of |= {row.id: row.key for row in rows.outbox if row.key}
        order_of |= {row.event_id: row.order_id for row in rows.charges}
        order_of |= {row.event_id: row.order_id for row in rows.orders if row.event_id}
        # An event without a key is a story of its own.
        return {event: event for event in self._deliveries} | order_of

    @cached_property
    def _events_of(self) -> dict[str, list[str]]:
        events: dict[str, list[str]] = defaultdict(list)
        for event, order in self._order_of.items():
            events[order].append(event)
        return events

    @property
    def orders(self) -> list[str]:
        """Every order that anything is known of."""
        return sorted({*self._events_of, *self._captures, *self._placed})

    def order_named(self, name: str) -> str | None:
        """The order that `name` is or whose event it is; None when nothing is known of it."""
        if name in self._events_of or name in self._captures or name in self._placed:
            return name
        return self._order_of.get(name)

    def story(self, order: str) -> OrderStory:
        """What is known of one order."""
        events = [self.event(event) for event in self._events_of.get(order, ())]
        ids = {event.event_id for event in events}
        return OrderStory(
            order_id=order,
            events=sorted(events, key=lambda event: event.began_at),
            captures=self._captures.get(order, ()),
            dead_letters=[
                row for row in self.records.rows.dlq if row.order_id == order or row.event_id in ids
            ],
            placed=order in self._placed,
        )

    def event(self, event: str) -> EventStory:
        """What is known of one event."""
        deliveries = self._deliveries.get(event, {})
        # Without the fix `dedup_on_event_id` it is messages that the inbox remembers.
        claimed = dict.fromkeys((event, *(message for message, _ in deliveries)))
        return EventStory(
            event_id=event,
            deliveries=deliveries,
            sends=self._sends.get(event, ()),
            charges=self._charges.get(event, ()),
            inbox=[row for name in claimed for row in self._inbox.get(name, ())],
            outbox=self._outbox.get(event),
        )


_Row = TypeVar("_Row")


def _grouped(rows: Iterable[_Row], key: Callable[[_Row], str]) -> dict[str, list[_Row]]:
    grouped: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        grouped[key(row)].append(row)
    return grouped


__all__ = ["EventStory", "Index", "OrderStory"]
