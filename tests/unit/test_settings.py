"""A run's settings: the command line that repeats it, where it ran."""

from __future__ import annotations

import json
import shlex

import pytest

from onceproof.crashpoints import CONSUMER_AFTER_COMMIT, RELAY_AFTER_PUBLISH
from onceproof_chaos.backend import Role
from onceproof_chaos.settings import KUBERNETES, CampaignSettings


def settings(backend: str) -> CampaignSettings:
    return CampaignSettings(
        variant="hardened-idempotency_key",
        orders=300,
        seed=7,
        kills_per_point={CONSUMER_AFTER_COMMIT: 5, RELAY_AFTER_PUBLISH: 0},
        run="a1",
        backend=backend,
    )


def test_a_run_on_this_machine_is_repeated_by_campaign_run() -> None:
    words = shlex.split(settings("process").command())
    assert words[:3] == ["onceproof", "campaign", "run"]
    assert words[words.index("--points") + 1] == CONSUMER_AFTER_COMMIT
    assert "a1" not in words


def test_a_run_in_a_cluster_is_repeated_by_a_campaign_under_a_new_name() -> None:
    echo, manifest, *rest = shlex.split(settings(KUBERNETES).command())
    assert [echo, *rest] == ["echo", "|", "kubectl", "create", "-f", "-"]
    campaign = json.loads(manifest)
    assert (campaign["apiVersion"], campaign["kind"]) == ("onceproof.dev/v1alpha1", "Campaign")
    assert campaign["metadata"] == {"generateName": "campaign-"}
    assert campaign["spec"] == {
        "variant": "hardened-idempotency_key",
        "orders": 300,
        "seed": 7,
        "faults": {
            "kills": {CONSUMER_AFTER_COMMIT: 5},
            "stalls": 2,
            "dropped": 2,
            "unknown": 2,
            "providerTimeouts": 2,
        },
        "concurrency": 16,
        "ratePerSecond": 25.0,
    }


def test_what_goes_into_run_json_is_plain() -> None:
    document = json.loads(json.dumps(settings(KUBERNETES).as_json()))
    assert (document["run"], document["backend"]) == ("a1", "kubernetes")
    assert document["replicas"][Role.CONSUMER.value] == 2


def test_the_plan_carries_the_runs_name() -> None:
    assert settings(KUBERNETES).plan().run == "a1"


def test_faults_in_a_cluster_have_more_spare_orders() -> None:
    assert {len(fault.orders) for fault in settings(KUBERNETES).plan().faults} == {7}
    assert {len(fault.orders) for fault in settings("process").plan().faults} == {3}


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown backend 'cloud'"):
        settings("cloud")
