"""The time from a consumer's kill to the next handling of its order."""

from __future__ import annotations

from onceproof.telemetry import DELIVERY_ATTEMPT, ORDER_ID
from onceproof_chaos.faultlog import FaultEvent, FaultEventKind
from onceproof_chaos.recovery import Recovery, median_and_max, recoveries
from onceproof_chaos.spans import Span


def fault(kind: FaultEventKind, at: float, name: str, order: str, point: str) -> FaultEvent:
    return FaultEvent(kind, at, fault=name, point=point, action="kill", order=order)


def killed(name: str, order: str, at: float, point: str = "consumer.after_charge"):
    return [
        fault(FaultEventKind.REACHED, at, name, order, point),
        fault(FaultEventKind.KILLED, at + 2.3, name, order, point),
    ]


def process(order: str, start: float, attempt: int = 1) -> Span:
    return Span(
        name="process orders",
        trace_id="t",
        span_id=f"{order}-{start}",
        start=start,
        end=start + 0.1,
        attributes={
            "messaging.operation.type": "process",
            ORDER_ID: order,
            DELIVERY_ATTEMPT: attempt,
        },
    )


def test_a_kill_counts_from_its_crash_point_to_the_next_handling_of_its_order() -> None:
    spans = [process("o-1", 9.9), process("o-1", 13.0, 2), process("o-1", 20.0, 3)]
    spans.append(process("o-2", 11.0))
    assert recoveries(killed("f", "o-1", 10.0), spans) == [
        Recovery("f", "consumer.after_charge", "o-1", 3.0)
    ]


def test_what_never_came_again_and_what_no_consumer_held_is_left_out() -> None:
    faults = [
        *killed("lost", "o-1", 10.0),
        *killed("relay", "o-2", 10.0, "relay.after_publish"),
        fault(FaultEventKind.REACHED, 10.0, "dropped", "o-3", "consumer.after_commit"),
    ]
    spans = [process("o-1", 9.0), process("o-2", 11.0), process("o-3", 11.0)]
    assert recoveries(faults, spans) == []


def test_median_and_maximum_are_in_seconds_or_nothing() -> None:
    found = [Recovery("f", "p", "o", seconds) for seconds in (1.0, 5.0, 2.0)]
    assert median_and_max(found) == (2.0, 5.0)
    assert median_and_max([]) is None
