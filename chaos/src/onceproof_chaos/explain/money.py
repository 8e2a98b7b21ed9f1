"""Why the money moved once, or twice and where: the last sentence of every explanation.

The provider's ledger says how often. Who made a capture follows from its time and from the deliveries at
work then; where several were, all of them are named.
"""

from __future__ import annotations

from collections.abc import Sequence

from onceproof.crashpoints import CONSUMER_BEFORE_CHARGE
from onceproof_chaos.evidence import CaptureRow, ChargeRow
from onceproof_chaos.explain.commits import commit_of, over_at
from onceproof_chaos.explain.deliveries import Delivery, What
from onceproof_chaos.explain.events import OrderStory
from onceproof_chaos.explain.processes import Processes
from onceproof_chaos.explain.reasons import short

_CLOCKS_S = 0.05
_SEVERAL = 2


def sentence(
    story: OrderStory, processes: Processes, *, has_ledger: bool, has_database: bool
) -> str:
    """How often the money of an order moved, and why."""
    if not has_ledger:
        charges = _charges(story)
        rows = f" The charges table has {len(charges)} row(s) of it." if has_database else ""
        return (
            f"How often the money moved cannot be said: the provider's ledger was not read.{rows}"
        )
    captures = sorted(story.captures, key=lambda row: row.created_at)
    if not captures and (charges := _charges(story)):
        return (
            f"The ledgers disagree: the charges table has {len(charges)} row(s) of it, the provider's "
            "has no capture."
        )
    if not captures:
        return f"No money moved: {_why_not(story, has_database=has_database)}."
    if len(captures) == 1:
        why = _why_once(story, captures[0], processes, has_database=has_database)
        return f"The money moved once: {why}."
    times = "twice" if len(captures) == _SEVERAL else f"{len(captures)} times"
    return f"The money moved {times}: {_why_more(story, captures, processes)}."


def maker_of(story: OrderStory, capture: CaptureRow, processes: Processes) -> list[Delivery]:
    """Deliveries that may have made a capture: one, or several that were at work together."""
    return [
        delivery
        for delivery in _deliveries(story)
        if _may_charge(delivery)
        and delivery.known_at - _CLOCKS_S <= capture.created_at
        and capture.created_at <= over_at(delivery, processes) + _CLOCKS_S
    ]


def _why_once(
    story: OrderStory, capture: CaptureRow, processes: Processes, *, has_database: bool
) -> str:
    makers = maker_of(story, capture, processes)
    parts = [f"{_either(story, makers)} captured it"]
    charges = _charges(story)
    committer = _committer(story, charges, capture, processes)
    if committer is not None and makers and committer not in makers:
        parts.append(
            f"{_name(story, committer)} sent the same Idempotency-Key, got that capture back and "
            "committed it"
            if capture.idempotency_key
            else f"{_name(story, committer)} committed it"
        )
    elif not charges and has_database:
        parts.append("no row of the charges table records it")
    stopped = [d for d in _deliveries(story) if d.outcome == "duplicate"]
    if stopped:
        parts.append(f"the inbox stopped {_list(story, stopped)}")
    if len(_deliveries(story)) > 1 and len(parts) == 1:
        parts.append("no other delivery got as far as the charge")
    return _joined(parts)


def _why_more(story: OrderStory, captures: Sequence[CaptureRow], processes: Processes) -> str:
    made = [
        f"{_either(story, maker_of(story, capture, processes))} made capture {short(capture.id)}"
        for capture in captures
    ]
    keys = {capture.idempotency_key for capture in captures}
    if None in keys:
        why = "without an Idempotency-Key the provider takes each request for a new one"
    elif len(keys) > 1:
        why = "each request had an Idempotency-Key of its own, so the provider took each for a new one"
    else:
        why = "the provider took the same Idempotency-Key twice"
    claimed = {row.event_id for event in story.events for row in event.inbox}
    if len(story.events) > 1:
        inbox = "the inbox saw another event"
    elif not claimed:
        inbox = "no inbox row stood in the way"
    elif claimed & {event.event_id for event in story.events}:
        inbox = "the inbox row came too late to stop it"
    else:
        inbox = "the inbox knew messages, and this was another message"
    return f"{_joined(made)}; {inbox}, and {why}"


def _why_not(story: OrderStory, *, has_database: bool) -> str:
    if story.dead_letters:
        reason = story.dead_letters[0].reason or "no reason recorded"
        return f"its message is in the dead-letter queue ({reason})"
    pending = [e.outbox for e in story.events if e.outbox and e.outbox.published_at is None]
    if pending:
        error = f", last error: {pending[0].last_error}" if pending[0].last_error else ""
        return f"its event still waits in the outbox after {pending[0].attempts} attempt(s){error}"
    if _deliveries(story):
        return "no delivery of its event got as far as the charge"
    if any(event.sends for event in story.events):
        return "its event was sent, and no delivery of it is known"
    if story.placed:
        return "the order was stored, and nobody is known to have sent its event"
    return "the order was never stored" if has_database else "nothing else is known of the order"


def _may_charge(delivery: Delivery) -> bool:
    """Whether a delivery can have called the provider."""
    if delivery.outcome == "duplicate" or delivery.of(What.LAPSED):
        return False
    points = {stood.point for stood in delivery.of(What.STOOD)}
    return points != {CONSUMER_BEFORE_CHARGE} or delivery.handled is not None


def _committer(
    story: OrderStory, charges: Sequence[ChargeRow], capture: CaptureRow, processes: Processes
) -> Delivery | None:
    """The delivery whose transaction recorded a capture; None when that cannot be told."""
    numbers = {
        (row.event_id, row.delivery_attempt)
        for row in charges
        if row.provider_charge_id == capture.id
    }
    events = {event.event_id: event for event in story.events}
    found = [
        delivery
        for delivery in _deliveries(story)
        if (delivery.event_id, delivery.attempt) in numbers
        and commit_of(events[delivery.event_id], delivery, processes, has_database=True).done
    ]
    return found[0] if len(found) == 1 else None


def _deliveries(story: OrderStory) -> list[Delivery]:
    every = [delivery for event in story.events for delivery in event.deliveries.values()]
    return sorted(every, key=lambda d: (d.known_at, d.attempt))


def _charges(story: OrderStory) -> list[ChargeRow]:
    return [row for event in story.events for row in event.charges]


def _either(story: OrderStory, makers: Sequence[Delivery]) -> str:
    if not makers:
        return "a delivery that nobody reported"
    return " or ".join(_name(story, delivery) for delivery in makers)


def _list(story: OrderStory, deliveries: Sequence[Delivery]) -> str:
    return _joined([_name(story, delivery) for delivery in deliveries])


def _name(story: OrderStory, delivery: Delivery) -> str:
    several = len({d.message_id for d in _deliveries(story)}) > 1
    of = f" of message {short(delivery.message_id)}" if several else ""
    return f"delivery {delivery.attempt}{of}"


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


__all__ = ["maker_of", "sentence"]
