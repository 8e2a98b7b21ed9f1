"""The duty that deletes what was kept for long enough."""

from __future__ import annotations

import asyncio
import logging

import pytest

from onceproof.errors import TransientError
from onceproof.service import alongside, clean_up


async def test_a_round_that_fails_is_told_and_the_next_one_deletes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    rounds: list[int | TransientError] = [TransientError("away"), 0, 3]
    done = asyncio.Event()

    async def delete() -> int:
        if not rounds:
            done.set()
            return 0
        outcome = rounds.pop(0)
        if isinstance(outcome, TransientError):
            raise outcome
        return outcome

    async with alongside(clean_up(delete, every_s=0.0, what="keys")), asyncio.timeout(5):
        await done.wait()
    said = [record.getMessage() for record in caplog.records]
    assert said == ["keys not cleaned up, trying again later: away", "keys: deleted 3"]
