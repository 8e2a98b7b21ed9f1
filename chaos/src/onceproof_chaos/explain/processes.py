"""When processes ended or stood still, by the fault log and by spans.

A process that was killed cannot say so. What says it is whoever killed it: a line of the fault log, or
the operator's span. A reached crash point alone is no proof of death, since a park ends by itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from onceproof.telemetry import (
    CRASH_ACTION,
    CRASH_POINT,
    CRASH_POINT_SPAN,
    EVENT_ID,
    RECEIVE_COUNT,
    RECEIVE_OPEN_SINCE,
)
from onceproof_chaos.explain.reasons import Clue
from onceproof_chaos.explain.receives import lost_receives
from onceproof_chaos.faultlog import FaultEvent, FaultEventKind
from onceproof_chaos.spans import Span
from onceproof_chaos.story import KILL_SPAN

_POD: Final = "k8s.pod.name"
_STALL: Final = "stall"
_CONSUMER: Final = "consumer"
_SOON_S: Final = 0.25
_POD_LIVES_ON_S: Final = 5.0
"""A pod's process outlives its object by some two seconds."""
_ENDS: Final = frozenset({FaultEventKind.KILLED, FaultEventKind.DIED_UNEXPECTEDLY})


@dataclass(frozen=True, slots=True)
class End:
    """A process that is known to have ended. Times are Unix seconds.

    Args:
        instance: the process, as its spans name it.
        stood_at: from when on it did nothing any more: it stood at a crash point, or died.
        ended_at: when it was known to be dead.
        how: e.g. "killed at consumer.after_commit".
        clues: the evidence.
        receive_open_since: when its last receive request began, if that had no answer yet at `stood_at`.
        crash: the span of the crash point at which it stood.
        planned: whether it was killed at a crash point.
        lingers_s: seconds for which a broker may have written to its connection after `ended_at`.
    """

    instance: str
    stood_at: float
    ended_at: float
    how: str
    clues: Sequence[Clue]
    receive_open_since: float | None = None
    crash: Span | None = None
    planned: bool = False
    lingers_s: float = _SOON_S

    @property
    def declared(self) -> bool:
        """Whether it said at its crash point what it had in hand."""
        return self.crash is not None and RECEIVE_COUNT in self.crash.attributes

    def told(self, event_id: str) -> str:
        """How it ended, for the story of one event: at a crash point of its own, or of another order."""
        order = self.crash.order_id if self.crash else None
        if self.crash is None or self.crash.attributes.get(EVENT_ID) == event_id or not order:
            return self.how
        return f"{self.how} of order {order}"


@dataclass(frozen=True, slots=True)
class Stall:
    """A process that stood still and went on.

    `until` is None where nothing shows that it went on, `crash` where its span is lost.
    """

    instance: str
    since: float
    until: float | None
    clues: Sequence[Clue]
    crash: Span | None

    @property
    def seconds(self) -> float:
        """How long it is known to have stood still."""
        return max(self.until - self.since, 0.0) if self.until is not None else 0.0


@dataclass(frozen=True, slots=True)
class Processes:
    """Ends and stalls by process, oldest first."""

    ends: Mapping[str, Sequence[End]]
    stalls: Mapping[str, Sequence[Stall]]
    lost: Mapping[str, Sequence[tuple[float, float]]]
    """By process, times in which it received messages and the span of that is missing."""

    @classmethod
    def of(cls, spans: Sequence[Span], faults: Sequence[FaultEvent], *, whole: bool) -> Self:
        """From everything that is known of a run, not of one order only.

        Args:
            spans: of every process.
            faults: the fault log.
            whole: whether the spans begin with the processes.
        """
        crashes = {
            (span.trace_id, span.span_id): span for span in spans if span.name == CRASH_POINT_SPAN
        }
        known = {(span.service, span.instance) for span in spans if span.instance}
        ends: dict[str, dict[float, End]] = defaultdict(dict)
        for end in (*_logged(faults, crashes, known), *_traced(spans, crashes, known)):
            # The same end may be in the log and in a span: the log comes first, and is kept.
            ends[end.instance].setdefault(end.stood_at, end)
        by_process = {name: [found[at] for at in sorted(found)] for name, found in ends.items()}
        return cls(
            by_process,
            _stalls(spans, faults, crashes, known),
            lost_receives(spans, by_process, whole=whole) | _mute(faults, known),
        )

    def end_of(self, instance: str, since: float) -> End | None:
        """How a process ended that lived at `since`."""
        return next((end for end in self.ends.get(instance, ()) if end.stood_at >= since), None)

    def stalls_of(self, instance: str) -> Sequence[Stall]:
        """When a process stood still."""
        return self.stalls.get(instance, ())

    def lost_receives(self, since: float, until: float) -> list[str]:
        """Processes whose receive spans of some time in a window are known to be missing."""
        return [
            name
            for name, gaps in sorted(self.lost.items())
            if any(start <= until and end >= since for start, end in gaps)
        ]

    def all_ends(self) -> list[End]:
        """Every end, oldest first."""
        return sorted((e for ends in self.ends.values() for e in ends), key=lambda e: e.stood_at)


def _logged(
    faults: Sequence[FaultEvent],
    crashes: Mapping[tuple[str, str], Span],
    known: Iterable[tuple[str, str]],
) -> Iterable[End]:
    """Ends in the fault log."""
    reached = {e.span_id: e.at for e in faults if e.event is FaultEventKind.REACHED and e.span_id}
    for line, event in enumerate(faults, start=1):
        if event.event not in _ENDS:
            continue
        crash = crashes.get((event.trace_id or "", event.span_id or ""))
        names = [crash.instance] if crash else _instances(event, known)
        if len(names) != 1:
            continue  # nobody left a span by which to tell which process it was
        killed = event.event is FaultEventKind.KILLED
        how = f"killed at {event.point}" if killed and event.point else "ended by itself"
        stood_at = crash.end if crash else reached.get(event.span_id or "", event.at)
        name = f"{event.instance} (pid {event.pid})" if event.pid else str(event.instance)
        record = Clue.fault(line, f"{name} {how}", event.at)
        end = _end(names[0], stood_at, event.at, how, record, crash)
        yield replace(
            end,
            planned=killed and event.point is not None,
            lingers_s=_POD_LIVES_ON_S if event.uid else _SOON_S,
        )


def _mute(
    faults: Sequence[FaultEvent], known: Iterable[tuple[str, str]]
) -> dict[str, list[tuple[float, float]]]:
    """Consumers that the log names and no span is of: whatever they received, nobody was told."""
    lives: dict[str, tuple[float, float]] = {}
    emptied: dict[str, float] = {}
    for event in faults:
        if event.service != _CONSUMER or not event.instance:
            continue
        over = event.event in _ENDS
        if not _instances(event, known):
            name = f"{event.instance} (pid {event.pid})" if event.pid else event.instance
            # It lived since its predecessor's end at the earliest: it is logged when it is ready.
            since = emptied.get(event.instance, float("-inf"))
            since, until = lives.get(name, (since, float("inf")))
            lives[name] = (since, event.at if over else until)
        if over:
            emptied[event.instance] = event.at
    return {name: [life] for name, life in lives.items()}


def _traced(
    spans: Sequence[Span],
    crashes: Mapping[tuple[str, str], Span],
    known: Iterable[tuple[str, str]],
) -> Iterable[End]:
    """Ends that the operator's spans tell of."""
    for span in spans:
        if span.name != KILL_SPAN:
            continue
        pod = str(span.attributes.get(_POD, ""))
        crash = crashes.get((span.trace_id, span.parent_span_id or ""))
        names = [crash.instance] if crash else [i for _, i in known if _is_in_pod(i, pod)]
        if len(set(names)) == 1:
            how = f"killed at {span.attributes.get(CRASH_POINT, 'a crash point')}"
            record = Clue.span(span, f"pod {pod} {how}")
            stood_at = crash.end if crash else span.start
            yield replace(_end(names[0], stood_at, span.end, how, record, crash), planned=True)


def _end(
    instance: str, stood_at: float, ended_at: float, how: str, record: Clue, crash: Span | None
) -> End:
    clues = [record]
    since = None
    if crash is not None:
        point = crash.attributes.get(CRASH_POINT)
        clues.insert(0, Clue.span(crash, f"{instance} stood at {point}"))
        value = crash.attributes.get(RECEIVE_OPEN_SINCE)
        since = float(value) if value is not None else None
    return End(instance, stood_at, ended_at, how, clues, since, crash)


def _instances(event: FaultEvent, known: Iterable[tuple[str, str]]) -> list[str]:
    """Processes that a line of the fault log may mean: by pid on one machine, by name of the pod."""
    return [
        instance
        for service, instance in known
        if (event.pid and service == event.service and instance.endswith(f"-{event.pid}"))
        or (not event.pid and event.instance and _is_in_pod(instance, event.instance))
    ]


def _is_in_pod(instance: str, pod: str) -> bool:
    """A process is called by its host and pid, and a pod's host by its name."""
    return bool(pod) and (instance == pod or instance.rpartition("-")[0] == pod)


def _stalls(
    spans: Sequence[Span],
    faults: Sequence[FaultEvent],
    crashes: Mapping[tuple[str, str], Span],
    known: Iterable[tuple[str, str]],
) -> dict[str, list[Stall]]:
    resumed = {
        event.span_id: (line, event)
        for line, event in enumerate(faults, start=1)
        if event.event is FaultEventKind.RESUMED
    }
    found: dict[str, list[Stall]] = defaultdict(list)
    for crash in sorted(crashes.values(), key=lambda span: span.end):
        if crash.attributes.get(CRASH_ACTION) != _STALL:
            continue
        clues = [Clue.span(crash, f"{crash.instance} stood still here")]
        until: float | None = None
        if crash.span_id in resumed:
            line, event = resumed[crash.span_id]
            until = event.at
            clues.append(Clue.fault(line, f"{event.instance} went on", event.at))
        elif (sign := _sign_of_life(spans, crash)) is not None:
            until = sign.start
            clues.append(Clue.span(sign, f"{crash.instance} works again"))
        found[crash.instance].append(Stall(crash.instance, crash.end, until, clues, crash))
    for line, event in enumerate(faults, start=1):
        lost = (event.trace_id or "", event.span_id or "") not in crashes
        if event.event is FaultEventKind.REACHED and event.action == _STALL and lost:
            over = resumed.get(event.span_id)
            clues = [Clue.fault(line, f"{event.instance} stood still here", event.at)]
            for name in _instances(event, known):
                until = over[1].at if over else None
                found[name].append(Stall(name, event.at, until, clues, None))
    return found


def _sign_of_life(spans: Sequence[Span], crash: Span) -> Span | None:
    """The first thing that a process began after it had stood still."""
    later = [span for span in spans if span.instance == crash.instance and span.start > crash.end]
    return min(later, key=lambda span: span.start, default=None)


__all__ = ["End", "Processes", "Stall"]
