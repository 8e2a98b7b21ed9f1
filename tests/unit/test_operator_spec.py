"""What an object asks for, and which of its combinations the pipeline answers how."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.test_operator_fakes import custom_object

from onceproof.crashpoints import ALL_POINTS, MAX_PARK_S, Action, Armed
from onceproof.variants import FIX_NAMES, HARDENED, NAIVE, parse_variant
from onceproof_chaos.backend import Role
from onceproof_operator.campaign_spec import CampaignSpec
from onceproof_operator.cluster import selector_text
from onceproof_operator.drill_spec import DrillSpec

CONSUMERS = {"matchLabels": {"app.kubernetes.io/component": "consumer"}}
REPLICAS = dict.fromkeys(Role, 1)


def drill(**changes: Any) -> DrillSpec:
    spec: dict[str, Any] = {
        "target": {"selector": CONSUMERS},
        "crashPoint": "consumer.after_commit",
        "action": "kill",
        "match": {"order": "o-1"},
        "deadlineSeconds": 60,
    }
    return DrillSpec.of(custom_object("d", spec | changes, uid="u-1", created=1_800_000_000))


def test_a_drill_from_its_object() -> None:
    spec = drill(match={"order": "o-1", "deliveryAttempt": 2})
    assert (spec.name, spec.uid, spec.created) == ("d", "u-1", 1_800_000_000)
    assert spec.selector == "app.kubernetes.io/component=consumer"
    assert (spec.order, spec.attempt, spec.deadline_s) == ("o-1", 2, 60.0)
    fault = spec.fault(3.0)
    assert (fault.id, fault.orders, fault.attempt) == ("drill-u-1", ("o-1",), 2)


@pytest.mark.parametrize(
    ("selector", "text"),
    [
        ({"matchLabels": {"a": "b", "c": ""}}, "a=b,c="),
        (
            {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b", "c"]}]},
            "a in (b,c)",
        ),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["b"]}]}, "a notin (b)"),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, "a"),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist", "values": []}]}, "!a"),
        (
            {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "Exists"}]},
            "a=b,c",
        ),
    ],
)
def test_selectors_as_the_api_takes_them(selector: dict[str, Any], text: str) -> None:
    assert selector_text(selector) == text


@pytest.mark.parametrize(
    "selector", [{}, {"matchLabels": {}}, {"matchLabels": None, "matchExpressions": None}]
)
def test_an_empty_selector_would_mean_every_pod(selector: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="would match every pod"):
        selector_text(selector)
    with pytest.raises(ValueError, match="would match every pod"):
        drill(target={"selector": selector})


def test_a_kill_parks_for_longer_than_the_drill_lasts() -> None:
    assert drill().fault(3.0).park_s > 60
    assert drill(deadlineSeconds=3600).fault(3.0).park_s == MAX_PARK_S


def test_a_stall_lasts_as_long_as_it_says_or_past_the_visibility_timeout() -> None:
    assert drill(action="stall").fault(3.0).park_s == 3.0
    assert drill(action="stall", stallSeconds=7).fault(3.0).park_s == 7


@pytest.mark.parametrize("action", list(Action))
def test_a_service_takes_the_fault(action: Action) -> None:
    fault = drill(action=action.value).fault(3.0)
    assert Armed.from_json(fault.as_json()).matches("o-1", 1)


@pytest.mark.parametrize("point", ALL_POINTS)
def test_each_point_belongs_to_one_component(point: str) -> None:
    assert drill(crashPoint=point).roles(HARDENED) == {point.partition(".")[0]}


def test_without_the_outbox_the_producer_publishes() -> None:
    assert drill(crashPoint="relay.before_publish").roles(NAIVE) == {"producer"}
    assert drill(crashPoint="consumer.after_charge").roles(NAIVE) == {"consumer"}


@pytest.mark.parametrize(
    ("point", "action", "expected"),
    [
        ("consumer.after_commit", "kill", True),
        ("relay.after_publish", "drop", True),
        ("consumer.before_charge", "stall", True),
        ("relay.before_publish", "stall", True),
        ("consumer.before_charge", "kill", False),
        ("producer.after_commit", "stall", False),
        ("provider.after_capture", "drop", False),
    ],
)
def test_a_dedup_hit_is_expected_where_the_event_comes_to_completion_twice(
    point: str, action: str, expected: bool
) -> None:
    spec = drill(crashPoint=point, action=action)
    assert spec.dedup_expected(HARDENED) is expected
    assert not spec.dedup_expected(NAIVE)
    for fix in ("inbox", "outbox", "dedup_on_event_id"):
        assert not spec.dedup_expected(parse_variant(f"hardened-{fix}"))


@pytest.mark.parametrize(
    ("point", "action", "expected"),
    [
        ("relay.before_publish", "stall", False),
        ("relay.after_publish", "stall", False),
        ("relay.after_publish", "kill", True),
        ("relay.after_publish", "drop", True),
        ("consumer.before_charge", "stall", True),
    ],
)
def test_while_the_one_reader_of_a_slot_stands_still_nobody_sends(
    point: str, action: str, expected: bool
) -> None:
    spec = drill(crashPoint=point, action=action)
    assert spec.dedup_expected(HARDENED, relays_share=False) is expected
    assert spec.dedup_expected(HARDENED)


def campaign(**changes: Any) -> CampaignSpec:
    spec: dict[str, Any] = {
        "variant": "hardened",
        "orders": 50,
        "seed": 7,
        "faults": {"kills": {"consumer.after_commit": 2}, "stalls": 1, "providerTimeouts": 1},
        "concurrency": 4,
        "ratePerSecond": 5,
        "deadlineSeconds": 60,
    }
    return CampaignSpec.of(custom_object("c", spec | changes, uid="12345678-aaaa"))


def test_a_campaign_names_its_orders_and_faults_after_itself() -> None:
    settings = campaign().settings(visibility_s=3, replicas=REPLICAS)
    plan = settings.plan()
    assert (settings.orders, settings.rate_per_s, settings.clients) == (50, 5.0, 4)
    assert len(plan.faults) == 4
    assert all(fault.id.startswith("12345678-") for fault in plan.faults)
    assert all("-12345678-" in order for order in plan.order_ids())
    assert plan.planned(Action.KILL) == {"consumer.after_commit": 2}


def test_faults_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="4 faults do not fit into 3 orders"):
        campaign(orders=3).settings(visibility_s=3, replicas=REPLICAS)


@pytest.mark.parametrize("variant", ["naive", *(f"hardened-{fix}" for fix in FIX_NAMES)])
def test_each_variant_has_its_fixes(variant: str) -> None:
    settings = campaign(variant=variant).settings(visibility_s=3, replicas=REPLICAS)
    assert settings.fixes == parse_variant(variant)
