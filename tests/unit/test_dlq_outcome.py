"""The judgement of the redrive benchmark, on figures written by hand."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

# The benchmarks are scripts beside the packages, not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.dlq_outcome import Outcome

ONCE = {"o-1": 1, "o-2": 1}
GOOD = Outcome(
    asked=["o-1", "o-2"], captures=ONCE, charges=ONCE, left=[b"x"], malformed=[b"x"],
    audit=[], kills=3, resumed=3,
)  # fmt: skip


def test_a_redrive_that_kept_its_promise() -> None:
    assert GOOD.problems() == []
    assert (GOOD.lost, GOOD.double_charged) == (0, 0)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"captures": {"o-1": 1}, "charges": {"o-1": 1}}, "1 orders are lost"),
        ({"captures": {"o-1": 2, "o-2": 1}}, "1 orders were charged twice"),
        ({"captures": ONCE | {"o-3": 1}, "charges": ONCE | {"o-3": 1}}, "nobody asked for"),
        ({"charges": {"o-1": 1}}, "disagree"),
        ({"left": []}, "0 messages are left"),
        ({"left": [b"x", b"y"]}, "2 messages are left"),
        ({"audit": ["a hole"]}, "a hole"),
        ({"resumed": 2}, "killed 3 times and resumed 2 times"),
    ],
)
def test_each_breach_is_named(changed, words: str) -> None:
    assert any(words in problem for problem in replace(GOOD, **changed).problems())
