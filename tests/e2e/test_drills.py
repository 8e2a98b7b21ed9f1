"""Each crash point, each action: what the ledgers and the traces say about the order that met it."""

from __future__ import annotations

import pytest
from tests.e2e.campaigns import onceproof
from tests.e2e.drills import Finished, condition
from tests.e2e.expectations import CASES, Expected, expected
from tests.e2e.installation import Installation
from tests.e2e.orders import AMOUNT
from tests.e2e.traces import OrderSpans, pod_of

from onceproof.telemetry import MESSAGE_ID, OUTCOME

# The first test of a run waits for the installation too.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

POD_UID = "k8s.pod.uid"


@pytest.mark.parametrize(("point", "action"), CASES)
def test_drill(installation: Installation, drills, variant: str, point: str, action: str):
    want = expected(variant, point, action, installation.relay)
    finished: Finished = drills(point, action)
    spans = finished.drill.spans()

    assert_charged(finished, want, variant)
    assert_fault(installation, finished, spans, point, action)
    assert_deliveries(spans, want, action)
    assert_report(finished, want, action)


def assert_charged(finished: Finished, want: Expected, variant: str) -> None:
    """Both ledgers, the outbox and the inbox."""
    rows = finished.drill.rows()
    assert finished.placed.status == 201
    assert [(row["amount"], row["event_id"]) for row in rows.orders] == [
        (AMOUNT, finished.placed.event_id)
    ]
    assert len(rows.captures) == want.captures, rows
    assert len(rows.charges) == want.charges, rows
    assert {row["amount"] for row in rows.captures + rows.charges} <= {AMOUNT}
    # A charge whose capture is not in the provider's ledger would be money from nowhere.
    assert {row["provider_charge_id"] for row in rows.charges} <= {
        row["id"] for row in rows.captures
    }
    if variant == "naive":
        assert (rows.outbox, rows.inbox) == ([], [])
        return
    [event] = rows.outbox
    assert event["id"] == finished.placed.event_id
    assert event["sent"]
    assert [row["event_id"] for row in rows.inbox] == [finished.placed.event_id]


def assert_fault(
    installation: Installation, finished: Finished, spans: OrderSpans, point: str, action: str
) -> None:
    """The crash point was reached once, and whatever was killed there was this drill's victim."""
    [crash] = spans.crashes(point)
    status = finished.status
    assert (status["traceId"], status["spanId"]) == (crash.trace_id, crash.span_id)
    assert status["eventId"] == crash.attributes["onceproof.event.id"]
    # The span says which pod stood there; its uid was seen before the drill.
    victim = finished.pods[pod_of(crash)]
    assert (status["pod"]["name"], status["pod"]["uid"]) == (pod_of(crash), victim)
    alive = {pod.uid for pod in installation.cluster.pods() if not pod.leaving}
    if action != "kill":
        assert spans.kills() == []
        assert set(finished.pods.values()) <= alive
        return
    [kill] = spans.kills()
    assert kill.attributes[POD_UID] == victim
    assert kill.parent_span_id == crash.span_id
    assert kill.start >= crash.start
    assert victim not in alive
    assert set(finished.pods.values()) - {victim} <= alive, "another pod is gone as well"


def assert_deliveries(spans: OrderSpans, want: Expected, action: str) -> None:
    """How often and as what the order's event was handled, by the consumers' own spans."""
    deliveries = spans.deliveries()
    attempts = {span.attempt for span in deliveries}
    story = [
        (s.attributes.get(MESSAGE_ID), s.attempt, s.attributes.get(OUTCOME)) for s in deliveries
    ]
    assert len(spans.messages()) == want.messages, story
    highest = max(want.attempts, default=0)
    assert {attempt for attempt in attempts if attempt <= highest} == want.attempts, story
    if not want.hit:
        assert spans.hits() == [], story
    elif action == "stall":
        assert spans.hits(), story
    else:
        assert len(spans.hits()) == 1, story


def assert_report(finished: Finished, want: Expected, action: str) -> None:
    """The CR says what was found here without it."""
    status = finished.status
    assert status["verdict"] == want.verdict, status
    assert (status["captures"], status["charges"]) == (want.captures, want.charges)
    assert {c["name"] for c in status["checks"] if not c["ok"]} == want.broken
    conditions = {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}
    redelivered = conditions.pop("Redelivered")
    assert conditions == {
        "Selected": ("True", "PodsFound"),
        "Armed": ("True", "Waiting"),
        "Reached": ("True", "CrashPointReached"),
        "Killed": ("True", "PodDeleted") if action == "kill" else ("False", "NoKillWanted"),
        "Drained": ("True", "Quiet"),
        "Verified": ("True", "ChargedOnce" if want.kept else "Breach"),
    }
    if want.redelivered is not None:
        assert redelivered == (
            ("True", "HandledAgain") if want.redelivered else ("False", "NothingCame")
        )
    assert condition(status, "Verified")["message"] == status["message"]


def test_the_assertions_tell_the_variants_apart(installation: Installation, drills, variant: str):
    """Held against the other variant's expectations, the same evidence does not pass."""
    other = "hardened" if variant == "naive" else "naive"
    for point in ("producer.after_commit", "consumer.after_commit"):
        finished: Finished = drills(point, "kill")
        wrong = expected(other, point, "kill")
        spans = finished.drill.spans()
        with pytest.raises(AssertionError):
            assert_charged(finished, wrong, variant)
        with pytest.raises(AssertionError):
            assert_deliveries(spans, wrong, "kill")
        with pytest.raises(AssertionError):
            assert_report(finished, wrong, "kill")
        with pytest.raises((AssertionError, ValueError)):
            assert_fault(installation, finished, spans, "relay.after_publish", "kill")


def test_one_trace_tells_the_story(installation: Installation, drills, variant: str):
    """Of an order whose consumer was killed between commit and ack."""
    if variant != "hardened":
        pytest.skip("the story has an outbox and a dedup hit in it")
    drill = drills("consumer.after_commit", "kill").drill
    [event] = drill.rows().outbox
    trace_id = event["traceparent"].split("-")[1]
    spans = installation.traces.trace(trace_id)
    assert {span.trace_id for span in spans} == {trace_id}
    one = {span.name: span for span in spans}  # the last of each name

    posted, sent = one["POST /orders"], one["send orders"]
    assert (posted.service, posted.attributes["http.response.status_code"]) == ("producer", 201)
    assert (sent.service, sent.parent_span_id) == ("relay", posted.span_id)
    crash, kill = one["crash_point.reached"], one["pod.kill"]
    story = [(s.name, s.attempt, s.attributes.get(OUTCOME), s.start - crash.start) for s in spans]
    assert crash.attempt == 1, story
    assert (kill.service, kill.parent_span_id) == ("operator", crash.span_id)

    # Attempt 1 died with its span; what is left of it is its id, as the parent of its crash point.
    processed = [span for span in spans if span.is_process]
    assert crash.parent_span_id not in {span.span_id for span in spans}
    assert [(span.attempt > 1, span.attributes[OUTCOME]) for span in processed] == [
        (True, "duplicate")
    ]
    again = processed[0]
    assert posted.span_id in {link["span_id"] for link in again.links}
    assert pod_of(again) != pod_of(crash)
    acked = one["commit orders" if installation.broker == "kafka" else "ack orders"]
    assert acked.parent_span_id == again.span_id
    told = [posted, sent, crash, kill, again, acked]
    assert told == sorted(told, key=lambda span: span.start)


def test_the_command_line_tells_it_too(installation: Installation, drills):
    drill = drills("consumer.after_commit", "kill").drill
    cluster = installation.cluster
    code, output = onceproof(
        "trace",
        drill.order,
        "--namespace",
        cluster.namespace,
        "--context",
        cluster.context,
        "--json",
    )
    assert code == 0, output
    for word in ("POST /orders", "crash_point.reached", "pod.kill"):
        assert word in output
