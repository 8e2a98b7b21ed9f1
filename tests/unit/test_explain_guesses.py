"""Histories that look like a known reason and are not: the answer is `unknown`, not the likely one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from tests.unit.test_explain_reasons import (
    AGAIN,
    EVENT,
    H1,
    M1,
    M2,
    ORDER,
    OTHER,
    A,
    B,
    History,
    ack_dropped,
    ack_refused,
    delivery,
    died_by_itself,
    explained,
    failed,
    killed_after_commit,
    killed_before_commit,
    killed_before_the_ack,
    never_read,
    slow,
    stalled,
    why,
)
from typer.testing import CliRunner

from onceproof.cli.app import build
from onceproof.errors import ConfigurationError
from onceproof_chaos.explain import Explanation, Reason, sources
from onceproof_chaos.explain.sources import LiveSystem
from onceproof_chaos.faultlog import FaultEventKind
from onceproof_chaos.spans import Span
from onceproof_chaos.traces import TraceStore


def known(history: History, key: tuple[str, int] = AGAIN) -> Explanation:
    explanation = why(history, key)
    assert explanation is not None
    assert (explanation.reason is Reason.UNKNOWN) is bool(explanation.missing)
    return explanation


def came_at(history: History, at: float) -> History:
    """The redelivery comes at another time, and is handled at once."""
    name = f"received 2 {M1}"
    history.spans[name] = replace(history.spans[name], start=at - 1, end=at)
    for span in (f"handled 2 {M1}", f"acked 2 {M1}"):
        if span in history.spans:
            history.spans[span] = replace(history.spans[span], start=at + 0.1, end=at + 0.2)
    return history


@pytest.mark.parametrize(
    "build",
    [
        killed_before_commit, killed_after_commit, killed_before_the_ack, died_by_itself, ack_refused,
        ack_dropped, stalled, slow,
    ],
)  # fmt: skip
def test_what_came_again_within_its_visibility_was_freed_by_something_else(
    build: Callable[[], History],
) -> None:
    """Visibility of 30 s from second 9 on: neither a crash nor a slow handler frees it at 13."""
    explanation = known(came_at(build(), 13))
    assert explanation.reason is Reason.UNKNOWN
    assert "visibility" in explanation.text
    assert explanation.clues


def test_what_came_again_before_it_was_given_back_was_not_given_back_for_that() -> None:
    history = failed()
    history.handled(1, "retried", 60, A, status_message="OutcomeUnknownError")
    history.moment("released", 1, 60, A)
    assert known(came_at(history, 41)).reason is Reason.VISIBILITY_EXPIRED
    del history.spans[H1]  # given back when it was told to stop
    assert known(history).reason is Reason.UNKNOWN


@pytest.mark.parametrize("died_at", [30.0, 5000.0])
def test_a_death_long_after_the_work_was_done_did_not_lose_its_ack(died_at: float) -> None:
    history = killed_after_commit()
    del history.spans["crash point"], history.faults["kill"]
    history.handled(1, "processed", 11, A)
    history.fault("kill", FaultEventKind.DIED_UNEXPECTEDLY, 11.2, pid=1, exit_code=137)
    assert known(history).reason is Reason.ACK_LOST
    history.fault("kill", FaultEventKind.DIED_UNEXPECTEDLY, died_at, pid=1, exit_code=137)
    explanation = known(history)
    assert explanation.reason is Reason.UNKNOWN
    assert "ack" in explanation.missing[0]


def test_what_a_process_had_in_hand_that_died_much_later_is_not_known() -> None:
    """The spans of its failure and release may be lost as well as those of its work."""
    history = died_by_itself()
    history.fault("kill", FaultEventKind.DIED_UNEXPECTEDLY, 5000, pid=1, exit_code=137)
    assert known(history).reason is Reason.UNKNOWN


def test_a_visibility_that_was_extended_up_to_a_crash_outlives_it() -> None:
    history = killed_before_commit()
    history.spans["crash point"] = replace(history.spans["crash point"], start=60, end=60)
    history.faults["kill"] = replace(history.faults["kill"], at=60.1)
    history.committed(2, 90.1)
    assert known(came_at(history, 90)).reason is Reason.CRASHED_BEFORE_COMMIT
    history.committed(2, 61.1)
    explanation = known(came_at(history, 61))
    assert explanation.reason is Reason.UNKNOWN
    assert "which came first" in explanation.missing[0]


def test_a_number_that_is_given_twice_long_apart_is_no_delivery_made_twice() -> None:
    """Brokers count deliveries approximately."""
    history = History()
    history.received(1, 10, A)
    told = history.spans[f"received 1 {M1}"]
    copy = replace(told, span_id="copy", instance=B)
    history.spans["copy"] = replace(copy, start=45, end=46)
    (explanation,) = explained(history).redeliveries
    assert explanation.reason is Reason.UNKNOWN
    history.spans["copy"] = replace(copy, start=11, end=12)
    (explanation,) = explained(history).redeliveries
    assert explanation.reason is Reason.BROKER
    history.moment("released", 1, 11, A)
    (explanation,) = explained(history).redeliveries
    assert explanation.reason is Reason.UNKNOWN


def test_a_send_without_an_answer_did_not_make_a_message_that_was_there_before() -> None:
    history = History()
    history.sent("first send", M1, 5)
    history.received(1, 10, A)
    history.received(1, 20, A, message=M2, number=2)
    history.sent("second send", None, 35)
    explanation = known(history, OTHER)
    assert explanation.reason is Reason.UNKNOWN
    assert "the send span of this message" in explanation.missing[0]


def test_a_container_that_was_restarted_in_its_pod_begins_to_count_anew() -> None:
    """Its processes have one name, so the second one's spans must not fill the first one's gap."""
    history = never_read()

    def other(name: str, number: int, at: float) -> None:
        told = delivery(1, "message-9") | {"onceproof.event.id": "event-9"}
        history.span(
            name, "receive", at, "pod-1", messages=[told], onceproof__receive__number=number
        )

    other("one", 1, 10.5)
    other("two", 2, 10.9)
    assert known(history).reason is Reason.CRASHED_BEFORE_COMMIT
    other("two", 3, 11.5)
    assert known(history).reason is Reason.UNKNOWN  # its second receive is missing
    for number, at in ((1, 20.0), (2, 21.0)):
        other(f"anew {number}", number, at)
    explanation = known(history)
    assert explanation.reason is Reason.UNKNOWN
    assert "pod-1" in explanation.missing[0]


def test_a_process_that_died_without_a_word_may_have_received_something_at_last() -> None:
    history = never_read()
    told = delivery(1, "message-9") | {"onceproof.event.id": "event-9"}
    history.span("one", "receive", 10.5, "host-7", messages=[told], onceproof__receive__number=1)
    history.fault(
        "other",
        FaultEventKind.DIED_UNEXPECTEDLY,
        12,
        trace_id=None,
        span_id=None,
        point=None,
        pid=7,
    )
    explanation = known(history)
    assert explanation.reason is Reason.UNKNOWN
    assert "host-7" in explanation.missing[0]


class Traces:
    """A trace store with the spans of one order."""

    async def order_of(self, *_: object, **__: object) -> str | None:
        return None

    async def of_order(self, *_: object, **__: object) -> list[Span]:
        return list(killed_before_commit().spans.values())

    async def spans(self, *_: object) -> list[Span]:
        return []


@pytest.mark.parametrize("table", ["orders", "outbox", None])
async def test_a_database_that_does_not_know_the_order_is_no_evidence(
    monkeypatch: pytest.MonkeyPatch, table: str | None
) -> None:
    row = {
        "orders": {
            "order_id": ORDER, "amount": 1, "currency": "EUR", "event_id": EVENT, "created_at": 1.0,
        },
        "outbox": {
            "id": EVENT, "key": ORDER, "type": "t", "attempts": 1, "last_error": None,
            "message_id": M1, "created_at": 1.0, "published_at": 2.0,
        },
    }  # fmt: skip

    async def fetch(_url: str, queries: dict[str, Any]) -> dict[str, Any]:
        return {name: [row[name]] if name == table else [] for name in queries}

    monkeypatch.setattr(sources, "_fetch", fetch)
    system = LiveSystem(cast("TraceStore", Traces()), "postgresql://elsewhere", None, None, 0.0)
    if table is None:
        with pytest.raises(ConfigurationError, match="is --database-url that of the same system"):
            await system.about(ORDER)
    else:
        assert (await system.about(ORDER)).has_database


@pytest.mark.parametrize("option", ["--traces-url", "--database-url", "--provider-database-url"])
def test_an_empty_url_does_not_mean_the_last_run_of_this_machine(option: str) -> None:
    done = CliRunner().invoke(build(), ["explain", ORDER, option, ""])
    assert done.exit_code == 2
    assert "is its variable set?" in " ".join(done.stderr.split())
