"""Whether every receive span of a process is there: each carries its number, so a lost one leaves a gap.

That a delivery is in no span is only evidence while no span is missing that could have named it. What
became of a delivery carries the number of its receive, too, so that also a last one can be missed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from onceproof.telemetry import RECEIVE_COUNT, RECEIVE_NUMBER
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
        whole: whether the spans begin with the processes; else a first one cannot be missed.
    """
    numbered: dict[str, dict[int, float]] = defaultdict(dict)
    mentioned: dict[str, dict[int, float]] = defaultdict(dict)
    for span in spans:
        if (number := span.attributes.get(RECEIVE_NUMBER)) is None:
            continue
        if span.attributes.get(_TYPE) == "receive":
            numbered[span.instance][int(number)] = span.end
        else:
            mentioned[span.instance][int(number)] = span.end
    gaps: dict[str, list[tuple[float, float]]] = {}
    for instance in {*numbered, *mentioned, *ends}:
        known = numbered.get(instance, {})
        found = [
            (known[one], known[other])
            for one, other in zip(sorted(known), sorted(known)[1:], strict=False)
            if other != one + 1
        ]
        last = max(known, default=0)
        if whole and known and min(known) != 1:
            found.append((-_ALWAYS, known[min(known)]))
        found += [
            (known.get(last, -_ALWAYS), at)
            for number, at in mentioned.get(instance, {}).items()
            if number > last and (whole or known)
        ]
        for end in ends.get(instance, ()):
            count = end.crash.attributes.get(RECEIVE_COUNT) if end.crash else None
            if count is not None and int(count) > last and (whole or known):
                found.append((known.get(last, -_ALWAYS), end.stood_at))
        if found:
            gaps[instance] = found
    return gaps


__all__ = ["lost_receives"]
