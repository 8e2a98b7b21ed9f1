from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from onceproof.consumer.gate import Gate
from onceproof.errors import DatabaseUnavailableError, TransientError


@asynccontextmanager
async def running(gate: Gate) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(gate.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    "error", [DatabaseUnavailableError("away"), TransientError("locked, or too slow")]
)
async def test_it_opens_again_when_the_database_answers(error: TransientError) -> None:
    told: list[str | None] = []
    probes = 0

    async def probe() -> None:
        nonlocal probes
        probes += 1
        if probes < 3:
            raise error

    gate = Gate(probe, interval_s=0.01, on_change=told.append)
    async with running(gate):
        await gate.passed()  # open from the start
        assert probes == 0
        gate.close("refused")
        passing = asyncio.create_task(gate.passed())
        await asyncio.wait_for(passing, 5)
        assert probes == 3
        assert told == ["refused", str(error), str(error), None]


async def test_it_can_close_again_and_a_second_close_is_harmless() -> None:
    release = asyncio.Event()

    async def probe() -> None:
        await release.wait()

    gate = Gate(probe, interval_s=0.01)
    async with running(gate):
        for _ in range(2):
            release.clear()
            gate.close("one")
            gate.close("two")
            passing = asyncio.create_task(gate.passed())
            await asyncio.sleep(0)
            assert not passing.done()
            release.set()
            await asyncio.wait_for(passing, 5)


async def test_a_bug_in_the_probe_is_not_hidden() -> None:
    async def probe() -> None:
        raise ZeroDivisionError

    gate = Gate(probe, interval_s=0.01)
    async with running(gate) as task:
        gate.close("refused")
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(asyncio.shield(task), 5)
