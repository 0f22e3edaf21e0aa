"""The operations address: alive, ready, actors, numbers."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from logstitch.actors.health import ActorState
from logstitch.errors import Detail
from logstitch.http import examples
from logstitch.http.api import create_ops_app
from tests.support.client import Client
from tests.support.world import WellBeing, actor_health


@pytest.fixture
def health() -> WellBeing:
    return WellBeing()


@pytest.fixture
def ops(health: WellBeing) -> Client:
    return Client(create_ops_app(health))


async def test_all_is_well(ops: Client) -> None:
    live, ready = await ops.get("/health/live"), await ops.get("/health/ready")

    assert (live.status, live.json()["status"]) == (200, "live")
    assert (ready.status, ready.json()["status"]) == (200, "ready")


async def test_it_is_not_ready_and_says_why(ops: Client, health: WellBeing) -> None:
    health.reasons = [Detail("database", "Cannot be reached"), Detail("actors/ingest/7", "Stuck")]

    answer = await ops.get("/health/ready")

    assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "unavailable", "1")
    assert answer.details == {"database": "Cannot be reached", "actors/ingest/7": "Stuck"}
    assert (await ops.get("/health/live")).status == 200


BROWSER = {"Accept-Language": "en", "User-Agent": "Mozilla/5.0 (X11; Linux x86_64)"}


@pytest.mark.parametrize("path", ["/", "/operator.js", "/metrics", "/health/live", "/health/actors", "/nothing"])
async def test_a_browser_that_was_led_here_by_a_name_reads_nothing(ops: Client, path: str) -> None:
    answer = await ops.request("GET", path, headers={**BROWSER, "Host": "evil.example:8701"}, judge=False)

    assert (answer.status, answer.code) == (403, "forbidden")
    assert "--ops-host-names" in answer.json()["error"]["message"]
    assert "access-control-allow-origin" not in answer.headers


async def test_a_browser_that_was_given_an_address_and_a_scraper_of_any_name_read_all(ops: Client) -> None:
    assert (await ops.get("/", **{**BROWSER, "Host": "127.0.0.1:8701"})).status == 200
    assert (await ops.get("/metrics", Host="logstitch.monitoring.svc:8701", User_Agent="Prometheus/3.1")).status == 200


async def test_a_name_that_the_operator_has_given_is_good_for_browsers_too(health: WellBeing) -> None:
    named = Client(create_ops_app(health, {"ops.example"}))

    assert (await named.get("/metrics", **{**BROWSER, "Host": "ops.example"})).status == 200


async def test_actors_are_a_tree_with_numbers_in_order(ops: Client, health: WellBeing) -> None:
    health.all = [actor_health(path) for path in ("ingest/10", "keyring", "ingest/9", "redaction/9")]

    tree = (await ops.get("/health/actors")).json()

    assert tree["path"] == ""
    assert [child["path"] for child in tree["children"]] == ["ingest", "keyring", "redaction"]
    ingest, keyring, _ = tree["children"]
    assert ingest["actor"] is None
    assert [child["path"] for child in ingest["children"]] == ["ingest/9", "ingest/10"]
    assert keyring["actor"]["state"] == "running"


async def test_a_part_of_the_tree(ops: Client, health: WellBeing) -> None:
    health.all = [actor_health("ingest/9"), actor_health("ingest/10"), actor_health("ingestion")]

    assert len((await ops.get("/health/actors/ingest")).json()["children"]) == 2
    assert (await ops.get("/health/actors/ingest/9")).json()["actor"]["path"] == "ingest/9"
    for missing in ("ing", "ingest/", "ingest/11", "ingest/9/x"):
        answer = await ops.get(f"/health/actors/{missing}")
        assert (answer.status, answer.code) == (404, "not_found")


async def test_actors_are_counted_by_kind(ops: Client, health: WellBeing) -> None:
    health.all = [
        replace(actor_health("ingest/1", restarts=2), depth=3, oldest_age=1.5),
        replace(actor_health("ingest/2", ActorState.STUCK), depth=4, rejected=7),
        actor_health("keyring"),
    ]

    text = (await ops.get("/metrics")).body.decode()

    for line in (
        'logstitch_actors{kind="ingest",state="running"} 1.0',
        'logstitch_actors{kind="ingest",state="stuck"} 1.0',
        'logstitch_actor_messages_waiting{kind="ingest"} 7.0',
        'logstitch_actor_oldest_message_seconds{kind="ingest"} 1.5',
        'logstitch_actor_restarts{kind="ingest"} 2.0',
        'logstitch_actor_rejected{kind="ingest"} 7.0',
        # Of the actors that live now, so they fall when one goes idle: no counters, and not called like ones.
        "# TYPE logstitch_actor_restarts gauge",
        "# TYPE logstitch_actor_rejected gauge",
    ):
        assert line in text
    assert "logstitch_actor_restarts_total" not in text


async def test_how_far_evaluators_are_behind_is_shown_and_summed_up(ops: Client, health: WellBeing) -> None:
    health.all = [
        replace(actor_health("evaluator/1"), gauges={"lag": 40, "leads": 1}),
        replace(actor_health("evaluator/2"), gauges={"lag": 2, "leads": 1}),
        actor_health("keyring"),
    ]

    text = (await ops.get("/metrics")).body.decode()

    assert "logstitch_evaluator_lag_events 42.0" in text
    shown = (await ops.get("/health/actors/evaluator/1")).json()
    assert shown["actor"]["gauges"] == {"lag": 40, "leads": 1}


async def test_the_connections_to_the_database_are_numbers(ops: Client, health: WellBeing) -> None:
    health.numbers = {"slots": 8, "in_flight": 3, "waiting": 2, "errors": 5}

    text = (await ops.get("/metrics")).body.decode()

    for line in (
        "# TYPE logstitch_database_slots gauge",
        "logstitch_database_slots 8.0",
        "logstitch_database_calls_in_flight 3.0",
        "logstitch_database_calls_waiting 2.0",
        "# TYPE logstitch_database_calls_failed_total counter",
        "logstitch_database_calls_failed_total 5.0",
    ):
        assert line in text
    assert "logstitch_database_start_time_seconds" not in text  # not known


async def test_the_process_is_numbers(ops: Client) -> None:
    text = (await ops.get("/metrics")).body.decode()

    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"):
        found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
        assert found is not None, name
        assert float(found[1]) > 0
    assert "python_gc_collections_total" in text
    assert "python_info" in text


async def test_requests_are_counted_by_template(ops: Client, producer: Client) -> None:
    def count(text: str, line: str) -> float:
        found = re.search(re.escape(line) + r" ([0-9.]+)", text)
        return float(found[1]) if found else 0.0

    lines = {
        'logstitch_http_requests_total{method="POST",route="/api/v1/events",status="201"}': 1,
        'logstitch_http_requests_total{method="GET",route="/api/v1/events/{id}",status="404"}': 2,
        'logstitch_http_requests_total{method="GET",route="none",status="404"}': 1,
        'logstitch_http_requests_total{method="other",route="none",status="405"}': 1,
        'logstitch_http_request_seconds_count{method="POST",route="/api/v1/events"}': 1,
        "logstitch_events_accepted_total": 1,
    }
    before = (await ops.get("/metrics")).body.decode()

    await producer.post("/api/v1/events", examples.EVENT_IN)
    await producer.get("/api/v1/events/x")
    await producer.get("/api/v1/events/y")
    await producer.get("/nothing")
    await producer.request("BREW", "/docs", judge=False)

    after = (await ops.get("/metrics")).body.decode()
    assert {line: count(after, line) - count(before, line) for line in lines} == lines


async def test_the_envelope_is_the_same_here(ops: Client) -> None:
    assert (await ops.get("/api/v1/events")).code == "not_found"
    assert (await ops.request("POST", "/metrics")).headers["allow"] == "GET, HEAD"
    assert (await ops.get("/health/live?verbose=1")).details == {"verbose": "Unknown field"}
