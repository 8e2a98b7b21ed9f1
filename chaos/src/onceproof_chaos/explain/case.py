"""One redelivery of a message, with what every rule asks about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from onceproof_chaos.explain.commits import Commit, commit_of
from onceproof_chaos.explain.deliveries import Delivery, Sighting, What
from onceproof_chaos.explain.events import EventStory
from onceproof_chaos.explain.processes import End, Processes
from onceproof_chaos.explain.reasons import Clue, Finding, Reason, unknown
from onceproof_chaos.explain.windows import CLOCKS_S

_LAG_S: Final = 0.25
"""Seconds after which a consumer has learned of a delivery that the broker made, at the latest."""


@dataclass(frozen=True, slots=True)
class Case:
    """One redelivery.

    Args:
        event: whose it is.
        before: the delivery before it.
        again: the redelivery; None when its consumer did not live to report it.
        processes: ends and stalls.
        has_database: whether rows can be believed to be missing.
    """

    event: EventStory
    before: Delivery
    again: Delivery | None
    processes: Processes
    has_database: bool

    @property
    def name(self) -> str:
        """The delivery before, in words."""
        return f"delivery {self.before.attempt}"

    @property
    def who(self) -> str:
        """The process that had it, in words."""
        return self.before.who

    def came_by(self, moment: float) -> bool | None:
        """Whether the redelivery had come by then; None when that cannot be told."""
        again = self.again
        if again is None:
            return None
        if again.known_at <= moment:
            return True
        if again.received is None:
            return None  # it is known from later on only, and may have come long before
        near = again.known_at <= moment + _LAG_S and again.asked_at < moment
        return None if near else False

    def came_before(self, moment: float) -> bool:
        """Whether the redelivery is known to have come before, by however much clocks differ."""
        return self.again is not None and self.again.known_at + CLOCKS_S < moment

    def own_at(self, moment: float) -> bool | None:
        """Whether the message was still the consumer's at a moment, by the visibility it asked for."""
        until = self.before.own_until
        return None if until is None else moment <= until

    def commit(self) -> Commit:
        """Whether the delivery before was committed."""
        return commit_of(self.event, self.before, self.processes, has_database=self.has_database)

    def end(self, since: float) -> End | None:
        """How the process ended that had it, if it lived at `since`."""
        return self.processes.end_of(self.before.instance, since)

    def told(self, end: End) -> str:
        """How a process ended, in words."""
        return end.told(self.event.event_id)

    def received(self) -> Iterator[Clue]:
        """That the delivery before was received."""
        before = self.before
        if before.received is not None:
            yield Clue.span(before.received.span, f"{before.who} received {self.name}")

    def handled(self) -> Iterator[Clue]:
        """How its handling ended."""
        handled = self.before.handled
        if handled is not None:
            text = f"its handling ended: {handled.outcome or 'no outcome'}"
            yield Clue.span(handled.span, text)

    def stood(self, end: End | None = None) -> Iterator[Clue]:
        """Crash points that it reached, but for the one that `end` tells of already."""
        for stood in self.before.of(What.STOOD):
            if end is None or end.crash is None or stood.span.span_id != end.crash.span_id:
                yield Clue.span(stood.span, f"{self.name} reached {stood.point}")

    def came(self, when: str) -> Iterator[Clue]:
        """That the redelivery came, and when."""
        if self.again is not None:
            first = min(self.again.sightings, key=lambda s: s.span.end)
            text = f"{self.again.who} got delivery {self.again.attempt} {when}"
            yield Clue.span(first.span, text)


def ack_clue(ack: Sighting) -> Clue:
    """What the broker said to an ack."""
    return Clue.span(ack.span, f"ack: {ack.result or 'no answer recorded'}")


def zombie(case: Case, handled: Sighting, clues: Sequence[Clue]) -> Finding:
    """It came again while its consumer still worked on it."""
    seconds = handled.span.end - case.before.known_at
    return Finding(
        Reason.VISIBILITY_EXPIRED,
        f"{case.who} still worked on {case.name} when it came again; the work took {seconds:.1f} s",
        [*clues, *case.came("before that")],
    )


def ack_lost(case: Case, how: str, clues: Sequence[Clue]) -> Finding:
    """The work of a delivery was done, and its ack had no effect. Rows must not contradict that."""
    found = f"{case.who} found the event of {case.name} in the inbox, and {how}"
    if case.before.outcome == "duplicate":
        return Finding(Reason.ACK_LOST, found, clues)
    commit = case.commit()
    known = {clue.ref for clue in clues}
    clues = [*clues, *(clue for clue in commit.clues if clue.ref not in known)]
    if commit.done is False and not case.before.outcome and case.event.inbox:
        return Finding(Reason.ACK_LOST, found, clues)
    if not commit.done:
        missing = commit.missing or f"the row of charges that {case.name} committed"
        return unknown(f"{case.name} was done by {case.who}, and {how}", missing, clues=clues)
    return Finding(Reason.ACK_LOST, f"{case.who} committed {case.name}, and {how}", clues)


__all__ = ["Case", "ack_clue", "ack_lost", "zombie"]
