"""Every redelivery of an order with its reason; pure functions of what is known, like the checker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onceproof_chaos.explain.again import why_again
from onceproof_chaos.explain.case import Case
from onceproof_chaos.explain.deliveries import Delivery, What
from onceproof_chaos.explain.events import EventStory, Index, OrderStory
from onceproof_chaos.explain.moments import Moment, moments_of
from onceproof_chaos.explain.money import sentence
from onceproof_chaos.explain.reasons import Clue, Explanation, Finding, Reason, unknown
from onceproof_chaos.explain.sent import why_another_event, why_sent_again
from onceproof_chaos.explain.unseen import why_unseen, why_untraced


@dataclass(frozen=True, slots=True)
class OrderExplanation:
    """One order: what happened, why each message came again, and what that did to the money.

    Args:
        story: what is known of it.
        moments: what happened, in time's order.
        redeliveries: a reason for each delivery beyond the first.
        money: why the money moved once, or twice and where.
        gaps: what was not looked at.
    """

    story: OrderStory
    moments: Sequence[Moment]
    redeliveries: Sequence[Explanation]
    money: str
    gaps: Sequence[str] = ()

    @property
    def order_id(self) -> str:
        """The order."""
        return self.story.order_id

    @property
    def deliveries(self) -> int:
        """Deliveries that are known of, whether or not anybody lived to report them."""
        return sum(
            event.attempts(message) for event in self.story.events for message in event.messages
        )

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "order_id": self.order_id,
            "events": [event.event_id for event in self.story.events],
            "deliveries": self.deliveries,
            "captures": len(self.story.captures),
            "redeliveries": [explanation.as_json() for explanation in self.redeliveries],
            "story": [moment.as_json() for moment in self.moments],
            "money": self.money,
            "not_looked_at": list(self.gaps),
        }


def explain_order(index: Index, order: str) -> OrderExplanation:
    """Explain one order."""
    story, records = index.story(order), index.records
    return OrderExplanation(
        story=story,
        moments=moments_of(story, index.processes),
        redeliveries=list(_redeliveries(index, story)),
        money=sentence(
            story,
            index.processes,
            has_ledger=records.has_ledger,
            has_database=records.has_database,
        ),
        gaps=records.gaps,
    )


def explain_all(index: Index) -> list[OrderExplanation]:
    """Explain every order that anything is known of."""
    return [explain_order(index, order) for order in index.orders]


def distribution(explained: Sequence[OrderExplanation]) -> Mapping[Reason, int]:
    """Number of redeliveries by reason, in the order of the list; reasons that never occurred are 0."""
    counts = Counter(e.reason for order in explained for e in order.redeliveries)
    return {reason: counts[reason] for reason in Reason}


def _redeliveries(index: Index, story: OrderStory) -> Iterator[Explanation]:
    delivered = [event for event in story.events if event.deliveries]
    for number, event in enumerate(delivered):
        for place, message in enumerate(event.messages):
            if place > 0:
                finding = why_sent_again(event, message, index.processes)
                yield _explanation(event, message, 1, finding)
            elif number > 0:
                yield _explanation(event, message, 1, why_another_event(delivered, event))
            yield from _attempts(index, event, message)
    for event in story.events:
        yield from _told_by_rows(event)


def _told_by_rows(event: EventStory) -> Iterator[Explanation]:
    """Redeliveries of which no span tells, though one of them was committed."""
    message = event.outbox.message_id if event.outbox is not None else None
    seen = max((event.attempts(message) for message in event.messages), default=1)
    for row in event.charges:
        says = f"delivery {row.delivery_attempt} was committed"
        clue = Clue.row("charges", row.id, says, row.created_at)
        for attempt in range(seen + 1, row.delivery_attempt + 1):
            finding = why_untraced(attempt, clue)
            yield _explanation(event, message or "", attempt, finding)
        seen = max(seen, row.delivery_attempt)


def _attempts(index: Index, event: EventStory, message: str) -> Iterator[Explanation]:
    for attempt in range(1, event.attempts(message) + 1):
        if attempt > 1:
            yield _explanation(event, message, attempt, _why(index, event, message, attempt))
        delivery = event.delivery(message, attempt)
        if delivery is not None and len(delivery.instances) > 1:
            yield _explanation(event, message, attempt, _made_twice(delivery))


def _made_twice(delivery: Delivery) -> Finding:
    """Why two processes had a delivery of one number.

    A broker counts approximately: what comes when the visibility has ended may be the next delivery.
    """
    who = " and ".join(delivery.instances)
    clues = [
        Clue.span(sighting.span, f"{sighting.span.instance} had delivery {delivery.attempt}")
        for sighting in delivery.sightings
    ]
    until = delivery.own_until
    received = {s.span.instance: s.span.end for s in reversed(delivery.of(What.RECEIVED))}
    at_once = until is not None and len(received) > 1 and max(received.values()) < until
    if not at_once or delivery.of(What.RELEASED):
        return unknown(
            f"{who} both had a delivery {delivery.attempt}",
            "receive spans of both within one visibility timeout: the broker's count may be late",
            clues=clues,
        )
    text = f"the broker made delivery {delivery.attempt} twice, to {who}"
    return Finding(Reason.BROKER, text, clues)


def _why(index: Index, event: EventStory, message: str, attempt: int) -> Finding:
    has_database = index.records.has_database
    before = event.delivery(message, attempt - 1)
    if before is None:
        return why_unseen(event, message, attempt, index.processes, has_database=has_database)
    again = event.delivery(message, attempt)
    return why_again(Case(event, before, again, index.processes, has_database))


def _explanation(event: EventStory, message: str, attempt: int, finding: Finding) -> Explanation:
    return Explanation(
        event_id=event.event_id,
        message_id=message,
        attempt=attempt,
        reason=finding.reason,
        text=f"{finding.text[:1].upper()}{finding.text[1:]}.",
        clues=tuple(finding.clues),
        missing=tuple(finding.missing),
    )


__all__ = ["OrderExplanation", "distribution", "explain_all", "explain_order"]
