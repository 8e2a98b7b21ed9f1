from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text

# The benchmarks are scripts beside the packages, not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.ceiling import with_values
from benchmarks.figures import (
    InvalidRunError,
    Sample,
    Spread,
    require_charged_once,
    require_published_once,
)
from benchmarks.latency import Latency
from benchmarks.metering import cpu_of
from benchmarks.null_broker import NullSubscriber, deliveries
from benchmarks.outbox_scale import require_sent_once
from benchmarks.relaying import with_numbers

from onceproof.events import Event


def sample(orders: int, seconds: float) -> Sample:
    return Sample(orders, seconds, cpu_s=0.5, transactions=orders // 10)


def test_rates_of_a_sample() -> None:
    one = sample(2000, 4.0)
    assert one.orders_per_s == 500
    assert one.cpu_s_per_1000 == 0.25
    assert one.orders_per_transaction == 10


def test_a_spread_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Spread.of([])


def test_a_run_that_charged_each_order_once_is_accepted() -> None:
    require_charged_once(asked=100, charges=100, charged_orders=100, given_back=0)


@pytest.mark.parametrize(
    ("charges", "charged_orders", "given_back"),
    [
        pytest.param(99, 99, 0, id="lost"),
        pytest.param(101, 100, 0, id="double charge"),
        pytest.param(100, 99, 0, id="one lost, one double"),
        pytest.param(101, 101, 0, id="unexpected"),
        pytest.param(100, 100, 1, id="tried again"),
    ],
)
def test_a_run_that_charged_wrongly_is_refused(
    charges: int, charged_orders: int, given_back: int
) -> None:
    with pytest.raises(InvalidRunError, match="100 distinct orders gave"):
        require_charged_once(
            asked=100, charges=charges, charged_orders=charged_orders, given_back=given_back
        )


def test_a_relay_run_is_accepted_when_each_row_was_sent_once() -> None:
    require_published_once(asked=100, published=100, attempts=100, sent=100)


@pytest.mark.parametrize(
    ("published", "attempts", "sent"), [(99, 100, 100), (100, 101, 100), (100, 100, 101)]
)
def test_a_relay_run_with_a_row_left_or_sent_twice_is_refused(
    published: int, attempts: int, sent: int
) -> None:
    with pytest.raises(InvalidRunError, match="100 pending rows"):
        require_published_once(asked=100, published=published, attempts=attempts, sent=sent)


def test_input_has_five_percent_duplicates_and_orders_of_200_bytes() -> None:
    events = [Event.decode(message.body) for message in deliveries(2000)]
    assert len(events) == 2100
    assert len({event.id for event in events}) == len({event.key for event in events}) == 2000
    for event in events:
        assert len(json.dumps(event.data, separators=(",", ":"))) == 200


async def test_a_message_given_back_ends_the_run() -> None:
    broker = NullSubscriber(deliveries(20))
    received = await broker.receive(max_messages=100, wait_s=1, visibility_s=30)
    assert len(received) == 10
    await broker.ack(received)
    assert not broker.finished.is_set()
    await broker.release(received[:1], 0)
    assert broker.finished.is_set()
    assert broker.given_back == 1


def test_a_parameter_without_a_value_is_an_error() -> None:
    statement = text("SELECT CAST(:n AS int), x::text FROM t WHERE y = :y")
    assert with_values(statement, {"n": "1", "y": "'a'"}) == (
        "SELECT CAST(1 AS int), x::text FROM t WHERE y = 'a'"
    )
    with pytest.raises(KeyError):
        with_values(statement, {"n": "1"})


def test_a_scale_run_counts_only_if_each_message_was_sent_and_marked_once() -> None:
    require_sent_once(sent=10, distinct=10, marked=12)  # earlier runs' rows are among the marked
    with pytest.raises(InvalidRunError, match="10 messages sent, 9 different"):
        require_sent_once(sent=10, distinct=9, marked=10)
    with pytest.raises(InvalidRunError, match="9 rows marked"):
        require_sent_once(sent=10, distinct=10, marked=9)


def test_percentiles_of_latencies() -> None:
    one = Latency.of([0.001 * n for n in range(1, 101)])
    assert one.p50_ms == pytest.approx(50.5)
    assert 99 <= one.p99_ms <= 100


def test_a_relay_statement_with_a_new_parameter_is_refused_by_the_ceiling() -> None:
    assert with_numbers("a $1 $2", {1: "x", 2: "y"}) == "a x y"
    with pytest.raises(KeyError):
        with_numbers("a $1 $2", {1: "x"})


def test_a_part_that_another_part_started_is_counted_once():
    class Process:
        def __init__(self, pid: int, cpu: float, *children: Process) -> None:
            self.pid, self._cpu, self._children = pid, cpu, list(children)

        def children(self, *, recursive: bool) -> list[Process]:
            assert recursive
            return self._children

        def cpu_times(self) -> SimpleNamespace:
            return SimpleNamespace(user=self._cpu, system=0, children_user=0, children_system=0)

    watcher = Process(2, 1.0)
    java: Any = Process(3, 30.0)
    relay: Any = Process(1, 500.0, watcher, java)
    assert cpu_of({"relay": relay}) == {"relay": 531.0}
    assert cpu_of({"relay": relay, "debezium": java}) == {"relay": 501.0, "debezium": 30.0}
