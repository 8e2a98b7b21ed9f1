"""One order's story from spans alone, as a trace store has them, and with a run's files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from onceproof.telemetry import MESSAGE_EVENT
from onceproof_chaos.evidence import CaptureRow, Evidence
from onceproof_chaos.faultlog import FaultEvent, FaultEventKind
from onceproof_chaos.spans import Span
from onceproof_chaos.story import Step, steps_of, summary_of
from onceproof_chaos.tracestory import lines_of

ORDER = {"onceproof.order.id": "o-1", "onceproof.event.id": "event-0001"}
POINT = {"onceproof.crash_point": "consumer.after_commit"}
SENT = {"onceproof.event.id": "event-0001", "messaging.message.id": "message-0001"}
SETTLE = {"messaging.operation.type": "settle"}
TO_IT = {"trace_id": "t1", "span_id": "p2"}


def span(
    at: float, name: str, attributes: dict[str, Any], trace: str = "t1", links: tuple[Any, ...] = ()
) -> Span:
    return Span(
        name, trace, f"{at}", at, at + 0.5, service="consumer", links=links, attributes=attributes
    )


PLACED = span(1, "POST /orders", {"http.response.status_code": 201})
REACHED = span(2, "crash_point.reached", ORDER | POINT | {"onceproof.delivery.attempt": 1})
KILL = span(3, "pod.kill", POINT | {"onceproof.drill": "drill-a", "k8s.pod.name": "consumer-x"})
AGAIN = {"onceproof.delivery.attempt": 2, "onceproof.dedup.hit": True}
DUPLICATE = span(4, "process orders", ORDER | AGAIN | {"messaging.operation.type": "process"})
ACK = span(5, "ack orders", SETTLE, "t2", ({**TO_IT, "attributes": {}},))
TRACED = [ACK, DUPLICATE, KILL, PLACED, REACHED]


def what(steps: list[Step]) -> list[str]:
    return [step.what for step in steps]


def test_spans_of_a_trace_store_tell_it_without_a_run_folder() -> None:
    assert what(steps_of("o-1", spans=TRACED)) == [
        "reached consumer.after_commit at attempt 1",
        "pod consumer-x killed at consumer.after_commit by drill-a",
        "delivery attempt 2: duplicate: the inbox has it, rolled back",
        "acked in a batch of 1",
    ]


def test_a_kill_in_the_fault_log_is_not_told_twice() -> None:
    killed = FaultEvent(FaultEventKind.KILLED, 3.2, order="o-1", instance="consumer-x", uid="u")
    told = steps_of("o-1", spans=TRACED, faults=[killed])
    assert [step for step in told if "killed" in step.what] == [
        Step(3.2, "consumer-x", "killed (SIGKILL)")
    ]


def test_a_batch_of_one_is_acked_once_although_span_and_link_name_it() -> None:
    ack = span(5, "ack orders", SETTLE | SENT, "t1", ({**TO_IT, "attributes": SENT},))
    told = what(steps_of("o-1", spans=[REACHED, ack]))
    assert told[1:] == ["acked event ...ent-0001 as message ...age-0001"]


def test_a_batch_whose_links_have_attributes_is_told_by_them_alone() -> None:
    other = {"trace_id": "t9", "span_id": "x", "attributes": SENT | {"onceproof.event.id": "e9"}}
    ack = span(5, "ack orders", SETTLE, "t2", ({**TO_IT, "attributes": SENT}, other))
    assert what(steps_of("o-1", spans=[REACHED, ack]))[1:] == [
        "acked event ...ent-0001 as message ...age-0001"
    ]


def test_an_ack_that_came_too_late_is_told_as_such() -> None:
    said = {"name": MESSAGE_EVENT, "attributes": SENT | {"onceproof.result": "stale"}}
    ack = replace(span(5, "ack orders", SETTLE | SENT), events=(said,))
    assert what(steps_of("o-1", spans=[REACHED, ack]))[1:] == [
        "acked event ...ent-0001 as message ...age-0001, too late: it was visible again"
    ]


def test_another_orders_spans_say_nothing() -> None:
    assert steps_of("o-2", spans=TRACED) == []


def test_rows_count_without_spans() -> None:
    evidence = Evidence(captures=(CaptureRow("c", "o-1", 5, "EUR", "key-12345678", 2.0),))
    assert what(steps_of("o-1", evidence=evidence)) == ["captured 5 (key ...12345678)"]
    assert summary_of("o-1", evidence) == "o-1: captured once, charged 0 times"


def test_every_span_is_a_line_with_what_it_means() -> None:
    lines = lines_of("o-1", TRACED)
    assert [line.what for line in lines] == [
        "order placed: HTTP 201",
        "reached consumer.after_commit at attempt 1",
        "pod consumer-x killed at consumer.after_commit by drill-a",
        "delivery attempt 2: duplicate: the inbox has it, rolled back",
        "acked in a batch of 1",
    ]
    assert [line.attempt for line in lines] == [None, 1, None, 2, None]
    assert [line.own for line in lines] == [True, True, True, True, False]
    assert [line.dedup_hit for line in lines].count(True) == 1
    assert lines[1].crash_point == lines[2].crash_point == "consumer.after_commit"
