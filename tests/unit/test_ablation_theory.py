"""The theory has no holes, and says that each fix is needed for something."""

from __future__ import annotations

import pytest

from onceproof.crashpoints import CRASH_POINTS, Action
from onceproof.variants import FIX_NAMES, parse_variant
from onceproof_chaos.ablation.faults import FAULTS, NONE, SLOW, STRIKES, VISIBILITY_S
from onceproof_chaos.ablation.prediction import ALL_VARIANTS, VARIANTS, Claim, claim, tabulate
from onceproof_chaos.ablation.theory import TABLE, predict
from onceproof_chaos.backend import Role
from onceproof_chaos.verdict import BreachKind
from onceproof_chaos.workload import generate


def everywhere(*, without: str = "", fault: str = NONE.name) -> list[Claim]:
    return [
        claim(
            name,
            [v for v in ALL_VARIANTS if v != without or name != fault],
            again=False,
            because="x",
        )
        for name in FAULTS
    ]


def test_every_variant_under_every_fault_has_a_prediction_with_a_reason() -> None:
    assert set(TABLE) == {(variant, fault) for variant in ALL_VARIANTS for fault in FAULTS}
    assert all(prediction.reason.endswith(".") for prediction in TABLE.values())
    assert len(VARIANTS) == 2 + len(FIX_NAMES)
    assert all(parse_variant(variant) for variant in ALL_VARIANTS)


def test_the_faults_are_every_crash_point_and_what_else_was_promised() -> None:
    kills = {fault.point for fault in FAULTS.values() if fault.action is Action.KILL}
    assert kills == set(CRASH_POINTS)
    assert sum(fault.action is Action.STALL for fault in FAULTS.values()) == 3
    assert sum(fault.action is Action.DROP for fault in FAULTS.values()) == 3
    assert {fault.name for fault in FAULTS.values() if fault.point is None} == {
        "none",
        "slow-handler",
    }


@pytest.mark.parametrize("fault", [NONE.name, SLOW.name, "kill-consumer.after_commit"])
def test_a_hole_in_a_theory_is_found(fault: str) -> None:
    tabulate(everywhere())
    with pytest.raises(ValueError, match=f"1 cells without a prediction, e.g. naive under {fault}"):
        tabulate(everywhere(without="naive", fault=fault))


def test_two_predictions_for_a_cell_and_unknown_cells_are_found() -> None:
    twice = claim(NONE.name, ["naive"], BreachKind.LOST, again=False, because="x")
    with pytest.raises(ValueError, match="two predictions for naive under none"):
        tabulate([*everywhere(), twice])
    for unknown in (
        claim("earthquake", ["naive"], again=False, because="x"),
        claim(NONE.name, ["hardened-hope"], again=False, because="x"),
    ):
        with pytest.raises(ValueError, match="no such cell"):
            tabulate([*everywhere(), unknown])


def test_hardened_breaks_nowhere_and_nothing_breaks_without_a_fault() -> None:
    assert not any(predict("hardened", fault).breaches for fault in FAULTS)
    for variant in ALL_VARIANTS:
        assert not predict(variant, NONE.name).breaches
        assert not predict(variant, NONE.name).comes_again


@pytest.mark.parametrize("fix", FIX_NAMES)
def test_each_fix_is_needed_for_something_that_the_theory_names(fix: str) -> None:
    changed = {
        fault
        for fault in FAULTS
        if (
            predict(f"hardened-{fix}", fault).breaches,
            predict(f"hardened-{fix}", fault).comes_again,
        )
        != (predict("hardened", fault).breaches, predict("hardened", fault).comes_again)
    }
    assert changed
    if fix == "visibility_heartbeat":
        assert changed == {SLOW.name}


def test_transactions_lose_nothing_and_double_where_the_inbox_or_the_key_is_needed() -> None:
    for fault in FAULTS:
        breaches = predict("transactions", fault).breaches
        assert BreachKind.LOST not in breaches
        needed = (
            predict("hardened-inbox", fault).breaches
            | predict("hardened-idempotency_key", fault).breaches
        )
        assert (BreachKind.DOUBLE_CHARGED in breaches) == bool(needed)


def test_all_variants_meet_the_same_fault_on_orders_of_patient_clients() -> None:
    for fault in FAULTS.values():
        for seed in range(1, 30):
            plan = fault.plan(seed, 10)
            assert plan == fault.plan(seed, 10)
            assert len(plan.faults) == (STRIKES if fault.point else 0)
            patient = {o.order_id for o in generate(seed, 10) if not o.impatient}
            assert {order for f in plan.faults for order in f.orders} <= patient
            assert all(f.park_s > VISIBILITY_S for f in plan.faults)


def test_faults_with_a_survivor_have_a_second_consumer_and_no_relay_runs_without_an_outbox() -> (
    None
):
    assert FAULTS["stall-consumer.after_charge"].replicas(outbox=True)[Role.CONSUMER] == 2
    assert SLOW.replicas(outbox=True)[Role.CONSUMER] == 2
    assert FAULTS["kill-consumer.after_charge"].replicas(outbox=True)[Role.CONSUMER] == 1
    assert NONE.replicas(outbox=False)[Role.RELAY] == 0


def test_a_slow_provider_is_slower_than_the_visibility_timeout_for_some_orders_only() -> None:
    provider = SLOW.environment(3)[Role.PROVIDER]
    fastest = float(provider["ONCEPROOF_LATENCY_MS"]) / 1000
    slowest = fastest + float(provider["ONCEPROOF_JITTER_MS"]) / 1000
    assert fastest < VISIBILITY_S < slowest
    assert float(SLOW.environment(3)[Role.CONSUMER]["ONCEPROOF_PROVIDER_TIMEOUT_S"]) > slowest
    assert not NONE.environment(3)


def test_too_few_orders_are_an_error() -> None:
    with pytest.raises(ValueError, match="too few"):
        FAULTS["kill-consumer.after_charge"].plan(1, 1)
