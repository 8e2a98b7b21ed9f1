"""The timeline of an order in the report: every mark inside, text at its size, and a bounded number."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from onceproof_chaos.evidence import CaptureRow, ChargeRow, Evidence
from onceproof_chaos.explain import Index, Records, explain_all, explain_order
from onceproof_chaos.faultlog import FaultEvent, FaultEventKind
from onceproof_chaos.report import again
from onceproof_chaos.report.lanes import LANE, Lanes, lanes_of
from onceproof_chaos.spans import Span

LONG = "onceproof-consumer-6d5f7b9c5-x2x9z-1"


def named(order: str, attempt: int) -> dict[str, Any]:
    return {
        "onceproof.order.id": order,
        "onceproof.event.id": f"event-{order}",
        "messaging.message.id": f"message-{order}",
        "onceproof.delivery.attempt": attempt,
    }


def span(name: str, at: float, on: str, own: dict[str, Any], *told: dict[str, Any]) -> Span:
    events = tuple({"name": "message", "attributes": message} for message in told)
    return Span(
        name, "t", f"{name}-{at}", at - 0.01, at, service="consumer", instance=on, attributes=own,
        events=events,
    )  # fmt: skip


def spans_of(order: str) -> list[Span]:
    receive, process = ({"messaging.operation.type": t} for t in ("receive", "process"))
    crash = {"onceproof.crash_point": "consumer.after_charge", "onceproof.receive.count": 1}
    return [
        span("send", 10, "relay-1", {"messaging.operation.type": "send", "onceproof.sender": "relay"},
             named(order, 1) | {"onceproof.result": "confirmed"}),
        span("receive", 11, LONG, receive | {"onceproof.receive.number": 1}, named(order, 1)),
        span("crash_point.reached", 11.1, LONG, crash | named(order, 1),
             named(order, 1) | {"onceproof.delivery.state": "working"}),
        span("receive", 44, "b-2", receive | {"onceproof.receive.number": 1}, named(order, 3)),
        span("process", 44.5, "b-2", process | named(order, 3) | {"onceproof.outcome": "processed"}),
        span("ack", 44.6, "b-2", {"messaging.operation.type": "settle"},
             named(order, 3) | {"onceproof.result": "confirmed"}),
    ]  # fmt: skip


FAULTS = [
    FaultEvent(
        FaultEventKind.KILLED, 11.2, "f", "consumer.after_charge", "kill", service="consumer",
        instance="consumer-0", pid=1, trace_id="t", span_id="crash_point.reached-11.1",
    )
]  # fmt: skip
ROWS = Evidence(
    captures=(CaptureRow("c-1", "o-1", 1, "EUR", "event-o-1", 11.05),),
    charges=(ChargeRow(1, "o-1", "event-o-1", 1, "EUR", "c-1", 3, 44.4),),
)


@pytest.fixture
def drawn() -> Lanes:
    index = Index(Records(spans_of("o-1"), FAULTS, ROWS))
    return lanes_of(index.story("o-1"), index.processes)


def test_there_is_a_lane_for_sends_each_delivery_and_the_money(drawn: Lanes) -> None:
    labels = [lane.label for lane in drawn.lanes]
    assert labels[0] == "sent by the relay"
    assert labels[1].startswith("delivery 1 · ...")
    assert labels[2] == "delivery 2: nobody reported it"
    assert labels[3] == "delivery 3 · b-2 · processed"
    assert labels[4] == "captured by the provider: 1"
    assert [lane.y - drawn.lanes[0].y for lane in drawn.lanes] == [n * LANE for n in range(5)]
    assert max(map(len, labels)) < 48  # at 12 pixels it fits a phone


def test_every_mark_is_inside_and_in_order(drawn: Lanes) -> None:
    for lane in drawn.lanes:
        xs = [lane.since, *(mark.x for mark in lane.marks), lane.until]
        assert all(0 <= x <= 100 for x in xs)
        assert xs == sorted(xs)
    kinds = [[mark.kind for mark in lane.marks] for lane in drawn.lanes]
    assert kinds == [["send"], ["crash", "kill"], [], ["commit", "ack"], ["money"]]


def test_each_delivery_is_linked_to_what_it_repeats(drawn: Lanes) -> None:
    ys = [lane.y for lane in drawn.lanes]
    assert [(link.y1, link.y2) for link in drawn.links] == [
        (ys[0], ys[1]), (ys[1], ys[2]), (ys[2], ys[3]),
    ]  # fmt: skip


def test_labels_of_the_axis_do_not_touch_on_a_phone(drawn: Lanes) -> None:
    xs = [x for x, _ in drawn.ticks]
    assert all(later - earlier >= 19 for earlier, later in pairwise(xs))
    assert drawn.ticks[0] == (2.0, "0.00 s")


def test_a_page_tells_a_few_of_each_reason_and_every_breach_first() -> None:
    spans = [one for n in range(200) for one in spans_of(f"o-{n:03d}")]
    told = explain_all(Index(Records(spans, FAULTS, ROWS)))
    breached = {f"o-{n:03d}" for n in range(190, 200)}
    chosen = [order.order_id for order in again._chosen(told, breached)]
    assert len(chosen) == again.MOST_STORIES
    assert breached <= set(chosen)
    assert chosen == sorted(chosen)


def test_an_order_that_was_delivered_once_is_told_without_a_reason() -> None:
    spans = [s for s in spans_of("o-1") if s.name in {"send", "receive"} and s.end < 40]
    index = Index(Records(spans, (), replace(ROWS, charges=())))
    order = explain_order(index, "o-1")
    assert order.redeliveries == []
    assert len(lanes_of(order.story, index.processes).lanes) == 3
