"""What really made each message come again, by the plan and the log of who carried it out.

Explanations are checked against this, so it shares nothing with them but the names of the reasons: no
rule, no index, no model of a delivery. It begins at the other end, at the fault that fired, and follows
it to the messages that the stricken process held. That is possible only because faults were injected.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from onceproof.crashpoints import (
    CONSUMER_AFTER_COMMIT,
    PROVIDER_AFTER_CAPTURE,
    RELAY_AFTER_PUBLISH,
    Action,
)
from onceproof.telemetry import DELIVERY_ATTEMPT, MESSAGE_ID
from onceproof_chaos.evidence import Evidence
from onceproof_chaos.explain.held import Deliveries, Held, Key
from onceproof_chaos.explain.reasons import Reason
from onceproof_chaos.faultlog import FaultEvent, FaultEventKind
from onceproof_chaos.plan import Plan
from onceproof_chaos.spans import Span

_DONE: Final = frozenset({"processed", "duplicate", "ack_lost"})
_BACK: Final = frozenset({"retried", "rejected"})
_UNREAD_S: Final = 5.0
"""Seconds around a kill in which a broker may have answered a request of the dead process."""
_EITHER: Final = frozenset({Reason.ACK_LOST, Reason.CRASHED_BEFORE_COMMIT})


@dataclass(frozen=True, slots=True)
class Injected:
    """A redelivery that a fault caused.

    Args:
        key: message and attempt.
        expected: the reasons that are right: one, or two where nothing can tell them apart.
        fault: id of the fault.
        cause: action and crash point, for a table's rows.
        beside: whether it was not the fault's own order, but one that the stricken process held too.
    """

    key: Key
    expected: frozenset[Reason]
    fault: str
    cause: str
    beside: bool


class Truth:
    """Injected redeliveries of one run, by message and attempt.

    Args:
        plan: the faults that were meant.
        faults: what fired, was killed and went on.
        spans: of the run.
        rows: of the databases.
    """

    def __init__(
        self, plan: Plan, faults: Sequence[FaultEvent], spans: Sequence[Span], rows: Evidence
    ) -> None:
        planned = {fault.id for fault in plan.faults}
        self._faults = faults
        self._deliveries = Deliveries(spans)
        self._committed = frozenset((row.event_id, row.delivery_attempt) for row in rows.charges)
        self._events_of: dict[str, set[str]] = defaultdict(set)
        for row in rows.orders:
            self._events_of[row.order_id].add(row.event_id or "")
        self.injected: dict[Key, Injected] = {}
        for line in sorted(faults, key=lambda line: line.at):
            if line.event is FaultEventKind.REACHED and line.fault in planned:
                for injected in self._caused_by(line):
                    # A message can be struck once: who came first let it lapse.
                    self.injected.setdefault(injected.key, injected)

    def came_again(self, key: Key) -> bool:
        """Whether there was such a delivery at all."""
        return self._deliveries.highest.get(key[0], 0) >= key[1]

    def _caused_by(self, line: FaultEvent) -> Iterator[Injected]:
        crash = self._deliveries.crashes.get((line.trace_id or "", line.span_id or ""))
        if crash is None:
            return
        if line.action == Action.KILL and line.service == "consumer":
            killed = self._line(FaultEventKind.KILLED, line)
            if killed is not None:
                yield from self._in_dead_hands(line, crash)
                yield from self._unread(line, crash, killed)
        elif line.action == Action.STALL:
            yield from self._in_still_hands(line, crash)
        elif line.point == RELAY_AFTER_PUBLISH and line.service == "relay":
            yield from self._sent_twice(line, crash)
        elif line.point == PROVIDER_AFTER_CAPTURE:
            yield from self._timed_out(line)
        elif line.action == Action.DROP and line.service == "consumer":
            after = line.point == CONSUMER_AFTER_COMMIT
            reason = Reason.ACK_LOST if after else Reason.HANDLER_FAILED
            yield _next(_own(crash), {reason}, line, beside=False)

    def _in_dead_hands(self, line: FaultEvent, crash: Span) -> Iterator[Injected]:
        """What a killed process held. Its own order is judged by the plan alone."""
        own = _own(crash)
        for key, held in self._deliveries.in_hand(crash, crash.end):
            if held.outcome in _BACK or held.gone or self._had_come_again(key, crash):
                continue
            if key == own:
                done: bool | None = line.point == CONSUMER_AFTER_COMMIT
            else:
                rows = self._deliveries.committed(key, self._committed)
                done = held.outcome in _DONE or rows
            reasons = {Reason.ACK_LOST if done else Reason.CRASHED_BEFORE_COMMIT}
            yield _next(key, _EITHER if done is None else reasons, line, beside=key != own)

    def _unread(self, line: FaultEvent, crash: Span, killed: FaultEvent) -> Iterator[Injected]:
        """Deliveries in an answer that a killed process never read."""
        until = killed.at + _UNREAD_S
        for message, attempt in self._deliveries.unseen():
            first = self._deliveries.first.get(message)
            if attempt == 1 and first is not None:
                fits = crash.start - _UNREAD_S <= first <= until
            else:
                fits = all(
                    held.got_at <= until
                    for (m, n), held in self._deliveries.held.items()
                    if m == message and n < attempt
                )
            if fits:
                reasons = {Reason.CRASHED_BEFORE_COMMIT}
                yield _next((message, attempt), reasons, line, beside=True)

    def _in_still_hands(self, line: FaultEvent, crash: Span) -> Iterator[Injected]:
        """What a stalled process held, or was given while it stood."""
        resumed = self._line(FaultEventKind.RESUMED, line)
        own = _own(crash)
        for key, held in self._deliveries.in_hand(crash, resumed.at if resumed else crash.end):
            over = held.done_at <= crash.end
            if (over and held.outcome in _BACK) or self._had_come_again(key, crash):
                continue
            done = over and held.outcome in _DONE
            reason = Reason.ACK_LOST if done else Reason.VISIBILITY_EXPIRED
            yield _next(key, {reason}, line, beside=key != own)

    def _had_come_again(self, key: Key, crash: Span) -> bool:
        """Whether somebody had the next delivery already, so that the fault came too late to cause it.

        On a machine that is too busy to extend a visibility in time.
        """
        again = self._deliveries.held.get((key[0], key[1] + 1))
        return again is not None and again.got_at <= crash.end

    def _sent_twice(self, line: FaultEvent, crash: Span) -> Iterator[Injected]:
        """Messages of a send that its relay never marked: all of the batch when it was killed."""
        sends = self._deliveries.sends
        mine = [s for span, s in sends if span.instance == crash.instance and span.end <= crash.end]
        for event, message in mine[-1] if mine else []:
            own = event == line.event_id
            if not own and line.action != Action.KILL:
                continue
            every = [m for _, sent in sends for e, m in sent if e == event]
            later = every[every.index(message) + 1 :]
            delivered = [m for m in every if self._deliveries.highest.get(m)]
            if later and later[0] in delivered and delivered[0] != later[0]:
                # The message itself is the repetition, so its first delivery is.
                key = (later[0], 0)
                yield _next(key, {Reason.RELAY_SENT_TWICE}, line, beside=not own)

    def _timed_out(self, line: FaultEvent) -> Iterator[Injected]:
        """The delivery that waited for the provider's answer in vain."""
        events = self._events_of[line.order or ""]
        for key, held in self._deliveries.held.items():
            waited = held.got_at <= line.at <= held.done_at and held.outcome in _BACK
            if held.event in events and waited and not self._stood_still(held):
                yield _next(key, {Reason.HANDLER_FAILED}, line, beside=False)

    def _stood_still(self, held: Held) -> bool:
        """Whether the process stood still while it had a delivery."""
        return any(
            (crash := self._deliveries.crashes.get((line.trace_id or "", line.span_id or "")))
            is not None
            and crash.instance == held.instance
            and held.got_at <= line.at <= held.done_at
            for line in self._faults
            if line.event is FaultEventKind.REACHED and line.action == Action.STALL
        )

    def _line(self, kind: FaultEventKind, reached: FaultEvent) -> FaultEvent | None:
        """Another line about the same fault in the same process."""
        lines = (line for line in self._faults if line.event is kind)
        same = (e for e in lines if (e.fault, e.span_id) == (reached.fault, reached.span_id))
        return next(same, None)


def _own(crash: Span) -> Key:
    """The delivery that reached a crash point."""
    attributes = crash.attributes
    return str(attributes.get(MESSAGE_ID, "")), int(attributes.get(DELIVERY_ATTEMPT, 1))


def _next(
    key: Key, reasons: set[Reason] | frozenset[Reason], line: FaultEvent, *, beside: bool
) -> Injected:
    cause = f"{line.action} {line.point}"
    return Injected((key[0], key[1] + 1), frozenset(reasons), line.fault or "", cause, beside)


__all__ = ["Injected", "Truth"]
