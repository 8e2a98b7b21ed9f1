"""The verdict of a drill, on hand-written ledgers and spans: each check with its negative control."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from tests.unit.test_operator_spec import drill
from tests.unit.test_operator_world import FakeTraces, FakeWorld

from onceproof.telemetry import CRASH_POINT, CRASH_POINT_SPAN
from onceproof.variants import FIX_NAMES
from onceproof_chaos.spans import Span
from onceproof_chaos.traces import TraceStoreError
from onceproof_operator import verification
from onceproof_operator.conditions import Status
from onceproof_operator.drill_spec import DrillSpec
from onceproof_operator.kill import DRILL, KILL_SPAN, POD_UID
from onceproof_operator.verification import Ledgers, Result, handled_after, judge, verify

ONCE = Ledgers(orders=1, captures=1, charges=1, pending=0)
KILL = drill()


def spans(
    *,
    point: str | None = "consumer.after_commit",
    killed: tuple[str, ...] = ("uid-1",),
    by: str = "d",
    hits: int = 1,
) -> list[Span]:
    traces = FakeTraces()
    if point:
        traces.add(CRASH_POINT_SPAN, 10, **{CRASH_POINT: point})
    for uid in killed:
        traces.add(KILL_SPAN, 11, **{DRILL: by, POD_UID: uid})
    for _ in range(hits):
        traces.handled(hit=True, at=12)
    return traces.found


def judged(spec: DrillSpec = KILL, ledgers: Ledgers = ONCE, **changes: Any) -> Result:
    given: dict[str, Any] = {
        "variant": "hardened",
        "spans": spans(),
        "killed_uid": "uid-1",
        "redelivered": True,
    }
    return judge(spec, ledgers=ledgers, **given | changes)


def not_ok(result: Result) -> set[str]:
    return {check.name for check in result.checks if not check.ok}


def test_charged_once_with_all_evidence_is_a_pass() -> None:
    result = judged()
    assert (result.verdict, result.reason) == ("pass", "ChargedOnce")
    assert (result.captures, result.charges) == (1, 1)
    assert {check.name for check in result.checks} == {
        "captures",
        "charges",
        "outbox_pending",
        "crash_point_reached",
        "kill_is_ours",
        "handled_after_fault",
        "dedup_hits",
    }
    assert not_ok(result) == set()


@pytest.mark.parametrize(
    ("ledgers", "says", "broken"),
    [
        (Ledgers(1, 0, 0, 0), "lost", {"captures", "charges"}),
        (Ledgers(1, 2, 1, 0), "double-charged", {"captures"}),
        (Ledgers(1, 2, 2, 0), "double-charged", {"captures", "charges"}),
        (Ledgers(1, 1, 0, 0), "ledgers disagree", {"charges"}),
        (Ledgers(1, 1, 2, 0), "ledgers disagree", {"charges"}),
        (Ledgers(1, 1, 1, 1), "event still pending", {"outbox_pending"}),
    ],
)
def test_a_broken_promise_is_a_fail_and_says_which(
    ledgers: Ledgers, says: str, broken: set[str]
) -> None:
    result = judged(ledgers=ledgers)
    assert (result.verdict, result.reason) == ("fail", "Breach")
    assert says in result.message
    assert not_ok(result) == broken


def test_a_breach_wins_over_missing_evidence() -> None:
    result = judged(ledgers=Ledgers(1, 2, 2, 0), spans=[], redelivered=False)
    assert result.verdict == "fail"


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"spans": spans(point=None)}, "crash_point_reached"),
        ({"spans": spans(point="consumer.after_charge")}, "crash_point_reached"),
        ({"spans": spans(killed=())}, "kill_is_ours"),
        ({"spans": spans(killed=("uid-2",))}, "kill_is_ours"),
        ({"spans": spans(killed=("uid-1", "uid-2"))}, "kill_is_ours"),
        ({"spans": spans(by="another-drill")}, "kill_is_ours"),
        ({"killed_uid": None}, "kill_is_ours"),
        ({"redelivered": False}, "handled_after_fault"),
        ({"spans": spans(hits=0)}, "dedup_hits"),
    ],
)
def test_the_right_count_without_evidence_may_be_luck(
    changes: dict[str, Any], missing: str
) -> None:
    result = judged(**changes)
    assert (result.verdict, result.reason) == ("inconclusive", "EvidenceMissing")
    assert not_ok(result) == {missing}
    assert missing in result.message


def test_a_kill_that_an_operator_told_of_twice_is_one_kill() -> None:
    assert judged(spans=spans(killed=("uid-1", "uid-1"))).verdict == "pass"


def test_an_order_that_nobody_placed_proves_nothing() -> None:
    result = judged(ledgers=Ledgers(0, 0, 0, 0))
    assert (result.verdict, result.reason) == ("inconclusive", "OrderUnknown")
    assert "o-1 was never accepted" in result.message


@pytest.mark.parametrize("action", ["drop", "stall"])
def test_without_a_kill_none_is_asked_for(action: str) -> None:
    result = judged(drill(action=action), spans=spans(killed=()), killed_uid=None)
    assert result.verdict == "pass"
    assert "kill_is_ours" not in {check.name for check in result.checks}


@pytest.mark.parametrize("variant", ["naive", *(f"hardened-{fix}" for fix in FIX_NAMES)])
def test_an_ablation_need_not_redeliver_but_must_have_met_its_fault(variant: str) -> None:
    deduplicates = variant in {"hardened-idempotency_key", "hardened-visibility_heartbeat"}
    result = judged(variant=variant, redelivered=False, spans=spans(hits=int(deduplicates)))
    assert result.verdict == "pass"
    assert ("dedup_hits" in {check.name for check in result.checks}) is deduplicates
    assert judged(variant=variant, redelivered=False, spans=[]).verdict == "inconclusive"
    if deduplicates:
        assert not_ok(judged(variant=variant, spans=spans(hits=0))) == {"dedup_hits"}


def test_pending_is_what_neither_a_relay_nor_a_slot_has_sent() -> None:
    [pending] = (check for check in judged().checks if check.name == "outbox_pending")
    assert "published_at IS NULL" in pending.evidence
    assert "seq <= slot.confirmed_seq" in pending.evidence


def test_a_relay_that_stands_still_sends_once_where_a_slot_has_one_reader() -> None:
    spec = drill(crashPoint="relay.after_publish", action="stall")
    found = spans(point="relay.after_publish", killed=(), hits=0)
    once: dict[str, Any] = {"spans": found, "killed_uid": None}
    assert judged(spec, relays_share=False, **once).verdict == "pass"
    assert not_ok(judged(spec, relays_share=True, **once)) == {"dedup_hits"}


def test_checks_say_where_to_look_for_oneself() -> None:
    by_name = {check.name: check.as_json() for check in judged().checks}
    assert by_name["captures"] == {
        "name": "captures",
        "expected": "1",
        "observed": "1",
        "ok": True,
        "evidence": "provider database: SELECT count(*) FROM captures WHERE order_id = $1"
        " with $1 = 'o-1'",
    }
    assert "o-1" in by_name["dedup_hits"]["evidence"]


def test_only_a_delivery_that_began_after_the_fault_counts() -> None:
    traces = FakeTraces()
    traces.handled(at=5)
    traces.add("ack orders", 20)
    assert handled_after(traces.found, 10) is None
    traces.handled(at=30)
    traces.handled(at=25)
    found = handled_after(traces.found, 10)
    assert found is not None
    assert found.start == 25
    assert handled_after(traces.found, 30) is None


def status() -> Status:
    async def write(_: dict[str, Any]) -> None:
        raise AssertionError("verifying writes nothing")

    found = Status({"pod": {"name": "a", "uid": "uid-1"}}, write)
    found.set_condition("Killed", "True", "PodDeleted", "m")
    found.set_condition("Redelivered", "True", "HandledAgain", "m")
    return found


@pytest.mark.parametrize(
    "error",
    [OSError("refused"), TimeoutError(), asyncpg.UndefinedTableError("relation does not exist")],
)
async def test_ledgers_that_cannot_be_read_are_no_verdict(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def read(*_: object) -> Ledgers:
        raise error

    monkeypatch.setattr(verification, "_read", read)
    result = await verify(KILL, status(), FakeWorld().real())
    assert (result.verdict, result.reason) == ("inconclusive", "LedgersUnreadable")
    assert (str(error) or "TimeoutError") in result.message


async def test_a_trace_store_that_is_away_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(*_: object) -> Ledgers:
        return ONCE

    monkeypatch.setattr(verification, "_read", read)
    world = FakeWorld()
    world.traces.failing = TraceStoreError("jaeger is away")
    result = await verify(KILL, status(), world.real())
    assert (result.verdict, result.reason) == ("inconclusive", "TracesUnreadable")
    world.traces.failing = None
    world.traces.found = [
        Span(s.name, s.trace_id, s.span_id, KILL.created + s.start, KILL.created + s.end,
             attributes=s.attributes)
        for s in spans()
    ]  # fmt: skip
    assert (await verify(KILL, status(), world.real())).verdict == "pass"
