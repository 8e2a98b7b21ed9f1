"""Three hundred orders while pods are killed at every crash point, and the count of the charges."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e import campaigns
from tests.e2e.drills import condition
from tests.e2e.installation import Installation
from tests.e2e.ledgers import Totals

from onceproof.crashpoints import CRASH_POINTS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ORDERS = 300
KILLS = 3
"""At each crash point."""
SEED = 7


def test_campaign(settled: Installation, variant: str, runs: Path):
    campaign = campaigns.make(
        settled, "campaign", orders=ORDERS, kills=KILLS, seed=SEED, deadlineSeconds=600
    )
    status = campaign.verdict(within_s=780)
    assert status["phase"] == "Finished", status
    assert status["reasons"] == [], status
    assert status["verdict"] == ("fail" if variant == "naive" else "pass"), status
    assert status["orders"] == ORDERS
    assert status["faultsReached"] == status["faultsPlanned"] == KILLS * len(CRASH_POINTS)
    assert status["killsByPoint"] == dict.fromkeys(CRASH_POINTS, KILLS)
    assert status["kills"] == KILLS * len(CRASH_POINTS)

    uid = settled.cluster.get(campaigns.KIND, campaign.name)["metadata"]["uid"]
    assert_counts(status, settled.ledgers.totals(f"o-{SEED}-{uid[:8]}-"), variant)
    assert_conditions(status, variant)

    folder = campaign.fetch(runs)
    code, counts = campaigns.verify(folder)
    assert code == (1 if variant == "naive" else 0), counts
    assert counts["matches_stored"] is True
    named = {
        "orders": "orders", "accepted": "accepted", "lost": "lost", "doubleCharged": "double_charged",
        "unexpected": "unexpected", "mismatched": "mismatched", "recovered": "recovered",
        "deadLettered": "dead_lettered", "redeliveries": "redeliveries",
        "deduplicated": "deduplicated", "killsByPoint": "kills", "verdict": "verdict",
    }  # fmt: skip
    assert {name: status[name] for name in named} == {
        name: counts[other] for name, other in named.items()
    }
    assert (folder / "report.html").is_file()


def assert_counts(status: dict[str, object], totals: Totals, variant: str) -> None:
    """The status against the ledgers themselves."""
    accepted, lost = int(str(status["accepted"])), int(str(status["lost"]))
    assert accepted <= len(totals.orders) <= ORDERS
    # The client of an order that was stored and never captured may have left without an answer.
    assert len(totals.never_captured) >= lost
    assert len(totals.captured_twice) == status["doubleCharged"]
    assert totals.captures.keys() <= totals.orders
    if variant == "naive":
        assert lost > 0
        assert totals.captured_twice
        return
    assert set(totals.captures.values()) == set(totals.charges.values()) == {1}
    assert totals.orders == totals.captures.keys() == totals.charges.keys()
    assert (lost, status["unexpected"], status["mismatched"]) == (0, 0, 0)
    # Each consumer that died after its commit, and each relay after its send, cost one duplicate.
    assert int(str(status["deduplicated"])) >= 2 * KILLS


def assert_conditions(status: dict[str, object], variant: str) -> None:
    reasons = {
        kind: (found["status"], found["reason"])
        for kind in ("Accepted", "Loaded", "Drained", "Verified")
        if (found := condition(status, kind))
    }
    assert reasons["Accepted"] == ("True", "Accepted")
    assert reasons["Drained"] == ("True", "Quiet")
    assert reasons["Verified"] == ("True", "Breach" if variant == "naive" else "Passed")
