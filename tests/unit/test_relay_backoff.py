from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import cast

import pytest

from onceproof.brokers.memory import MemoryBroker
from onceproof.outbox import OutboxRow, OutboxStore, Relay, RelaySettings, RowResult
from onceproof.ports import Outgoing, Publisher, SendResult


class Store:
    """An outbox in memory: one batch to claim, and what was marked."""

    def __init__(self, *rows: OutboxRow) -> None:
        self.rows = list(rows)
        self.marked: list[RowResult] = []

    async def claim(self, _batch_size: int, _lease_s: float) -> list[OutboxRow]:
        rows, self.rows = self.rows, []
        return rows

    async def mark(self, results: list[RowResult]) -> None:
        self.marked += results


def row(number: int, attempts: int, destination: str = "q") -> OutboxRow:
    return OutboxRow(
        f"e-{number}", number, destination, None, "{}", None, attempts, datetime.now(UTC)
    )


async def relayed(*rows: OutboxRow) -> list[RowResult]:
    broker = MemoryBroker()
    broker.create_queue("q")
    broker.fail_next_send(["e-1"], "throttled")
    store = Store(*rows)
    settings = RelaySettings(backoff_s=0.5, backoff_max_s=60)
    relay = Relay(cast("OutboxStore", store), broker, settings=settings, rng=random.Random(1))
    assert await relay.run_once() == len(rows)
    assert await relay.run_once() == 0
    return sorted(store.marked, key=lambda result: result.row.id)


async def test_each_entry_has_its_own_result() -> None:
    sent, refused, nowhere = await relayed(row(0, 1), row(1, 1), row(2, 1, "gone"))
    assert (sent.error, bool(sent.message_id)) == (None, True)
    assert refused.error == "throttled"
    assert nowhere.error is not None
    assert "gone" in nowhere.error


async def test_the_delay_doubles_up_to_its_limit_and_has_jitter() -> None:
    for attempts, ceiling in ((1, 0.5), (2, 1.0), (5, 8.0), (8, 60.0), (2_000_000, 60.0)):
        delays = {(await relayed(row(1, attempts)))[0].delay_s}
        (delay,) = delays
        assert ceiling / 2 <= delay <= ceiling
    relay = Relay(cast("OutboxStore", Store()), MemoryBroker(), rng=random.Random(1))
    assert len({relay._dispatcher.delay_s(3) for _ in range(50)}) > 40


@pytest.mark.parametrize("wrong", ["order", "fewer", "foreign"])
async def test_results_that_are_not_the_rows_own_mark_nothing(wrong: str) -> None:
    class Broken:
        async def send(self, _: str, messages: list[Outgoing]) -> list[SendResult]:
            refused, sent = (
                SendResult(messages[0].id, error="no"),
                SendResult(messages[1].id, "m"),
            )
            foreign = SendResult("e-9", "m")
            return {"order": [sent, refused], "fewer": [sent], "foreign": [refused, foreign]}[wrong]

    store = Store(row(0, 1), row(1, 1))
    relay = Relay(cast("OutboxStore", store), cast("Publisher", Broken()))
    with pytest.raises(RuntimeError, match="one result for each message"):
        await relay.run_once()
    assert store.marked == []
