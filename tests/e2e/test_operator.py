"""The operator dies, drills are deleted or come too late: nothing stays armed, and nothing hangs."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.e2e import campaigns, drills
from tests.e2e.drills import condition
from tests.e2e.installation import RELEASE, Installation, namespace
from tests.e2e.proxy import ask
from tests.e2e.waiting import until

from onceproof.crashpoints import CONSUMER_AFTER_COMMIT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

POINT = CONSUMER_AFTER_COMMIT
OPERATOR = f"{RELEASE}-operator"


@pytest.fixture(autouse=True, scope="module")
def _only_hardened(variant: str):
    if variant != "hardened":
        pytest.skip("the operator is the same whatever it watches")


def restart(installation: Installation) -> None:
    """Kill the operator's pod without notice, and wait for the next one."""
    [pod] = (pod for pod in installation.cluster.pods("operator") if not pod.leaving)
    installation.cluster.delete("pod", pod.name, "--grace-period=0", "--force")
    until(
        60,
        "another operator",
        lambda: any(p.ready and p.uid != pod.uid for p in installation.cluster.pods("operator")),
    )


@contextmanager
def no_operator(installation: Installation) -> Iterator[None]:
    """Nobody is there to see what happens."""
    cluster = installation.cluster
    cluster.kubectl("scale", f"deployment/{OPERATOR}", "--replicas=0")
    until(60, "the operator gone", lambda: not cluster.pods("operator"))
    try:
        yield
    finally:
        cluster.kubectl("scale", f"deployment/{OPERATOR}", "--replicas=1")
        cluster.rolled_out(OPERATOR)


def passed(drill: drills.Drill) -> None:
    status = drill.verdict()
    assert status["verdict"] == "pass", status
    rows = drill.rows()
    assert (len(rows.captures), len(rows.charges)) == (1, 1)
    assert len(drill.spans().kills()) == 1
    assert len(drill.spans().hits()) == 1


def armed(installation: Installation) -> set[str]:
    return {fault for faults in installation.armed().values() for fault in faults}


def test_restarted_between_armed_and_reached(settled: Installation):
    drill = drills.make(settled, "restart-armed", point=POINT)
    drill.armed()
    restart(settled)
    drill.place()
    passed(drill)


def test_reached_while_there_is_no_operator(settled: Installation):
    drill = drills.make(settled, "restart-reached", point=POINT)
    drill.armed()
    with no_operator(settled):
        drill.place()
        consumers = [pod.name for pod in settled.cluster.pods("consumer") if pod.ready]

        def parked() -> str | None:
            urls = {name: f"{settled.proxy.admin(name)}/crash-points/reached" for name in consumers}
            reached = {name: ask(url).json() for name, url in urls.items()}
            return next(
                (name for name, found in reached.items() if drill.order in str(found)), None
            )

        victim = until(20, "a consumer parked", parked)
        assert not condition(drill.status(), "Reached")
    passed(drill)
    assert drill.status()["pod"]["name"] == victim


def test_restarted_between_killed_and_verdict(settled: Installation):
    drill = drills.make(settled, "restart-killed", point=POINT)
    drill.armed()
    drill.place()
    until(
        30, "the kill", lambda: condition(drill.status(), "Killed").get("status") == "True",
    )  # fmt: skip
    restart(settled)
    passed(drill)


def test_a_drill_deleted_while_it_is_armed_leaves_nothing_armed(settled: Installation):
    drill = drills.make(settled, "deleted", point=POINT)
    drill.armed()
    assert len(armed(settled)) == 1
    drill.delete()
    until(20, "disarmed", lambda: not armed(settled))


def test_a_drill_that_comes_too_late_leaves_nothing_armed(settled: Installation):
    drill = drills.make(settled, "late", point=POINT, deadline_s=8)
    drill.armed()
    assert armed(settled)
    status = drill.verdict(within_s=20)
    assert (status["verdict"], status["failedStep"]) == ("inconclusive", "Reached")
    assert condition(status, "Reached")["reason"] == "DeadlineExceeded"
    assert "place it now" in status["message"]
    assert not armed(settled)


def test_a_drill_deleted_while_there_is_no_operator_is_swept_up(settled: Installation):
    drill = drills.make(settled, "orphan", point=POINT)
    drill.armed()
    with no_operator(settled):
        drill.delete()
        assert armed(settled)
    until(20, "disarmed", lambda: not armed(settled))


def test_a_campaign_does_not_outlive_its_operator(settled: Installation):
    campaign = campaigns.make(settled, "interrupted", orders=600, kills=1)
    assert campaign.condition("Accepted")["status"] == "True"
    restart(settled)
    status = campaign.verdict(within_s=60)
    assert (status["phase"], status["verdict"]) == ("Finished", "inconclusive")
    assert condition(status, "Verified")["reason"] == "OperatorRestarted"
    until(20, "disarmed", lambda: not armed(settled))
    campaign.delete()


def test_an_operator_without_any_right_says_so_in_its_readiness(settled: Installation):
    cluster = settled.cluster
    binding = cluster.get("rolebinding", OPERATOR)
    cluster.delete("rolebinding", OPERATOR)
    try:
        [pod] = (pod for pod in cluster.pods("operator") if not pod.leaving)
        cluster.delete("pod", pod.name, "--grace-period=0", "--force")

        def complains() -> str | None:
            for found in cluster.pods("operator"):
                answer = ask(f"{settled.proxy.admin(found.name)}/readyz")
                if answer.status == 503 and "may not" in answer.body:
                    assert not found.ready
                    return answer.body
            return None

        assert "delete pods" in until(60, "a reason at /readyz", complains)
    finally:
        kept = {key: binding["metadata"][key] for key in ("name", "labels", "annotations")}
        cluster.create(binding | {"metadata": kept})
        [pod] = (pod for pod in cluster.pods("operator") if not pod.leaving)
        cluster.delete("pod", pod.name, "--grace-period=0", "--force")
        cluster.rolled_out(OPERATOR)


def test_nothing_has_a_finalizer(settled: Installation):
    """One would block the deletion of its namespace when the operator is gone."""
    made = settled.cluster.items(drills.KIND) + settled.cluster.items(campaigns.KIND)
    assert made
    assert [item["metadata"].get("finalizers") for item in made] == [None] * len(made)


@pytest.mark.usefixtures("installation")  # for the resource definitions
def test_a_namespace_without_operator_is_deleted(context: str):
    with namespace(context, f"e2e-empty-{secrets.token_hex(3)}") as cluster:
        cluster.create(drills.manifest("alone", point=POINT, order="nobody-places-it"))
        cluster.create(campaigns.manifest("alone", variant="hardened"))
    # The end of the block waits until the namespace is gone, and raises when it is not.


def test_helm_test(settled: Installation):
    output = settled.cluster.helm("test", RELEASE, "--logs", "--timeout", "4m")
    assert "verdict: pass" in output
