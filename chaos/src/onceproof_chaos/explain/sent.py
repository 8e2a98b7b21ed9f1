"""Why there is another message with the same event, or another event for the same order.

The broker has nothing to do with these: somebody sent again. Who did is in the span of each send, and in
what a message carries that has been in the dead-letter queue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from onceproof.crashpoints import RELAY_AFTER_PUBLISH
from onceproof.telemetry import DEAD_LETTERED_AS, EVENT_ID, REDRIVE
from onceproof_chaos.explain.deliveries import Send, events_in
from onceproof_chaos.explain.events import EventStory
from onceproof_chaos.explain.processes import Processes
from onceproof_chaos.explain.reasons import Clue, Finding, Reason, short, unknown

_RELAY: Final = "relay"
_PRODUCER: Final = "producer"
_REASONS: Final = {_RELAY: Reason.RELAY_SENT_TWICE, _PRODUCER: Reason.PRODUCER_SENT_AGAIN}


def why_sent_again(event: EventStory, message: str, processes: Processes) -> Finding:
    """Why a message carries an event that an earlier message carried."""
    redriven = next(_redriven(event, message), None)
    if redriven is not None:
        return redriven
    text = f"message {short(message)} carries an event that was sent before"
    send = _send_of(event, message)
    if send is None:
        return unknown(
            text, "the send span of this message, or a mark that it was redriven from the DLQ"
        )
    if send.sender not in _REASONS:
        return unknown(text, "who sent it: its send span does not say", clues=[_sent(send)])
    earlier = [
        other
        for other in event.sends
        if other.span.span_id != send.span.span_id and other.span.end <= send.span.end
    ]
    if not earlier:
        return unknown(text, "the send span of the message before", clues=[_sent(send)])
    first = earlier[-1]
    if first.sender != send.sender:
        return unknown(
            text,
            f"why it was sent by the {first.sender or 'unknown sender'} and by the {send.sender}",
            clues=[_sent(first), _sent(send)],
        )
    clues = [_sent(first), *_cut_off(first, processes), _sent(send), *_row(event)]
    how = _how(event, first, processes)
    return Finding(_REASONS[send.sender], f"the {send.sender} sent the event twice{how}", clues)


def why_another_event(events: Sequence[EventStory], event: EventStory) -> Finding:
    """Why an order has another event: only who writes the events can have made it."""
    first = events[0]
    text = f"the order has another event, {short(event.event_id)} after {short(first.event_id)}"
    known = []
    for one in (first, event):
        made = [*_row(one), *(_sent(send) for send in one.sends)]
        if not made:
            return unknown(
                text, f"the outbox row or a send span of event {one.event_id}: who made it"
            )
        known += made[:1]
    return Finding(
        Reason.PRODUCER_SENT_AGAIN, f"the producer made a second event for the order: {text}", known
    )


def _redriven(event: EventStory, message: str) -> Iterator[Finding]:
    for (name, _), delivery in sorted(event.deliveries.items()):
        if name != message:
            continue
        if (mark := delivery.attribute(REDRIVE)) is not None:
            yield Finding(
                Reason.REDRIVEN,
                f"redrive {mark[0]} took it back out of the DLQ",
                [Clue.span(mark[1].span, f"the message carries the mark of redrive {mark[0]}")],
            )
        if (mark := delivery.attribute(DEAD_LETTERED_AS)) is not None:
            yield Finding(
                Reason.REDRIVEN,
                f"it was in the DLQ, rejected as message {short(mark[0])}, and somebody took it back",
                [Clue.span(mark[1].span, f"the message was rejected before, as {mark[0]}")],
            )


def _send_of(event: EventStory, message: str) -> Send | None:
    """The send of a message: the one that names it, or one whose answer was lost."""
    for send in event.sends:
        if send.message_id == message:
            return send
    named = {send.message_id for send in event.sends}
    nameless = [name for name in event.messages if name not in named]
    lost = [send for send in event.sends if not send.confirmed]
    # Each send without an answer made one message at most; they came in this order.
    pairs = dict(zip(nameless, lost, strict=False)) if len(nameless) <= len(lost) else {}
    made_by = pairs.get(message)
    if made_by is None or made_by.span.start > event.sent_at(message):
        return None  # what was there before a send began is not its message
    return made_by


def _sent(send: Send) -> Clue:
    name = f"as message {short(send.message_id)}" if send.message_id else "and got no answer"
    return Clue.span(send.span, f"{send.span.instance} ({send.sender or '?'}) sent it {name}")


def _cut_off(send: Send, processes: Processes) -> Iterator[Clue]:
    """What became of the sender after the send, where that is known."""
    end = processes.end_of(send.span.instance, send.span.end)
    if end is None or end.crash is None or not end.how.endswith(RELAY_AFTER_PUBLISH):
        return
    # It may have sent other batches since: it must have stood there with this one.
    if end.crash.attributes.get(EVENT_ID) in events_in(send.span):
        yield from end.clues


def _how(event: EventStory, first: Send, processes: Processes) -> str:
    if any(_cut_off(first, processes)):
        return f": {first.span.instance} was killed before it had marked the first send"
    if not first.confirmed:
        return ": the answer to the first send was lost"
    if event.outbox is not None and event.outbox.last_error:
        return f": it took the first send for failed ({event.outbox.last_error})"
    return ""


def _row(event: EventStory) -> Iterator[Clue]:
    row = event.outbox
    if row is not None:
        text = (
            f"claimed {row.attempts} times, marked with message {short(row.message_id or 'none')}"
        )
        yield Clue.row("outbox", f"id={row.id}", text, row.published_at)


__all__ = ["why_another_event", "why_sent_again"]
