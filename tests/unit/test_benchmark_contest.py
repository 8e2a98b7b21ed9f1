"""The harness: who runs when, what a failure does to the others, and what a ratio says."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

# The benchmarks are scripts beside the packages, not installed.
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.bench import Outcome, Scale, run_contest
from benchmarks.contest import Answer, Contest, NotRunError, Question, answer
from benchmarks.contests import Sizes, contests
from benchmarks.database import refuse_memory
from benchmarks.figures import InvalidRunError, Resources, Sample
from benchmarks.report import Results, contest_json

from onceproof.errors import ConfigurationError

RATIO = Question("a / b", "a", "b", 1.0, figure=5)


def sample(rate: float, **values: float) -> Sample:
    return Sample(round(rate), 1.0, 0.1, 0, values=values)


class Fake:
    def __init__(self, name, log, rate=100.0, *, prepare=None, measure=None):
        self.name = name
        self._log = log
        self._rate = rate
        self._prepare = prepare
        self._measure = measure

    async def prepare(self):
        if self._prepare:
            raise self._prepare

    async def measure(self, repeat):
        self._log.append((self.name, repeat))
        if self._measure and repeat == 1:
            raise self._measure
        return sample(self._rate)


def bench_of(repeats: int):
    async def stop() -> None:
        return None

    meter = SimpleNamespace(stop=stop)
    return SimpleNamespace(where=SimpleNamespace(meter=meter), scale=Scale(repeats, 1, 1))


def contest_of(*contenders, opening: Exception | None = None, questions=(RATIO,)) -> Contest:
    @asynccontextmanager
    async def opened(_at):
        if opening:
            raise opening
        yield contenders

    return Contest("fake", "A fake", opened, questions)


async def test_contenders_take_turns():
    log: list[tuple[str, int]] = []
    outcome = await run_contest(contest_of(Fake("a", log), Fake("b", log)), bench_of(3))
    assert log == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert {name: len(made) for name, made in outcome.samples.items()} == {"a": 3, "b": 3}


async def test_contenders_can_be_left_out_and_the_report_says_so():
    log: list[tuple[str, int]] = []
    at = bench_of(1)
    at.scale = Scale(1, 1, 1, ("a",))
    outcome = await run_contest(contest_of(Fake("a", log), Fake("b", log)), at)
    assert log == [("a", 0)]
    assert outcome.answers()[0].why_not == "b: left out by --contender"


async def test_an_invalid_run_takes_its_contender_out_and_not_the_others():
    log: list[tuple[str, int]] = []
    wrong = Fake("a", log, measure=InvalidRunError("10 orders gave 11 charges"))
    outcome = await run_contest(contest_of(wrong, Fake("b", log)), bench_of(3))
    assert log == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("b", 2)]
    assert "11 charges" in outcome.invalid["a"]
    [ratio] = outcome.answers()
    assert ratio.value is None
    assert "11 charges" in (ratio.why_not or "")
    assert results(outcome).invalid


async def test_who_cannot_be_run_is_in_the_report_with_the_reason():
    log: list[tuple[str, int]] = []
    missing = Fake("b", log, prepare=NotRunError("needs Go"))
    outcome = await run_contest(contest_of(Fake("a", log), missing), bench_of(1))
    document = contest_json(outcome)
    assert document["absent"] == {"b": "needs Go"}
    assert document["answers"][0]["not_run"] == "b: needs Go"
    assert not results(outcome).invalid


async def test_a_contest_that_cannot_be_opened_answers_each_question_with_the_reason():
    outcome = await run_contest(contest_of(opening=NotRunError("needs docker")), bench_of(1))
    assert [each.why_not for each in outcome.answers()] == ["needs docker"]


def results(outcome) -> Results:
    return Results([outcome], {}, "18", {}, "pgbench", None, None)


@pytest.mark.parametrize(
    ("mine", "better", "goal", "met"),
    [
        (150, "more", 1.5, True),
        (149, "more", 1.5, False),
        (90, "less", 0.9, True),
        (91, "less", 0.9, False),
    ],
)
def test_a_goal_is_met_from_its_side(mine, better, goal, met):
    question = Question("q", "a", "b", goal, better=better)
    found = answer(question, {"a": [sample(mine)], "b": [sample(100)]}, {})
    assert found.met is met


def test_a_ratio_is_of_medians_and_its_spread_of_neighbours():
    rates = {"a": [100, 200, 400], "b": [100, 100, 100]}
    samples = {name: [sample(rate) for rate in of] for name, of in rates.items()}
    found = answer(RATIO, samples, {})
    assert (found.value, found.low, found.high) == (2.0, 1.0, 4.0)


def test_a_figure_that_was_not_measured_is_no_zero():
    question = Question("q", "a", None, 5, measure="growth_percent")
    found = answer(question, {"a": [sample(1)]}, {})
    assert found.value is None
    assert found.met is None
    assert found.why_not == "growth_percent was not measured"


def test_a_figure_of_zero_is_one():
    question = Question("q", "a", None, 5, measure="growth_percent", better="less")
    found = answer(question, {"a": [sample(1, growth_percent=0.0)]}, {})
    assert found.value == 0
    assert found.met is True


def test_a_question_without_a_goal_is_neither_met_nor_missed():
    assert Answer(Question("q", "a", "b"), 1.0, 1.0, 1.0).met is None


def test_requests_are_counted_per_order():
    made = Sample(100, 1, 1, 0, sqs_requests={"SendMessageBatch": 10, "ReceiveMessage": 20})
    assert made.value("sqs_requests_per_order") == 0.3
    assert sample(1).value("sqs_requests_per_order") is None


def test_resources_are_summed_up_by_process():
    used = Resources(cpu_s={"worker": 0.2}, wal_bytes=1000, fsyncs=5, peak_rss_mb={"worker": 90})
    outcome = Outcome(contest_of(), {"a": [Sample(10, 1, 0.2, 0, used)]})
    [found] = contest_json(outcome)["contenders"]
    assert found["cpu_s_per_1000"] == {"worker": 20.0}
    assert found["wal_bytes_per_order"] == 100
    assert found["fsyncs_per_order"] == 0.5


def test_every_contest_has_a_name_of_its_own_and_every_question_contenders_of_one_contest():
    known = contests(Sizes())
    assert len({each.name for each in known}) == len(known)
    for each in known:
        texts = [question.text for question in each.questions]
        assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("file_system", ["tmpfs", "ramfs"])
def test_data_in_memory_is_refused(file_system):
    with pytest.raises(ConfigurationError, match="commit costs nothing"):
        refuse_memory(file_system, "/data")
    refuse_memory("ext4", "/data")
    refuse_memory(None, "/data")
