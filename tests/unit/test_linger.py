"""The pause before a claim, by the rate of the claims before it."""

from __future__ import annotations

import pytest

from onceproof.linger import Linger


def after(linger: Linger, rows: int, every_s: float, claims: int = 20) -> float:
    """The time after so many claims of `rows` each."""
    now = 1000.0
    for _ in range(claims):
        now += every_s
        linger.took(rows, now)
    return now


def test_nothing_is_known_at_first() -> None:
    linger = Linger(0.01)
    assert linger.delay_s(5.0) == 0
    linger.took(1000, 5.0)  # a backlog, which came in the night
    assert linger.delay_s(5.0) == 0


@pytest.mark.parametrize(
    ("per_s", "delay_s"),
    [
        (20_000, 0.0005),  # ten rows' time
        (4_000, 0.0025),
        (1_000, 0.01),
        (400, 0.01),  # four are worth it
        (100, 0.0),  # one is not
        (1, 0.0),
    ],
)
@pytest.mark.parametrize("rows", [1, 7])
def test_it_is_a_requests_time_at_most_linger_s_or_none(
    per_s: int, delay_s: float, rows: int
) -> None:
    linger = Linger(0.01)
    now = after(linger, rows, rows / per_s)
    assert linger.delay_s(now) == pytest.approx(delay_s)


def test_an_event_after_a_silence_does_not_wait() -> None:
    linger = Linger(0.01)
    now = after(linger, 10, 0.001)
    assert linger.delay_s(now + 0.0001) > 0
    assert linger.delay_s(now + 1) == 0


def test_claims_that_find_nothing_lower_the_rate() -> None:
    linger = Linger(0.01)
    now = after(linger, 10, 0.01)
    assert linger.delay_s(now) > 0
    for _ in range(6):
        now += 0.01
        linger.took(0, now)
    assert linger.delay_s(now) == 0


def test_a_smaller_request_is_filled_sooner_and_zero_is_never() -> None:
    assert Linger(1.0, fill=2).delay_s(0) == 0
    for linger, expected in ((Linger(1.0, fill=2), 0.02), (Linger(0.0), 0.0)):
        assert linger.delay_s(after(linger, 1, 0.01)) == pytest.approx(expected)
