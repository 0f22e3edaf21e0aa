"""The waits between the runs of a failing actor."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from logstitch.actors.backoff import Backoff

chances = st.floats(min_value=0.0, max_value=1.0, exclude_max=True)
short_runs = st.floats(min_value=0.0, max_value=60.0, exclude_max=True)
long_runs = st.floats(min_value=60.0, max_value=1e6)
rows = st.integers(min_value=1, max_value=5000)  # beyond 1,075 the doubled wait no longer fits a float


def after(failures: int) -> Backoff:
    return Backoff(failures=failures)


def test_without_jitter_the_wait_doubles_from_half_a_second_to_thirty() -> None:
    backoff = Backoff()
    waits = []
    for _ in range(8):
        backoff = backoff.failed(ran_for=0.0)
        waits.append(backoff.delay(0.0))
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_who_has_not_failed_does_not_wait() -> None:
    assert Backoff().delay(0.0) == 0.0


@given(rows, chances)
def test_a_wait_is_never_longer_than_the_cap_and_never_nothing(failures: int, chance: float) -> None:
    assert 0.0 < after(failures).delay(chance) <= 30.0


@given(rows, chances)
def test_jitter_takes_at_most_its_share(failures: int, chance: float) -> None:
    longest = after(failures).delay(0.0)
    assert longest * 0.5 <= after(failures).delay(chance) <= longest


@given(rows, chances)
def test_one_more_failure_never_shortens_the_wait(failures: int, chance: float) -> None:
    assert after(failures + 1).delay(chance) >= after(failures).delay(chance)


@given(rows, long_runs)
def test_a_healthy_run_ends_the_row(failures: int, ran_for: float) -> None:
    assert after(failures).failed(ran_for=ran_for) == after(1)


@given(rows, short_runs)
def test_a_short_run_continues_it(failures: int, ran_for: float) -> None:
    assert after(failures).failed(ran_for=ran_for) == after(failures + 1)
