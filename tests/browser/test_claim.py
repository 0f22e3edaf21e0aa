"""The claim page in a browser: what has become of a stream, and how it is claimed; and where nothing may go."""

from __future__ import annotations

import json
from uuid import uuid4

import httpx
import pytest
from selenium.webdriver.common.keys import Keys

from logstitch import credentials
from tests.browser.samples import event
from tests.support.browser import DESKTOP, PHONE, Tab
from tests.support.pages_api import Answer, PagesApi, Request, error
from tests.support.service import Service

TOKEN = "3f0c7e52-9a1b-4c6d-8e2f-7a5b4c3d2e1f"
INFO = f"GET /api/v1/streams/{TOKEN}/info"
PROJECTS = "GET /api/v1/projects"
CLAIM = "POST /api/v1/streams/claim"
MASTER = credentials.mint("master").secret
PROJECT_KEY = credentials.mint("project").secret
BILLING = {"id": "0b9d7c1e-5f0a-4d3c-9a52-6c1f0e8b7a41", "name": "Billing", "created_at": "2026-11-01T00:00:00.000Z"}
STAGING = {"id": "1b9d7c1e-5f0a-4d3c-9a52-6c1f0e8b7a42", "name": "Staging", "created_at": "2026-11-01T00:00:00.000Z"}


def info(status: str = "active", **fields: object) -> Answer:
    """What the service says of the stream."""
    known: dict[str, object] = {
        "status": status,
        "event_count": 42,
        "created_at": "2026-11-20T08:00:00.000Z",
        "last_event_at": "2026-11-23T08:00:00.000Z",
        "expires_at": "2026-11-27T08:00:00.000Z",
        "claimed_at": "2026-11-22T08:00:00.000Z" if status == "claimed" else None,
    }
    return Answer(200, {**known, **fields, "request_id": "req_1"})


def projects(*found: object, cursor: str | None = None) -> Answer:
    return Answer(200, {"projects": found, "cursor": cursor, "has_more": cursor is not None, "request_id": "req_1"})


@pytest.fixture
def active(tab: Tab, api: PagesApi) -> PagesApi:
    """The page of a stream that can be claimed, for somebody who has one project."""
    api.on(INFO, info())
    api.on(PROJECTS, projects(BILLING))
    api.on(CLAIM, Answer(200, {"project_id": BILLING["id"], "events_migrated": 41, "duplicates": 1, "request_id": "r"}))
    tab.open(f"{api.url}/claim?token={TOKEN}")
    tab.until_text("#badge", "Active")
    return api


@pytest.mark.parametrize(
    ("answer", "badge", "explained", "claimable"),
    [
        (info(), "Active", "can be claimed", True),
        (info("claimed"), "Claimed", "cannot be claimed again", False),
        (info("expired"), "Expired", "have been removed", False),
        (error(404, "stream_not_found"), "Unknown", "no stream of this token", False),
        (error(400, "validation_error"), "Not a token", "whole", False),
        (error(404, "not_found"), "Not available", "does not take streams", False),
        (error(503, "unavailable", "The database is away."), "Not available", "The database is away.", False),
        (Answer(502, "<html>", content_type="text/html"), "Not available", "cannot be reached", False),
    ],
)
def test_states(answer: Answer, badge: str, explained: str, claimable: bool, tab: Tab, api: PagesApi) -> None:
    api.on(INFO, answer)

    tab.open(f"{api.url}/claim?token={TOKEN.upper()}")

    tab.until_text("#badge", badge)
    assert explained in tab.text("#explain")
    assert (tab.seen("#claim"), tab.seen("#command")) == (claimable, claimable)
    assert tab.seen("#again") == (badge in ("Unknown", "Not available"))


@pytest.mark.parametrize(
    "query", ["", "?token=", "?token=nope", f"?token={TOKEN}0", f"?token={TOKEN.replace('4c6d', '1c6d')}", "?x=1"]
)
def test_what_is_no_token_is_not_asked_for(query: str, tab: Tab, api: PagesApi) -> None:
    tab.open(f"{api.url}/claim{query}")

    tab.until_text("#badge", "Not a token")
    assert api.requests == []


def test_a_stream_that_begins_later_is_found_when_asked_again(tab: Tab, api: PagesApi) -> None:
    api.on(INFO, error(404, "stream_not_found"))
    tab.open(f"{api.url}/claim?token={TOKEN}")
    tab.until_text("#badge", "Unknown")

    api.on(INFO, info())
    tab.click("#again")

    tab.until_text("#badge", "Active")
    assert "42" in tab.text("#facts")
    assert tab.one("#facts time").get_attribute("title") == "2026-11-20 08:00:00.000 UTC"


def test_the_only_project_is_chosen_and_the_stream_claimed(tab: Tab, active: PagesApi) -> None:
    tab.type("#key", MASTER)
    tab.until_text("#project", "Billing")
    assert tab.text("#submit") == "Claim 42 events"

    tab.click("#submit")

    tab.until_text("#explain", "Done: 41 events are in the project Billing now. 1 event it had already.")
    (claim,) = active.sent(CLAIM)
    assert claim.body == {"token": TOKEN, "project_id": BILLING["id"]}
    assert claim.headers["authorization"] == f"Bearer {MASTER}"
    assert tab.run("return document.getElementById('key').value") == ""
    assert not tab.seen("#claim")
    assert "Stream claimed" in tab.focused()


def test_of_several_projects_one_must_be_chosen_by_keyboard_alone(tab: Tab, active: PagesApi) -> None:
    def answer(request: Request) -> Answer:
        return projects(STAGING) if request.query.get("cursor") == "next" else projects(BILLING, cursor="next")

    active.on(PROJECTS, answer)
    tab.run("document.getElementById('key').focus()")
    tab.keys(MASTER, Keys.ENTER)
    tab.until_text("#failure", "Choose the project")
    assert "#project" in tab.focused()
    assert active.sent(CLAIM) == []

    tab.keys("Sta", Keys.TAB, Keys.ENTER)

    tab.until_text("#badge", "Claimed")
    assert active.sent(CLAIM)[0].body["project_id"] == STAGING["id"]


@pytest.mark.parametrize(
    ("key", "answer", "told"),
    [
        (PROJECT_KEY, projects(), "This is a project key"),
        ("hunter2", projects(), "it begins with mk_"),
        (MASTER, error(401, "invalid_api_key"), "not known here"),
        (MASTER, error(401, "key_revoked"), "revoked"),
        (MASTER, error(403, "forbidden"), "takes a master key"),
        (MASTER, error(503, "unavailable", "Busy."), "Busy."),
    ],
    ids=["of a project", "no key", "unknown", "revoked", "forbidden", "busy"],
)
def test_keys_that_do_not_do(key: str, answer: Answer, told: str, tab: Tab, active: PagesApi) -> None:
    active.on(PROJECTS, answer)

    tab.type("#key", key)
    tab.click("#submit")

    tab.until_text("#key-note", told)
    assert tab.one("#key").get_attribute("aria-invalid") == "true"
    assert active.sent(CLAIM) == []
    if not key.startswith("mk_"):
        assert active.sent(PROJECTS) == [], "what is no master key is sent nowhere"


@pytest.mark.parametrize(
    ("answer", "badge", "told"),
    [
        (error(410, "stream_already_claimed"), "Claimed", "cannot be claimed again"),
        (error(410, "stream_expired"), "Expired", "have been removed"),
        (error(404, "stream_not_found"), "Unknown", "no stream"),
        (
            error(503, "unavailable", "Busy.", Retry_After="2"),
            "Active",
            "Busy. Nothing was lost; try again in 2 seconds.",
        ),
        (error(500, "internal_error", "It failed."), "Active", "It failed."),
        (error(403, "forbidden"), "Active", "takes a master key"),
    ],
)
def test_claims_that_come_too_late_or_fail(answer: Answer, badge: str, told: str, tab: Tab, active: PagesApi) -> None:
    active.on(CLAIM, answer)
    tab.type("#key", MASTER)
    tab.until_text("#project", "Billing")

    tab.click("#submit")

    tab.until(lambda: told in tab.words(), told)
    assert tab.text("#badge") == badge
    if badge == "Active":
        active.on(CLAIM, Answer(200, {"project_id": BILLING["id"], "events_migrated": 42, "duplicates": 0}))
        tab.click("#submit")
        tab.until_text("#explain", "Done: 42 events")


@pytest.mark.parametrize(
    "lost",
    [error(503, "unavailable", "Busy."), error(500, "internal_error"), Answer(502, "<html>", content_type="text/html")],
    ids=["busy", "failed", "no answer"],
)
def test_a_claim_that_was_perhaps_made_by_the_first_try_is_not_told_as_somebody_elses(
    lost: Answer, tab: Tab, active: PagesApi
) -> None:
    active.on(CLAIM, lost)
    tab.type("#key", MASTER)
    tab.until_text("#project", "Billing")
    tab.click("#submit")
    tab.until(lambda: tab.text("#failure"))

    active.on(CLAIM, error(410, "stream_already_claimed"))
    tab.click("#submit")

    told = tab.until_text("#explain", "perhaps by the try before, which had no certain answer")
    assert "Look at the newest events of the project Billing" in told
    assert "Somebody" not in told
    assert tab.text("#badge") == "Claimed"
    assert not tab.seen("#claim")


def test_a_claim_that_was_refused_before_is_somebody_elses(tab: Tab, active: PagesApi) -> None:
    active.on(CLAIM, error(429, "rate_limited"))
    tab.type("#key", MASTER)
    tab.until_text("#project", "Billing")
    tab.click("#submit")
    tab.until(lambda: tab.text("#failure"))

    active.on(CLAIM, error(410, "stream_already_claimed"))
    tab.click("#submit")

    tab.until_text("#explain", "Somebody has claimed this stream")


def test_nothing_is_stored_and_nothing_goes_elsewhere(tab: Tab, active: PagesApi) -> None:
    tab.type("#key", MASTER)
    tab.until_text("#project", "Billing")
    tab.click("#submit")
    tab.until_text("#badge", "Claimed")

    assert tab.run("return [localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    names = tab.driver.execute_async_script("indexedDB.databases().then(arguments[0])")
    assert names == []
    loaded = tab.run("return performance.getEntriesByType('resource').map((e) => new URL(e.name).origin)")
    assert set(loaded) == {active.url}
    assert all("referer" not in request.headers for request in active.requests)
    carried = [r for r in active.requests if MASTER in json.dumps([r.path, dict(r.query), r.body])]
    assert carried == [], "the key is in a header, never in an address or a body"


def test_the_command_line_does_the_same(tab: Tab, active: PagesApi) -> None:
    command = tab.text("#curl")

    assert f"{active.url}/api/v1/streams/claim" in command
    assert f'{{"token":"{TOKEN}","project_id":"<project id>"}}' in command
    assert "$LOGSTITCH_MASTER_KEY" in command
    tab.type("#key", MASTER)
    tab.until_text("#curl", str(BILLING["id"]))
    assert MASTER not in tab.text("#curl")


def test_hostile_names_of_projects_are_text(tab: Tab, active: PagesApi) -> None:
    name = "<img src=x onerror=pwned()>\u202e" + "W" * 200
    active.on(PROJECTS, projects({**BILLING, "name": name}))
    tab.look(size=PHONE)
    tab.type("#key", MASTER)
    tab.until_text("#project", "<img src=x")

    tab.click("#submit")

    tab.until_text("#explain", "<img src=x")
    assert tab.overflow() == []


@pytest.mark.parametrize(("theme", "size"), [("light", DESKTOP), ("dark", PHONE)], ids=["light desktop", "dark phone"])
def test_it_is_for_everybody(theme: str, size: tuple[int, int], tab: Tab, active: PagesApi) -> None:
    tab.look(theme=theme, size=size)
    assert (tab.axe(), tab.overflow()) == ([], [])

    tab.type("#key", PROJECT_KEY)
    tab.click("#submit")
    tab.until_text("#key-note", "project key")
    assert tab.axe() == []
    active.on(CLAIM, error(410, "stream_already_claimed"))
    tab.type("#key", MASTER)
    tab.until_text("#project", "Billing")
    assert tab.axe() == []
    tab.click("#submit")
    tab.until_text("#badge", "Claimed")
    assert (tab.axe(), tab.overflow()) == ([], [])


# -- against the service itself --------------------------------------------------------------------------------------


def test_a_malformed_token_at_the_service_itself(tab: Tab, service: Service) -> None:
    tab.open(f"{service.url}/claim?token=nope")

    tab.until_text("#badge", "Not a token")


def test_a_stream_is_claimed_once(tab: Tab, service: Service) -> None:
    with service.client(service.master_key) as client:
        token = str(uuid4())
        project = client.post("/api/v1/projects", json={"name": f"Claimed {token[:4]}"}).json()
        sent = httpx.post(
            f"{service.url}/api/v1/streams/{token}/events", json=[event(n) for n in range(3)], trust_env=False
        )
        assert sent.status_code == 201, sent.text
        tab.open(f"{service.url}/claim?token={token}")
        tab.until_text("#badge", "Active")
        assert tab.text("#submit") == "Claim 3 events"
        tab.type("#key", service.master_key)
        tab.until_text("#project", project["name"])
        choose = "const field = document.getElementById('project'); field.value = arguments[0];"
        tab.run(choose + "field.dispatchEvent(new Event('change'))", project["id"])

        tab.click("#submit")

        tab.until_text("#explain", f"Done: 3 events are in the project {project['name']} now.")
        events = client.get("/api/v1/events", params={"project_id": project["id"]}).json()["events"]
        assert [event["tenant_id"] for event in events].count("$logstitch") == 1  # the claim is on record
        assert len(events) == 3 + 1
    tab.open(f"{service.url}/claim?token={token}")
    tab.until_text("#badge", "Claimed")
    assert not tab.seen("#claim")
