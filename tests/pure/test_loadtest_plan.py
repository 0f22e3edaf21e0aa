"""What the load test sends, when, and how it sums up the time that it took."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch.errors import ConfigurationError
from logstitch.loadtest.plan import (
    RETRY_SECONDS,
    TENANTS,
    Batch,
    LoadSettings,
    Missed,
    Schedule,
    Slot,
    Workload,
    read_events,
    retry_delays,
    synthetic_event,
)
from logstitch.loadtest.report import Histogram

PROJECT_KEY = LoadSettings(url="http://127.0.0.1:8700", key="pk_test")

# -- settings


def test_settings_that_can_work_pass() -> None:
    PROJECT_KEY.check()
    LoadSettings(url="https://logs.example", key="mk_test", projects=5, rate=0.5, batch=1).check()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (LoadSettings(url="logs.example", key="pk_x"), "--url"),
        (LoadSettings(url="http://x", key="vt_x"), "--key"),
        (LoadSettings(url="http://x", key="pk_x", rate=0.0), "--rate"),
        (LoadSettings(url="http://x", key="pk_x", rate=float("nan")), "--rate"),
        (LoadSettings(url="http://x", key="pk_x", clients=0), "--clients"),
        (LoadSettings(url="http://x", key="pk_x", batch=101), "--batch"),
        (LoadSettings(url="http://x", key="pk_x", duration=-1.0), "--duration"),
        (LoadSettings(url="http://x", key="mk_x", projects=0), "--projects"),
        (LoadSettings(url="http://x", key="pk_x", projects=2), "--projects needs a master key"),
        (LoadSettings(url="http://x", key="pk_x", timeout=0.0), "--timeout"),
    ],
)
def test_a_setting_that_cannot_work_is_named(settings: LoadSettings, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        settings.check()


def test_every_wrong_setting_is_named_at_once() -> None:
    with pytest.raises(ConfigurationError, match=r"--url.*--key.*--batch"):
        LoadSettings(url="x", key="x", batch=0).check()


def test_the_key_does_not_show_when_settings_are_printed() -> None:
    assert "pk_test" not in repr(PROJECT_KEY)


def test_a_file_is_replayed_once_unless_a_duration_is_given() -> None:
    file = Path("events.ndjson")
    assert PROJECT_KEY.seconds == 10.0
    assert LoadSettings(url="http://x", key="pk_x", real=file).seconds is None
    assert LoadSettings(url="http://x", key="pk_x", real=file, duration=3.0).seconds == 3.0


def test_the_last_retry_leaves_1_5_to_3_seconds_after_the_first_try() -> None:
    delays = retry_delays(random.Random(7))

    assert len(delays) == len(RETRY_SECONDS) == 3
    assert 1.5 <= sum(delays) <= 3.0


# -- synthetic events


def test_synthetic_events_follow_from_their_seed_and_number() -> None:
    assert synthetic_event(random.Random(3), 8) == synthetic_event(random.Random(3), 8)
    assert synthetic_event(random.Random(3), 8) != synthetic_event(random.Random(4), 8)


def test_synthetic_events_are_as_large_as_real_ones() -> None:
    rng = random.Random(11)
    sizes = [len(orjson.dumps(synthetic_event(rng, n))) for n in range(500)]

    assert 650 <= sum(sizes) / len(sizes) <= 750


@given(seed=st.integers(0, 2**32), n=st.integers(0, 2**40))
def test_synthetic_events_keep_to_the_schema(seed: int, n: int) -> None:
    event = synthetic_event(random.Random(seed), n)

    assert {"action", "category", "actor", "tenant_id"} <= event.keys()
    assert event.keys() <= {"action", "category", "actor", "tenant_id", "target", "context", "metadata", "changes"}
    assert event["category"] in ("auth", "access", "mutation", "admin", "security", "system")
    assert event["actor"].keys() == {"id", "type", "name", "email"}
    assert "@" in event["actor"]["email"]
    assert event["context"].keys() == {"ip_address", "user_agent", "location", "session_id"}


# -- the workload


def workload(count: int = 10, *, batch: int = 4, projects: int = 1, once: bool = False) -> Workload:
    rng = random.Random(1)
    events = [synthetic_event(rng, n) for n in range(count)]
    return Workload(events, batch=batch, projects=projects, once=once, run="ltrun")


def test_batches_number_the_events_and_take_projects_in_turn() -> None:
    plan = workload(batch=4, projects=3)

    assert [plan.at(index) for index in range(4)] == [Batch(0, 4, 0), Batch(4, 4, 1), Batch(8, 4, 2), Batch(12, 4, 0)]
    assert [plan.project(n) for n in (0, 3, 4, 9, 12)] == [0, 0, 1, 2, 0]
    assert plan.batches is None


def test_a_replay_ends_with_its_last_event() -> None:
    plan = workload(10, batch=4, once=True)

    assert plan.batches == 3
    assert plan.at(2) == Batch(8, 2, 0)


def test_an_event_is_sent_as_it_was_given_but_for_its_tenant_and_key() -> None:
    given_event = {"action": "a.b", "tenant_id": "acme", "idempotency_key": "theirs", "metadata": {"é": [1, None]}}
    plan = Workload([given_event], run="ltrun")

    sent = plan.event(31)

    assert sent == {
        "action": "a.b",
        "metadata": {"é": [1, None]},
        "tenant_id": plan.tenant(31),
        "idempotency_key": "ltrun-1f",
    }


def test_several_events_are_an_array_and_one_is_an_object() -> None:
    plan = workload(batch=3)

    assert orjson.loads(plan.body(Batch(3, 3, 0))) == [plan.event(3), plan.event(4), plan.event(5)]
    assert orjson.loads(plan.body(Batch(3, 1, 0))) == plan.event(3)


def test_every_cycle_has_keys_of_its_own() -> None:
    plan = workload(10)
    keys = {plan.event(n)["idempotency_key"] for n in range(40)}

    assert len(keys) == 40
    assert {key: plan.number(key) for key in keys} == {plan.key(n): n for n in range(40)}


@pytest.mark.parametrize("key", [None, 7, "", "ltrun-", "ltrun-G", "ltrun--1", "ltrun-01", "ltrun-A", "other-1"])
def test_a_key_of_somebody_else_has_no_number(key: object) -> None:
    assert workload().number(key) is None


def test_tenants_belong_to_the_run_and_events_of_one_tenant_stay_together() -> None:
    events = [{"action": "a.b", "tenant_id": f"tenant-{n % 50}"} for n in range(200)]
    plan = Workload(events, run="ltrun")

    assert len(plan.tenants) == TENANTS
    assert all(tenant.startswith("ltrun.") for tenant in plan.tenants)
    assert {plan.tenant(n) for n in range(200)} <= set(plan.tenants)
    assert all(plan.tenant(n) == plan.tenant(n + 50) for n in range(150))


def test_two_runs_share_no_tenant() -> None:
    events = [{"action": "a.b", "tenant_id": "acme"}]

    assert not {*Workload(events).tenants} & {*Workload(events).tenants}


# -- files to replay


@pytest.mark.parametrize("packed", [False, True])
def test_events_are_read_from_ndjson_gzipped_or_not(tmp_path: Path, packed: bool) -> None:
    text = b'{"action":"a.b"}\n\n{"action":"c.d"}'
    file = tmp_path / "events"
    file.write_bytes(gzip.compress(text) if packed else text)

    assert read_events(file) == [{"action": "a.b"}, {"action": "c.d"}]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "has no events"),
        (b'{"action":"a.b"}\n{', "line 2 is not JSON"),
        (b"[1]", "line 1 is not an event"),
        (b"{}", "line 1 is not an event"),
        (gzip.compress(b'{"action":"a.b"}', mtime=0)[:-4], "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_replayed_says_why(tmp_path: Path, content: bytes, complaint: str) -> None:
    file = tmp_path / "events"
    file.write_bytes(content)

    with pytest.raises(ConfigurationError, match=complaint):
        read_events(file)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_events(tmp_path / "nothing")


# -- the schedule


def test_an_open_loop_gives_every_batch_its_time() -> None:
    schedule = Schedule(rate=32.0, batch=8, seconds=0.8, batches=None)

    slots = [schedule.claim(0.0) for _ in range(5)]

    assert slots == [Slot(0, 0.0), Slot(1, 0.25), Slot(2, 0.5), Slot(3, 0.75), None]


def test_an_open_loop_does_not_wait_for_a_slow_service() -> None:
    schedule = Schedule(rate=10.0, batch=1, seconds=60.0, batches=None)
    schedule.claim(0.0)

    slot = schedule.claim(5.0)  # the client was held up for five seconds

    assert slot == Slot(1, 0.1)  # so this batch is late, and its latency counts from when it was due


def test_a_closed_loop_sends_when_asked() -> None:
    schedule = Schedule(rate=None, batch=10, seconds=10.0, batches=None)

    assert schedule.claim(0.3) == Slot(0, 0.3)
    assert schedule.claim(9.9) == Slot(1, 9.9)
    assert schedule.claim(10.0) is None


def test_a_replay_is_over_when_its_batches_are() -> None:
    schedule = Schedule(rate=None, batch=10, seconds=None, batches=2)

    assert [schedule.claim(1e6), schedule.claim(1e6), schedule.claim(1e6)] == [Slot(0, 1e6), Slot(1, 1e6), None]


def test_what_was_due_and_never_sent_is_told() -> None:
    schedule = Schedule(rate=8.0, batch=1, seconds=1.0, batches=None)
    for _ in range(3):  # due at 0, 0.125 and 0.25; then every client hangs until after the end
        schedule.claim(0.3)

    assert schedule.claim(1.5) is None
    assert schedule.missed(1.5) == Missed(5, 0.125, 0.625)


def test_what_was_not_yet_due_was_not_missed() -> None:
    schedule = Schedule(rate=10.0, batch=1, seconds=60.0, batches=None)
    for _ in range(4):
        schedule.claim(0.3)

    assert schedule.missed(0.35) == Missed()
    assert schedule.missed(0.45).count == 1


def test_a_closed_loop_misses_nothing() -> None:
    assert Schedule(rate=None, batch=1, seconds=1.0, batches=None).missed(5.0) == Missed()


@given(rate=st.floats(0.1, 1e5), batch=st.integers(1, 100), seconds=st.floats(0.01, 5.0), stall=st.integers(0, 20))
def test_every_slot_is_either_claimed_or_missed(rate: float, batch: int, seconds: float, stall: int) -> None:
    schedule = Schedule(rate=rate, batch=batch, seconds=seconds, batches=None)
    claimed = sum(schedule.claim(0.0) is not None for _ in range(stall))

    assert claimed + schedule.missed(seconds).count == pytest.approx(max(seconds * rate / batch, 1), abs=1)


# -- percentiles


@given(
    st.lists(st.integers(0, 100_000_000), min_size=1, max_size=300), st.sampled_from([50.0, 90.0, 99.0, 99.9, 100.0])
)
def test_percentiles_are_right_within_a_hundredth(micros: list[int], percent: float) -> None:
    histogram = Histogram()
    for value in micros:
        histogram.record(value / 1e6)
    rank = max(1, -(-len(micros) * percent // 100))
    exact = sorted(micros)[int(rank) - 1] / 1e6

    found = histogram.percentile(percent)

    assert found is not None
    assert exact - 1e-6 <= found <= exact * 1.008 + 2e-6
    assert found <= histogram.highest
    assert histogram.highest == max(micros) / 1e6


def test_one_slow_request_in_a_thousand_is_the_maximum_and_not_the_99_9th() -> None:
    histogram = Histogram()
    histogram.record(0.001, 999)
    histogram.record(30.0)

    assert histogram.milliseconds() == {
        "p50": pytest.approx(1, rel=0.01),
        "p90": pytest.approx(1, rel=0.01),
        "p99": pytest.approx(1, rel=0.01),
        "p99.9": pytest.approx(1, rel=0.01),
        "max": 30_000.0,
    }


def test_no_requests_have_no_latency() -> None:
    assert set(Histogram().milliseconds().values()) == {None}


def test_a_histogram_stays_small_whatever_it_holds() -> None:
    histogram = Histogram()
    for exponent in range(-6, 6):
        histogram.record(10.0**exponent)

    assert len(histogram._counts) < 128 * 40


def test_missed_requests_count_with_the_time_they_waited_in_vain() -> None:
    histogram = Histogram()
    histogram.record(0.001, 100)
    histogram.record_missed(Missed(10_000, 0.0, 10.0))

    assert histogram.count == 10_100
    assert histogram.percentile(50) == pytest.approx(4.95, rel=0.02)
    assert histogram.highest == 10.0
