"""The fault plan: deterministic, spread out, and no order in two faults."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onceproof.crashpoints import (
    CONSUMER_AFTER_CHARGE,
    CONSUMER_BEFORE_CHARGE,
    CRASH_POINTS,
    PROVIDER_AFTER_CAPTURE,
    RELAY_AFTER_PUBLISH,
    RELAY_BEFORE_PUBLISH,
    Action,
    Armed,
)
from onceproof_chaos.plan import Fault, Plan, build_plan, order_id

FOUR_EACH = dict.fromkeys(CRASH_POINTS, 4)


def index_of(order: str) -> int:
    return int(order.rsplit("-", 1)[1])


def demo_plan(seed: int = 7) -> Plan:
    return build_plan(
        seed,
        200,
        kills_per_point=FOUR_EACH,
        stalls=3,
        dropped=2,
        unknown=2,
        provider_timeouts=1,
        stall_s=9,
    )


def test_the_same_seed_gives_the_same_plan_and_another_seed_another() -> None:
    assert demo_plan(7) == demo_plan(7)
    assert demo_plan(7) != demo_plan(8)
    places = [[index_of(f.orders[0]) for f in demo_plan(seed).faults] for seed in (7, 8)]
    assert places[0] != places[1]


def test_a_plan_holds_what_was_asked_for() -> None:
    plan = demo_plan()
    assert plan.planned(Action.KILL) == FOUR_EACH
    assert plan.planned(Action.STALL) == {CONSUMER_AFTER_CHARGE: 2, CONSUMER_BEFORE_CHARGE: 1}
    assert plan.planned(Action.DROP) == {
        RELAY_BEFORE_PUBLISH: 2,
        RELAY_AFTER_PUBLISH: 2,
        PROVIDER_AFTER_CAPTURE: 1,
    }
    assert {f.park_s for f in plan.faults if f.action is Action.STALL} == {9}
    assert {f.park_s for f in plan.faults if f.action is Action.KILL} == {60}


def test_first_choices_are_spread_over_the_first_part_and_spares_come_later() -> None:
    plan = demo_plan()
    firsts = [index_of(fault.orders[0]) for fault in plan.faults]
    assert firsts == sorted(firsts)
    assert max(firsts) < 160
    gaps = [b - a for a, b in pairwise(firsts)]
    assert max(gaps) <= 2 * math.ceil(160 / len(firsts))
    for fault in plan.faults:
        assert len(fault.orders) == 3
        assert all(index_of(spare) > index_of(fault.orders[0]) for spare in fault.orders[1:])


def test_points_are_shuffled() -> None:
    points = [fault.point for fault in demo_plan().faults]
    assert points != sorted(points)
    assert len(set(points[:12])) > 3


def test_the_json_is_what_a_service_arms() -> None:
    for fault in demo_plan().faults:
        armed = Armed.from_json(json.loads(json.dumps(fault.as_json())))
        assert armed.orders == frozenset(fault.orders)
        assert (armed.id, armed.point, armed.action) == (fault.id, fault.point, fault.action)


def test_json_round_trip_keeps_the_sequence_of_orders() -> None:
    plan = demo_plan()
    assert Plan.from_json(json.loads(json.dumps(plan.as_json()))) == plan


@pytest.mark.parametrize(("orders", "spares"), [(30, 2), (29, 1), (20, 1), (19, 0), (10, 0)])
def test_spares_get_fewer_when_orders_are_few(orders: int, spares: int) -> None:
    plan = build_plan(1, orders, kills_per_point={CONSUMER_AFTER_CHARGE: 10})
    assert {len(fault.orders) for fault in plan.faults} == {1 + spares}


def test_a_runs_name_is_in_its_ids_and_changes_nothing_else() -> None:
    assert order_id(3, 7, "a1") == "o-3-a1-000007"
    bare = build_plan(3, 30, kills_per_point=FOUR_EACH)
    named = build_plan(3, 30, kills_per_point=FOUR_EACH, run="a1")
    assert [fault.id for fault in named.faults] == [f"a1-{fault.id}" for fault in bare.faults]
    assert [[index_of(o) for o in f.orders] for f in named.faults] == [
        [index_of(o) for o in f.orders] for f in bare.faults
    ]
    assert set(named.faults[0].orders) <= set(named.order_ids())
    assert Plan.from_json(json.loads(json.dumps(named.as_json()))) == named


def test_a_plan_of_before_runs_had_names_can_be_read() -> None:
    document = demo_plan().as_json()
    del document["run"]
    assert Plan.from_json(document) == demo_plan()


@pytest.mark.parametrize("run", ["x" * 60, "a/b", "a b", "ü"])
def test_an_order_id_that_the_producer_would_refuse_is_refused(run: str) -> None:
    with pytest.raises(ValueError, match="is no order id"):
        build_plan(1, 5, kills_per_point={CONSUMER_AFTER_CHARGE: 1}, run=run)


def test_the_longest_run_name_of_a_campaign_fits() -> None:
    assert len(order_id(2**63, 999_999, "r" * 32)) <= 64


def test_more_faults_than_orders_is_refused() -> None:
    with pytest.raises(ValueError, match="11 faults do not fit into 10 orders"):
        build_plan(1, 10, kills_per_point={CONSUMER_AFTER_CHARGE: 11})


def test_a_plan_without_faults_is_possible() -> None:
    assert build_plan(1, 10, kills_per_point={}).faults == ()


@pytest.mark.parametrize(
    ("kills", "match"),
    [
        ({"consumer.nowhere": 1}, "no kill at"),
        ({PROVIDER_AFTER_CAPTURE: 1}, "no kill at"),
        ({CONSUMER_AFTER_CHARGE: -1}, "must not be negative"),
    ],
)
def test_bad_kills_are_refused(kills: dict[str, int], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build_plan(1, 10, kills_per_point=kills)


FIRST = Fault("a", CONSUMER_AFTER_CHARGE, Action.KILL, (order_id(1, 0),))


@pytest.mark.parametrize(
    ("faults", "match"),
    [
        ((FIRST, FIRST), "used twice"),
        ((FIRST, replace(FIRST, id="b")), "serves two faults: a and b"),
        ((replace(FIRST, id=""),), "empty"),
        ((replace(FIRST, point="nowhere"),), "unknown crash point"),
        ((replace(FIRST, point=PROVIDER_AFTER_CAPTURE),), "only drop"),
        ((replace(FIRST, orders=(order_id(1, 5),)),), "not in the workload"),
        ((replace(FIRST, park_s=0),), "park_s"),
        ((replace(FIRST, park_s=1e9),), "park_s"),
        ((replace(FIRST, attempt=0),), "attempt counts from 1"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(
    faults: tuple[Fault, ...], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        Plan(1, 5, faults).validate()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(),
    orders=st.integers(1, 120),
    kills=st.lists(st.integers(0, 4), min_size=6, max_size=6),
    others=st.tuples(*[st.integers(0, 3)] * 4),
)
def test_any_plan_that_fits_is_valid(
    seed: int, orders: int, kills: list[int], others: tuple[int, int, int, int]
) -> None:
    stalls, dropped, unknown, timeouts = others
    total = sum(kills) + sum(others)

    def build() -> Plan:
        return build_plan(
            seed,
            orders,
            kills_per_point=dict(zip(CRASH_POINTS, kills, strict=True)),
            stalls=stalls,
            dropped=dropped,
            unknown=unknown,
            provider_timeouts=timeouts,
        )

    if total > orders:
        with pytest.raises(ValueError, match="do not fit"):
            build()
    else:
        plan = build()
        plan.validate()
        assert len(plan.faults) == total
        assert len({fault.id for fault in plan.faults}) == total
