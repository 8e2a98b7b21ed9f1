"""One task per object: started once, taken back when it is deleted, left where it stands at a stop."""

from __future__ import annotations

import asyncio
import logging

import pytest
from tests.unit.test_operator_fakes import eventually

from onceproof_operator import tasks as module
from onceproof_operator.tasks import Tasks


class Job:
    """Work that ends when the test says so."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.abandoned = 0
        self.may_end = asyncio.Event()
        self.failing: BaseException | None = None
        self.abandon_fails: Exception | None = None
        self.abandon_hangs = False

    async def run(self) -> None:
        self.started += 1
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failing:
            raise self.failing

    async def abandon(self) -> None:
        self.abandoned += 1
        if self.abandon_fails:
            raise self.abandon_fails
        if self.abandon_hangs:
            await asyncio.Event().wait()


def running() -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("work-")]


async def test_each_object_is_started_once() -> None:
    tasks, job, other = Tasks(), Job(), Job()
    for _ in range(3):
        tasks.start("a", lambda: job)
    tasks.start("b", lambda: other)
    await eventually(lambda: job.started and other.started)
    job.may_end.set()
    await eventually(lambda: len(running()) == 1)
    tasks.start("a", Job)
    await asyncio.sleep(0)
    assert (job.started, other.started, len(running())) == (1, 1, 1)
    await tasks.stop()


async def test_a_deleted_objects_work_is_cancelled_and_taken_back() -> None:
    tasks, job = Tasks(), Job()
    tasks.start("a", lambda: job)
    await eventually(lambda: job.started)
    await tasks.deleted("a")
    assert (job.cancelled, job.abandoned) == (1, 1)
    await tasks.deleted("a")
    await tasks.deleted("never seen")
    assert job.abandoned == 1


async def test_work_that_came_to_its_end_is_not_taken_back() -> None:
    tasks, job = Tasks(), Job()
    tasks.start("a", lambda: job)
    job.may_end.set()
    await eventually(lambda: not running())
    await tasks.deleted("a")
    assert (job.cancelled, job.abandoned) == (0, 0)


async def test_work_that_broke_is_told_of_and_taken_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks, job = Tasks(), Job()
    job.failing = ValueError("broke")
    tasks.start("a", lambda: job)
    job.may_end.set()
    await eventually(lambda: not running())
    assert "work-a ended" in caplog.text
    assert "ValueError: broke" in caplog.text
    await tasks.deleted("a")
    assert job.abandoned == 1


async def test_nothing_is_kept_of_what_has_ended() -> None:
    tasks, job = Tasks(), Job()
    job.may_end.set()
    tasks.start("a", lambda: job)
    await eventually(lambda: not running())
    assert list(tasks._started.values()) == [None]
    await tasks.deleted("a")
    assert tasks._started == {}


@pytest.mark.parametrize("hangs", [False, True])
async def test_cleaning_up_that_fails_is_told_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    monkeypatch.setattr(module, "_GIVE_UP_S", 0.01)
    tasks, job = Tasks(), Job()
    job.abandon_fails = None if hangs else RuntimeError("no API server")
    job.abandon_hangs = hangs
    tasks.start("a", lambda: job)
    await eventually(lambda: job.started)
    await tasks.deleted("a")
    [record] = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert record.message == "cleaning up after a deleted object"


async def test_a_stop_takes_nothing_back() -> None:
    tasks, jobs = Tasks(), [Job(), Job(), Job()]
    for number, job in enumerate(jobs):
        tasks.start(str(number), lambda job=job: job)  # type: ignore[misc]
    jobs[2].may_end.set()
    await eventually(lambda: all(job.started for job in jobs) and len(running()) == 2)
    await tasks.stop()
    assert [job.cancelled for job in jobs] == [1, 1, 0]
    assert [job.abandoned for job in jobs] == [0, 0, 0]
    await tasks.stop()


async def test_an_object_whose_work_cannot_be_made_is_not_started() -> None:
    def make() -> Job:
        raise ValueError("the selector is empty")

    tasks, job = Tasks(), Job()
    with pytest.raises(ValueError, match="empty"):
        tasks.start("a", make)
    tasks.start("a", lambda: job)
    await eventually(lambda: job.started)
    await tasks.stop()
