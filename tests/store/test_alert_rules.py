"""Alert rules in the database: versions by ``seq``, each begun by the event that tells of it; and states of alerts."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

import orjson
import pytest

from logstitch.detection.alerts import TRANSITIONS, Alert, AlertStatus
from logstitch.detection.detector import ActiveRule
from logstitch.detection.rules import BUILTINS, Distinct, GroupBy, Rule, Severity
from logstitch.errors import AlertRuleLimitReached, Conflict, InvalidRequest, NotFound
from logstitch.ids import IdKind, UlidMint, id_text
from logstitch.model import RESERVED_TENANT, Plan
from logstitch.recording import alerts
from logstitch.recording.alert_rules import Decision, creation, deletion, read_rules, rule_change, rules_at, update
from logstitch.recording.alerts import find_alert, status_change
from logstitch.recording.audit import AuditedChange
from logstitch.store import projects
from logstitch.store.database import Connection
from logstitch.store.projects import ProjectRow
from logstitch.webhooks.payloads import WebhookEvent
from tests.support.alerts_rows import insert_alert
from tests.support.alerts_world import an_alert
from tests.support.locks import block_for_a_lock
from tests.support.stored import AT, an_event, store

R = TypeVar("R")

NOW = datetime(2026, 11, 23, 8, 0, 0, 123456, tzinfo=UTC)
ADA = UUID(int=7)
MINT = UlidMint()
LATER = timedelta(milliseconds=1)


@pytest.fixture
def project(conn: Connection) -> ProjectRow:
    return make_project(conn)


@pytest.fixture
def no(project: ProjectRow) -> int:
    """The number of the project."""
    return project.no


def make_project(conn: Connection) -> ProjectRow:
    organization = projects.create_organization(conn, name="o", plan=Plan.ENTERPRISE, now=NOW)
    row = projects.create_project(conn, organization_id=organization.id, name="p", now=NOW)
    conn.commit()
    return row


def a_rule(**changes: Any) -> Rule:
    """A custom rule."""
    rule = Rule(str(uuid4()), "guessing", "auth.failed*", 20, 120, GroupBy.TENANT_ID, Severity.CRITICAL, True, 600)
    return replace(rule, **changes)


def change(no: int, decide: Decision, now: datetime = NOW) -> AuditedChange[Any]:
    return rule_change(no, decide, by=ADA, event_id=MINT.one(1_700_000_000_000), now=lambda: now)


def make(conn: Connection, no: int, decide: Decision, now: datetime = NOW) -> Any:
    made = change(no, decide, now).run(conn)
    conn.commit()
    return made


def created(rule: Rule, *, limit: int = 500, at: datetime = NOW) -> Decision:
    return creation(rule, at, limit=limit)


def updated(rule_id: str, fields: Mapping[str, Any], *, limit: int = 500) -> Decision:
    return update(rule_id, fields, limit=limit)


def by_id(active: list[ActiveRule]) -> dict[str, ActiveRule]:
    return {one.rule.id: one for one in active}


def audit(conn: Connection, no: int) -> list[dict[str, Any]]:
    rows = conn.execute("SELECT body FROM events WHERE project_no = %s ORDER BY seq", (no,)).fetchall()
    return [orjson.loads(body) for (body,) in rows]


# -- what holds when -----------------------------------------------------------------------------------------------


def test_a_new_project_has_the_built_ins_as_they_are_by_default(conn: Connection, no: int) -> None:
    assert rules_at(conn, no, 0) == [ActiveRule(rule, since_seq=0) for rule in BUILTINS]
    assert read_rules(conn, no).custom == ()


def test_what_is_stored_comes_back(conn: Connection, no: int) -> None:
    rules = [
        a_rule(name="żółć 🦊 %s", enabled=False, cooldown_seconds=0, severity=Severity.LOW),
        a_rule(distinct=Distinct.IP_ADDRESS, group_by=GroupBy.ACTOR_ID, threshold=10_000, window_seconds=3600),
    ]
    for rule in rules:
        make(conn, no, created(rule))

    assert [stored.rule for stored in read_rules(conn, no).custom] == rules
    assert [active.rule for active in rules_at(conn, no, 2)][6:] == rules


def test_a_rule_holds_from_the_event_that_tells_of_it(conn: Connection, no: int) -> None:
    store(conn, no, [(AT, an_event())] * 10)
    rule = a_rule()

    make(conn, no, created(rule))

    assert audit(conn, no)[10]["action"] == "logstitch.alert_rule.created"
    assert rule.id not in by_id(rules_at(conn, no, 10)), "the event 11 itself is judged by the rules before"
    for seq in (11, 12, 1000):
        assert by_id(rules_at(conn, no, seq))[rule.id] == ActiveRule(rule, since_seq=11)


def test_every_seq_has_the_rules_that_held_when_it_was_stored(conn: Connection, no: int) -> None:
    """Against a list of what the rules were after each event, whatever is changed and in whichever order."""
    chance = random.Random(4)
    custom: list[str] = []
    held = [rules_at(conn, no, 0)]
    for n in range(60):
        kind = chance.choice(["event", "create", "builtin", "update", "delete"])
        if kind == "event" or (kind in ("update", "delete") and not custom):
            store(conn, no, [(AT + n, an_event())])
            conn.commit()
            held.append(held[-1])
            continue
        if kind == "create":
            rule = a_rule(threshold=n + 1)
            custom.append(rule.id)
            decide = created(rule)
        elif kind == "builtin":
            decide = updated(chance.choice(BUILTINS).id, {"cooldown_seconds": n})
        elif kind == "update":
            decide = updated(chance.choice(custom), {"threshold": n + 1, "window_seconds": 60 + n})
        else:
            decide = deletion(custom.pop(chance.randrange(len(custom))))
        make(conn, no, decide)
        current = read_rules(conn, no)
        held.append([ActiveRule(stored.rule, stored.since_seq) for stored in current.rules])

    assert len(audit(conn, no)) == len(held) - 1
    assert [rules_at(conn, no, seq) for seq in range(len(held))] == held


COUNTS_ANEW: list[dict[str, Any]] = [
    {"action_pattern": "auth.*"},
    {"group_by": GroupBy.ACTOR_ID},
    {"distinct": Distinct.IP_ADDRESS},
    {"window_seconds": 121},
    {"window_seconds": 121, "threshold": 5},
]
GOES_ON: list[dict[str, Any]] = [
    {"threshold": 5},
    {"cooldown_seconds": 0},
    {"severity": Severity.LOW},
    {"name": "other"},
    {"enabled": False},
]


@pytest.mark.parametrize(
    ("fields", "since_seq"), [*((one, 2) for one in COUNTS_ANEW), *((one, 1) for one in GOES_ON)], ids=str
)
def test_counting_begins_anew_where_other_events_count(
    conn: Connection, no: int, fields: dict[str, Any], since_seq: int
) -> None:
    rule = a_rule()
    make(conn, no, created(rule))

    make(conn, no, updated(rule.id, fields))

    assert by_id(rules_at(conn, no, 2))[rule.id] == ActiveRule(replace(rule, **fields), since_seq)
    assert by_id(rules_at(conn, no, 1))[rule.id] == ActiveRule(rule, 1)


def test_counting_begins_anew_when_a_rule_is_switched_on_again(conn: Connection, no: int) -> None:
    slug = "auth_brute_force"
    for enabled in (False, True, True):
        make(conn, no, updated(slug, {"enabled": enabled}))

    found = [by_id(rules_at(conn, no, seq))[slug] for seq in (0, 1, 2)]
    assert [(one.rule.enabled, one.since_seq) for one in found] == [(True, 0), (False, 0), (True, 2)]
    assert len(audit(conn, no)) == 2, "the third changes nothing"


def test_a_built_in_that_is_changed_keeps_its_place_and_what_else_it_is(conn: Connection, no: int) -> None:
    make(conn, no, updated("suspicious_ip_change", {"enabled": True}))
    make(conn, no, updated("bulk_data_export", {"cooldown_seconds": 60}))

    rules = read_rules(conn, no).rules

    assert [stored.rule.id for stored in rules] == [rule.id for rule in BUILTINS]
    assert rules[5].rule == replace(BUILTINS[5], enabled=True)
    assert rules[3].rule == replace(BUILTINS[3], cooldown_seconds=60)
    assert (rules[5].since_seq, rules[3].since_seq) == (1, 0)
    assert {stored.created_at for stored in rules} == {None}


@pytest.mark.parametrize("step", [timedelta(0), timedelta(hours=-1), timedelta(microseconds=400), timedelta(hours=1)])
def test_rules_keep_their_order_of_creation_whatever_the_clocks_say(conn: Connection, no: int, step: timedelta) -> None:
    rules = [a_rule() for _ in range(5)]

    times = [make(conn, no, created(rule, at=NOW + n * step)).created_at for n, rule in enumerate(rules)]
    make(conn, no, updated(rules[0].id, {"name": "changed"}))

    assert times == sorted(set(times))
    assert all(time.microsecond % 1000 == 0 for time in times), "an answer shows milliseconds"
    stored = read_rules(conn, no).custom
    assert [(one.rule.id, one.created_at) for one in stored] == [
        (rule.id, at) for rule, at in zip(rules, times, strict=True)
    ]


def test_rules_of_another_project_are_none(conn: Connection, no: int) -> None:
    stranger = make_project(conn).no
    rule = a_rule()
    make(conn, no, created(rule))

    for decide in (updated(rule.id, {"name": "mine"}), deletion(rule.id)):
        with pytest.raises(NotFound):
            change(stranger, decide).run(conn)
        conn.rollback()
    assert rules_at(conn, stranger, 1000) == rules_at(conn, stranger, 0)
    assert by_id(rules_at(conn, no, 1))[rule.id].rule == rule


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 2])
def test_a_plan_has_so_many_custom_rules(conn: Connection, no: int, limit: int) -> None:
    rules = [a_rule() for _ in range(limit)]
    for rule in rules:
        make(conn, no, created(rule, limit=limit))

    with pytest.raises(AlertRuleLimitReached):
        change(no, created(a_rule(), limit=limit)).run(conn)
    conn.rollback()

    assert len(read_rules(conn, no).custom) == limit
    if rules:
        make(conn, no, deletion(rules[0].id))
        make(conn, no, created(a_rule(), limit=limit))


def test_rules_beyond_a_smaller_plan_go_on_counting_until_they_are_switched_off(conn: Connection, no: int) -> None:
    rules = [a_rule() for _ in range(3)]
    for rule in rules:
        make(conn, no, created(rule))

    for fields in ({"threshold": 7}, {"enabled": True, "name": "renamed"}, {"enabled": False}, {"cooldown_seconds": 1}):
        make(conn, no, updated(rules[0].id, fields, limit=2))
    with pytest.raises(AlertRuleLimitReached):
        change(no, updated(rules[0].id, {"enabled": True}, limit=2)).run(conn)
    conn.rollback()

    now = by_id(rules_at(conn, no, 1000))
    assert [now[rule.id].rule.enabled for rule in rules] == [False, True, True]
    make(conn, no, deletion(rules[2].id))
    make(conn, no, updated(rules[0].id, {"enabled": True}, limit=2))
    assert by_id(rules_at(conn, no, 1000))[rules[0].id].rule.enabled


def test_of_two_that_are_made_at_the_same_time_the_last_one_allowed_is_one(
    database_url: str, conn: Connection, other: Connection, no: int
) -> None:
    change(no, created(a_rule(), limit=1)).run(conn)

    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(change(no, created(a_rule(), limit=1)).run, other)
        block_for_a_lock(database_url)
        conn.commit()
        with pytest.raises(AlertRuleLimitReached):
            second.result(10)
    other.rollback()

    assert len(read_rules(conn, no).custom) == 1


@pytest.mark.parametrize("field", ["name", "action_pattern", "threshold", "window_seconds", "group_by", "distinct"])
def test_a_built_in_lets_two_fields_change(conn: Connection, no: int, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        change(no, updated("auth_brute_force", {"enabled": False, field: None})).run(conn)

    assert [detail.field for detail in refused.value.details] == [field]


@pytest.mark.parametrize(
    "decide", [updated("auth_brute_force", {"cooldown_seconds": 604_801}), created(a_rule(name=""))]
)
def test_what_no_rule_may_be_is_refused(conn: Connection, no: int, decide: Decision) -> None:
    with pytest.raises(InvalidRequest):
        change(no, decide).run(conn)
    conn.commit()
    assert audit(conn, no) == []


def test_a_built_in_is_not_deleted(conn: Connection, no: int) -> None:
    with pytest.raises(Conflict):
        change(no, deletion("auth_brute_force")).run(conn)


# -- a change is one transaction ------------------------------------------------------------------------------------


def test_the_record_of_a_change_says_who_changed_what(conn: Connection, no: int) -> None:
    rule = a_rule(distinct=Distinct.IP_ADDRESS)
    make(conn, no, created(rule))
    make(conn, no, updated(rule.id, {"distinct": None, "threshold": 21}))
    make(conn, no, deletion(rule.id))

    first, second, third = audit(conn, no)

    assert first["tenant_id"] == RESERVED_TENANT
    assert first["actor"] == {"id": str(ADA), "type": "api_key"}
    assert first["target"] == {"id": rule.id, "type": "alert_rule", "name": rule.name}
    assert {one["field"]: one["after"] for one in first["changes"]} == {
        "name": "guessing",
        "action_pattern": "auth.failed*",
        "threshold": 20,
        "window_seconds": 120,
        "group_by": "tenant_id",
        "severity": "critical",
        "enabled": True,
        "cooldown_seconds": 600,
        "distinct": "ip_address",
    }
    assert second["action"] == "logstitch.alert_rule.updated"
    assert second["changes"] == [
        {"field": "threshold", "before": 20, "after": 21},
        {"field": "distinct", "before": "ip_address"},
    ]
    assert third["action"] == "logstitch.alert_rule.deleted"
    assert {"field": "threshold", "before": 21} in third["changes"]


def test_changing_nothing_writes_nothing(conn: Connection, no: int) -> None:
    rule = a_rule()
    made = make(conn, no, created(rule))

    assert make(conn, no, updated(rule.id, {"threshold": 20, "name": "guessing"})) == made
    make(conn, no, updated("auth_brute_force", {"enabled": True, "cooldown_seconds": 3600}))

    assert len(audit(conn, no)) == 1
    assert conn.execute("SELECT count(*) FROM alert_rules").fetchone() == (1,)


def test_a_change_that_is_run_again_after_its_commit_was_lost_is_made_once(conn: Connection, no: int) -> None:
    rule = a_rule()
    for decide in (created(rule, limit=1), updated(rule.id, {"threshold": 5}), deletion(rule.id)):
        again = change(no, decide)
        first = again.run(conn)
        conn.commit()  # … of which the service did not hear
        assert again.run(conn) == first
        conn.commit()
    assert len(audit(conn, no)) == 3


def test_two_changes_of_one_rule_at_the_same_time_are_both_made(
    database_url: str, conn: Connection, other: Connection, no: int
) -> None:
    rule = a_rule()
    make(conn, no, created(rule))
    change(no, updated(rule.id, {"name": "renamed"})).run(conn)

    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(change(no, updated(rule.id, {"threshold": 5})).run, other)
        block_for_a_lock(database_url)
        conn.commit()
        second.result(10)
        other.commit()

    assert by_id(rules_at(conn, no, 3))[rule.id].rule == replace(rule, name="renamed", threshold=5)
    assert by_id(rules_at(conn, no, 2))[rule.id].rule == replace(rule, name="renamed")


# -- the states of alerts ------------------------------------------------------------------------------------------


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the outbox is told: project, kind and alerts."""
    heard: list[tuple[Any, ...]] = []

    def announce(
        conn: Connection, project: tuple[int, UUID], kind: WebhookEvent, alerts: list[Alert], **rest: Any
    ) -> int:
        heard.append((project, kind, alerts))
        return 0

    monkeypatch.setattr(alerts, "announce", announce)
    return heard


def moved(project: ProjectRow, alert: Alert, status: AlertStatus, now: datetime = NOW) -> Callable[[Connection], Alert]:
    event_id = MINT.one(1_700_000_000_000)
    return status_change((project.no, project.id), alert.id, status, by=ADA, event_id=event_id, now=lambda: now).run


@pytest.mark.parametrize("after", list(AlertStatus))
@pytest.mark.parametrize("before", list(AlertStatus))
def test_an_alert_goes_from_state_to_state_as_it_may(
    conn: Connection, project: ProjectRow, told: list[Any], before: AlertStatus, after: AlertStatus
) -> None:
    alert = an_alert(NOW - LATER * 5000, status=before)
    insert_alert(conn, project.no, alert)
    conn.commit()

    if (before, after) not in TRANSITIONS:
        with pytest.raises(Conflict):
            moved(project, alert, after)(conn)
        conn.rollback()
        assert (find_alert(conn, project.no, alert.id), told, audit(conn, project.no)) == (alert, [], [])
        return
    found = moved(project, alert, after)(conn)
    conn.commit()

    at = NOW.replace(microsecond=123000)
    since = {"acknowledged_at": at} if after is AlertStatus.ACKNOWLEDGED else {"resolved_at": at}
    assert found == replace(alert, status=after, **since)  # type: ignore[arg-type]
    assert find_alert(conn, project.no, alert.id) == found
    assert told == [((project.no, project.id), WebhookEvent(f"alert.{after.value}"), [found])]
    assert isinstance(told[0][1], WebhookEvent)
    (event,) = audit(conn, project.no)
    assert (event["action"], event["tenant_id"]) == ("logstitch.alert.updated", RESERVED_TENANT)
    assert event["target"] == {"id": id_text(IdKind.ALERT, alert.id.bytes), "type": "alert", "name": alert.rule_name}
    assert event["changes"] == [{"field": "status", "before": before.value, "after": after.value}]


def test_a_clock_that_is_late_makes_no_alert_end_before_it_began(
    conn: Connection, project: ProjectRow, told: list[Any]
) -> None:
    early, late = an_alert(NOW - timedelta(minutes=1)), an_alert(NOW + timedelta(minutes=1))
    insert_alert(conn, project.no, early, late)

    acknowledged = moved(project, early, AlertStatus.ACKNOWLEDGED)(conn)
    resolved = moved(project, early, AlertStatus.RESOLVED, NOW - timedelta(seconds=30))(conn)
    before_it_fired = moved(project, late, AlertStatus.ACKNOWLEDGED)(conn)

    assert resolved.resolved_at == acknowledged.acknowledged_at == NOW.replace(microsecond=123000)
    assert before_it_fired.acknowledged_at == late.triggered_at


def test_an_alert_of_another_project_is_none(conn: Connection, project: ProjectRow, told: list[Any]) -> None:
    alert = an_alert(NOW)
    insert_alert(conn, project.no, alert)
    stranger = make_project(conn)

    with pytest.raises(NotFound):
        find_alert(conn, stranger.no, alert.id)
    with pytest.raises(NotFound):
        moved(stranger, alert, AlertStatus.RESOLVED)(conn)
    assert told == []


def test_of_two_who_acknowledge_it_at_the_same_time_one_has_done_it(
    database_url: str, conn: Connection, other: Connection, project: ProjectRow, told: list[Any]
) -> None:
    alert = an_alert(NOW)
    insert_alert(conn, project.no, alert)
    conn.commit()
    moved(project, alert, AlertStatus.ACKNOWLEDGED)(conn)

    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(moved(project, alert, AlertStatus.ACKNOWLEDGED), other)
        block_for_a_lock(database_url)
        conn.commit()
        with pytest.raises(Conflict):
            second.result(10)
    other.rollback()

    assert len(told) == len(audit(conn, project.no)) == 1


def test_a_state_that_is_set_again_after_its_commit_was_lost_is_set_once(
    conn: Connection, project: ProjectRow, told: list[Any]
) -> None:
    alert = an_alert(NOW)
    insert_alert(conn, project.no, alert)
    conn.commit()
    acknowledge = moved(project, alert, AlertStatus.ACKNOWLEDGED)
    first = acknowledge(conn)
    conn.commit()  # … of which the service did not hear

    assert acknowledge(conn) == first
    assert len(told) == 1
