"""Each reason on a hand-written history; with any piece of evidence taken away, never another one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from onceproof_chaos.evidence import (
    CaptureRow,
    ChargeRow,
    Evidence,
    InboxRow,
    OrderRow,
    OutboxRow,
)
from onceproof_chaos.explain import Explanation, Index, Reason, Records, explain_order
from onceproof_chaos.explain.explanation import OrderExplanation
from onceproof_chaos.faultlog import FaultEvent, FaultEventKind
from onceproof_chaos.spans import Span

ORDER, EVENT, M1, M2 = "o-1", "event-1", "message-1", "message-2"
A, B = "host-1", "host-2"
DATABASE = "the database"
VISIBILITY_S = 30.0


@dataclass
class History:
    """Pieces of evidence by name, so that a test can leave one out."""

    spans: dict[str, Span] = field(default_factory=dict)
    faults: dict[str, FaultEvent] = field(default_factory=dict)
    rows: dict[str, Any] = field(default_factory=dict)

    def span(
        self, name: str, kind: str, at: float, on: str, *, since: float | None = None, **more: Any
    ) -> None:
        messages = more.pop("messages", ())
        attributes = {"messaging.operation.type": kind} if kind in OPERATIONS else {}
        self.spans[name] = Span(
            name=kind,
            trace_id=f"trace-{name}",
            span_id=f"span-{name}",
            start=at if since is None else since,
            end=at,
            service=more.pop("service", "consumer"),
            instance=on,
            status_message=more.pop("status_message", None),
            attributes=attributes | {dotted(k): v for k, v in more.items()},
            events=tuple({"name": "message", "attributes": m} for m in messages),
        )

    def sent(self, name: str, message: str | None, at: float, **more: Any) -> None:
        result = {"onceproof.result": "confirmed" if message else "not_confirmed"}
        named = {"messaging.message.id": message} if message else {}
        told = {"onceproof.event.id": EVENT, "onceproof.order.id": ORDER} | named | result
        attributes: dict[str, Any] = {"service": "relay", "onceproof__sender": "relay"} | more
        self.span(name, "send", at, "relay-1", messages=[told], **attributes)

    def received(
        self, attempt: int, at: float, on: str, *, message: str = M1, number: int = 1, **more: Any
    ) -> None:
        told = delivery(attempt, message) | {dotted(k): v for k, v in more.items()}
        self.span(
            f"received {attempt} {message}", "receive", at, on, since=at - 1, messages=[told],
            onceproof__visibility_s=VISIBILITY_S, onceproof__heartbeat_s=10.0,
            onceproof__receive__number=number,
        )  # fmt: skip

    def handled(self, attempt: int, outcome: str, at: float, on: str, **more: Any) -> None:
        told = delivery(attempt, more.pop("message", M1))
        named: dict[str, Any] = {underscored(name): value for name, value in told.items()}
        named |= {"onceproof__outcome": outcome, **more}
        name = f"handled {attempt} {told['messaging.message.id']}"
        self.span(name, "process", at, on, since=at - 0.5, **named)

    def acked(self, attempt: int, result: str, at: float, on: str, **more: Any) -> None:
        told = delivery(attempt, more.pop("message", M1)) | {"onceproof.result": result}
        name = f"acked {attempt} {told['messaging.message.id']}"
        self.span(name, "settle", at, on, since=at - 0.01, messages=[told])

    def moment(self, kind: str, attempt: int, at: float, on: str) -> None:
        told = {underscored(k): v for k, v in delivery(attempt).items()}
        self.span(f"{kind} {attempt}", f"delivery.{kind}", at, on, **told)

    def stood(
        self, point: str, at: float, on: str, *, action: str = "kill", own: int | None = None,
        held: Iterable[tuple[int, str]] = (), receives: int = 1, order: str = ORDER, **more: Any,
    ) -> None:  # fmt: skip
        """A crash point: of delivery `own`, or of another order; `held` by attempt and state."""
        other = {"onceproof.order.id": order, "onceproof.event.id": "x"}
        named: dict[str, Any] = delivery(own) if own else other
        named = {underscored(name): value for name, value in named.items()} | more
        self.span(
            "crash point", "crash_point.reached", at, on,
            onceproof__crash_point=point, onceproof__crash_action=action,
            onceproof__receive__count=receives,
            messages=[delivery(n) | {"onceproof.delivery.state": state} for n, state in held],
            **named,
        )  # fmt: skip

    def fault(self, name: str, kind: FaultEventKind, at: float, **more: Any) -> None:
        crash = self.spans.get("crash point")
        event = FaultEvent(
            kind, at, fault="fault-1", service="consumer", instance="consumer-0", pid=1
        )
        if crash is not None:
            event = replace(
                event,
                trace_id=crash.trace_id,
                span_id=crash.span_id,
                point=crash.attributes["onceproof.crash_point"],
                pid=int(crash.instance.rpartition("-")[2]),
            )
        self.faults[name] = replace(event, **more)

    def committed(self, attempt: int, at: float) -> None:
        row = ChargeRow(7, ORDER, EVENT, 100, "EUR", "capture-1", attempt, at)
        self.rows["charge"] = row
        self.rows["inbox"] = InboxRow("payments", EVENT, at)

    def records(self, *without: str) -> Records:
        rows = [row for name, row in self.rows.items() if name not in without]
        has_database = DATABASE not in without

        def of(kind: type) -> tuple[Any, ...]:
            return tuple(row for row in rows if isinstance(row, kind))

        return Records(
            spans=[span for name, span in self.spans.items() if name not in without],
            faults=[event for name, event in self.faults.items() if name not in without],
            rows=Evidence(
                orders=(OrderRow(ORDER, 100, "EUR", EVENT, 0.0),),
                captures=of(CaptureRow),
                charges=of(ChargeRow) if has_database else (),
                inbox=of(InboxRow) if has_database else (),
                outbox=of(OutboxRow) if has_database else (),
            ),
            has_database=has_database,
        )

    @property
    def pieces(self) -> list[str]:
        return [*self.spans, *self.faults, *self.rows, DATABASE]


OPERATIONS = {"send", "receive", "process", "settle"}


def dotted(name: str) -> str:
    return name.replace("__", ".")


def underscored(name: str) -> str:
    return name.replace(".", "__")


def delivery(attempt: int, message: str = M1) -> dict[str, Any]:
    return {
        "onceproof.event.id": EVENT,
        "onceproof.order.id": ORDER,
        "messaging.message.id": message,
        "onceproof.delivery.attempt": attempt,
    }


def explained(history: History, *without: str) -> OrderExplanation:
    return explain_order(Index(history.records(*without)), ORDER)


def why(history: History, key: tuple[str, int], *without: str) -> Explanation | None:
    """The explanation of one redelivery; None when it is not even noticed any more."""
    found = [e for e in explained(history, *without).redeliveries if e.key == key]
    return found[0] if found else None


def killed_before_commit() -> History:
    history = History()
    history.received(1, 10, A)
    history.stood("consumer.after_charge", 11, A, own=1, held=[(1, "working")])
    history.fault("kill", FaultEventKind.KILLED, 11.1)
    history.received(2, 41, B)
    history.handled(2, "processed", 42, B)
    history.acked(2, "confirmed", 42.1, B)
    history.committed(2, 41.6)
    return history


def killed_in_the_queue_of_its_process() -> History:
    """It waited in a process that was killed at another order's crash point."""
    history = killed_before_commit()
    history.stood("consumer.after_commit", 11, A, order="o-9", held=[(1, "waiting")])
    history.fault("kill", FaultEventKind.KILLED, 11.1)
    return history


def died_by_itself() -> History:
    history = killed_before_commit()
    del history.spans["crash point"], history.faults["kill"]
    history.fault("kill", FaultEventKind.DIED_UNEXPECTEDLY, 11.1, pid=1, exit_code=137)
    return history


def deleted_by_the_operator() -> History:
    """In a cluster without a fault log: a span tells of the kill."""
    history = killed_before_commit()
    del history.faults["kill"]
    history.span("kill", "pod.kill", 13, "operator-1", service="operator", k8s__pod__name="host")
    crash = history.spans["crash point"]
    history.spans["kill"] = replace(
        history.spans["kill"], trace_id=crash.trace_id, parent_span_id=crash.span_id
    )
    return history


def killed_after_commit() -> History:
    history = History()
    history.received(1, 10, A)
    history.stood("consumer.after_commit", 11, A, own=1, held=[(1, "working")])
    history.fault("kill", FaultEventKind.KILLED, 11.1)
    history.received(2, 41, B)
    history.handled(2, "duplicate", 42, B)
    history.committed(1, 10.6)
    return history


def killed_before_the_ack() -> History:
    """Its work was done, and its process was killed at another order's crash point."""
    history = killed_after_commit()
    history.handled(1, "processed", 10.9, A)
    history.stood("consumer.before_charge", 11, A, order="o-9", held=[(1, "done")])
    history.fault("kill", FaultEventKind.KILLED, 11.1)
    return history


def ack_refused() -> History:
    history = History()
    history.received(1, 10, A)
    history.handled(1, "processed", 11, A)
    history.acked(1, "not_confirmed", 11.1, A)
    history.received(2, 41, B)
    history.handled(2, "duplicate", 42, B)
    history.committed(1, 10.6)
    return history


def ack_dropped() -> History:
    history = ack_refused()
    history.handled(1, "ack_lost", 11, A)
    del history.spans[f"acked 1 {M1}"]
    return history


def stalled() -> History:
    history = History()
    history.received(1, 10, A)
    history.stood("consumer.after_charge", 11, A, action="stall", own=1, held=[(1, "working")])
    history.received(2, 41, B)
    history.fault("resumed", FaultEventKind.RESUMED, 51)
    history.handled(2, "processed", 42, B)
    history.committed(2, 41.6)
    return history


def let_go() -> History:
    history = History()
    history.received(1, 10, A)
    history.moment("lapsed", 1, 45, A)
    history.received(2, 41, B)
    return history


def slow() -> History:
    history = History()
    history.received(1, 10, A)
    history.handled(1, "duplicate", 60, A)
    history.received(2, 41, B)
    history.handled(2, "processed", 42, B)
    history.committed(2, 41.6)
    return history


def failed() -> History:
    history = History()
    history.received(1, 10, A)
    history.handled(1, "retried", 11, A, status_message="OutcomeUnknownError")
    history.moment("released", 1, 11, A)
    history.received(2, 13, B)
    return history


def never_read() -> History:
    history = History()
    history.stood(
        "consumer.before_charge", 11, A, order="o-9", receives=0,
        onceproof__receive__open_since=10.0,
    )  # fmt: skip
    history.fault("kill", FaultEventKind.KILLED, 11.1)
    history.received(2, 41, B, onceproof__delivery__first_received_at=11.05)
    history.handled(2, "processed", 42, B)
    history.committed(2, 41.6)
    return history


def relay_killed() -> History:
    history = History()
    history.sent("first send", M1, 5)
    history.sent("second send", M2, 35)
    history.received(1, 10, A)
    history.handled(1, "processed", 11, A)
    history.received(1, 36, A, message=M2, number=2)
    history.handled(1, "duplicate", 37, A, message=M2)
    return history


def relay_got_no_answer() -> History:
    history = relay_killed()
    history.sent("first send", None, 5)
    return history


def producer_twice() -> History:
    history = relay_killed()
    history.sent("first send", M1, 5, onceproof__sender="producer", service="producer")
    history.sent("second send", M2, 35, onceproof__sender="producer", service="producer")
    return history


def redriven() -> History:
    history = relay_killed()
    del history.spans["second send"]
    history.received(1, 36, A, message=M2, number=2, onceproof__redrive="redrive-1")
    return history


def taken_back_by_hand() -> History:
    history = redriven()
    history.received(
        1, 36, A, message=M2, number=2, onceproof__dead_letter__message_id=M1
    )  # fmt: skip
    return history


def no_visible_reason() -> History:
    history = History()
    history.received(1, 10, A)
    history.handled(1, "processed", 11, A)
    history.acked(1, "confirmed", 11.1, A)
    history.received(2, 13, B)
    history.handled(2, "duplicate", 14, B)
    history.committed(1, 10.6)
    return history


R1, H1, A1 = f"received 1 {M1}", f"handled 1 {M1}", f"acked 1 {M1}"
AGAIN, OTHER = (M1, 2), (M2, 1)
Case = tuple[Callable[[], History], tuple[str, int], Reason, list[str]]
CASES: list[Case] = [
    (killed_before_commit, AGAIN, Reason.CRASHED_BEFORE_COMMIT, [R1, "crash point", "kill", DATABASE]),
    (killed_in_the_queue_of_its_process, AGAIN, Reason.CRASHED_BEFORE_COMMIT,
     [R1, "crash point", "kill", DATABASE]),
    (died_by_itself, AGAIN, Reason.CRASHED_BEFORE_COMMIT, [R1, "kill", DATABASE]),
    (deleted_by_the_operator, AGAIN, Reason.CRASHED_BEFORE_COMMIT,
     [R1, "crash point", "kill", DATABASE]),
    (killed_after_commit, AGAIN, Reason.ACK_LOST, [R1, "crash point", "kill", "charge"]),
    (killed_before_the_ack, AGAIN, Reason.ACK_LOST, ["crash point", "kill", "charge"]),
    (ack_refused, AGAIN, Reason.ACK_LOST, [H1, A1, "charge"]),
    (ack_dropped, AGAIN, Reason.ACK_LOST, [H1, "charge"]),
    (stalled, AGAIN, Reason.VISIBILITY_EXPIRED, ["crash point", "resumed"]),
    (let_go, AGAIN, Reason.VISIBILITY_EXPIRED, ["lapsed 1"]),
    (slow, AGAIN, Reason.VISIBILITY_EXPIRED, [H1]),
    (failed, AGAIN, Reason.HANDLER_FAILED, ["released 1"]),
    (never_read, AGAIN, Reason.CRASHED_BEFORE_COMMIT,
     ["crash point", "kill", f"received 2 {M1}", DATABASE]),
    (relay_killed, OTHER, Reason.RELAY_SENT_TWICE, ["first send", "second send"]),
    (relay_got_no_answer, OTHER, Reason.RELAY_SENT_TWICE, ["first send", "second send"]),
    (producer_twice, OTHER, Reason.PRODUCER_SENT_AGAIN, ["first send", "second send"]),
    (redriven, OTHER, Reason.REDRIVEN, [f"received 1 {M2}"]),
    (taken_back_by_hand, OTHER, Reason.REDRIVEN, [f"received 1 {M2}"]),
    (no_visible_reason, AGAIN, Reason.BROKER, [A1]),
]  # fmt: skip
NAMES = [case[0].__name__ for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_the_reason_is_found_and_names_its_evidence(case: Case) -> None:
    build, key, reason, _ = case
    explanation = why(build(), key)
    assert explanation is not None
    assert explanation.reason is reason, explanation
    assert explanation.clues
    assert explanation.missing == ()
    assert explanation.text.endswith(".")


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_without_any_piece_that_it_needs_it_is_unknown_and_says_what_is_missing(case: Case) -> None:
    build, key, _, needed = case
    history = build()
    for piece in needed:
        assert piece in history.pieces
        explanation = why(history, key, piece)
        if explanation is None:
            assert piece.startswith("received")  # then nobody knows that it came again
            continue
        assert explanation.reason is Reason.UNKNOWN, (piece, explanation)
        assert explanation.missing, piece


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_without_any_two_pieces_it_is_never_another_reason(case: Case) -> None:
    build, key, reason, _ = case
    history = build()
    rows = {"charge", "inbox"}  # of one transaction: without both it was not committed
    for pair in itertools.combinations(history.pieces, 2):
        explanation = why(history, key, *pair)
        if explanation is not None and set(pair) != rows:
            assert explanation.reason in {reason, Reason.UNKNOWN}, (pair, explanation)


def test_a_row_that_contradicts_the_crash_point_is_not_believed() -> None:
    history = killed_before_commit()
    history.committed(1, 10.6)
    explanation = why(history, AGAIN)
    assert explanation is not None
    assert explanation.reason is Reason.UNKNOWN
    assert "which is right" in explanation.missing[0]


def test_which_of_two_deliveries_with_one_number_committed_is_not_guessed() -> None:
    history = killed_before_commit()
    history.received(1, 10.1, A, message=M2, number=2)
    history.stood("consumer.before_charge", 11, A, order="o-9", receives=2, held=[(1, "working")])
    history.fault("kill", FaultEventKind.KILLED, 11.1)
    history.committed(1, 10.6)
    explanation = why(history, AGAIN)
    assert explanation is not None
    assert explanation.reason is Reason.UNKNOWN
    history.handled(1, "processed", 10.9, A, message=M2)
    explanation = why(history, AGAIN)
    assert explanation is not None
    assert explanation.reason is Reason.CRASHED_BEFORE_COMMIT


def test_a_redelivery_before_the_kill_is_a_zombies() -> None:
    history = killed_before_commit()
    crash, kill = history.spans["crash point"], history.faults["kill"]
    history.spans["crash point"] = replace(crash, start=50, end=50)
    history.faults["kill"] = replace(kill, at=50.1)
    explanation = why(history, AGAIN)
    assert explanation is not None
    assert explanation.reason is Reason.VISIBILITY_EXPIRED


@pytest.mark.parametrize(("heartbeat_s", "expected"), [
    (0.0, Reason.VISIBILITY_EXPIRED), (10.0, Reason.CRASHED_BEFORE_COMMIT), (None, Reason.UNKNOWN),
])  # fmt: skip
def test_a_visibility_that_nobody_extends_ends_before_a_late_kill(
    heartbeat_s: float | None, expected: Reason
) -> None:
    history = killed_before_commit()
    name = f"received 1 {M1}"
    attributes = dict(history.spans[name].attributes) | {"onceproof.heartbeat_s": heartbeat_s}
    history.spans[name] = replace(history.spans[name], attributes=attributes)
    history.spans["crash point"] = replace(history.spans["crash point"], start=44, end=44)
    history.faults["kill"] = replace(history.faults["kill"], at=44.1)
    history.received(2, 70, B)
    history.committed(2, 70.1)
    del history.spans[f"handled 2 {M1}"], history.spans[f"acked 2 {M1}"]
    explanation = why(history, AGAIN)
    assert explanation is not None
    assert explanation.reason is expected


def test_a_lost_receive_span_of_that_time_makes_an_unread_answer_unknown() -> None:
    history = never_read()
    history.received(2, 41, B, number=2, onceproof__delivery__first_received_at=11.05)
    explanation = why(history, AGAIN)
    assert explanation is not None
    assert explanation.reason is Reason.UNKNOWN
    assert B in explanation.missing[0]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ((B, "host-3"), Reason.CRASHED_BEFORE_COMMIT),
        ((B,), Reason.UNKNOWN),
        ((), Reason.CRASHED_BEFORE_COMMIT),  # nobody has ended yet
    ],
)
def test_who_may_have_read_it_last_says_at_its_end_that_it_did_not(
    told: tuple[str, ...], expected: Reason
) -> None:
    history = never_read()
    history.received(1, 5, "host-3", message=M2)
    for consumer in told:
        history.span(
            f"{consumer} stopped", "consumer.stopped", 90, consumer, onceproof__receive__count=1
        )
    explanation = why(history, AGAIN)
    assert explanation is not None
    assert explanation.reason is expected
    if expected is Reason.UNKNOWN:
        assert "host-3" in explanation.missing[0]


def test_a_receive_that_only_the_end_tells_of_makes_an_unread_answer_unknown() -> None:
    history = never_read()
    history.received(1, 5, "host-3", message=M2)
    for consumer, count in ((B, 1), ("host-3", 2)):
        history.span(
            f"{consumer} stopped", "consumer.stopped", 90, consumer, onceproof__receive__count=count
        )
    explanation = why(history, AGAIN)
    assert explanation is not None
    assert explanation.reason is Reason.UNKNOWN


def test_one_delivery_made_to_two_consumers_is_the_brokers_doing() -> None:
    history = History()
    history.received(1, 10, A)
    told = history.spans[R1]
    history.spans["copy"] = replace(told, span_id="copy", instance=B, start=11, end=12)
    (explanation,) = explained(history).redeliveries
    assert explanation.reason is Reason.BROKER
    assert A in explanation.text
    assert B in explanation.text


def test_a_second_event_for_the_order_is_the_producers_doing() -> None:
    history = relay_killed()
    for name in (f"received 1 {M2}", f"handled 1 {M2}", "second send"):
        del history.spans[name]
    other = {"onceproof.event.id": "event-2"}
    told = delivery(1, M2) | other
    history.span("other", "receive", 20, B, messages=[told])
    history.rows["outbox"] = OutboxRow("event-2", ORDER, "t", 1, None, M2, 15.0, 16.0)
    (explanation,) = explained(history).redeliveries
    assert (explanation.reason, explanation.event_id) == (Reason.PRODUCER_SENT_AGAIN, "event-2")
    (explanation,) = explained(history, "outbox").redeliveries
    assert explanation.reason is Reason.UNKNOWN
    assert "event-2" in explanation.missing[0]


def test_an_ack_that_came_after_the_redelivery_is_a_lost_one_although_it_was_confirmed() -> None:
    history = ack_refused()
    history.acked(1, "confirmed", 50, A)
    explanation = why(history, AGAIN)
    assert explanation is not None
    assert explanation.reason is Reason.ACK_LOST
    assert "too late" in explanation.text


def test_a_kill_at_another_orders_crash_point_names_that_order() -> None:
    explanation = why(killed_in_the_queue_of_its_process(), AGAIN)
    assert explanation is not None
    assert "consumer.after_commit of order o-9" in explanation.text


def test_every_clue_can_be_looked_up() -> None:
    explanation = why(killed_before_commit(), AGAIN)
    assert explanation is not None
    assert [clue.ref for clue in explanation.clues] == [
        f"trace-{R1}/span-{R1}",
        "trace-crash point/span-crash point",
        "faults.jsonl:1",
        f"charges event_id={EVENT}",
    ]
