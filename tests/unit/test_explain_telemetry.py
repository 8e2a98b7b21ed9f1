"""The spans that explanations live on say what they must, in a form that trace stores keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import INVALID_SPAN_CONTEXT

from onceproof import telemetry
from onceproof.brokers.dead_letter import ORIGINAL_ID
from onceproof.brokers.memory import MemoryBroker
from onceproof.consumer import ConsumerSettings, tracing
from onceproof.consumer.acker import Ack, Acker
from onceproof.consumer.inflight import InHand, State
from onceproof.crashpoints import CONSUMER_AFTER_CHARGE, Action, Armed, CrashPoints
from onceproof.dlq.letter import Letter
from onceproof.errors import InjectedDropError
from onceproof.events import Event
from onceproof.outbox.relay import Relay
from onceproof.outbox.store import OutboxRow, OutboxStore
from onceproof.ports import Delivery, Message, SettleResult, Subscriber
from onceproof.variants import parse_variant

EVENT = Event("t", data=None, key="o-1", id="event-1")
SETTINGS = ConsumerSettings(name="payments", visibility_s=30)


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Spans of this test, without a global SDK."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("test"))
    return exporter


def only(exporter: InMemorySpanExporter) -> ReadableSpan:
    (span,) = exporter.get_finished_spans()
    return span


def messages(span: ReadableSpan) -> list[Mapping[str, Any]]:
    return [dict(event.attributes or {}) for event in span.events if event.name == "message"]


def in_hand(attempt: int = 1, **message: Any) -> InHand:
    received = Message(EVENT.encode(), "message-1", "receipt", attempt, 1e9, **message)
    return InHand(Delivery(EVENT, received, EVENT.id), received.visible_until)


NAMED = {
    "onceproof.event.id": "event-1",
    "onceproof.order.id": "o-1",
    "messaging.message.id": "message-1",
    "onceproof.delivery.attempt": 2,
}


def test_a_receive_names_each_message_and_how_long_it_is_its_own(
    exported: InMemorySpanExporter,
) -> None:
    first = datetime(2026, 1, 1, tzinfo=UTC)
    tracing.received(
        SETTINGS, "q", [in_hand(2, first_received_at=first)], count=1, number=7, since_ns=0
    )
    span = only(exported)
    assert messages(span) == [NAMED | {telemetry.FIRST_RECEIVED_AT: first.timestamp()}]
    attributes = dict(span.attributes or {})
    assert attributes[telemetry.VISIBILITY_S] == 30
    assert attributes[telemetry.HEARTBEAT_S] == 10
    assert attributes[telemetry.RECEIVE_NUMBER] == 7


def test_a_consumer_without_a_heartbeat_says_so(exported: InMemorySpanExporter) -> None:
    fixes = parse_variant("hardened-visibility_heartbeat")
    settings = ConsumerSettings(name="payments", fixes=fixes)
    tracing.received(settings, "q", [in_hand()], count=1, number=1, since_ns=0)
    assert dict(only(exported).attributes or {})[telemetry.HEARTBEAT_S] == 0


def test_a_message_that_was_in_the_dlq_says_so(exported: InMemorySpanExporter) -> None:
    dead = Message(EVENT.encode(), "dead-1", "r", 1, 0.0, attributes={ORIGINAL_ID: "message-0"})
    redriven = Letter.of(dead).copy("redrive-1").attributes
    for attributes in (redriven, dead.attributes):
        (handled,) = tracing.handling(SETTINGS, "q", [in_hand(attributes=attributes)])
        handled.end()
    by_tool, by_hand = (dict(span.attributes or {}) for span in exported.get_finished_spans())
    assert by_tool[telemetry.REDRIVE] == "redrive-1"
    assert telemetry.DEAD_LETTERED_AS not in by_tool
    assert by_hand[telemetry.DEAD_LETTERED_AS] == "message-0"


def test_letting_go_and_giving_back_leave_a_span(exported: InMemorySpanExporter) -> None:
    tracing.lapsed(in_hand(2))
    tracing.released(in_hand(2), 1.5)
    lapsed, released = exported.get_finished_spans()
    number = {telemetry.RECEIVE_NUMBER: 0}
    assert (lapsed.name, dict(lapsed.attributes or {})) == ("delivery.lapsed", NAMED | number)
    assert released.name == "delivery.released"
    assert dict(released.attributes or {}) == NAMED | number | {telemetry.RELEASED_FOR_S: 1.5}


def test_a_consumer_says_at_its_end_how_often_it_received(exported: InMemorySpanExporter) -> None:
    tracing.stopped(3)
    span = only(exported)
    assert (span.name, dict(span.attributes or {})) == (
        "consumer.stopped",
        {telemetry.RECEIVE_COUNT: 3},
    )


class Answers:
    """A subscriber that answers an ack as told."""

    queue = "q"

    def __init__(self, *results: SettleResult) -> None:
        self._results = results

    async def ack(self, _messages: Sequence[Message]) -> list[SettleResult]:
        return list(self._results)


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (SettleResult("message-1"), "confirmed"),
        (SettleResult("message-1", error="gone", stale=True), "stale"),
        (SettleResult("message-1", error="refused"), "not_confirmed"),
    ],
)
async def test_an_ack_says_what_the_broker_answered(
    exported: InMemorySpanExporter, answer: SettleResult, result: str
) -> None:
    acker = Acker(cast("Subscriber", Answers(answer)), linger_s=0, system="aws_sqs")
    acker.add(Ack(in_hand(2), INVALID_SPAN_CONTEXT))
    assert len(acker.unacked) == 1
    await acker.flush()
    assert acker.unacked == []
    assert messages(only(exported)) == [NAMED | {telemetry.RESULT: result}]


def test_a_crash_point_says_what_its_process_had_in_hand(exported: InMemorySpanExporter) -> None:
    points, item = CrashPoints(), in_hand(2)
    points.arm([Armed("f", CONSUMER_AFTER_CHARGE, Action.DROP)])
    item.state = State.DONE
    with (
        telemetry.holding(lambda: (3, [tracing.in_hand(item)])),
        telemetry.receiving(),
        pytest.raises(InjectedDropError),
    ):
        points.hit(CONSUMER_AFTER_CHARGE, "o-1", 2, "event-1", "message-1")
    span = only(exported)
    attributes = dict(span.attributes or {})
    assert attributes[telemetry.MESSAGE_ID] == "message-1"
    assert attributes[telemetry.RECEIVE_COUNT] == 3
    assert telemetry.RECEIVE_OPEN_SINCE in attributes
    assert messages(span) == [NAMED | {telemetry.STATE: "done", telemetry.RECEIVE_NUMBER: 0}]


def test_a_crash_point_elsewhere_has_nothing_in_hand(exported: InMemorySpanExporter) -> None:
    points = CrashPoints()
    points.arm([Armed("f", CONSUMER_AFTER_CHARGE, Action.DROP)])
    with pytest.raises(InjectedDropError):
        points.hit(CONSUMER_AFTER_CHARGE, "o-1")
    attributes = dict(only(exported).attributes or {})
    assert not {telemetry.RECEIVE_COUNT, telemetry.RECEIVE_OPEN_SINCE} & set(attributes)


@pytest.mark.parametrize("number", [1, 2])
async def test_a_send_names_each_message_with_its_result(
    exported: InMemorySpanExporter, number: int
) -> None:
    broker = MemoryBroker()
    broker.create_queue("q")
    broker.fail_next_send([f"event-{number}"], "outcome unknown: reset")
    rows = [
        OutboxRow(f"event-{n}", n, "q", "o-1", "{}", None, 1, datetime.now(UTC))
        for n in range(1, number + 1)
    ]
    await Relay(cast("OutboxStore", None), broker)._dispatcher.send("q", rows)
    span = only(exported)
    assert dict(span.attributes or {})[telemetry.SENDER] == "relay"
    told = messages(span)
    assert [message["onceproof.event.id"] for message in told] == [row.id for row in rows]
    assert [message[telemetry.RESULT] for message in told] == [
        *["confirmed"] * (number - 1),
        "not_confirmed",
    ]
    assert telemetry.MESSAGE_ID not in told[-1]
