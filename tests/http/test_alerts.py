"""Alert rules and alerts over HTTP: listed, made, changed, removed; and what is refused, by the name of its field."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from logstitch.actors.messages.alerts import CreateAlertRule, ListAlerts, SetAlertStatus
from logstitch.actors.messages.projects import Project
from logstitch.detection.alerts import AlertStatus, alert_fields
from logstitch.detection.rules import Severity
from logstitch.http import examples
from logstitch.ids import IdKind, id_text
from logstitch.model import Plan
from tests.support.alerts_world import an_alert
from tests.support.client import Answer, Client
from tests.support.world import Organization, World

RULES = "/api/v1/alerts/rules"
ALERTS = "/api/v1/alerts"
RULE = {
    "name": "guessing",
    "action_pattern": "auth.failed*",
    "threshold": 20,
    "window_seconds": 120,
    "group_by": "tenant_id",
    "severity": "critical",
}
AT = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def master(master: Client, project: Project) -> Client:
    """A client with a master key of an organization that has one project."""
    return master


async def patch(client: Client, target: str, body: object) -> Answer:
    return await client.request("PATCH", target, body=orjson.dumps(body))


def without_id(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()
    del found["request_id"]
    return found


async def make(client: Client, **changes: Any) -> dict[str, Any]:
    """A rule that is there from then on."""
    answer = await client.post(RULES, {**RULE, **changes})
    assert answer.status == 201, answer.body
    return without_id(answer)


# -- rules ---------------------------------------------------------------------------------------------------------


async def test_the_six_built_ins_come_first(producer: Client) -> None:
    rules = (await producer.get(RULES)).json()["rules"]

    columns = ("id", "action_pattern", "threshold", "window_seconds", "group_by", "severity", "enabled")
    assert [tuple(rule[name] for name in columns) for rule in rules] == [
        ("auth_brute_force", "auth.failed*", 5, 300, "actor_id", "high", True),
        ("privilege_escalation_burst", "*.role.updated", 3, 600, "actor_id", "critical", True),
        ("rapid_api_key_creation", "*.api_key.created", 3, 300, "actor_id", "medium", True),
        ("bulk_data_export", "*.exported", 5, 600, "actor_id", "medium", True),
        ("account_deletion_spike", "*.deleted", 5, 600, "tenant_id", "high", True),
        ("suspicious_ip_change", "*", 3, 1800, "actor_id", "medium", False),
    ]
    assert {rule["cooldown_seconds"] for rule in rules} == {3600}
    assert [rule.get("distinct") for rule in rules] == [None] * 5 + ["ip_address"]
    assert rules[0] == examples.BUILTIN_ALERT_RULE
    assert list(rules[0]) == list(examples.BUILTIN_ALERT_RULE)


async def test_a_new_rule_is_answered_flat_and_listed_behind_the_built_ins(master: Client) -> None:
    plain = await make(master)
    full = await make(master, cooldown_seconds=0, enabled=False, distinct="ip_address")

    assert list(plain) == ["id", "type", *examples.ALERT_RULE_IN, "enabled", "cooldown_seconds", "created_at"]
    assert plain.items() >= {**RULE, "type": "custom", "enabled": True, "cooldown_seconds": 3600}.items()
    assert full.items() >= {**RULE, "enabled": False, "cooldown_seconds": 0, "distinct": "ip_address"}.items()
    assert (await master.get(RULES)).json()["rules"][6:] == [plain, full]


async def test_rules_are_paged_in_their_order(master: Client) -> None:
    for n in range(5):
        await make(master, name=f"r{n}")
    whole = (await master.get(RULES)).json()

    seen, target = [], f"{RULES}?limit=3"
    while True:
        page = (await master.get(target)).json()
        seen += page["rules"]
        if not page["has_more"]:
            break
        target = f"{RULES}?limit=3&cursor={page['cursor']}"

    assert (whole["has_more"], whole["cursor"], len(whole["rules"])) == (False, None, 11)
    assert seen == whole["rules"]


async def test_a_cursor_of_another_project_or_list_is_none(
    master: Client, world: World, organization: Organization, project: Project
) -> None:
    other = world.project(organization)
    cursor = (await master.get(f"{RULES}?limit=1&project_id={project.id}")).json()["cursor"]

    for target in (
        f"{RULES}?project_id={other.id}&cursor={cursor}",
        f"/api/v1/redaction/rules?project_id={project.id}&cursor={cursor}",
    ):
        assert list((await master.get(target)).details) == ["cursor"]


@pytest.mark.parametrize("change", [{"enabled": False}, {"cooldown_seconds": 0}])
async def test_a_built_in_is_changed(master: Client, change: dict[str, Any]) -> None:
    answer = await patch(master, f"{RULES}/auth_brute_force", change)

    assert (answer.status, without_id(answer)) == (200, {**examples.BUILTIN_ALERT_RULE, **change})
    assert (await master.get(RULES)).json()["rules"][0] == {**examples.BUILTIN_ALERT_RULE, **change}


@pytest.mark.parametrize(
    "change",
    [
        {"name": "new"},
        {"action_pattern": "*"},
        {"threshold": 10_000, "window_seconds": 3600},
        {"threshold": 1, "window_seconds": 60},
        {"group_by": "actor_id"},
        {"severity": "low"},
        {"cooldown_seconds": 604_800},
        {"enabled": False},
        {"distinct": "ip_address"},
    ],
)
async def test_a_custom_rule_is_changed_in_what_is_sent_and_in_nothing_else(
    master: Client, change: dict[str, Any]
) -> None:
    made = await make(master)

    answer = await patch(master, f"{RULES}/{made['id'].upper()}", change)

    assert (answer.status, without_id(answer)) == (200, {**made, **change})


async def test_null_has_events_counted_again(master: Client) -> None:
    made = await make(master, distinct="ip_address")

    answer = await patch(master, f"{RULES}/{made['id']}", {"distinct": None})

    assert "distinct" not in answer.json()


async def test_a_deleted_rule_is_gone(master: Client) -> None:
    made = await make(master)

    answer = await master.delete(f"{RULES}/{made['id'].upper()}")

    assert (answer.status, without_id(answer)) == (200, {"id": made["id"], "deleted": True})
    assert len((await master.get(RULES)).json()["rules"]) == 6
    assert (await master.delete(f"{RULES}/{made['id']}")).status == 404


async def test_a_built_in_is_not_deleted(master: Client) -> None:
    answer = await master.delete(f"{RULES}/auth_brute_force")

    assert (answer.status, answer.code) == (409, "conflict")


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
@pytest.mark.parametrize(
    "rule_id", ["6f1d3c2a-9f0e-4b7d-8a55-0c1e2d3f4a5b", "no_such_rule", "builtin_ssn", "%00", "x" * 300]
)
async def test_an_unknown_rule_is_not_found(master: Client, method: str, rule_id: str) -> None:
    body = b'{"enabled": false}' if method == "PATCH" else b""
    answer = await master.request(method, f"{RULES}/{rule_id}", body=body)

    assert (answer.status, answer.code) == (404, "not_found")


BAD_FIELDS: list[tuple[str, list[Any]]] = [
    ("name", ["", "x" * 101, 5, None]),
    ("action_pattern", ["", "x" * 129, ["auth.*"], None]),
    ("threshold", [0, 10_001, True, 5.0, "5", None, -1, 2**63 - 1]),
    ("window_seconds", [59, 3601, True, 60.5, None]),
    ("group_by", ["actor", "", None, 1]),
    ("severity", ["urgent", "HIGH", None, 3]),
    ("cooldown_seconds", [-1, 604_801, False, "0", None]),
    ("enabled", [1, "true", None]),
    ("distinct", ["actor_id", True, []]),
]


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in BAD_FIELDS for value in values])
async def test_bad_values_are_named_where_a_rule_is_made_and_where_it_is_changed(
    master: Client, field: str, value: object
) -> None:
    made = await make(master)

    for answer in (
        await master.post(RULES, {**RULE, field: value}),
        await patch(master, f"{RULES}/{made['id']}", {field: value}),
        await patch(master, f"{RULES}/auth_brute_force", {field: value}),
    ):
        assert (answer.status, answer.code) == (400, "validation_error")
        assert list(answer.details) == [field]


async def test_every_bad_field_is_named(master: Client) -> None:
    answer = await master.post(RULES, {"threshold": 0, "window_seconds": 0, "id": "x", "severity": "bad"})

    assert set(answer.details) == {
        "name",
        "action_pattern",
        "threshold",
        "window_seconds",
        "group_by",
        "severity",
        "id",
    }
    assert list((await master.post(RULES, {**RULE, "distinct": None})).details) == ["distinct"]


@pytest.mark.parametrize("body", [{}, [], None, "x"])
async def test_a_change_of_nothing_is_refused(master: Client, body: object) -> None:
    answer = await patch(master, f"{RULES}/auth_brute_force", body)

    assert (answer.status, answer.code) == (400, "validation_error")


async def test_what_a_built_in_does_not_let_change_is_named(master: Client) -> None:
    answer = await patch(
        master, f"{RULES}/auth_brute_force", {"enabled": False, "threshold": 6, "distinct": None, "name": "x"}
    )

    assert answer.status == 400
    assert set(answer.details) == {"threshold", "distinct", "name"}
    assert (await master.get(RULES)).json()["rules"][0] == examples.BUILTIN_ALERT_RULE


@pytest.mark.parametrize(("plan", "limit"), [(Plan.FREE, 0), (Plan.PRO, 25), (Plan.ENTERPRISE, 500)])
async def test_the_plan_says_how_many(plan: Plan, limit: int, world: World, anyone: Client) -> None:
    organization = world.organization(plan)
    world.project(organization)
    client = anyone.with_key(world.key(organization))
    for _ in range(min(limit, 25)):
        await make(client)

    answer = await client.post(RULES, RULE)

    asked = [message for message in world.asked if isinstance(message, CreateAlertRule)]
    assert {message.limit for message in asked} == {limit}
    if limit <= 25:
        assert (answer.status, answer.code) == (403, "alert_rule_limit_reached")
        changed = await patch(client, f"{RULES}/auth_brute_force", {"enabled": False})
        assert changed.status == 200, "built-ins are on every plan"


async def test_rules_of_a_larger_plan_are_kept_and_none_of_them_is_switched_on(world: World, anyone: Client) -> None:
    """Given more rules than the plan has since it is a smaller one, then they are there and may be changed, but for
    switching one on and making another, until there are no more than the plan has."""
    organization = world.organization(Plan.ENTERPRISE)
    world.project(organization)
    client = anyone.with_key(world.key(organization))
    made = [await make(client, enabled=n > 0) for n in range(26)]
    off, on = f"{RULES}/{made[0]['id']}", f"{RULES}/{made[1]['id']}"
    organization.plan = Plan.PRO

    assert len((await client.get(f"{RULES}?limit=100")).json()["rules"]) == 6 + 26
    for answer in (await patch(client, off, {"enabled": True}), await client.post(RULES, RULE)):
        assert (answer.status, answer.code) == (403, "alert_rule_limit_reached")
    for target, changes in ((off, {"threshold": 9}), (on, {"threshold": 9, "enabled": True}), (on, {"enabled": False})):
        assert (await patch(client, target, changes)).status == 200
    builtin = f"{RULES}/auth_brute_force"
    for enabled in (False, True):
        assert (await patch(client, builtin, {"enabled": enabled})).status == 200, "built-ins are on every plan"

    assert (await client.delete(on)).status == 200
    assert (await patch(client, off, {"enabled": True})).status == 200
    assert (await client.post(RULES, RULE)).code == "alert_rule_limit_reached"


async def test_rules_belong_to_their_project(
    master: Client, world: World, organization: Organization, project: Project
) -> None:
    made = await make(master)
    other = world.project(organization)

    assert len((await master.get(f"{RULES}?project_id={other.id}")).json()["rules"]) == 6
    assert (await patch(master, f"{RULES}/{made['id']}?project_id={other.id}", {"enabled": False})).status == 404
    assert (await master.delete(f"{RULES}/{made['id']}?project_id={other.id}")).status == 404


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("PATCH", RULES, "GET, HEAD, POST"),
        ("DELETE", RULES, "GET, HEAD, POST"),
        ("PATCH", f"{RULES}/test", "POST"),
        ("DELETE", f"{RULES}/test", "POST"),
        ("DELETE", f"{ALERTS}/alr_01KARHK7T0C8Q2M4V6X9Z1B3D9", "GET, HEAD, PATCH"),
        ("POST", ALERTS, "GET, HEAD"),
    ],
)
async def test_no_route_is_taken_for_another(master: Client, method: str, target: str, allow: str) -> None:
    answer = await master.request(method, target, body=b'{"status": "resolved"}' if method != "DELETE" else b"")

    assert (answer.status, answer.headers["allow"]) == (405, allow)


# -- alerts --------------------------------------------------------------------------------------------------------


@pytest.fixture
def fired(world: World, project: Project) -> list[str]:
    """The ids of five alerts, the newest first: an hour apart, of two groups."""
    alerts = [
        an_alert(
            AT - timedelta(hours=n),
            group_key=f"usr_{n % 2}",
            rule_id="auth_brute_force" if n else "c1a7e0d2-94b6-4c58-8f31-7d2b9e6a0f45",
            severity=Severity.CRITICAL if n == 4 else Severity.HIGH,
            status=AlertStatus.RESOLVED if n == 3 else AlertStatus.OPEN,
        )
        for n in range(5)
    ]
    world.alerts.add(project.no, *alerts)
    return [id_text(IdKind.ALERT, alert.id.bytes) for alert in alerts]


def ids(answer: Answer) -> list[str]:
    return [alert["id"] for alert in answer.json()["alerts"]]


async def test_an_alert_is_shown_as_webhooks_carry_it(producer: Client, world: World, fired: list[str]) -> None:
    answer = await producer.get(f"{ALERTS}/{fired[0]}")

    assert (answer.status, without_id(answer)) == (200, alert_fields(world.alerts.alerts[0][1]))
    assert list(without_id(answer)) == list(examples.ALERT)
    assert (await producer.get(ALERTS)).json()["alerts"][0] == without_id(answer)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [0, 1, 2, 3, 4]),
        ("status=open", [0, 1, 2, 4]),
        ("status=resolved", [3]),
        ("status=acknowledged", []),
        ("severity=critical", [4]),
        ("severity=high", [0, 1, 2, 3]),
        ("rule_id=auth_brute_force", [1, 2, 3, 4]),
        ("rule_id=C1A7E0D2-94B6-4C58-8F31-7D2B9E6A0F45", [0]),
        ("group_key=usr_1", [1, 3]),
        ("group_key=usr_1&status=open&severity=high", [1]),
        ("start_date=2026-11-20T11:00:00Z", [0, 1]),
        ("end_date=2026-11-20T09:00:00Z", [3, 4]),
        ("start_date=2026-11-20&end_date=2026-11-20", [0, 1, 2, 3, 4]),
        ("end_date=2026-11-19", []),
        ("start_date=2026-11-20T10:00:00Z&end_date=2026-11-20T10:00:00Z", [2]),
    ],
)
async def test_filters(producer: Client, fired: list[str], query: str, expected: list[int]) -> None:
    assert ids(await producer.get(f"{ALERTS}?{query}")) == [fired[n] for n in expected]


async def test_alerts_are_paged_newest_first(producer: Client, fired: list[str]) -> None:
    seen, target = [], f"{ALERTS}?limit=2"
    while True:
        answer = await producer.get(target)
        seen += ids(answer)
        if not answer.json()["has_more"]:
            break
        target = f"{ALERTS}?limit=2&cursor={answer.json()['cursor']}"

    assert seen == fired


async def test_a_cursor_fits_its_filters_and_project_only(
    master: Client, world: World, organization: Organization, project: Project, fired: list[str]
) -> None:
    other = world.project(organization)
    mine = f"{ALERTS}?limit=1&project_id={project.id}"
    cursor = (await master.get(mine)).json()["cursor"]

    assert (await master.get(f"{ALERTS}?limit=5&project_id={project.id}&cursor={cursor}")).status == 200
    for filter in (
        "status=open",
        "severity=high",
        "rule_id=auth_brute_force",
        "group_key=usr_1",
        "start_date=2026-11-01",
        "end_date=2026-12-01",
    ):
        answer = await master.get(f"{mine}&{filter}&cursor={cursor}")
        assert (answer.status, list(answer.details)) == (400, ["cursor"])
    assert (await master.get(f"{ALERTS}?project_id={other.id}&cursor={cursor}")).status == 400


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("status=new", ["status"]),
        ("severity=urgent", ["severity"]),
        ("rule_id=", ["rule_id"]),
        (f"rule_id={'x' * 65}", ["rule_id"]),
        ("group_key=", ["group_key"]),
        (f"group_key={'x' * 257}", ["group_key"]),
        ("start_date=yesterday&end_date=2026-13-01", ["start_date", "end_date"]),
        ("status=new&start_date=yesterday&limit=0", ["limit", "status", "start_date"]),
        ("tenant_id=acme", ["tenant_id"]),
        ("limit=0", ["limit"]),
        ("cursor=x", ["cursor"]),
        ("group_key=%00", ["group_key"]),
    ],
)
async def test_bad_filters_are_named(producer: Client, query: str, fields: list[str]) -> None:
    answer = await producer.get(f"{ALERTS}?{query}")

    assert (answer.status, answer.code) == (400, "validation_error")
    assert list(answer.details) == fields


@pytest.mark.parametrize("key", ["master", "project"])
async def test_an_alert_is_acknowledged_and_resolved(
    key: str, master: Client, producer: Client, world: World, project: Project, fired: list[str]
) -> None:
    client = master if key == "master" else producer

    acknowledged = await patch(client, f"{ALERTS}/{fired[0]}", {"status": "acknowledged"})
    resolved = await patch(client, f"{ALERTS}/{fired[0]}", {"status": "resolved"})

    assert (acknowledged.status, acknowledged.json()["status"]) == (200, "acknowledged")
    assert (resolved.status, resolved.json()["status"]) == (200, "resolved")
    assert resolved.json()["acknowledged_at"] == acknowledged.json()["acknowledged_at"]
    assert resolved.json()["resolved_at"] is not None
    asked = [message for message in world.asked if isinstance(message, SetAlertStatus)]
    assert {message.project for message in asked} == {project}


@pytest.mark.parametrize("status", ["open", "acknowledged", "resolved"])
async def test_a_resolved_alert_stays_so(producer: Client, fired: list[str], status: str) -> None:
    answer = await patch(producer, f"{ALERTS}/{fired[3]}", {"status": status})

    assert (answer.status, answer.code) == (409, "conflict")


async def test_no_alert_is_opened(producer: Client, fired: list[str]) -> None:
    assert (await patch(producer, f"{ALERTS}/{fired[0]}", {"status": "open"})).status == 409


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["status"]),
        ({"status": "closed"}, ["status"]),
        ({"status": None}, ["status"]),
        ({"status": "resolved", "note": "done"}, ["note"]),
    ],
)
async def test_a_bad_status_is_named(producer: Client, fired: list[str], body: object, fields: list[str]) -> None:
    answer = await patch(producer, f"{ALERTS}/{fired[0]}", body)

    assert (answer.status, list(answer.details)) == (400, fields)


@pytest.mark.parametrize(
    "alert_id",
    ["alr_01KARHK7T0C8Q2M4V6X9Z1B3D9", "6f1d3c2a-9f0e-4b7d-8a55-0c1e2d3f4a5b", "evt_01KARHK7T0C8Q2M4V6X9Z1B3D9"],
)
async def test_an_unknown_alert_is_not_found(producer: Client, fired: list[str], alert_id: str) -> None:
    for answer in (
        await producer.get(f"{ALERTS}/{alert_id}"),
        await patch(producer, f"{ALERTS}/{alert_id}", {"status": "resolved"}),
    ):
        assert (answer.status, answer.code) == (404, "not_found")


async def test_alerts_of_another_project_are_unknown(
    anyone: Client, world: World, organization: Organization, fired: list[str]
) -> None:
    other = anyone.with_key(world.key(organization, world.project(organization)))

    assert ids(await other.get(ALERTS)) == []
    assert (await other.get(f"{ALERTS}/{fired[0]}")).status == 404
    assert (await patch(other, f"{ALERTS}/{fired[0]}", {"status": "resolved"})).status == 404


async def test_the_project_is_that_of_the_request(producer: Client, world: World, project: Project) -> None:
    await producer.get(ALERTS)

    (asked,) = [message for message in world.asked if isinstance(message, ListAlerts)]
    assert (asked.project_no, asked.limit, asked.after) == (project.no, 50, None)
