"""A bucket of tokens for each address: exact over time, and bounded in memory whoever comes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch.throttle import Throttle, network_of


def test_a_quiet_address_may_do_an_hours_worth_at_once_and_then_one_by_one() -> None:
    throttle = Throttle(4)
    assert [throttle.take("a", 0.0) for _ in range(4)] == [0.0] * 4

    assert throttle.take("a", 0.0) == pytest.approx(900)
    assert throttle.take("a", 890.0) == pytest.approx(10)
    assert throttle.take("a", 900.0) == 0.0
    assert throttle.take("b", 900.0) == 0.0  # nobody else is concerned


def test_what_was_taken_for_nothing_is_given_back() -> None:
    throttle = Throttle(1)
    throttle.take("a", 0.0)
    throttle.give_back("a", 0.0)
    assert throttle.take("a", 0.0) == 0.0
    throttle.give_back("b", 0.0)  # never more than an hour's worth
    assert [throttle.take("b", 0.0) > 0 for _ in range(2)] == [False, True]


def test_a_burst_is_what_may_come_at_once() -> None:
    throttle = Throttle(20, burst=5)
    assert [throttle.take("a", 0.0) for _ in range(5)] == [0.0] * 5
    assert throttle.take("a", 0.0) == pytest.approx(180)
    assert [throttle.take("a", 100_000.0) > 0 for _ in range(6)] == [False] * 5 + [True]


def test_several_are_taken_as_a_whole_or_not_at_all() -> None:
    throttle = Throttle(3600)
    assert throttle.take("a", 0.0, 3000) == 0.0
    assert throttle.take("a", 0.0, 700) == pytest.approx(100)
    assert throttle.take("a", 0.0, 600) == 0.0
    throttle.give_back("a", 0.0, 600)
    assert throttle.take("a", 0.0, 600) == 0.0
    assert throttle.take("b", 0.0, 3601) == math.inf


def test_a_rate_of_nothing_lets_nothing_pass() -> None:
    assert Throttle(0).take("a", 0.0) == math.inf


@given(st.integers(1, 50), st.lists(st.floats(0, 4000), max_size=200))
def test_within_any_hour_no_address_does_more_than_twice_its_rate(rate: int, pauses: list[float]) -> None:
    throttle, now, passed = Throttle(rate), 0.0, []
    for pause in pauses:
        now += pause
        if throttle.take("a", now) == 0.0:
            passed.append(now)
    for start in passed:
        assert sum(start <= at < start + 3600 for at in passed) <= 2 * rate + 1


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 100)), max_size=300))
def test_it_keeps_a_bounded_number_of_addresses(calls: list[tuple[int, float]]) -> None:
    throttle, now = Throttle(3, max_addresses=10), 0.0
    for address, pause in calls:
        now += pause
        throttle.take(str(address), now)
        assert len(throttle) <= 10


def test_an_address_that_is_full_again_is_forgotten() -> None:
    throttle = Throttle(2)
    throttle.take("a", 0.0)
    throttle.give_back("a", 10_000.0)
    assert len(throttle) == 0


def test_a_clock_that_goes_back_gives_nothing() -> None:
    throttle = Throttle(1)
    throttle.take("a", 5000.0)
    assert throttle.take("a", 0.0) > 0


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("2001:DB8:1:3::", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("", ""),
        ("no address", "no address"),
    ],
)
def test_what_an_address_counts_as(address: str, network: str) -> None:
    assert network_of(address) == network
