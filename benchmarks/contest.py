"""A contest: several contenders do the same work in turn, and ratios of their figures are asked.

Everything that `make bench` measures is one of these, whoever wrote it: a contender has a name and an
asynchronous `measure(repeat) -> Sample`. The harness alternates them (A B A B ...), so that whatever
else the machine does hits all of them, and judges the ratios against their goals.

What cannot be run is said and never left out: a contest's `open`, or a contender's `prepare`, raises
`NotRunError` with the reason, which the report shows in the place of the figure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Literal, Protocol

from benchmarks.figures import Sample

if TYPE_CHECKING:
    from benchmarks.bench import Bench


class NotRunError(Exception):
    """This cannot be measured here; the text says why, and what would help."""


class Contender(Protocol):
    """One of those who do the work."""

    @property
    def name(self) -> str:
        """Unique within its contest."""
        ...

    async def prepare(self) -> None:
        """Get ready: build, install, warm up. Not timed.

        Raises:
            NotRunError: it cannot be run here.
        """
        ...

    async def measure(self, repeat: int) -> Sample:
        """Do the work once. `repeat` counts from 0.

        Raises:
            InvalidRunError: the work was not done exactly once for each order.
        """
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """A ratio that is asked, and what it should be.

    Args:
        text: what it says, for people.
        of: name of the contender above the line.
        to: name of the contender below it; None asks for the figure of `of` itself.
        goal: None where no goal was set.
        figure: number in the list of figures to reach.
        measure: which figure of a sample: a property of `Sample`, or one of its `values`.
        better: whether more is better or less.
        unit: of a figure that is no ratio.
    """

    text: str
    of: str
    to: str | None
    goal: float | None = None
    figure: int | None = None
    measure: str = "orders_per_s"
    better: Literal["more", "less"] = "more"
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Contest:
    """What is compared, and how to get at the contenders.

    Args:
        name: what `--only` matches.
        title: one line for people.
        open: gets everything ready that the contenders share, and puts it away at the end.
        questions: the ratios.
        needs: what must be there, for `--list`.
        timed: whether its rates mean anything; its questions may be about something else.
    """

    name: str
    title: str
    open: Callable[[Bench], AbstractAsyncContextManager[Sequence[Contender]]]
    questions: Sequence[Question]
    needs: str = "Postgres"
    timed: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """What a question came to.

    Args:
        question: the one.
        value: ratio of the medians, or the median.
        low: smallest of the ratios of neighbouring runs, or of the values.
        high: largest of them.
        why_not: why there is no value.
    """

    question: Question
    value: float | None = None
    low: float | None = None
    high: float | None = None
    why_not: str | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is no goal or no value."""
        goal = self.question.goal
        if goal is None or self.value is None:
            return None
        return self.value >= goal if self.question.better == "more" else self.value <= goal


def answer(question: Question, samples: dict[str, list[Sample]], absent: dict[str, str]) -> Answer:
    """Judge a question by the samples of each contender, and by who could not be measured."""
    for name in (question.of, question.to):
        if name is not None and name in absent:
            return Answer(question, why_not=f"{name}: {absent[name]}")
        if name is not None and not samples.get(name):
            return Answer(question, why_not=f"{name} has no samples")
    mine = [sample.value(question.measure) for sample in samples[question.of]]
    theirs = (
        [sample.value(question.measure) for sample in samples[question.to]]
        if question.to is not None
        else [1.0] * len(mine)
    )
    if None in mine or None in theirs:
        return Answer(question, why_not=f"{question.measure} was not measured")
    known = [(m, t) for m, t in zip(mine, theirs, strict=False) if m is not None and t]
    if not known:
        return Answer(question, why_not=f"{question.measure} of {question.to} is 0")
    ratios = [m / t for m, t in known]
    value = median(m for m, _ in known) / median(t for _, t in known)
    return Answer(question, value, min(ratios), max(ratios))
