"""What only the operator can refuse: a condition says why and what to do, soon; nothing hangs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.e2e import campaigns, drills
from tests.e2e.cluster import CommandError
from tests.e2e.drills import condition
from tests.e2e.expectations import expected
from tests.e2e.installation import RELEASE, Installation
from tests.e2e.orders import place
from tests.e2e.waiting import until

from onceproof.crashpoints import CONSUMER_AFTER_COMMIT, PRODUCER_AFTER_COMMIT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

SECONDS = 15.0
"""Within which everything below is refused."""
POINT = CONSUMER_AFTER_COMMIT


def labels(**selected: str) -> dict[str, object]:
    return {"matchLabels": {f"app.kubernetes.io/{key}": value for key, value in selected.items()}}


def refused(drill: drills.Drill, step: str, reason: str, *says: str) -> None:
    """It ended without a verdict on the pipeline, soon, and says why."""
    status = drill.verdict(within_s=SECONDS)
    assert (status["verdict"], status["failedStep"]) == ("inconclusive", step), status
    found = condition(status, step)
    assert (found["status"], found["reason"]) == ("False", reason)
    assert status["message"] == found["message"]
    for text in says:
        assert text in found["message"]


def test_pods_without_chaos(installation: Installation):
    drill = drills.make(
        installation, "postgres", point=POINT, selector=labels(component="postgres")
    )
    refused(drill, "Selected", "ChaosDisabled", f"{RELEASE}-postgres-0", "chaos.enabled=true")


def test_the_wrong_component(installation: Installation):
    drill = drills.make(installation, "wrong", point=POINT, selector=labels(component="provider"))
    refused(drill, "Selected", "WrongComponent", "provider", "select consumer")


def test_a_selector_that_matches_nothing_says_so_while_it_waits(installation: Installation):
    drill = drills.make(
        installation, "nothing", point=POINT, selector=labels(component="nobody"), deadline_s=6
    )
    waiting = drill.condition("Selected", within_s=SECONDS)
    assert (waiting["status"], waiting["reason"]) == ("False", "NoPodsMatched")
    assert "component=nobody" in waiting["message"]
    refused(drill, "Selected", "DeadlineExceeded", "not done within 6 s", "no pod in namespace")


def test_two_drills_on_one_order(settled: Installation):
    first = drills.make(settled, "first", point=POINT)
    first.armed()
    second = drills.make(settled, "second", point=PRODUCER_AFTER_COMMIT, order=first.order)
    refused(second, "Selected", "OrderTaken", first.name, "use another order")
    assert not first.status().get("verdict")
    first.delete()


def test_two_drills_on_one_order_at_the_same_moment(settled: Installation):
    # Creation times have whole seconds, and the later of the two has the lesser name.
    order = settled.fresh("order")
    pair = [drills.Drill(settled, f"{letter}-{order}", order) for letter in "za"]
    documents = [drills.manifest(drill.name, point=POINT, order=order) for drill in pair]
    settled.cluster.create_all(documents)
    ended = until(
        SECONDS, "one of the two refused", lambda: [d for d in pair if d.status().get("verdict")]
    )
    assert len(ended) == 1
    refused(ended[0], "Selected", "OrderTaken", "use another order")
    [other] = (drill for drill in pair if drill not in ended)
    other.armed()
    other.delete()


def test_a_campaign_beside_another_and_a_drill_beside_a_campaign(settled: Installation):
    running = campaigns.make(settled, "running", orders=200, kills=1)
    assert running.condition("Accepted")["status"] == "True"
    another = campaigns.make(settled, "another")
    campaign_refused(another, "AnotherCampaignRuns", running.name)
    beside = drills.make(settled, "beside", point=POINT)
    refused(beside, "Selected", "CampaignRunning", running.name)
    running.delete()
    nothing_armed(settled)


def test_two_campaigns_at_the_same_moment(settled: Installation, variant: str):
    pair = [campaigns.Campaign(settled, settled.fresh(name)) for name in ("one", "two")]
    settled.cluster.create_all([campaigns.manifest(c.name, variant=variant) for c in pair])
    accepted = [campaign.condition("Accepted")["status"] for campaign in pair]
    assert sorted(accepted) == ["False", "True"]
    for campaign in pair:
        campaign.delete()
    nothing_armed(settled)


def test_a_campaign_beside_a_drill(settled: Installation):
    drill = drills.make(settled, "waiting", point=POINT)
    drill.armed()
    campaign_refused(campaigns.make(settled, "beside"), "DrillRuns", drill.name)
    drill.delete()


def test_a_campaign_for_another_variant(installation: Installation, variant: str):
    other = "hardened" if variant == "naive" else "naive"
    campaign = campaigns.make(installation, "other", variant=other)
    campaign_refused(campaign, "VariantMismatch", f"runs {variant}", f"variant={other}")


def test_a_campaign_with_more_faults_than_orders(installation: Installation):
    campaign = campaigns.make(installation, "crowded", orders=10, kills=100)
    campaign_refused(campaign, "PlanDoesNotFit", "orders")


def campaign_refused(campaign: campaigns.Campaign, reason: str, *says: str) -> None:
    status = campaign.verdict(within_s=SECONDS)
    assert (status["phase"], status["verdict"]) == ("Refused", "inconclusive")
    found = condition(status, "Accepted")
    assert (found["status"], found["reason"]) == ("False", reason)
    for text in says:
        assert text in found["message"]


def nothing_armed(installation: Installation) -> None:
    """No pod waits for a fault any more."""
    until(30, "nothing armed", lambda: not any(installation.armed().values()))


@contextmanager
def without(installation: Installation, resource: str, verb: str) -> Iterator[None]:
    """The operator without one of its rights."""
    cluster, role = installation.cluster, f"{RELEASE}-operator"
    rules = cluster.get("role", role)["rules"]
    less = [
        rule | {"verbs": [v for v in rule["verbs"] if v != verb]}
        if resource in rule["resources"]
        else rule
        for rule in rules
    ]
    account = f"system:serviceaccount:{cluster.namespace}:{role}"

    def may(answer: str) -> bool:
        try:
            said = cluster.kubectl("auth", "can-i", verb, resource, "--as", account)
        except CommandError as error:  # "no" is exit code 1
            said = error.output
        return answer in said.split()

    cluster.patch("role", role, {"rules": less})
    try:
        until(20, f"{account} may not {verb} {resource}", lambda: may("no"))
        yield
    finally:
        cluster.patch("role", role, {"rules": rules})
        until(20, f"{account} may {verb} {resource}", lambda: may("yes"))


def test_an_operator_that_may_not_delete_pods(settled: Installation):
    drill = drills.make(settled, "powerless", point=POINT, deadline_s=30)
    drill.armed()
    with without(settled, "pods", "delete"):
        drill.place()
        refused(drill, "Killed", "Forbidden", "may not delete pods", "Role")
    # It stands parked, and nobody ends it but we; the order is charged all the same: it was committed
    # before the fault, and when it comes again, only naive charges it once more.
    settled.cluster.delete("pod", drill.status()["pod"]["name"], "--grace-period=0", "--force")
    charged = expected(settled.variant, POINT, "kill").charges
    until(60, f"{drill.order} charged", lambda: len(drill.rows().charges) == charged)
    nothing_armed(settled)


def test_an_operator_that_may_not_list_pods(settled: Installation):
    with without(settled, "pods", "list"):
        drill = drills.make(settled, "blind", point=POINT)
        refused(drill, "Selected", "Forbidden", "may not list pods", "Role")


def test_orders_flow_after_all_that(settled: Installation):
    """None of it has left a fault, a parked pod or a lasting refusal behind."""
    nothing_armed(settled)
    started = time.time()
    order = settled.fresh("afterwards")
    place(settled.producer, order)
    until(20, f"{order} charged", lambda: settled.ledgers.of_order(order).charges)
    rows = settled.ledgers.of_order(order)
    assert (len(rows.captures), len(rows.charges)) == (1, 1)
    assert time.time() - started < 20
