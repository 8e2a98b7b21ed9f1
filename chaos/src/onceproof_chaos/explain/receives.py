"""Whether every receive span of a process is there: each carries its number, so a lost one leaves a gap.

That a delivery is in no span is only evidence while no span is missing that could have named it. What
became of a delivery carries the number of its receive, too, and a consumer says at its end how many
there were, so that also a last one can be missed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final, Protocol

from onceproof.telemetry import RECEIVE_COUNT, RECEIVE_NUMBER, STOPPED_SPAN
from onceproof_chaos.spans import Span

_ALWAYS: Final = float("inf")
_TYPE: Final = "messaging.operation.type"


class _Ended(Protocol):
    @property
    def stood_at(self) -> float: ...

    @property
    def crash(self) -> Span | None: ...


def lost_receives(
    spans: Iterable[Span], ends: Mapping[str, Sequence[_Ended]], *, whole: bool
) -> dict[str, list[tuple[float, float]]]:
    """By process, the times (Unix seconds) in which a receive span is missing.

    Args:
        spans: of every process.
        ends: how processes ended, which may say how often they had received something.
        whole: whether the spans are of the processes' whole lives; else neither a first one nor the
            word at the end can be missed.
    """
    numbered: dict[str, list[tuple[float, int]]] = defaultdict(list)
    mentioned: dict[str, list[tuple[float, int]]] = defaultdict(list)
    stopped: set[str] = set()
    for span in spans:
        if (number := span.attributes.get(RECEIVE_NUMBER)) is not None:
            received = span.attributes.get(_TYPE) == "receive"
            told = numbered if received else mentioned
            told[span.instance].append((span.end, int(number)))
        elif span.name == STOPPED_SPAN:
            stopped.add(span.instance)
            mentioned[span.instance].append((span.end, int(span.attributes[RECEIVE_COUNT])))
    gaps: dict[str, list[tuple[float, float]]] = {}
    for instance in {*numbered, *mentioned, *ends}:
        lives = _lives(numbered.get(instance, ()))
        found = list(_between(lives, whole=whole))
        for at, number in mentioned.get(instance, ()):
            found += _behind(lives, at, number, whole=whole)
        for end in ends.get(instance, ()):
            found += _at_end(lives, end, whole=whole)
        if whole and stopped and instance not in stopped and instance not in ends:
            # Others have said at their end that they had received nothing more; this one has not.
            found.append((_last(lives[-1]), _ALWAYS))
        if found:
            gaps[instance] = found
    return gaps


def _lives(receives: Iterable[tuple[float, int]]) -> list[dict[int, float]]:
    """Receives by number, of each process: a container that is restarted in its pod keeps its name."""
    lives: list[dict[int, float]] = [{}]
    for at, number in sorted(receives):
        if lives[-1] and number <= max(lives[-1]):
            lives.append({})
        lives[-1][number] = at
    return lives


def _between(lives: Sequence[Mapping[int, float]], *, whole: bool) -> Iterator[tuple[float, float]]:
    """Gaps in the numbers, and between one process and the next of its name."""
    for life in lives:
        numbers = sorted(life)
        for one, other in pairwise(numbers):
            if other != one + 1:
                yield life[one], life[other]
        if whole and numbers and numbers[0] != 1:
            yield -_ALWAYS, life[numbers[0]]
    for earlier, later in pairwise(lives):
        yield _last(earlier), later[min(later)]


def _behind(
    lives: Sequence[Mapping[int, float]], at: float, number: int, *, whole: bool
) -> list[tuple[float, float]]:
    """The gap behind the last receive that is known, if by `at` there had been `number` of them."""
    life = _life_at(lives, at)
    if number <= max(life, default=0) or not (whole or life):
        return []
    return [(_last(life), at)]


def _at_end(
    lives: Sequence[Mapping[int, float]], end: _Ended, *, whole: bool
) -> list[tuple[float, float]]:
    if end.crash is None:
        # It died without a word, and its last spans with it.
        return [(_last(_life_at(lives, end.stood_at)), end.stood_at)] if any(lives) else []
    count = end.crash.attributes.get(RECEIVE_COUNT)
    return [] if count is None else _behind(lives, end.stood_at, int(count), whole=whole)


def _life_at(lives: Sequence[Mapping[int, float]], at: float) -> Mapping[int, float]:
    begun = [life for life in lives if life and min(life.values()) <= at]
    return begun[-1] if begun else lives[0]


def _last(life: Mapping[int, float]) -> float:
    return max(life.values(), default=-_ALWAYS)


__all__ = ["lost_receives"]
