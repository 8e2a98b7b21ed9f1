"""One order at a time, and word of those that were not alone."""

from __future__ import annotations

from typing import Any

from onceproof.errors import BrokerUnavailableError
from onceproof.ports import QueueDepth
from onceproof_chaos.ablation.pacing import Quiet, one_at_a_time
from onceproof_chaos.workload import generate

ORDERS = generate(1, 3)


class Scene:
    """Placements and looks, in sequence; `quiet` answers what it was told, then yes."""

    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)
        self.did: list[str] = []

    async def place(self, order: Any) -> None:
        self.did.append(order.order_id)

    async def quiet(self) -> bool:
        self.did.append("look")
        return self.answers.pop(0) if self.answers else True


async def test_the_next_order_waits_until_nothing_is_on_its_way() -> None:
    scene = Scene(False, False, True)
    assert await one_at_a_time(ORDERS, scene.place, scene.quiet, timeout_s=10) == []
    first, second, third = (order.order_id for order in ORDERS)
    assert scene.did == [first, "look", "look", "look", second, "look", third, "look"]


async def test_orders_that_were_not_alone_are_named() -> None:
    scene = Scene(False)
    crowded = await one_at_a_time(ORDERS, scene.place, scene.quiet, timeout_s=-1)
    assert crowded == [ORDERS[1].order_id]


class Database:
    def __init__(self, pending: int) -> None:
        self.pending = pending

    async def fetchval(self, _: str) -> int:
        return self.pending


class Queue:
    def __init__(self, total: int | None) -> None:
        self.total = total

    async def depth(self) -> QueueDepth:
        if self.total is None:
            raise BrokerUnavailableError("away")
        return QueueDepth(visible=0, in_flight=self.total, delayed=0)


async def test_quiet_is_an_empty_outbox_an_empty_queue_and_no_fault_at_work() -> None:
    def quiet(pending: int, *totals: int | None, idle: bool = True) -> Any:
        queues = [Queue(total) for total in totals]
        return Quiet(Database(pending), queues, lambda: idle)()  # type: ignore[arg-type]

    assert await quiet(0, 0)
    assert not await quiet(1, 0)
    assert not await quiet(0, 1)
    assert not await quiet(0, None)
    assert await quiet(0, 0, 0)
    assert not await quiet(0, 0, 1)
    assert not await quiet(0, 0, idle=False)
