"""Redaction rules over HTTP: listed, made, changed, removed, tried; and what is refused, by the name of its field."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from logstitch.actors.messages.projects import Project
from logstitch.actors.messages.redaction import CreateRule
from logstitch.http import examples
from logstitch.recording.rules import MAX_CUSTOM
from tests.support.client import Answer, Client
from tests.support.world import Organization, World

RULES = "/api/v1/redaction/rules"
TEST = "/api/v1/redaction/test"
PATTERN = {"name": "accounts", "type": "pattern", "pattern": "ACCT-[0-9]+"}
FIELDS = {"name": "passwords", "type": "field_redact", "fields": ["metadata.**.password"]}


@pytest.fixture
def master(master: Client, project: Project) -> Client:
    """A client with a master key of an organization that has one project."""
    return master


async def put(client: Client, rule_id: str, body: object) -> Answer:
    return await client.request("PUT", f"{RULES}/{rule_id}", body=orjson.dumps(body))


async def make(client: Client, body: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A rule that is there from then on."""
    answer = await client.post(RULES, {**body, **changes})
    assert answer.status == 201, answer.body
    made: dict[str, Any] = answer.json()
    del made["request_id"]
    return made


# -- the rules -----------------------------------------------------------------------------------------------------


async def test_the_eight_built_ins_come_first(producer: Client) -> None:
    rules = (await producer.get(RULES)).json()["rules"]

    assert [(rule["id"], rule["name"], rule["enabled"]) for rule in rules] == [
        ("builtin_credit_card", "Credit Card Number", True),
        ("builtin_ssn", "Social Security Number", True),
        ("builtin_email", "Email Address", False),
        ("builtin_phone", "Phone Number", False),
        ("builtin_ipv4", "IPv4 Address", False),
        ("builtin_jwt", "JWT Token", True),
        ("builtin_bearer_token", "Bearer / API Token", True),
        ("builtin_aws_key", "AWS Access Key", True),
    ]
    assert {rule["behavior"] for rule in rules} == {"replace"}
    assert rules[0] == examples.BUILTIN_RULE


async def test_a_new_rule_is_answered_flat_and_listed_behind_the_built_ins(master: Client) -> None:
    by_pattern = await make(master, PATTERN)
    by_field = await make(master, FIELDS, behavior="mask", enabled=False)

    assert list(by_pattern) == ["id", "type", "name", "pattern", "behavior", "enabled", "created_at"]
    assert by_pattern.items() >= {**PATTERN, "behavior": "replace", "enabled": True}.items()
    assert list(by_field) == ["id", "type", "name", "fields", "behavior", "enabled", "created_at"]
    assert by_field.items() >= {**FIELDS, "behavior": "mask", "enabled": False}.items()
    assert (await master.get(RULES)).json()["rules"][8:] == [by_pattern, by_field]


async def test_rules_are_paged_in_their_order(master: Client) -> None:
    for n in range(5):
        await make(master, PATTERN, name=f"r{n}")
    whole = (await master.get(RULES)).json()

    seen, target = [], f"{RULES}?limit=3"
    while True:
        page = (await master.get(target)).json()
        seen += page["rules"]
        if not page["has_more"]:
            break
        target = f"{RULES}?limit=3&cursor={page['cursor']}"

    assert (whole["has_more"], whole["cursor"], len(whole["rules"])) == (False, None, 13)
    assert seen == whole["rules"]


async def test_paging_goes_on_behind_a_rule_that_was_deleted_meanwhile(master: Client) -> None:
    made = [await make(master, PATTERN, name=f"r{n}") for n in range(3)]
    first = (await master.get(f"{RULES}?limit=9")).json()
    await master.delete(f"{RULES}/{made[0]['id']}")

    second = (await master.get(f"{RULES}?limit=9&cursor={first['cursor']}")).json()

    assert second["rules"] == made[1:]


async def test_a_cursor_of_another_project_or_list_is_none(
    master: Client, world: World, organization: Organization, project: Project
) -> None:
    other = world.project(organization)
    cursor = (await master.get(f"{RULES}?limit=1&project_id={project.id}")).json()["cursor"]

    for target in (f"{RULES}?project_id={other.id}&cursor={cursor}", f"/api/v1/projects?cursor={cursor}"):
        assert list((await master.get(target)).details) == ["cursor"]


@pytest.mark.parametrize(
    "change", [{"behavior": "hash"}, {"enabled": False}, {"behavior": "mask", "enabled": True}, {}]
)
async def test_a_built_in_is_changed(master: Client, change: dict[str, Any]) -> None:
    answer = await put(master, "builtin_credit_card", change)

    rule = answer.json()
    del rule["request_id"]
    assert (answer.status, rule) == (200, {**examples.BUILTIN_RULE, **change})
    assert (await master.get(RULES)).json()["rules"][0] == rule


@pytest.mark.parametrize(
    "change",
    [
        {"name": "new"},
        {"pattern": "B+"},
        {"behavior": "hash"},
        {"enabled": False},
        {"name": "n", "pattern": "p", "enabled": False},
        {},
    ],
)
async def test_a_custom_rule_is_changed_in_what_is_sent_and_in_nothing_else(
    master: Client, change: dict[str, Any]
) -> None:
    made = await make(master, PATTERN)

    answer = await put(master, made["id"].upper(), change)

    rule = answer.json()
    del rule["request_id"]
    assert (answer.status, rule) == (200, {**made, **change})


async def test_a_deleted_rule_is_gone(master: Client) -> None:
    made = await make(master, FIELDS)

    answer = await master.delete(f"{RULES}/{made['id']}")

    assert (answer.status, answer.json()) == (
        200,
        {"id": made["id"], "deleted": True, "request_id": answer.json()["request_id"]},
    )
    assert len((await master.get(RULES)).json()["rules"]) == 8
    assert (await master.delete(f"{RULES}/{made['id']}")).code == "not_found"
    assert (await put(master, made["id"], {})).code == "not_found"


async def test_a_change_says_who_made_it(master: Client, world: World) -> None:
    await make(master, PATTERN)

    (message,) = [message for message in world.asked if isinstance(message, CreateRule)]
    assert message.by == world.keys[-1].key.id


async def test_rules_belong_to_one_project(
    master: Client, producer: Client, world: World, organization: Organization, project: Project
) -> None:
    other = world.project(organization)
    target = f"?project_id={other.id}"
    made = (await master.post(RULES + target, PATTERN)).json()

    assert len((await producer.get(RULES)).json()["rules"]) == 8
    assert (await master.delete(f"{RULES}/{made['id']}?project_id={project.id}")).code == "not_found"
    assert (await master.get(RULES)).details == {"project_id": "Required, since the organization has several projects"}
    assert (await producer.get(RULES + target)).code == "forbidden"
    foreign = world.project(world.organization())
    assert (await master.get(f"{RULES}?project_id={foreign.id}")).code == "not_found"


# -- what is refused -----------------------------------------------------------------------------------------------

A_BEHAVIOR = "Must be 'replace', 'hash' or 'mask'"
A_ROOT = "Must start with one of actor, target, context, metadata, changes"
NO_NAME = ("name", "Required")
"""A rule that is only tried needs no name."""


@pytest.mark.parametrize(
    ("body", "details"),
    [
        ({}, {"name": "Required", "type": "Required"}),
        ({**PATTERN, "name": ""}, {"name": "Must have at least 1 character(s)"}),
        ({**PATTERN, "name": "x" * 101}, {"name": "Must have at most 100 characters"}),
        ({**PATTERN, "type": "builtin"}, {"type": "Must be 'pattern' or 'field_redact'"}),
        ({**PATTERN, "behavior": "drop"}, {"behavior": A_BEHAVIOR}),
        ({**PATTERN, "behavior": None, "enabled": 1}, {"behavior": A_BEHAVIOR, "enabled": "Expected true or false"}),
        ({**PATTERN, "id": "x", "created_at": "y"}, {"id": "Unknown field", "created_at": "Unknown field"}),
        ({**PATTERN, "pattern": None}, {"pattern": "Expected a string"}),
        ({**PATTERN, "pattern": ""}, {"pattern": "Must have at least 1 character(s)"}),
        ({**PATTERN, "pattern": "x" * 513}, {"pattern": "Must have at most 512 characters"}),
        ({**PATTERN, "pattern": "(unclosed"}, {"pattern": "missing ): (unclosed"}),
        ({**PATTERN, "pattern": "(?!a)b"}, {"pattern": "invalid perl operator: (?!"}),
        ({**PATTERN, "pattern": r"(a)\1"}, {"pattern": r"invalid escape sequence: \1"}),
        ({**PATTERN, "pattern": "x*"}, {"pattern": "Must not match the empty string"}),
        ({**PATTERN, "pattern": r"\b"}, {"pattern": "Must not match the empty string"}),
        ({"name": "n", "type": "pattern"}, {"pattern": "Required"}),
        ({**PATTERN, "fields": ["metadata"]}, {"fields": "Only for rules of type field_redact"}),
        ({**FIELDS, "pattern": "x"}, {"pattern": "Only for rules of type pattern"}),
        ({"name": "n", "type": "field_redact"}, {"fields": "Required"}),
        ({**FIELDS, "fields": []}, {"fields": "Must have at least 1 item(s)"}),
        ({**FIELDS, "fields": ["metadata"] * 51}, {"fields": "Must have at most 50 items"}),
        ({**FIELDS, "fields": "metadata"}, {"fields": "Expected an array"}),
        (
            {**FIELDS, "fields": ["metadata.a", 7, ""]},
            {"fields.1": "Expected a string", "fields.2": "Must have at least 1 character(s)"},
        ),
        (
            {**FIELDS, "fields": ["metadata.a", "action", "context..x"]},
            {
                "fields.1": A_ROOT,
                "fields.2": "Must not have an empty part",
            },
        ),
    ],
)
async def test_a_bad_rule_names_every_bad_field(master: Client, body: dict[str, Any], details: dict[str, str]) -> None:
    saved = await master.post(RULES, body)

    assert (saved.status, saved.code, saved.details) == (400, "validation_error", details)
    assert len((await master.get(RULES)).json()["rules"]) == 8
    tried = await master.post(TEST, {"event": {}, "rules": [{"type": "pattern", "pattern": "x"}, body]})
    expected = {f"rules.1.{field}": message for field, message in details.items() if (field, message) != NO_NAME}
    assert (tried.status, tried.details) == (400, expected)


@pytest.mark.parametrize(
    ("body", "details"),
    [
        (
            {**PATTERN, "name": "", "pattern": "("},
            {"name": "Must have at least 1 character(s)", "pattern": "missing ): ("},
        ),
        ({**FIELDS, "behavior": "drop", "fields": ["action"]}, {"behavior": A_BEHAVIOR, "fields.0": A_ROOT}),
    ],
)
async def test_a_pattern_and_paths_are_looked_at_whatever_else_is_wrong(
    master: Client, body: dict[str, Any], details: dict[str, str]
) -> None:
    assert (await master.post(RULES, body)).details == details
    rule = await make(master, PATTERN if body["type"] == "pattern" else FIELDS)
    change = {name: value for name, value in body.items() if name != "type"}
    assert (await put(master, rule["id"], change)).details == details


async def test_a_change_that_may_not_be_names_its_fields(master: Client) -> None:
    by_pattern, by_field = await make(master, PATTERN), await make(master, FIELDS)
    cases: list[tuple[str, object, dict[str, str]]] = [
        ("builtin_ssn", {"name": "x"}, {"name": "Cannot be changed on a built-in rule"}),
        (
            "builtin_ssn",
            {"pattern": "x", "fields": ["metadata"], "enabled": False},
            {
                "pattern": "Cannot be changed on a built-in rule",
                "fields": "Cannot be changed on a built-in rule",
            },
        ),
        (
            "builtin_ssn",
            {"pattern": "x", "fields": [], "behavior": "shout"},
            {
                "behavior": A_BEHAVIOR,
                "pattern": "Cannot be changed on a built-in rule",
                "fields": "Cannot be changed on a built-in rule",
            },
        ),
        ("builtin_ssn", {"behavior": "shout"}, {"behavior": A_BEHAVIOR}),
        (by_pattern["id"], {"type": "field_redact"}, {"type": "Unknown field"}),
        (by_pattern["id"], {"fields": ["metadata"]}, {"fields": "Only for rules of type field_redact"}),
        (by_pattern["id"], {"pattern": "a?"}, {"pattern": "Must not match the empty string"}),
        (by_pattern["id"], {"enabled": "yes", "x": 1}, {"enabled": "Expected true or false", "x": "Unknown field"}),
        (by_field["id"], {"pattern": "x"}, {"pattern": "Only for rules of type pattern"}),
        (by_field["id"], {"fields": ["nowhere.x"]}, {"fields.0": A_ROOT}),
    ]
    before = (await master.get(RULES)).json()["rules"]

    for rule_id, body, details in cases:
        answer = await put(master, rule_id, body)
        assert (answer.status, answer.details) == (400, details), rule_id

    assert (await master.get(RULES)).json()["rules"] == before


async def test_a_built_in_cannot_be_deleted(master: Client) -> None:
    answer = await master.delete(f"{RULES}/builtin_ssn")

    assert (answer.status, answer.code) == (409, "conflict")


@pytest.mark.parametrize(
    "rule_id", ["builtin_", "builtin_x", "credit_card", "x", "%00", "rules.0", "6f1d3c2a-9f0e-4b7d-8a55-0c1e2d3f4a5b"]
)
async def test_an_unknown_rule(master: Client, rule_id: str) -> None:
    assert (await put(master, rule_id, {"enabled": False})).code == "not_found"
    assert (await master.delete(f"{RULES}/{rule_id}")).code == "not_found"


async def test_one_rule_more_than_there_may_be(master: Client) -> None:
    for n in range(MAX_CUSTOM):
        await make(master, PATTERN, name=f"r{n}")

    answer = await master.post(RULES, PATTERN)

    assert (answer.status, answer.code) == (409, "conflict")


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"{"])
async def test_a_body_that_is_no_object(master: Client, body: bytes) -> None:
    for method, target in (("POST", RULES), ("PUT", f"{RULES}/builtin_ssn"), ("POST", TEST)):
        answer = await master.request(method, target, body=body)
        assert (answer.status, answer.code) == (400, "validation_error")


async def test_there_is_no_single_rule_to_get(master: Client) -> None:
    answer = await master.get(f"{RULES}/builtin_ssn")

    assert (answer.status, answer.headers["allow"]) == (405, "DELETE, PUT")


async def test_a_path_that_is_an_endpoint_of_its_own_is_no_rule(master: Client) -> None:
    answer = await master.request("PUT", f"{RULES}/test", body=b"{}")

    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert (await put(master, "test2", {})).status == 404


# -- trials --------------------------------------------------------------------------------------------------------


async def test_the_worked_example_of_the_documentation(master: Client) -> None:
    """The example that the documentation shows as a curl line is answered with the one that it shows as the answer."""
    answer = await master.post(TEST, examples.SAMPLE_IN)

    assert answer.json() == {**examples.SAMPLE_TRIED, "request_id": answer.json()["request_id"]}


async def test_unsaved_rules_are_tried_in_addition_to_the_projects_own_and_are_not_kept(
    master: Client, producer: Client
) -> None:
    saved = await make(master, FIELDS, behavior="mask")
    await put(master, "builtin_email", {"enabled": True, "behavior": "mask"})
    sample = {
        "action": "user.created",
        "actor": {"email": "ada@example.com"},
        "metadata": {"login": {"password": "correct horse"}, "note": "ACCT-1 for ada@example.com"},
    }

    answer = await producer.post(
        TEST, {"event": sample, "rules": [{"name": "accounts", "type": "pattern", "pattern": "ACCT-[0-9]+"}]}
    )

    tried = answer.json()
    assert tried["event"] == {
        "action": "user.created",
        "actor": {"email": "a***@example.com"},
        "metadata": {"login": {"password": "****orse"}, "note": "[REDACTED] for a***@example.com"},
    }
    assert tried["redacted_count"] == 3
    email = {"rule_id": "builtin_email", "rule_name": "Email Address", "behavior": "mask"}
    assert tried["redactions"] == [
        {"field": "actor.email", **email},
        {"field": "metadata.login.password", "rule_id": saved["id"], "rule_name": "passwords", "behavior": "mask"},
        {"field": "metadata.note", "rule_id": "rules.0", "rule_name": "accounts", "behavior": "replace"},
        {"field": "metadata.note", **email},
    ]
    assert len((await master.get(RULES)).json()["rules"]) == 9


async def test_a_trial_counts_every_value_and_says_what_was_replaced_for_no_rule(producer: Client) -> None:
    sample = {"changes": [{"before": ["4111111111111111"] * 1_500, "after": "é" * 70_000 + "4111111111111111"}]}

    tried = (await producer.post(TEST, {"event": sample})).json()

    assert tried["redacted_count"] == 1_501
    assert tried["event"]["changes"][0] == {"before": ["[REDACTED]"] * 1_500, "after": "[REDACTED]"}
    assert tried["redactions"][-1] == {
        "field": "changes",
        "rule_id": "redaction_limit",
        "rule_name": "Limits of redaction",
        "behavior": "replace",
    }


@pytest.mark.parametrize(
    "sample",
    [
        {},
        {"tenant_id": "$logstitch"},
        {"actor": {}},
        {"changes": [{}]},
        {"changes": [{"before": [{"a": None}], "after": 2**63}]},
        {"action": "not an action", "category": "none", "occurred_at": "yesterday", "idempotency_key": ""},
        {"metadata": {"n": -(2**63), "f": 1e300, "text": "zażółć 🦊"}},
    ],
)
async def test_any_part_of_an_event_is_a_sample_and_a_clean_one_comes_back_equal(
    producer: Client, sample: dict[str, Any]
) -> None:
    answer = await producer.post(TEST, {"event": sample})

    tried = answer.json()
    assert (answer.status, tried["event"], tried["redacted_count"], tried["redactions"]) == (200, sample, 0, [])


@pytest.mark.parametrize(
    ("body", "details"),
    [
        ({}, {"event": "Required"}),
        ({"event": []}, {"event": "Expected an object"}),
        ({"event": None}, {"event": "Expected an object"}),
        ({"event": {"metdata": {}}, "x": 1}, {"event.metdata": "Unknown field", "x": "Unknown field"}),
        (
            {"event": {"actor": {"id": 7, "age": 8}}},
            {"event.actor.id": "Expected a string", "event.actor.age": "Unknown field"},
        ),
        ({"event": {"metadata": "text"}}, {"event.metadata": "Expected an object"}),
        ({"event": {"changes": [{"to": 1}]}}, {"event.changes.0.to": "Unknown field"}),
        (
            {"event": {"metadata": {"a": "x" * 33_000}}},
            {"event.metadata": "Must be at most 32768 bytes of canonical JSON"},
        ),
        ({"event": {}, "rules": {}}, {"rules": "Expected an array"}),
        ({"event": {}, "rules": [7]}, {"rules.0": "Expected an object"}),
        ({"event": {}, "rules": [PATTERN] * 101}, {"rules": "Must have at most 100 items"}),
    ],
)
async def test_a_bad_sample_names_every_bad_field(producer: Client, body: object, details: dict[str, str]) -> None:
    answer = await producer.post(TEST, body)

    assert (answer.status, answer.details) == (400, details)


async def test_a_value_is_never_in_the_answer_to_a_bad_sample(master: Client) -> None:
    canary = "4111111111111111"
    bad: list[object] = [
        {"event": canary},
        {"event": {"actor": {"id": int(canary)}}, "rules": [{"type": canary, "pattern": canary}]},
        {"event": {"metadata": canary, "changes": canary}},
        {"event": {"metadata": {canary: canary}}, "rules": [{"type": "pattern", "pattern": "("}]},
    ]
    for body in bad:
        answer = await master.post(TEST, body)
        assert answer.status == 400
        assert canary.encode() not in answer.body


# -- the reserved tenant -------------------------------------------------------------------------------------------


async def test_nobody_sends_events_of_the_reserved_tenant(producer: Client, world: World) -> None:
    good = examples.SMALL_EVENT_IN
    reserved = {**good, "tenant_id": "$logstitch"}

    alone = await producer.post("/api/v1/events", reserved)
    among = await producer.post("/api/v1/events", [good, reserved, {**reserved, "category": "x"}])

    assert (alone.status, alone.details) == (400, {"tenant_id": "Reserved"})
    assert (among.status, among.details["1.tenant_id"]) == (400, "Reserved")
    assert {"1.tenant_id", "2.tenant_id", "2.category"} == set(among.details)
    assert world.events == []
    for near in ("$logstitch2", "$LOGSTITCH", "logstitch", " $logstitch"):
        assert (await producer.post("/api/v1/events", {**good, "tenant_id": near})).status == 201


async def test_events_of_the_reserved_tenant_are_read_like_any(producer: Client) -> None:
    assert (await producer.get("/api/v1/events?tenant_id=$logstitch")).status == 200
