"""Geometry of the charts: numbers only, so that the template draws them and escapes every text.

Nothing is told by colour alone: each state of an order has a shape of its own, and captures and
redeliveries have a panel each.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from onceproof_chaos.evidence import Evidence
from onceproof_chaos.faultlog import FaultEvent, FaultEventKind
from onceproof_chaos.history import History, Outcome
from onceproof_chaos.plan import order_id
from onceproof_chaos.verdict import BreachKind, Verdict

CELL: Final = 14
_FEW_ORDERS, _FEW_COLUMNS, _MANY_COLUMNS = 250, 25, 50
TIMELINE_WIDTH: Final = 960
_LEFT, _RIGHT = 48.0, 8.0
_LANES: Final = {"kill": 22.0, "stall": 38.0, "drop": 54.0}
_LANE_HEIGHT: Final = 11.0
_CAPTURES_TOP, _CAPTURES_HEIGHT = 96.0, 120.0
_REDELIVERIES_TOP, _REDELIVERIES_HEIGHT = 246.0, 60.0
_BINS: Final = 60
_NICE_S: Final = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600)
_ENDS: Final = {
    FaultEventKind.RESTARTED,
    FaultEventKind.RESUMED,
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One order in the strip; `state` names its symbol."""

    x: int
    y: int
    state: str
    title: str


@dataclass(frozen=True, slots=True)
class Strip:
    """One cell for each order, in the sequence of the workload."""

    cells: Sequence[Cell]
    width: int
    height: int
    states: Sequence[str]


@dataclass(frozen=True, slots=True)
class Bucket:
    """Orders by number of captures; `share` is 0..1 of all orders."""

    label: str
    count: int
    share: float
    bad: bool


@dataclass(frozen=True, slots=True)
class Bar:
    """A column of a panel, the mark of a fault in its lane, or a shade behind the panels."""

    x: float
    y: float
    width: float
    height: float
    title: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Timeline:
    """A lane for each action, and captures and redeliveries below, over one time axis.

    `shades` lie behind the panels while any process was down or stood still.
    """

    captures: Sequence[Bar]
    redeliveries: Sequence[Bar]
    faults: Sequence[Bar]
    shades: Sequence[Bar]
    ticks: Sequence[tuple[float, str]]
    most_captures: int
    most_redeliveries: int
    bin_s: float


def strip(seed: int, history: History, evidence: Evidence, verdict: Verdict) -> Strip:
    """The state of every order that was asked for or charged."""
    breaches: dict[str, list[BreachKind]] = {}
    for breach in verdict.breaches:
        breaches.setdefault(breach.order_id, []).append(breach.kind)
    captured = Counter(row.order_id for row in evidence.captures)
    known = set(history.finished) | set(history.asked)
    planned = [order_id(seed, index) for index in range(verdict.orders)]
    # The workload's sequence first; what nobody asked for stands at the end.
    orders = [*(o for o in planned if o in known), *sorted(known - set(planned))]
    orders += sorted(set(captured) - known)
    columns = _FEW_COLUMNS if len(orders) <= _FEW_ORDERS else _MANY_COLUMNS
    cells = []
    for index, order in enumerate(orders):
        entry = history.finished.get(order)
        count = captured[order]
        outcome = entry.outcome if entry else None
        state = _state(breaches.get(order, []), count, outcome)
        told = {Outcome.OK: "accepted", Outcome.FAIL: "refused"}.get(
            outcome or Outcome.INFO, "outcome unknown to the client"
        )
        title = f"{order}: {told}, captures: {count}"
        if breaches.get(order):
            title += f" ({', '.join(k.value.replace('_', ' ') for k in breaches[order])})"
        cells.append(Cell(index % columns * CELL, index // columns * CELL, state, title))
    rows = math.ceil(len(orders) / columns) or 1
    return Strip(
        cells, columns * CELL, rows * CELL, sorted({cell.state for cell in cells}, key=STATES.index)
    )


STATES: Final = ("once", "none", "lost", "double", "triple", "unexpected", "mismatched")


def _state(breaches: Sequence[BreachKind], captures: int, outcome: Outcome | None) -> str:
    if BreachKind.DOUBLE_CHARGED in breaches:
        return "double" if captures == 2 else "triple"
    for kind in (BreachKind.LOST, BreachKind.UNEXPECTED, BreachKind.MISMATCHED):
        if kind in breaches:
            return kind.value
    return "once" if captures and outcome is not Outcome.FAIL else "none"


def buckets(history: History, evidence: Evidence) -> list[Bucket]:
    """How many orders were captured 0, 1, 2 and more times."""
    captured = Counter(row.order_id for row in evidence.captures)
    orders = set(history.finished) | set(captured)
    counts = Counter(min(captured[order], 3) for order in orders)
    total = len(orders) or 1
    lost = any(
        entry.outcome is Outcome.OK and not captured[order]
        for order, entry in history.finished.items()
    )
    return [
        Bucket(label, counts[n], counts[n] / total, bad=n > 1 or (n == 0 and lost))
        for n, label in enumerate(("0 times", "once", "twice", "3 or more"))
    ]


def timeline(
    start: float,
    end: float,
    captured_at: Iterable[float],
    redelivered_at: Iterable[float],
    faults: Sequence[FaultEvent],
) -> Timeline:
    """Bins over the run; times are Unix seconds."""
    captured, redelivered = list(captured_at), list(redelivered_at)
    end = max([end, start + 1, *captured, *redelivered])
    bin_s = next((s for s in _NICE_S if (end - start) / s <= _BINS), (end - start) / _BINS)
    count = math.ceil((end - start) / bin_s)
    per_second = (TIMELINE_WIDTH - _LEFT - _RIGHT) / (count * bin_s)

    def x(at: float) -> float:
        return round(_LEFT + min(max(at - start, 0.0), count * bin_s) * per_second, 1)

    def panel(times: list[float], top: float, height: float, what: str) -> tuple[list[Bar], int]:
        counts = Counter(min(max(int((at - start) / bin_s), 0), count - 1) for at in times)
        most = max(counts.values(), default=0)
        bars = []
        for index, number in sorted(counts.items()):
            tall = round(number / most * height, 1)
            since = index * bin_s
            title = f"{number} {what} from {since:g} s to {since + bin_s:g} s"
            wide = round(max(bin_s * per_second - 1.5, 1), 1)
            bars.append(Bar(x(start + since), round(top + height - tall, 1), wide, tall, title))
        return bars, most

    above, most_above = panel(captured, _CAPTURES_TOP, _CAPTURES_HEIGHT, "captures")
    below, most_below = panel(redelivered, _REDELIVERIES_TOP, _REDELIVERIES_HEIGHT, "redeliveries")
    step = next((s for s in _NICE_S if (end - start) / s <= 8), bin_s * 8)
    marks = [index * step for index in range(int((end - start) / step) + 1)]
    spells = _spells(start, end, faults)
    bottom = _REDELIVERIES_TOP + _REDELIVERIES_HEIGHT
    return Timeline(
        captures=above,
        redeliveries=below,
        faults=[
            Bar(x(a), _LANES[kind], max(round(x(b) - x(a), 1), 3.0), _LANE_HEIGHT, title, kind)
            for a, b, title, kind in spells
        ],
        shades=[
            Bar(x(a), _CAPTURES_TOP, round(x(b) - x(a), 1), bottom - _CAPTURES_TOP, "")
            for a, b in _union([(a, b) for a, b, _, _ in spells if b > a])
        ],
        ticks=[(x(start + at), f"{at:g} s") for at in marks],
        most_captures=most_above,
        most_redeliveries=most_below,
        bin_s=bin_s,
    )


def _spells(
    start: float, end: float, faults: Sequence[FaultEvent]
) -> list[tuple[float, float, str, str]]:
    """From reached to restarted or resumed; a drop is over at once."""
    over: dict[str | None, float] = {}
    for event in faults:
        if event.event in _ENDS:
            over.setdefault(event.fault, event.at)
    shades = []
    for event in faults:
        if event.event is FaultEventKind.REACHED:
            kind = event.action or "kill"
            until = event.at if kind == "drop" else over.get(event.fault, end)
            title = f"{kind} at {event.point}, {event.at - start:.1f} s, order {event.order}"
            shades.append((event.at, until, title, kind))
    return shades


def _union(intervals: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for since, until in sorted(intervals):
        if merged and since <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(until, merged[-1][1]))
        else:
            merged.append((since, until))
    return merged
