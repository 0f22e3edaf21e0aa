"""What becomes of deliveries and endpoints: eight tries, 410, and five days, with no clock but an argument."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch.webhooks.schedule import (
    FAILING_FOR,
    JITTER,
    TRIES,
    WAITS,
    DeliveryStatus,
    DisabledReason,
    Verdict,
    is_success,
    judge,
    wait_before,
)

NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
CHANCES = st.floats(0, 1)
TROUBLE = st.one_of(st.none(), st.integers(100, 199), st.integers(300, 599)).filter(lambda status: status != 410)
SUCCESS = st.integers(200, 299)


def test_the_schedule_is_that_of_the_contract() -> None:
    minute, hour = 60, 3600

    assert (0, 5, 5 * minute, 30 * minute, 2 * hour, 5 * hour, 10 * hour, 10 * hour) == WAITS


@given(attempt=st.integers(1, 100), chance=CHANCES)
def test_a_wait_is_at_most_a_tenth_off(attempt: int, chance: float) -> None:
    exact = WAITS[min(attempt, TRIES) - 1]

    assert exact * (1 - JITTER) <= wait_before(attempt, chance) <= exact * (1 + JITTER)
    assert wait_before(attempt, 0.5) == exact


@given(status=SUCCESS, tries_left=st.integers(0, TRIES), since=st.none() | st.just(NOW - timedelta(days=9)))
def test_a_success_ends_it_and_forgets_what_was(status: int, tries_left: int, since: datetime | None) -> None:
    verdict = judge(status, tries_left=tries_left, failing_since=since, now=NOW, chance=0.5)

    assert verdict == Verdict(DeliveryStatus.DELIVERED, None, None, None)


@given(statuses=st.lists(TROUBLE, min_size=TRIES, max_size=TRIES), chance=CHANCES)
def test_with_nothing_but_trouble_it_is_tried_eight_times(statuses: list[int | None], chance: float) -> None:
    now, since, waits = NOW, None, []
    for tries_left, status in zip(reversed(range(TRIES)), statuses, strict=True):
        verdict = judge(status, tries_left=tries_left, failing_since=since, now=now, chance=chance)
        assert verdict.disable is None
        assert verdict.failing_since == NOW
        since = verdict.failing_since
        if verdict.wait_seconds is None:
            break
        assert verdict.status is DeliveryStatus.PENDING
        waits.append(verdict.wait_seconds)
        now += timedelta(seconds=verdict.wait_seconds)

    assert verdict.status is DeliveryStatus.FAILED
    assert waits == [wait_before(attempt, chance) for attempt in range(2, TRIES + 1)]
    assert sum(WAITS) * 0.9 <= sum(waits) <= sum(WAITS) * 1.1


@given(tries_left=st.integers(0, TRIES), since=st.none() | st.just(NOW - timedelta(hours=1)))
def test_410_is_final_for_the_endpoint_too(tries_left: int, since: datetime | None) -> None:
    verdict = judge(410, tries_left=tries_left, failing_since=since, now=NOW, chance=0.5)

    assert verdict == Verdict(DeliveryStatus.FAILED, None, since or NOW, DisabledReason.GONE)


@given(
    status=TROUBLE,
    tries_left=st.integers(0, TRIES),
    age=st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=10)),
)
def test_five_days_of_trouble_disable_it_and_nothing_less(status: int | None, tries_left: int, age: timedelta) -> None:
    verdict = judge(status, tries_left=tries_left, failing_since=NOW - age, now=NOW, chance=0.5)

    assert (verdict.disable is DisabledReason.FAILING) == (age >= FAILING_FOR)
    assert verdict.failing_since == NOW - age


@given(
    status=TROUBLE | SUCCESS | st.just(410),
    tries_left=st.integers(0, TRIES),
    since=st.none() | st.just(NOW - timedelta(days=9)),
)
def test_an_attempt_at_a_former_url_says_nothing_of_the_endpoint(
    status: int | None, tries_left: int, since: datetime | None
) -> None:
    verdict = judge(status, tries_left=tries_left, failing_since=since, now=NOW, chance=0.5, moved=True)

    assert (verdict.failing_since, verdict.disable) == (since, None)
    if is_success(status):
        assert verdict.status is DeliveryStatus.DELIVERED
    else:
        assert verdict.status is (DeliveryStatus.PENDING if tries_left else DeliveryStatus.FAILED)


@pytest.mark.parametrize("hour_of_success", [None, 0, 60, 119])
def test_a_week_of_an_endpoint(hour_of_success: int | None) -> None:
    # One message an hour, by an injected clock; one success on the way begins the five days anew.
    since: datetime | None = None
    for hour in range(7 * 24):
        status = 200 if hour == hour_of_success else 503
        verdict = judge(status, tries_left=7, failing_since=since, now=NOW + timedelta(hours=hour), chance=0.5)
        since = verdict.failing_since
        if verdict.disable:
            break

    first_failure = 0 if hour_of_success is None else hour_of_success + 1
    disabled_at = first_failure + 5 * 24
    assert hour == (disabled_at if disabled_at < 7 * 24 else 7 * 24 - 1)
    assert (verdict.disable is not None) == (disabled_at < 7 * 24)
