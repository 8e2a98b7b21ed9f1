import threading
import time
import timeit

import pytest

from onceproof.crashpoints import (
    CONSUMER_AFTER_CHARGE,
    CONSUMER_AFTER_COMMIT,
    RELAY_BEFORE_PUBLISH,
    Action,
    Armed,
    CrashPoints,
)
from onceproof.errors import InjectedDropError


def drop(fault_id="f", point=RELAY_BEFORE_PUBLISH, orders=("o-1",), attempt=None):
    return Armed(fault_id, point, Action.DROP, frozenset(orders), attempt)


def test_nothing_armed_passes():
    CrashPoints().hit(CONSUMER_AFTER_CHARGE, "o-1")


def test_a_drop_fires_once_and_only_for_its_order():
    points = CrashPoints()
    points.arm([drop()])
    points.hit(RELAY_BEFORE_PUBLISH, "o-2")
    with pytest.raises(InjectedDropError, match="fault f"):
        points.hit(RELAY_BEFORE_PUBLISH, "o-1")
    points.hit(RELAY_BEFORE_PUBLISH, "o-1")
    assert [(r.fault, r.order) for r in points.reached()] == [("f", "o-1")]
    assert points.armed() == []


def test_the_attempt_must_match():
    points = CrashPoints()
    points.arm([drop(attempt=2)])
    points.hit(RELAY_BEFORE_PUBLISH, "o-1", 1)
    with pytest.raises(InjectedDropError):
        points.hit(RELAY_BEFORE_PUBLISH, "o-1", 2)


def test_whichever_order_comes_first_fires():
    points = CrashPoints()
    points.arm([drop(orders=("o-1", "o-2"))])
    with pytest.raises(InjectedDropError):
        points.hit(RELAY_BEFORE_PUBLISH, "o-2")
    points.hit(RELAY_BEFORE_PUBLISH, "o-1")


def test_a_fired_fault_cannot_be_armed_again():
    points = CrashPoints()
    points.arm([drop()])
    with pytest.raises(InjectedDropError):
        points.hit(RELAY_BEFORE_PUBLISH, "o-1")
    points.arm([drop()])
    points.hit(RELAY_BEFORE_PUBLISH, "o-1")


def test_disarm_by_id_and_all():
    points = CrashPoints()
    points.arm([drop("a"), drop("b", point=CONSUMER_AFTER_COMMIT)])
    points.disarm(["a"])
    assert [fault.id for fault in points.armed()] == ["b"]
    points.disarm()
    assert points.armed() == []


def test_a_stall_holds_its_thread_while_others_see_it_and_then_goes_on():
    points = CrashPoints()
    points.arm([Armed("s", CONSUMER_AFTER_CHARGE, Action.STALL, park_s=0.3)])
    passed = threading.Event()

    def work():
        points.hit(CONSUMER_AFTER_CHARGE, "o-1")
        passed.set()

    thread = threading.Thread(target=work)
    thread.start()
    reached = points.reached(wait_s=5)
    assert [r.action for r in reached] == [Action.STALL]
    assert not passed.is_set()
    assert passed.wait(5)
    thread.join()


def test_waiting_for_a_reached_point_ends_with_its_time():
    started = time.monotonic()
    assert CrashPoints().reached(wait_s=0.05) == []
    assert time.monotonic() - started >= 0.05


def test_reached_gives_only_what_is_new():
    points = CrashPoints()
    points.arm([drop("a", orders=("o-1",)), drop("b", orders=("o-2",))])
    for order in ("o-1", "o-2"):
        with pytest.raises(InjectedDropError):
            points.hit(RELAY_BEFORE_PUBLISH, order)
    assert [r.fault for r in points.reached(after=1)] == ["b"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"point": "consumer.nowhere"}, "unknown crash point"),
        ({"action": "explode"}, "unknown action"),
        ({"orders": "o-1"}, "orders must be a list"),
        ({"orders": [1]}, "orders must be a list"),
        ({"attempt": 0}, "attempt must be"),
        ({"attempt": True}, "attempt must be"),
        ({"park_s": 0}, "park_s must be"),
        ({"park_s": float("nan")}, "park_s must be"),
        ({"park_s": 10_000}, "park_s must be"),
        ({"id": ""}, "id must be"),
        ({"colour": "red"}, "unknown fields: colour"),
    ],
)
def test_a_malformed_fault_says_what_is_wrong(change, reason):
    good = {"id": "f", "point": CONSUMER_AFTER_CHARGE, "action": "kill", "orders": ["o-1"]}
    assert Armed.from_json(good).as_json()["orders"] == ["o-1"]
    with pytest.raises(ValueError, match=reason):
        Armed.from_json(good | change)


def test_a_disarmed_crash_point_costs_less_than_a_microsecond():
    points = CrashPoints()
    points.arm([drop()])  # another point is armed: this one is still only a look-up
    number = 100_000
    best = min(
        timeit.repeat(
            lambda: points.hit(CONSUMER_AFTER_CHARGE, "o-1", 1, "e"), number=number, repeat=5
        )
    )
    assert best / number < 1e-6
