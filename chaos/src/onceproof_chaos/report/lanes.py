"""Geometry of one order's timeline: a lane for each delivery, on an axis that keeps every moment apart.

A delivery works for milliseconds and then waits for seconds. On a true scale its start, its commit and
its ack are one dot, so the axis is stretched where much happens and says so; only the order is exact.
Positions are percentages, so that text keeps its size on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from onceproof_chaos.explain.commits import commit_of, over_at
from onceproof_chaos.explain.deliveries import CONFIRMED, Delivery, What
from onceproof_chaos.explain.events import EventStory, OrderStory
from onceproof_chaos.explain.processes import Processes, Stall
from onceproof_chaos.explain.reasons import short

LANE: Final = 38
"""Pixels from one lane to the next."""
_TOP: Final = 44
_LEFT, _RIGHT = 2.0, 97.0
_APART_S: Final = 0.002
_UNIT_S: Final = 0.02
_TICK_APART: Final = 19.0
"""Percent of the width: a label at 360 pixels."""
_LAST_TICK: Final = 84.0
_MARK_PX: Final = 15
_LONG: Final = 18
_NEVER: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Mark:
    """A symbol in a lane; `x` in percent."""

    x: float
    kind: str
    title: str


@dataclass(frozen=True, slots=True)
class Lane:
    """One line of a timeline.

    Args:
        y: pixels from the top to its bar.
        label: what it is, in words.
        since: start of the bar in percent.
        until: its end.
        work: start and end of the handling in percent; None where none is known.
        marks: symbols, from left to right.
        seen: whether anybody reported it.
    """

    y: int
    label: str
    since: float
    until: float
    work: tuple[float, float] | None
    marks: Sequence[Mark]
    seen: bool = True


@dataclass(frozen=True, slots=True)
class Link:
    """From a send to the delivery it made, or from a delivery to the one that repeats it."""

    x1: float
    y1: int
    x2: float
    y2: int


@dataclass(frozen=True, slots=True)
class Lanes:
    """One order's timeline; `ticks` are positions and seconds since its first moment."""

    lanes: Sequence[Lane]
    links: Sequence[Link]
    ticks: Sequence[tuple[float, str]]
    height: int
    min_width: int


class _Axis:
    """Seconds to percent: the longer a gap, the wider, but far less than proportionally."""

    def __init__(self, moments: Sequence[float]) -> None:
        self.points = _distinct(moments)
        widths = [
            1 + math.log2(1 + (later - earlier) / _UNIT_S)
            for earlier, later in zip(self.points, self.points[1:], strict=False)
        ]
        total = sum(widths) or 1.0
        self._x = [_LEFT]
        for width in widths:
            self._x.append(self._x[-1] + width / total * (_RIGHT - _LEFT))

    def __call__(self, at: float) -> float:
        if at >= self.points[-1]:
            return round(self._x[-1] if at < _NEVER else 100.0, 1)
        nearest = min(range(len(self.points)), key=lambda i: abs(self.points[i] - at))
        return round(self._x[nearest], 1)

    def ticks(self) -> list[tuple[float, str]]:
        """Labels, as many as fit."""
        found: list[tuple[float, str]] = []
        for at, x in zip(self.points, self._x, strict=True):
            if not found or (x - found[-1][0] >= _TICK_APART and x <= _LAST_TICK):
                found.append((round(x, 1), f"{at - self.points[0]:.2f} s"))
        return found


def lanes_of(story: OrderStory, processes: Processes) -> Lanes:
    """The timeline of one order.

    Args:
        story: of the order; with at least one delivery.
        processes: what became of them.
    """
    axis = _Axis(list(_moments(story, processes)))
    builder = _Builder(story, processes, axis)
    lanes = builder.lanes()
    return Lanes(
        lanes=lanes,
        links=builder.links,
        ticks=axis.ticks(),
        height=lanes[-1].y + 16,
        min_width=_MARK_PX * len(axis.points),
    )


class _Builder:
    def __init__(self, story: OrderStory, processes: Processes, axis: _Axis) -> None:
        self._story = story
        self._processes = processes
        self._x = axis
        self._several = sum(len(event.messages) for event in story.events) > 1
        self.links: list[Link] = []

    def lanes(self) -> list[Lane]:
        """All lanes from the top: sends, deliveries in the order in which they came, money."""
        story, lanes = self._story, []
        sends = [send for event in story.events for send in event.sends]
        sent_at: dict[str, tuple[float, int]] = {}
        if sends:
            marks = []
            for send in sends:
                name = short(send.message_id) if send.message_id else "no answer"
                mark = Mark(self._x(send.span.end), "send", f"sent: {name}")
                marks.append(mark)
                sent_at.setdefault(send.message_id or "", (mark.x, _TOP))
            who = dict.fromkeys(send.sender or "sender" for send in sends)
            label = f"sent by the {' and the '.join(who)}"
            lanes.append(Lane(_TOP, label, marks[0].x, marks[-1].x, None, marks))
        before: dict[str, tuple[float, int]] = dict(sent_at)
        for event, message, attempt in self._order():
            y = _TOP + LANE * len(lanes)
            lane = self._delivery(event, message, attempt, y)
            if message in before:
                x1, y1 = before[message]
                self.links.append(Link(x1, y1, lane.since, y))
            before[message] = (lane.until, y)
            lanes.append(lane)
        if story.captures:
            y = _TOP + LANE * len(lanes)
            marks = [
                Mark(self._x(row.created_at), "money", f"captured, {_key(row.idempotency_key)}")
                for row in story.captures
            ]
            label = f"captured by the provider: {len(marks)}"
            lanes.append(Lane(y, label, marks[0].x, marks[-1].x, None, marks))
        return lanes

    def _order(self) -> list[tuple[EventStory, str, int]]:
        """Every delivery, also unseen ones, by the time at which it is first heard of."""
        found = []
        for event in self._story.events:
            for message in event.messages:
                known = _NEVER
                for attempt in range(event.attempts(message), 0, -1):
                    delivery = event.delivery(message, attempt)
                    known = delivery.known_at if delivery else known
                    found.append((known, attempt, event, message))
        found.sort(key=lambda item: (item[0], item[1]))
        return [(event, message, attempt) for _, attempt, event, message in found]

    def _delivery(self, event: EventStory, message: str, attempt: int, y: int) -> Lane:
        of = f" of {short(message)}" if self._several else ""
        delivery = event.delivery(message, attempt)
        if delivery is None:
            first = event.first_received_at(message) if attempt == 1 else None
            later = min(d.known_at for (m, n), d in event.deliveries.items()
                        if m == message and n > attempt)  # fmt: skip
            x = self._x(later if first is None else first)
            return Lane(
                y, f"delivery {attempt}{of}: nobody reported it", x, x, None, [], seen=False
            )
        handled = delivery.handled
        over = over_at(delivery, self._processes)
        work = None
        if handled is not None:
            work = (self._x(handled.span.start), self._x(handled.span.end))
        marks = sorted(self._marks(event, delivery), key=lambda mark: mark.x)
        until = max([self._x(over), *(mark.x for mark in marks)])
        outcome = handled.outcome if handled else ""
        label = f"delivery {attempt}{of} · {_brief(delivery.instance)}"
        label += f" · {outcome}" if outcome else ""
        return Lane(y, label, self._x(delivery.known_at), until, work, marks)

    def _marks(self, event: EventStory, delivery: Delivery) -> Iterator[Mark]:
        for stood in delivery.of(What.STOOD):
            yield Mark(self._x(stood.span.end), "crash", f"reached {stood.point}")
        for lapsed in delivery.of(What.LAPSED):
            yield Mark(self._x(lapsed.span.end), "lapsed", "visibility expired, let go")
        for released in delivery.of(What.RELEASED):
            yield Mark(self._x(released.span.end), "back", "given back")
        for ack in delivery.of(What.ACKED):
            kind = "ack" if ack.result == CONFIRMED else "nack"
            yield Mark(self._x(ack.span.end), kind, f"ack {ack.result or 'sent'}")
        commit = commit_of(event, delivery, self._processes, has_database=True)
        for row in event.charges:
            if commit.done and row.delivery_attempt == delivery.attempt:
                yield Mark(self._x(row.created_at), "commit", "committed")
        end = self._processes.end_of(delivery.instance, delivery.known_at)
        if end is not None and end.stood_at <= over_at(delivery, self._processes):
            yield Mark(self._x(end.ended_at), "kill", end.told(delivery.event_id))
        for stall in self._processes.stalls_of(delivery.instance):
            if stall.until is not None and _held(delivery, stall):
                text = f"stood still for {stall.seconds:.1f} s, and went on"
                yield Mark(self._x(stall.until), "stall", text)


def _moments(story: OrderStory, processes: Processes) -> Iterator[float]:
    """Every time that is drawn."""
    yield from (row.created_at for row in story.captures)
    for event in story.events:
        yield from (send.span.end for send in event.sends)
        yield from (row.created_at for row in event.charges)
        for delivery in event.deliveries.values():
            yield delivery.known_at
            for sighting in delivery.sightings:
                if sighting.what is What.HANDLED:
                    yield sighting.span.start
                if sighting.what is not What.HELD:
                    yield sighting.span.end
            end = processes.end_of(delivery.instance, delivery.known_at)
            if end is not None and end.stood_at <= over_at(delivery, processes):
                yield end.ended_at
            for stall in processes.stalls_of(delivery.instance):
                if stall.until is not None and _held(delivery, stall):
                    yield stall.until


def _held(delivery: Delivery, stall: Stall) -> bool:
    return stall.crash is not None and delivery.state_at(stall.crash) is not None


def _distinct(moments: Sequence[float]) -> list[float]:
    """Ascending, without those that are too close to tell apart."""
    points: list[float] = []
    for at in sorted(moments):
        if not points or at - points[-1] > _APART_S:
            points.append(at)
    return points


def _brief(instance: str) -> str:
    return instance if len(instance) <= _LONG else f"...{instance[-_LONG + 3 :]}"


def _key(key: str | None) -> str:
    return f"key {short(key)}" if key else "no Idempotency-Key"


__all__ = ["LANE", "Lane", "Lanes", "Link", "Mark", "lanes_of"]
