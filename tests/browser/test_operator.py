"""The operator page in a browser: the numbers of the real service, and what a page must show when it goes badly."""

from __future__ import annotations

from typing import Any

import pytest

from logstitch.http import examples
from tests.browser.samples import Product, event, lines
from tests.support.browser import DESKTOP, PHONE, REBOUND, Tab
from tests.support.pages_api import Answer, PagesApi, error
from tests.support.service import Service


def actor(path: str, **fields: Any) -> dict[str, Any]:
    """One actor in the tree."""
    return {"path": path, "actor": {**examples.ACTOR, "path": path, **fields}, "children": []}


def tree(*children: dict[str, Any]) -> Answer:
    return Answer(200, {"path": "", "actor": None, "children": children, "request_id": "r"})


def metrics(at: int, *, started: float = 1.7e9) -> Answer:
    """What is exported after ``at`` seconds of ten requests a second, of which one fails."""
    lines = [
        f"process_start_time_seconds {started}",
        f"process_cpu_seconds_total {at * 0.5}",
        "process_resident_memory_bytes 104857600",
        f'logstitch_http_requests_total{{method="POST",route="/api/v1/events",status="201"}} {at * 9}',
        f'logstitch_http_requests_total{{method="POST",route="/api/v1/events",status="503"}} {at}',
        f'logstitch_http_requests_total{{method="GET",route="/metrics",status="200"}} {at * 1000}',
        f"logstitch_events_accepted_total {at * 90}",
        "# TYPE logstitch_words_backlog_events gauge",
        "logstitch_words_backlog_events 1234",
        "# TYPE logstitch_loop_lag_seconds_created gauge",
        "logstitch_loop_lag_seconds_created 1.7e9",
        "logstitch_database_slots 8",
        "logstitch_database_calls_in_flight 8",
        "logstitch_database_calls_waiting 3",
    ]
    counts = {"0.005": at * 5, "0.01": at * 9, "0.25": at * 10, "+Inf": at * 10}
    lines += [
        f'logstitch_http_request_seconds_bucket{{le="{le}",method="POST",route="/api/v1/events"}} {count}'
        for le, count in counts.items()
    ]
    return Answer(200, "\n".join(lines) + "\n", content_type="text/plain")


@pytest.fixture
def ops(api: PagesApi) -> PagesApi:
    """An operations address where all is well."""
    seconds = iter(range(0, 10_000, 2))
    api.on("GET /metrics", lambda _: metrics(next(seconds)))
    api.on("GET /health/ready", Answer(200, {"status": "ready", "request_id": "r"}))
    ingest = {"path": "ingest", "actor": None, "children": [actor("ingest/7"), actor("ingest/8", depth=2)]}
    api.on("GET /health/actors", tree(ingest, actor("keyring"), actor("reader", in_flight=1)))
    return api


def watch(tab: Tab, api: PagesApi) -> None:
    tab.open(f"{api.url}/operator")
    tab.until(lambda: tab.seen(".tile .value"))
    tab.until(lambda: int(tab.run("return document.body.dataset.polls ?? 0")) >= 2)


def tiles(tab: Tab) -> dict[str, tuple[str, str]]:
    """By title, the number and what stands below it."""
    titles, values, beside = (lines(tab, f".tile {part}") for part in ("h2", ".value", ".beside"))
    return {title: (value, text) for title, value, text in zip(titles, values, beside, strict=True)}


def test_the_real_service_at_a_glance(tab: Tab, service: Service, product: Product) -> None:
    tab.open(f"{service.ops_url}/")
    tab.until_text("#state", "Ready")
    product.send(*(event(n) for n in range(300)))

    tab.until(lambda: tiles(tab)["Events stored"][0] not in ("", "0per second"))

    found = tiles(tab)
    assert found["Events stored"][0].endswith("per second")
    assert found["Time to answer"][0].endswith("p50")
    assert found["Memory"][0].endswith("MiB")
    tab.until(lambda: "POST /api/v1/events" in lines(tab, "#routes tbody th"))
    assert not [route for route in lines(tab, "#routes tbody th") if "/metrics" in route or "/health" in route]
    assert tab.text("#database-state") == "Up"
    actors = lines(tab, "#tree tbody th")
    assert "keyring" in actors
    assert [row for row in actors if row.startswith("ingest × ")]
    assert tab.all(".spark polyline")[0].get_attribute("points")


def test_a_page_that_has_its_name_lead_here_reads_nothing(tab: Tab, service: Service) -> None:
    rebound = service.ops_url.replace("127.0.0.1", REBOUND)
    for path in ("/", "/health/live"):
        tab.open(rebound + path)
        assert '"forbidden"' in tab.words()

    # Now as a script of that page would read it: with as little as a page can send.
    seen = tab.driver.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "fetch('/metrics', {headers: {'Accept-Language': '', 'User-Agent': 'x'}, referrerPolicy: 'no-referrer'})"
        ".then(async (answer) => done([location.hostname, answer.status, await answer.text()]), (e) => done(`${e}`))"
    )

    assert seen[:2] == [REBOUND, 403]
    assert "logstitch_" not in seen[2]


def test_rates_and_quantiles_are_worked_out_from_one_answer_to_the_next(tab: Tab, ops: PagesApi) -> None:
    # The stand-in counts two seconds from one answer to the next; the page's clock is made to agree with it.
    clock = "let n = 0; Date.now = () => 1.8e12 + 2000 * n; const real = fetch;"
    clock += "fetch = (path, ...rest) => { if (path === 'metrics') n++; return real(path, ...rest) }"
    added = tab.cdp("Page.addScriptToEvaluateOnNewDocument", source=clock)
    watch(tab, ops)
    tab.cdp("Page.removeScriptToEvaluateOnNewDocument", identifier=added["identifier"])

    found = tiles(tab)
    assert found["Events stored"][0] == "90per second"
    assert found["Requests"] == ("10per second", "0 refused, 1 failed")
    assert found["Time to answer"] == ("5 msp50", "p99 226 ms")
    assert found["CPU"][0] == "50 %of a core"
    assert found["Memory"][0] == "100MiB"
    assert lines(tab, "#routes tbody th") == ["POST /api/v1/events"]
    waiting = [line for line in lines(tab, "#database > div") if "waiting" in line]
    assert waiting == ["Words waiting1,234"]
    assert tab.text("#slots").endswith("8 of 8")


def test_why_it_is_not_ready_stands_on_top(tab: Tab, ops: PagesApi) -> None:
    reasons = [
        {"field": "database", "message": "Cannot be reached"},
        {"field": "actors/ingest/7", "message": "<img src=x onerror=pwned()> stuck"},
    ]
    ops.on("GET /health/ready", error(503, "unavailable", "The service is not ready.", details=reasons))

    watch(tab, ops)

    assert tab.text("#state") == "Not ready"
    assert lines(tab, "#reasons p") == [f"{reason['field']} {reason['message']}" for reason in reasons]
    assert tab.driver.title.startswith("● ")


def test_what_is_wrong_with_the_database_is_said_beside_it(tab: Tab, ops: PagesApi) -> None:
    wrong = ["fsync is off: a crash of the machine loses acknowledged events", "The schema is not prepared yet."]
    reasons = [{"field": "database", "message": message} for message in wrong]
    stuck = {"field": "actors/ingest/7", "message": "Work waits and nothing moves."}
    ops.on("GET /health/ready", error(503, "unavailable", "The service is not ready.", details=[*reasons, stuck]))

    watch(tab, ops)

    assert tab.text("#database-state") == "Not ready"
    assert lines(tab, "#database-why") == [" ".join(wrong)]
    ops.on("GET /health/ready", Answer(200, {"status": "ready", "request_id": "r"}))
    tab.until(lambda: tab.text("#database-state") == "Up")
    assert not tab.seen("#database-why")


def test_a_database_that_is_well_is_up_whatever_else_is_wrong(tab: Tab, ops: PagesApi) -> None:
    stuck = {"field": "actors/ingest/7", "message": "Work waits and nothing moves."}
    ops.on("GET /health/ready", error(503, "unavailable", "The service is not ready.", details=[stuck]))

    watch(tab, ops)

    assert (tab.text("#state"), tab.text("#database-state")) == ("Not ready", "Up")


def test_draining(tab: Tab, ops: PagesApi) -> None:
    ops.on("GET /health/ready", error(503, "unavailable", "The service is not ready."))

    watch(tab, ops)

    assert tab.text("#state") == "Draining"


def test_actors_in_trouble_are_told_from_those_that_are_well(tab: Tab, ops: PagesApi) -> None:
    stuck = actor("ingest/9", state="stuck", depth=900, peak=1000, oldest_age=42.2, rejected=7, restarts=3)
    stuck["actor"]["last_error"] = "OperationalError"
    many = [actor(f"ingest/{n}", restarts=int(n == 1077)) for n in range(1000, 1100)]
    ops.on("GET /health/actors", tree({"path": "ingest", "actor": None, "children": [*many, stuck]}, actor("keyring")))

    watch(tab, ops)

    assert tab.text("#actors-sum") == "102 actors, 1 not running"
    assert lines(tab, "#tree tbody th") == ["ingest × 101", "keyring"]
    assert lines(tab, "#tree .pill") == ["stuck", "running"]
    group = lines(tab, "#tree tbody tr:first-child td")
    assert group[1:4] == ["900 of 1,000 in the fullest, peak 1,000", "42 s", "0"]
    assert group[-3:] == ["4", "–", "OperationalError"]
    assert tab.seen(".bar.full")

    tab.click(".fold")
    assert lines(tab, "#tree tbody th")[:3] == ["ingest × 101", "ingest/9", "ingest/1077"]
    assert len(tab.all("#tree tbody tr.child")) == 50
    polls = int(tab.run("return document.body.dataset.polls"))
    tab.until(lambda: int(tab.run("return document.body.dataset.polls")) > polls)
    assert "button.fold" in tab.focused(), "numbers change around the focus, which stays"
    tab.click(".fold")
    assert len(tab.all("#tree tbody tr")) == 2


def test_a_service_that_does_not_answer_and_comes_back_as_another_process(tab: Tab, ops: PagesApi) -> None:
    ops.on("GET /metrics", metrics(10_000))
    watch(tab, ops)
    ops.on("GET /metrics", error(500, "internal_error"))
    tab.until_text("#state", "Does not answer")

    seconds = iter(range(0, 1000, 2))
    ops.on("GET /metrics", lambda _: metrics(next(seconds), started=1.8e9))

    tab.until_text("#state", "Ready")
    # Its counters begin anew, and so do the rates: not with zero until they have caught up.
    tab.until(lambda: tiles(tab)["Events stored"][0] not in ("0per second", "–per second"))
    assert not [value for value, _ in tiles(tab).values() if "-" in value], "no rate is negative"


def test_it_can_be_paused(tab: Tab, ops: PagesApi) -> None:
    watch(tab, ops)
    tab.click("#pause")
    asked = len(ops.requests)
    tab.run("document.dispatchEvent(new Event('visibilitychange'))")
    assert tab.text("#pause") == "Go on"
    assert len(ops.requests) == asked

    tab.click("#pause")

    tab.until(lambda: len(ops.requests) > asked)


@pytest.mark.parametrize(("theme", "size"), [("light", DESKTOP), ("dark", PHONE)], ids=["light desktop", "dark phone"])
def test_it_is_for_everybody(theme: str, size: tuple[int, int], tab: Tab, ops: PagesApi) -> None:
    tab.look(theme=theme, size=size)
    name = "ingest/<script>pwned()</script>" + "W" * 80
    ops.on("GET /health/actors", tree(actor(name, state="backing_off", depth=600), actor("keyring", restarts=2)))
    ops.on("GET /health/ready", error(503, "unavailable", details=[{"field": "database", "message": "W" * 200}]))

    watch(tab, ops)

    assert (tab.axe(), tab.overflow()) == ([], [])
    background = tab.run("return getComputedStyle(document.querySelector('.card')).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if theme == "light" else "rgb(20, 24, 30)")
