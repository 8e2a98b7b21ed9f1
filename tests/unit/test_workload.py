"""The clients against a producer that answers as told: what is promised, retried and given up."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from onceproof_chaos.history import Finished, History, HistoryWriter, Outcome
from onceproof_chaos.workload import Order, Workload, generate

ORDER = Order("o-1-000000", 1999, "EUR")
IMPATIENT = Order("o-1-000000", 1999, "EUR", impatient=True)


class Producer:
    """Answers the n-th request for an order with the n-th step; the last step repeats.

    A step is a status, "reset", or "hang".
    """

    def __init__(self) -> None:
        self.steps: list[int | str] = [201]
        self.seen: dict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
        self.url = ""
        self.released = asyncio.Event()
        self.held = asyncio.Semaphore(0)

    async def place(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.text())
        requests = self.seen[body["order_id"]]
        requests.append((request.headers["Idempotency-Key"], body))
        step = self.steps[min(len(requests), len(self.steps)) - 1]
        if step == "reset":
            assert request.transport is not None
            request.transport.abort()
        if step == "hang":
            self.held.release()
            await self.released.wait()
        return web.Response(status=step if isinstance(step, int) else 500, text="because")


@pytest.fixture
async def producer() -> AsyncIterator[Producer]:
    producer = Producer()
    app = web.Application()
    app.router.add_post("/orders", producer.place)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    producer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield producer
    producer.released.set()
    await runner.cleanup()


Place = Callable[..., Awaitable[Finished]]


@pytest.fixture
def place(producer: Producer, tmp_path: Path) -> Place:
    async def run(
        order: Order, *steps: int | str, urls: list[str] | None = None, deadline_s: float = 1.0
    ) -> Finished:
        producer.steps = list(steps) or [201]
        path = tmp_path / "history.jsonl"
        with HistoryWriter(path) as history:
            await Workload(
                [order],
                lambda: [producer.url] if urls is None else urls,
                history,
                attempt_timeout_s=0.15,
                deadline_s=deadline_s,
            ).run()
        loaded = History.load(path)
        assert loaded.asked[order.order_id].attempt == 1
        return loaded.finished[order.order_id]

    return run


async def test_accepted_at_once(place: Place, producer: Producer) -> None:
    finished = await place(ORDER)
    assert (finished.outcome, finished.status, finished.attempts) == (Outcome.OK, 201, 1)
    assert finished.error is None
    assert producer.seen[ORDER.order_id][0][1] == {
        "order_id": ORDER.order_id,
        "amount": 1999,
        "currency": "EUR",
    }


@pytest.mark.parametrize("step", ["reset", "hang", 500, 503, 409, 429, 200])
async def test_no_definite_answer_is_repeated_with_the_same_key_and_body(
    place: Place, producer: Producer, step: int | str
) -> None:
    finished = await place(ORDER, step, 201)
    assert (finished.outcome, finished.attempts) == (Outcome.OK, 2)
    first, second = producer.seen[ORDER.order_id]
    assert first == second


@pytest.mark.parametrize("step", [400, 404, 413, 422])
async def test_a_definite_no_is_never_sent_again(
    place: Place, producer: Producer, step: int
) -> None:
    finished = await place(ORDER, step, 201)
    assert (finished.outcome, finished.status) == (Outcome.FAIL, step)
    assert finished.error == f"HTTP {step}: because"
    assert len(producer.seen[ORDER.order_id]) == 1


@pytest.mark.parametrize("step", ["reset", "hang", 500, 409])
async def test_giving_up_without_an_answer_is_unknown(place: Place, step: int | str) -> None:
    finished = await place(ORDER, step)
    assert finished.outcome is Outcome.INFO
    assert finished.attempts > 1
    assert finished.ended_at - finished.started_at < 2


@pytest.mark.parametrize("step", ["reset", "hang", 500])
async def test_the_impatient_leave_after_the_first_unknown_outcome(
    place: Place, step: int | str
) -> None:
    finished = await place(IMPATIENT, step, 201)
    assert (finished.outcome, finished.attempts) == (Outcome.INFO, 1)


async def test_one_unknown_outcome_is_enough_to_stay_unknown(place: Place) -> None:
    finished = await place(ORDER, "reset", 429)
    assert finished.outcome is Outcome.INFO


@pytest.mark.parametrize("refusal", [401, 404, 422])
async def test_a_late_refusal_does_not_undo_what_may_have_happened(
    place: Place, refusal: int
) -> None:
    finished = await place(ORDER, "reset", refusal)
    assert (finished.outcome, finished.status) == (Outcome.INFO, refusal)


async def test_a_refused_connection_was_not_sent(place: Place, unused_tcp_port: int) -> None:
    finished = await place(IMPATIENT, urls=[f"http://127.0.0.1:{unused_tcp_port}"])
    assert (finished.outcome, finished.status) == (Outcome.FAIL, None)
    assert finished.attempts > 1
    assert "not connected" in (finished.error or "")


async def test_no_producer_at_all_is_a_no(place: Place) -> None:
    assert (await place(ORDER, urls=[])).outcome is Outcome.FAIL


async def test_the_load_follows_the_clock_and_reports_every_order(
    producer: Producer, tmp_path: Path
) -> None:
    orders = generate(5, 30)
    done: list[str] = []
    clock = asyncio.get_running_loop()
    started = clock.time()
    with HistoryWriter(tmp_path / "history.jsonl") as history:
        await Workload(
            orders,
            lambda: [producer.url],
            history,
            rate_per_s=100,
            on_finished=lambda finished: done.append(finished.order_id),
        ).run()
    assert clock.time() - started >= 0.29
    assert sorted(done) == [order.order_id for order in orders]


async def test_a_standing_producer_holds_no_more_clients_than_the_cap(
    producer: Producer, tmp_path: Path
) -> None:
    producer.steps = ["hang"]
    with HistoryWriter(tmp_path / "history.jsonl") as history:
        load = asyncio.create_task(
            Workload(
                generate(1, 50),
                lambda: [producer.url],
                history,
                rate_per_s=1000,
                concurrency=4,
                attempt_timeout_s=60,
            ).run()
        )
        async with asyncio.timeout(10):
            for _ in range(4):
                await producer.held.acquire()
        await asyncio.wait([load], timeout=0.2)
        assert len(producer.seen) == 4
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load


def test_orders_come_from_the_seed() -> None:
    assert generate(1, 50) == generate(1, 50)
    assert generate(1, 50) == generate(1, 80)[:50]
    assert [o.amount for o in generate(1, 50)] != [o.amount for o in generate(2, 50)]
    many = generate(3, 1000)
    assert len({order.order_id for order in many}) == 1000
    assert 0.06 < sum(order.impatient for order in many) / 1000 < 0.14
    assert min(order.amount for order in many) >= 1
    assert len({order.currency for order in many}) > 3
    assert many[7].order_id == "o-3-000007"


def test_two_runs_of_a_seed_ask_for_the_same_under_other_ids() -> None:
    first, second = generate(3, 50, "a1"), generate(3, 50, "b2")
    assert {o.order_id for o in first}.isdisjoint(o.order_id for o in second)
    assert [replace(o, order_id="") for o in first] == [replace(o, order_id="") for o in second]


def test_a_rate_of_zero_is_refused(tmp_path: Path) -> None:
    with HistoryWriter(tmp_path / "h.jsonl") as history, pytest.raises(ValueError, match="rate"):
        Workload([], list, history, rate_per_s=0)
