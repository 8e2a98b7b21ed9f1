"""A run's course, with a nemesis and a drain that only note what is asked of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import pytest

from onceproof_chaos.admin_client import AdminGoneError
from onceproof_chaos.backend import BackendError, Role
from onceproof_chaos.conduct import conduct
from onceproof_chaos.drain import Drain
from onceproof_chaos.nemesis import Nemesis


class Stage:
    """Nemesis, drain and progress in one: a list of what happened."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.pending = ["a fault"]
        self.idle = True
        self.failing: BaseException | None = None
        self.refuses_to_start: BaseException | None = None
        self.not_quiet: str | None = None
        self.supervised = asyncio.Event()

    async def start(self, replicas: Mapping[Role, int]) -> None:
        self.did.append(f"start {sum(replicas.values())}")
        if self.refuses_to_start:
            raise self.refuses_to_start

    async def supervise(self) -> None:
        self.supervised.set()
        if self.failing:
            raise self.failing
        await asyncio.Event().wait()

    async def disarm(self) -> None:
        self.did.append("disarm")

    async def stop(self) -> None:
        self.did.append("stop")

    async def until_quiet(
        self, *, enough: Callable[[], bool] | None = None, **_: Any
    ) -> str | None:
        self.did.append("wait" if enough else "drain")
        if enough:
            assert not enough()
            self.pending = []
            assert enough()
            return None
        return self.not_quiet

    async def place(self) -> None:
        self.did.append("place")

    def phase(self, text: str) -> None: ...
    def order_finished(self) -> None: ...
    def fault(self, event: Any) -> None: ...


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def carry_out(stage: Stage, place: Callable[[], Awaitable[None]] | None = None) -> str | None:
    return await conduct(
        cast("Nemesis", stage),
        cast("Drain", stage),
        place or stage.place,
        replicas={Role.CONSUMER: 2},
        drain_timeout_s=5,
        progress=stage,
    )


async def test_arm_load_wait_disarm_drain(stage: Stage) -> None:
    assert await carry_out(stage) is None
    assert stage.did == ["start 2", "place", "wait", "disarm", "drain", "stop"]


async def test_a_drain_that_gives_up_says_why(stage: Stage) -> None:
    stage.not_quiet = "3 messages in the queue"
    assert await carry_out(stage) == "3 messages in the queue"


@pytest.mark.parametrize("error", [BackendError("no pod"), AdminGoneError("no port")])
async def test_a_service_that_does_not_start_leaves_nothing_armed(
    stage: Stage, error: Exception
) -> None:
    stage.refuses_to_start = error
    with pytest.raises(type(error), match=str(error)):
        await carry_out(stage)
    assert stage.did == ["start 2", "disarm", "stop"]


async def test_a_nemesis_that_fails_ends_the_load_and_disarms(stage: Stage) -> None:
    stage.failing = BackendError("a pod is stuck")
    with pytest.raises(BackendError, match="a pod is stuck"):
        await carry_out(stage, lambda: asyncio.Event().wait())  # type: ignore[arg-type,return-value]
    assert stage.did == ["start 2", "disarm", "stop"]


async def test_a_run_that_is_cancelled_leaves_nothing_armed(stage: Stage) -> None:
    run = asyncio.create_task(carry_out(stage, lambda: asyncio.Event().wait()))  # type: ignore[arg-type,return-value]
    async with asyncio.timeout(5):
        await stage.supervised.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert stage.did == ["start 2", "disarm", "stop"]
