"""The redaction laboratory: an unsaved rule is tried on what is stored, and nothing changes."""

from __future__ import annotations

from typing import Any

import pytest

from logstitch.actors.messages.projects import Project
from logstitch.actors.messages.redaction import MeasureRule
from logstitch.http import examples
from tests.support.client import Answer, Client
from tests.support.world import World

TEST = "/api/v1/redaction/rules/test"
RULE = {"name": "accounts", "type": "pattern", "pattern": "ACCT-[0-9]{8}", "behavior": "mask"}


def event(note: object, at: str = "2026-11-20T08:00:00Z", **more: Any) -> dict[str, Any]:
    return {**examples.SMALL_EVENT_IN, "occurred_at": at, "metadata": {"note": note}, **more}


@pytest.fixture
async def stored(producer: Client) -> list[str]:
    """The ids of three events, the oldest first; the first and the last hold accounts."""
    events = [
        event("from ACCT-20261101", "2026-11-01T23:59:59.999Z"),
        event("nothing", "2026-11-02T00:00:00Z"),
        event(
            ["ACCT-20261102", "ACCT-20261103"],
            "2026-11-03T12:00:00Z",
            changes=[{"field": "account", "before": "ACCT-1", "after": "ACCT-20261104"}],
        ),
    ]
    ids: list[str] = (await producer.post("/api/v1/events", events)).json()["ids"]
    return ids


async def test_what_a_rule_would_do(master: Client, stored: list[str]) -> None:
    answer = await master.post(TEST, {"rule": RULE})

    assert answer.status == 200
    found = answer.json()
    del found["request_id"]
    assert found == {
        "scanned": 3,
        "events_changed": 2,
        "fields_changed": 4,
        "fields": [
            {"field": "metadata.note.*", "count": 2},
            {"field": "changes.*.after", "count": 1},
            {"field": "metadata.note", "count": 1},
        ],
        "samples": [
            _sample(stored[2], "2026-11-03T12:00:00.000Z", "metadata.note.*", "ACCT-20261102", "****1102"),
            _sample(stored[2], "2026-11-03T12:00:00.000Z", "metadata.note.*", "ACCT-20261103", "****1103"),
            _sample(stored[2], "2026-11-03T12:00:00.000Z", "changes.*.after", "ACCT-20261104", "****1104"),
            _sample(stored[0], "2026-11-01T23:59:59.999Z", "metadata.note", "from ACCT-20261101", "from ****1101"),
        ],
        "complete": True,
        "cursor": None,
        "has_more": False,
    }


def _sample(id: str, at: str, field: str, before: str, after: str) -> dict[str, str]:
    return {"id": id, "occurred_at": at, "field": field, "before": before, "after": after}


@pytest.mark.parametrize(
    ("dates", "scanned"),
    [
        ({}, 3),
        ({"start_date": "2026-11-02"}, 2),
        ({"end_date": "2026-11-01"}, 1),
        ({"start_date": "2026-11-02", "end_date": "2026-11-02"}, 1),
        ({"start_date": "2026-11-03T12:00:00Z", "end_date": "2026-11-03T12:00:00Z"}, 1),
        ({"start_date": "2026-11-05"}, 0),
    ],
)
async def test_dates_mean_what_they_mean_in_a_list_of_events(
    dates: dict[str, str], scanned: int, master: Client, stored: list[str]
) -> None:
    assert (await master.post(TEST, {"rule": RULE, **dates})).json()["scanned"] == scanned


async def test_a_cursor_goes_on_where_the_answer_before_has_stopped(
    master: Client, world: World, stored: list[str]
) -> None:
    world.most_tried = 1
    body: dict[str, Any] = {"rule": RULE}
    answers: list[dict[str, Any]] = []
    while not answers or not answers[-1]["complete"]:
        answers.append((await master.post(TEST, body)).json())
        assert answers[-1]["has_more"] is not answers[-1]["complete"]
        body["cursor"] = answers[-1]["cursor"]

    assert [answer["scanned"] for answer in answers] == [1, 1, 1]
    assert sum(answer["fields_changed"] for answer in answers) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"rule": {**RULE, "pattern": "x"}},
        {"rule": {**RULE, "behavior": "hash"}},
        {"rule": {"name": "f", "type": "field_redact", "fields": ["metadata.note"]}},
        {"start_date": "2026-11-01"},
        {"end_date": "2026-12-01"},
    ],
    ids=lambda change: " ".join(change),
)
async def test_a_cursor_fits_its_rule_and_dates_only(
    change: dict[str, Any], master: Client, world: World, stored: list[str]
) -> None:
    world.most_tried = 1
    cursor = (await master.post(TEST, {"rule": RULE})).json()["cursor"]

    assert (await master.post(TEST, {"rule": {**RULE, "name": "other"}, "cursor": cursor})).status == 200
    answer = await master.post(TEST, {"rule": RULE, "cursor": cursor, **change})

    assert (answer.status, list(answer.details)) == (400, ["cursor"])


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["rule"]),
        ({"rule": {}}, ["rule.name", "rule.type"]),
        ({"rule": {**RULE, "pattern": "("}}, ["rule.pattern"]),
        ({"rule": {**RULE, "pattern": "a*"}}, ["rule.pattern"]),
        ({"rule": {**RULE, "pattern": "x" * 513}}, ["rule.pattern"]),
        ({"rule": {**RULE, "fields": ["metadata.a"]}}, ["rule.fields"]),
        ({"rule": {"name": "f", "type": "field_redact", "fields": ["action"]}}, ["rule.fields.0"]),
        ({"rule": {"name": "f", "type": "field_redact"}}, ["rule.fields"]),
        ({"rule": {**RULE, "behavior": "drop"}}, ["rule.behavior"]),
        ({"rule": {**RULE, "id": "x"}}, ["rule.id"]),
        (
            {"rule": {**RULE, "behavior": "drop", "pattern": "("}, "start_date": "nope"},
            ["rule.behavior", "start_date", "rule.pattern"],
        ),
        ({"rule": RULE, "start_date": "yesterday", "end_date": "2026-13-01"}, ["start_date", "end_date"]),
        ({"rule": RULE, "cursor": "x"}, ["cursor"]),
        ({"rule": RULE, "limit": 5}, ["limit"]),
    ],
)
async def test_bad_input_is_named(body: object, fields: list[str], master: Client, project: Project) -> None:
    answer = await master.post(TEST, body)

    assert (answer.status, answer.code) == (400, "validation_error")
    assert list(answer.details) == fields


async def test_the_laboratory_is_asked_about_the_project_of_the_request(
    master: Client, world: World, project: Project
) -> None:
    await master.post(TEST, {"rule": {**RULE, "enabled": False}, "end_date": "1970-01-01"})

    asked = [message for message in world.asked if isinstance(message, MeasureRule)]
    assert [(one.project_no, one.start_ms, one.end_ms, one.after) for one in asked] == [
        (project.no, None, 86_399_999, None)
    ]


async def test_the_path_is_no_rule(master: Client, project: Project) -> None:
    async def status(method: str) -> Answer:
        return await master.request(method, TEST, body=b"{}" if method == "PUT" else b"")

    for method in ("DELETE", "PUT", "GET"):
        answer = await status(method)
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
