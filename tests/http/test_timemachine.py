"""The time machine: what an unsaved alert rule would have done about what is stored."""

from __future__ import annotations

from typing import Any

import pytest

from logstitch.actors.messages.alerts import ReplayRule
from logstitch.actors.messages.projects import Project
from logstitch.http import examples
from tests.support.client import Client
from tests.support.world import NOW_MS, World

TEST = "/api/v1/alerts/rules/test"
RULE = {
    "name": "guessing",
    "action_pattern": "auth.failed",
    "threshold": 3,
    "window_seconds": 60,
    "group_by": "actor_id",
    "severity": "high",
}
NOTHING = {"fired": 0, "held_back": 0, "alerts": []}


@pytest.fixture
async def stored(producer: Client) -> None:
    """Seven failed logins of ada and two of bob."""
    for actor in ["ada"] * 7 + ["bob"] * 2:
        event = {**examples.SMALL_EVENT_IN, "action": "auth.failed", "actor": {"id": actor, "type": "user"}}
        assert (await producer.post("/api/v1/events", event)).status == 201


async def replay(client: Client, **body: Any) -> dict[str, Any]:
    answer = await client.post(TEST, {"rule": RULE, **body})
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json()
    del found["request_id"]
    return found


async def test_what_a_rule_would_have_done(master: Client, stored: None) -> None:
    assert await replay(master) == {
        "scanned": 9,
        "fired": 1,
        "held_back": 4,
        "alerts": [
            {
                "triggered_at": "2026-11-23T08:00:00.123Z",
                "group_key": "ada",
                "tenant_id": "acme",
                "event_count": 3,
            }
        ],
        "existing": None,
        "complete": True,
        "through": None,
    }


async def test_without_a_cooldown_nothing_is_held_back(master: Client, stored: None) -> None:
    found = await replay(master, rule={**RULE, "cooldown_seconds": 0})

    assert (found["fired"], found["held_back"]) == (5, 0)
    assert [alert["event_count"] for alert in found["alerts"]] == [3, 4, 5, 6, 7]


async def test_beside_what_a_stored_rule_would_have_done(master: Client, stored: None) -> None:
    custom = (await master.post("/api/v1/alerts/rules", {**RULE, "threshold": 7})).json()["id"]

    builtin = await replay(master, rule_id="auth_brute_force")
    own = await replay(master, rule_id=custom.upper())
    off = await replay(master, rule_id="suspicious_ip_change")

    assert (builtin["existing"]["fired"], builtin["existing"]["held_back"]) == (1, 2)
    assert [alert["event_count"] for alert in own["existing"]["alerts"]] == [7]
    assert off["existing"] == NOTHING


async def test_a_rule_that_is_to_be_switched_off_is_tried_all_the_same(master: Client, stored: None) -> None:
    assert (await replay(master, rule={**RULE, "enabled": False}))["fired"] == 1


@pytest.mark.parametrize(
    ("dates", "scanned"),
    [
        ({}, 9),
        ({"start_date": "2026-11-23"}, 9),
        ({"start_date": "2026-11-24"}, 0),
        ({"end_date": "2026-11-23"}, 9),
        ({"end_date": "2026-11-22"}, 0),
        ({"start_date": "2026-11-23T08:00:00.123Z", "end_date": "2026-11-23T08:00:00.123Z"}, 9),
        ({"start_date": "2026-11-23T08:00:00.124Z"}, 0),
    ],
)
async def test_dates_are_of_the_receipt(dates: dict[str, str], scanned: int, master: Client, stored: None) -> None:
    assert (await replay(master, **dates))["scanned"] == scanned


async def test_an_answer_that_is_not_complete_says_how_far_it_came(
    master: Client, world: World, project: Project
) -> None:
    world.alerts.through_ms = NOW_MS

    found = await replay(master)

    assert (found["complete"], found["through"]) == (False, "2026-11-23T08:00:00.123Z")


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["rule"]),
        (
            {"rule": {}},
            ["action_pattern", "group_by", "name", "severity", "threshold", "window_seconds"],
        ),
        ({"rule": {**RULE, "threshold": 0}}, ["threshold"]),
        ({"rule": {**RULE, "threshold": True}}, ["threshold"]),
        ({"rule": {**RULE, "window_seconds": 3601, "cooldown_seconds": -1}}, ["cooldown_seconds", "window_seconds"]),
        ({"rule": {**RULE, "id": "x"}}, ["id"]),
    ],
)
async def test_a_bad_rule_is_named(body: object, fields: list[str], master: Client, project: Project) -> None:
    answer = await master.post(TEST, body)

    assert (answer.status, answer.code) == (400, "validation_error")
    expected = fields if fields == ["rule"] else [f"rule.{field}" for field in fields]
    assert sorted(answer.details) == expected


@pytest.mark.parametrize(
    ("more", "fields"),
    [
        ({"start_date": "yesterday", "end_date": "2026-13-01"}, ["start_date", "end_date"]),
        ({"rule_id": ""}, ["rule_id"]),
        ({"rule_id": "", "start_date": "yesterday"}, ["rule_id", "start_date"]),
        ({"rule_id": "x" * 65}, ["rule_id"]),
        ({"rule_id": None}, ["rule_id"]),
        ({"cursor": "x"}, ["cursor"]),
    ],
)
async def test_what_else_is_bad_is_named(
    more: dict[str, Any], fields: list[str], master: Client, project: Project
) -> None:
    answer = await master.post(TEST, {"rule": RULE, **more})

    assert (answer.status, list(answer.details)) == (400, fields)


@pytest.mark.parametrize("rule_id", ["6f1d3c2a-9f0e-4b7d-8a55-0c1e2d3f4a5b", "no_such_rule"])
async def test_an_unknown_rule_is_not_found(rule_id: str, master: Client, project: Project) -> None:
    answer = await master.post(TEST, {"rule": RULE, "rule_id": rule_id})

    assert (answer.status, answer.code) == (404, "not_found")


async def test_it_is_asked_about_the_project_of_the_request(master: Client, world: World, project: Project) -> None:
    await replay(master, end_date="1970-01-01")

    (asked,) = [message for message in world.asked if isinstance(message, ReplayRule)]
    assert (asked.project_no, asked.rule_id, asked.start_ms, asked.end_ms) == (project.no, None, None, 86_399_999)
