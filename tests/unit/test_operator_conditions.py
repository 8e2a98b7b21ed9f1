"""The status as a report and as the operator's memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from tests.unit.test_operator_fakes import eventually, merged

from onceproof_operator import conditions
from onceproof_operator.conditions import Status, timestamp, unix


class Stored:
    """What the API server holds after each merge patch."""

    def __init__(self, status: Mapping[str, Any] | None = None) -> None:
        self.status: dict[str, Any] = dict(status or {})
        self.patches: list[dict[str, Any]] = []
        self.failing: list[Exception] = []
        self.slow = asyncio.Event()
        self.slow.set()
        self.begun = 0

    async def write(self, patch: dict[str, Any]) -> None:
        self.begun += 1
        if self.begun == 1:
            await self.slow.wait()
        if self.failing:
            raise self.failing.pop()
        self.patches.append(patch)
        self.status = merged(self.status, patch)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The next times, last first."""
    times = [f"2026-01-01T00:00:0{second}.000000Z" for second in range(9, 0, -1)]
    monkeypatch.setattr(conditions, "timestamp", times.pop)
    return times


@pytest.fixture
def stored() -> Stored:
    return Stored()


def since(stored: Stored, kind: str) -> str:
    return str(
        next(c for c in stored.status["conditions"] if c["type"] == kind)["lastTransitionTime"]
    )


@pytest.mark.usefixtures("clock")
async def test_the_time_of_a_transition_stays_until_the_status_changes(stored: Stored) -> None:
    status = Status(None, stored.write)
    await status.report("Armed", "False", "Looking", "one pod")
    first = since(stored, "Armed")
    await status.report("Armed", "False", "Looking", "two pods")
    await status.report("Armed", "False", "NoPods", "no pod")
    assert since(stored, "Armed") == first
    await status.report("Armed", "True", "Waiting", "armed")
    assert since(stored, "Armed") > first
    assert status.holds("Armed")


async def test_what_stands_so_already_is_not_written_again(stored: Stored) -> None:
    status = Status(None, stored.write)
    for _ in range(3):
        await status.report("Armed", "True", "Waiting", "armed", armedAt="then")
    assert len(stored.patches) == 1
    again = Status(stored.status, stored.write)
    await again.report("Armed", "True", "Waiting", "armed", armedAt="then")
    assert len(stored.patches) == 1


async def test_fields_that_were_set_before_are_written_with_the_next_report(stored: Stored) -> None:
    status = Status(None, stored.write)
    await status.report("Armed", "False", "Late", "too late")
    status.set(verdict="inconclusive")
    await status.report("Armed", "False", "Late", "too late")
    assert stored.status["verdict"] == "inconclusive"


async def test_a_removed_field_vanishes_from_the_stored_status(stored: Stored) -> None:
    status = Status({"failedStep": "Armed", "step": "Armed"}, stored.write)
    stored.status = {"failedStep": "Armed", "step": "Armed"}
    status.set(failedStep=None, never=None)
    await status.write()
    assert stored.status == {"step": "Armed"}
    assert stored.patches == [{"failedStep": None, "step": "Armed"}]
    status.set(failedStep="Drained")
    await status.write()
    assert stored.status["failedStep"] == "Drained"


async def test_zero_and_empty_are_values(stored: Stored) -> None:
    status = Status(None, stored.write)
    status.set(kills=0, reasons=[], message="")
    await status.write()
    assert stored.status == {"kills": 0, "reasons": [], "message": ""}


async def test_conditions_keep_their_order(stored: Stored) -> None:
    status = Status(None, stored.write)
    for kind in ("Selected", "Armed", "Reached"):
        await status.report(kind, "True", "R", "m")
    await status.report("Selected", "False", "NoPodsMatched", "none")
    assert [c["type"] for c in stored.status["conditions"]] == ["Selected", "Armed", "Reached"]
    assert status.condition("Selected")["reason"] == "NoPodsMatched"
    assert status.condition("Killed") == {}


async def test_a_write_that_failed_is_made_up_for(stored: Stored) -> None:
    status = Status(None, stored.write)
    stored.failing = [OSError("away")]
    with pytest.raises(OSError, match="away"):
        await status.report("Reached", "True", "R", "m", traceId="t")
    await status.report("Reached", "True", "R", "m", traceId="t")
    assert stored.status["traceId"] == "t"


async def test_an_older_write_never_comes_last(stored: Stored) -> None:
    status = Status(None, stored.write)
    stored.slow.clear()
    status.set(orders=1)
    first = asyncio.create_task(status.write())
    await eventually(lambda: stored.begun)
    status.set(orders=2)
    second = asyncio.create_task(status.write())
    await asyncio.wait([second], timeout=0.02)
    stored.slow.set()
    await asyncio.gather(first, second)
    assert [patch["orders"] for patch in stored.patches] == [1, 2]


def test_times_as_kubernetes_writes_them() -> None:
    text = timestamp(1_795_552_377.917365)
    assert text == "2026-11-24T20:32:57.917365Z"
    assert unix(text) == pytest.approx(1_795_552_377.917365, abs=1e-6)
    assert unix("2026-11-24T20:32:57Z") == 1_795_552_377
    assert unix(timestamp()) == pytest.approx(unix(timestamp()), abs=5)
