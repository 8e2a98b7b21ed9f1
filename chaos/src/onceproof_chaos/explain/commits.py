"""Whether one delivery committed, by the rows that a commit leaves behind and by spans that saw it.

The rows decide: a span can be lost with its process, a committed row cannot. Where spans and rows
disagree, neither is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from onceproof.crashpoints import CONSUMER_AFTER_COMMIT
from onceproof_chaos.evidence import ChargeRow
from onceproof_chaos.explain.deliveries import WAITING, Delivery, What
from onceproof_chaos.explain.events import EventStory
from onceproof_chaos.explain.processes import Processes
from onceproof_chaos.explain.reasons import Clue
from onceproof_chaos.explain.windows import unread

_COMMITTED: Final = frozenset({"processed", "ack_lost"})
_NOT_COMMITTED: Final = frozenset({"duplicate", "rejected"})
_CLOCKS_S: Final = 1.0
"""Seconds by which the clocks of database and consumer may differ."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Whether a delivery committed: yes, no, or None with what is missing."""

    done: bool | None
    clues: Sequence[Clue] = ()
    missing: str = ""


_NO_DATABASE: Final = Commit(None, missing="the database: whether the transaction was committed")


def commit_of(
    event: EventStory, delivery: Delivery, processes: Processes, *, has_database: bool
) -> Commit:
    """Whether a delivery's transaction was committed."""
    seen = _seen(delivery)
    if not has_database:
        return Commit(True, seen) if seen else _NO_DATABASE
    rows = _rows_of(event, delivery, processes)
    name = f"delivery {delivery.attempt}"
    if rows is None:
        which = "the row of charges or what spans say of it"
        missing = (
            f"which is right, {which}: {name} cannot have committed"
            if _cannot_have(delivery, processes)
            else f"which message the {name} was of that wrote the row of charges: both fit"
        )
        return Commit(None, [*seen, *map(_row_clue, event.charges)], missing)
    if rows:
        return Commit(True, [*seen, *map(_row_clue, rows)])
    if seen:
        return Commit(None, seen, f"the row of charges of {name}, which spans saw committed")
    return _no_commit(event, delivery.attempt)


def not_committed(
    event: EventStory, message: str, attempt: int, processes: Processes, *, has_database: bool
) -> Commit:
    """The same for a delivery that nobody has a span of, and that nobody can have handled."""
    if not has_database:
        return _NO_DATABASE
    rows = [row for row in event.charges if row.delivery_attempt == attempt]
    others = [d for (m, n), d in event.deliveries.items() if n == attempt and m != message]
    authors = [d for d in others if _seen(d) or not _cannot_have(d, processes)]
    if not all(any(_fits(row, author, processes) for author in authors) for row in rows):
        missing = f"a span of delivery {attempt}: somebody handled it, for it committed"
        return Commit(None, [_row_clue(row) for row in rows], missing)
    return Commit(False) if rows else _no_commit(event, attempt)


def over_at(delivery: Delivery, processes: Processes) -> float:
    """When a delivery can have done nothing more; infinity where that is not known."""
    if delivery.handled is not None:
        return delivery.handled.span.end
    end = processes.end_of(delivery.instance, delivery.known_at)
    return end.stood_at if end else float("inf")


def _seen(delivery: Delivery) -> list[Clue]:
    """Spans that saw the commit."""
    seen = []
    handled = delivery.handled
    if handled is not None and handled.outcome in _COMMITTED:
        seen.append(
            Clue.span(handled.span, f"delivery {delivery.attempt} ended: {handled.outcome}")
        )
    seen += [
        Clue.span(stood.span, f"delivery {delivery.attempt} reached {stood.point}")
        for stood in delivery.of(What.STOOD)
        if stood.point == CONSUMER_AFTER_COMMIT
    ]
    return seen


def _rows_of(event: EventStory, delivery: Delivery, processes: Processes) -> list[ChargeRow] | None:
    """Rows that this delivery wrote; None when that cannot be told.

    A row knows the number of its delivery, but not the message, and an event that was sent twice has
    two deliveries of each number. Then it counts what spans saw of the others, and the row's time.
    """
    rows = [row for row in event.charges if row.delivery_attempt == delivery.attempt]
    others = [
        other
        for (message, attempt), other in event.deliveries.items()
        if attempt == delivery.attempt and message != delivery.message_id
    ]
    unseen = _unseen(event, delivery, processes)
    if not others and not unseen:
        # A delivery that cannot have written it makes the row another message's, of which nobody told.
        return None if rows and _cannot_have(delivery, processes) else rows
    fitting = [row for row in rows if _fits(row, delivery, processes)]
    if _seen(delivery):
        return fitting
    if _cannot_have(delivery, processes):
        return []
    taken = sum(bool(_seen(other)) for other in others)
    if len(rows) <= taken or not fitting:
        return []
    rivals = [o for o in others if not _seen(o) and not _cannot_have(o, processes)]
    if unseen or any(_fits(row, rival, processes) for row in fitting for rival in rivals):
        return None
    return fitting


def _unseen(event: EventStory, delivery: Delivery, processes: Processes) -> list[str]:
    """Other messages with a delivery of the same number that somebody may have read unseen."""
    number = delivery.attempt
    known = {send.message_id for send in event.sends if send.message_id} | {*event.messages}
    return [
        message
        for message in sorted(known - {delivery.message_id})
        if event.delivery(message, number) is None
        and (message not in event.messages or event.may_have_come(message, number))
        and not unread(event, message, number, processes)
    ]


def _cannot_have(delivery: Delivery, processes: Processes) -> bool:
    """Whether spans show that a delivery did not commit."""
    if delivery.outcome in _NOT_COMMITTED or delivery.of(What.LAPSED):
        return True
    end = processes.end_of(delivery.instance, delivery.known_at)
    if end is not None and end.crash is not None and delivery.state_at(end.crash) == WAITING:
        return True
    if end is None or end.crash is None:
        return False
    # Its process ended at a crash point of this very delivery, before the commit.
    return any(
        stood.span.span_id == end.crash.span_id and stood.point != CONSUMER_AFTER_COMMIT
        for stood in delivery.of(What.STOOD)
    )


def _fits(row: ChargeRow, delivery: Delivery, processes: Processes) -> bool:
    """Whether a row can be of a delivery. It carries the time at which its transaction began."""
    since, until = delivery.asked_at, over_at(delivery, processes)
    return since - _CLOCKS_S <= row.created_at <= until + _CLOCKS_S


def _row_clue(row: ChargeRow) -> Clue:
    return Clue.row(
        "charges", f"id={row.id}", f"committed by delivery {row.delivery_attempt}", row.created_at
    )


def _inbox_clue(event: EventStory) -> Clue:
    row = event.inbox[0]
    return Clue.row("inbox", row.event_id, "the event is in the inbox", row.processed_at)


def _no_commit(event: EventStory, attempt: int) -> Commit:
    """No row of a delivery: it did not commit, unless the rows contradict one another."""
    if event.inbox and not event.charges:
        missing = "the row of charges that was committed together with the inbox row"
        return Commit(None, [_inbox_clue(event)], missing)
    done = [d for d in event.deliveries.values() if d.settled]
    if done and not event.charges:
        missing = f"the row of charges: delivery {done[0].attempt} ended {done[0].outcome}"
        return Commit(None, missing=missing)
    text = f"no row with delivery_attempt {attempt}"
    return Commit(False, [Clue.row("charges", f"event_id={event.event_id}", text)])


__all__ = ["Commit", "commit_of", "not_committed", "over_at"]
