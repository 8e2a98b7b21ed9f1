"""Several messages in one transaction: faster, and still one effect for each event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from onceproof.brokers.dead_letter import REASON
from onceproof.errors import PermanentError
from onceproof.ports import Delivery

if TYPE_CHECKING:
    from tests.integration.conftest import Rig

ONE: dict[str, Any] = {"concurrency": 1, "prefetch": 0, "batch_size": 10}


async def test_a_batch_is_one_transaction(rig: Rig) -> None:
    await rig.send(*(rig.order(n) for n in range(25)))
    async with rig.running(rig.consumer("batch", **ONE)):
        await rig.drained()
    assert [len(batch) for batch in rig.batches] == [10, 10, 5]
    assert len(await rig.charges()) == 25


async def test_duplicates_in_the_batch_and_before_it_are_absorbed(
    rig: Rig, batch_path: str
) -> None:
    hits = rig.count("onceproof_dedup_hits_total")
    first, second, third = rig.order(1), rig.order(2), rig.order(3)
    await rig.send(first)
    async with rig.running(rig.consumer(batch_path, **ONE)):
        await rig.drained()
    await rig.send(first, second, second, third, first, second)
    async with rig.running(rig.consumer(batch_path, **ONE)):
        await rig.drained()
    if batch_path == "batch":
        assert rig.batches == [["o-2", "o-3"]]
    assert await rig.charges() == [("o-1", 1), ("o-2", 1), ("o-3", 1)]
    assert rig.count("onceproof_dedup_hits_total") - hits == 4


async def test_a_batch_of_nothing_but_duplicates_does_not_reach_the_handler(
    rig: Rig, batch_path: str
) -> None:
    events = [rig.order(n) for n in range(3)]
    await rig.send(*events)
    async with rig.running(rig.consumer(batch_path, **ONE)):
        await rig.drained()
        await rig.send(*events)
        await rig.drained()
    assert len(rig.batches) == (batch_path == "batch")
    assert len(await rig.charges()) == 3


async def test_one_that_fails_does_not_fail_the_others(rig: Rig, batch_path: str) -> None:
    await rig.refuse_charges("NEW.order_id = 'o-2' AND NEW.delivery_attempt < 3", "40001")
    await rig.send(*(rig.order(n) for n in range(5)))
    async with rig.running(rig.consumer(batch_path, **ONE)):
        await rig.drained()
    assert await rig.charges() == [("o-0", 1), ("o-1", 1), ("o-2", 3), ("o-3", 1), ("o-4", 1)]
    assert len(rig.batches) == (batch_path == "batch")


async def test_a_permanent_error_among_them_goes_to_the_dlq_alone(
    rig: Rig, batch_path: str
) -> None:
    await rig.send(*(rig.order(n) for n in range(2)), rig.order(2, amount="a lot"))
    await rig.send(*(rig.order(n) for n in range(3, 5)))
    async with rig.running(rig.consumer(batch_path, **ONE)):
        await rig.drained()
    (dead,) = await rig.dead()
    reason = {"batch": "the amount is no number", "effect": "invalid text representation (22P02)"}
    assert reason[batch_path] in dead.attributes[REASON]
    assert [order_id for order_id, _ in await rig.charges()] == ["o-0", "o-1", "o-3", "o-4"]


async def test_without_a_single_handler_the_batch_handler_takes_one(rig: Rig) -> None:
    async def refuse(delivery: Delivery) -> None:
        if delivery.event.key == "o-1":
            raise PermanentError("no")

    rig.behave = refuse
    await rig.send(*(rig.order(n) for n in range(3)))
    async with rig.running(rig.consumer("batch", **ONE, single=False)):
        await rig.drained()
    assert rig.batches == [["o-0", "o-1", "o-2"], ["o-0"], ["o-1"], ["o-2"]]
    assert len(await rig.dead()) == 1
    assert len(await rig.charges()) == 2


@pytest.mark.parametrize("consumers", [3])
async def test_overlapping_batches_of_several_consumers(
    rig: Rig, consumers: int, batch_path: str
) -> None:
    events = [rig.order(n) for n in range(60)]
    await rig.send(*events, *reversed(events), *events)
    options = ONE | {"concurrency": 3}
    async with rig.running(*(rig.consumer(batch_path, **options) for _ in range(consumers))):
        await rig.drained()
    assert sorted(order for order, _ in await rig.charges()) == sorted(str(e.key) for e in events)
