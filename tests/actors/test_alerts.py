"""Alerts: rules and alerts of real tables, asked about and changed through the actor."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio

from logstitch.actors.alerts import Alerts
from logstitch.actors.mailbox import Address
from logstitch.actors.messages.alerts import (
    AlertFilter,
    AlertRule,
    AlertRuleDraft,
    AlertRuleType,
    CreateAlertRule,
    DeleteAlertRule,
    GetAlert,
    ListAlertRules,
    ListAlerts,
    SetAlertStatus,
    UpdateAlertRule,
)
from logstitch.actors.messages.pages import Page
from logstitch.actors.messages.projects import Project
from logstitch.actors.supervisor import open_supervisor
from logstitch.detection.alerts import AlertStatus
from logstitch.detection.rules import BUILTINS, Distinct, GroupBy, Severity
from logstitch.errors import AlertRuleLimitReached, Conflict, InvalidRequest, NotFound
from logstitch.ids import UlidMint
from logstitch.store.database import Database, open_database
from tests.actors.lifecycle import LIFECYCLE, Check, Subject
from tests.support.alerts_rows import insert_alert
from tests.support.alerts_world import an_alert
from tests.support.ingest import make_project

NOW = datetime(2026, 11, 23, 8, 0, 0, 123000, tzinfo=UTC)
ADA = UUID(int=7)
DRAFT = AlertRuleDraft("guessing", "auth.failed*", 20, 120, GroupBy.TENANT_ID, Severity.CRITICAL, 600, True, None)


@dataclass(frozen=True, slots=True)
class Desk:
    """The actor and a project."""

    database: Database
    address: Address
    project: Project

    async def rules(self, limit: int = 100, after: Page | None = None) -> list[AlertRule]:
        page = await self.address.ask(ListAlertRules(self.project.no, limit, after), timeout=5)
        return list(page.rules)

    async def create(self, draft: AlertRuleDraft = DRAFT, limit: int = 500) -> AlertRule:
        return await self.address.ask(CreateAlertRule(self.project.no, ADA, limit, draft), timeout=5)

    async def update(self, rule_id: str, limit: int = 500, **changed: Any) -> AlertRule:
        return await self.address.ask(UpdateAlertRule(self.project.no, ADA, limit, rule_id, changed), timeout=5)

    async def delete(self, rule_id: str) -> None:
        await self.address.ask(DeleteAlertRule(self.project.no, ADA, rule_id), timeout=5)

    async def set_status(self, alert_id: UUID, status: AlertStatus) -> Any:
        return await self.address.ask(SetAlertStatus(self.project, ADA, alert_id, status), timeout=5)


@asynccontextmanager
async def open_desk(url: str) -> AsyncIterator[Desk]:
    async with open_database(url) as database, open_supervisor() as supervisor:
        no = await make_project(database)
        address = supervisor.start("alerts", lambda: Alerts(database, UlidMint(), now=lambda: NOW), capacity=64)
        yield Desk(database, address, Project(no, uuid4(), uuid4(), "p", NOW))


@pytest.mark.parametrize("check", LIFECYCLE)
async def test_lifecycle(check: Check, database_url: str) -> None:
    async with open_database(database_url) as database:
        no = await make_project(database)
        await check(Subject(factory=lambda: Alerts(database, UlidMint()), question=lambda: ListAlertRules(no, 1, None)))


# -- rules ---------------------------------------------------------------------------------------------------------


async def test_rules_are_made_changed_listed_and_removed(database_url: str) -> None:
    async with open_desk(database_url) as desk:
        first = await desk.create()
        second = await desk.create(replace(DRAFT, name="second", distinct=Distinct.IP_ADDRESS))
        builtin = await desk.update("auth_brute_force", enabled=False)
        changed = await desk.update(first.rule.id, threshold=50, group_by=GroupBy.ACTOR_ID)
        rules = await desk.rules()
        await desk.delete(first.rule.id)
        left = await desk.rules()

    assert (first.type, builtin.type) == (AlertRuleType.CUSTOM, AlertRuleType.BUILTIN)
    assert UUID(first.rule.id).version == 4
    assert changed == replace(first, rule=replace(first.rule, threshold=50, group_by=GroupBy.ACTOR_ID))
    assert [one.rule for one in rules[1:6]] == list(BUILTINS[1:])
    assert rules[0] == builtin
    assert rules[6:] == [changed, second]
    assert left == [*rules[:6], second]


@pytest.mark.parametrize("limit", [1, 3, 8])
async def test_rules_are_paged_in_their_order(limit: int, database_url: str) -> None:
    async with open_desk(database_url) as desk:
        for n in range(4):
            await desk.create(replace(DRAFT, name=str(n)))
        seen: list[AlertRule] = []
        after: Page | None = None
        while True:
            page = await desk.address.ask(ListAlertRules(desk.project.no, limit, after), timeout=5)
            seen += page.rules
            if (after := page.next) is None:
                break
        assert seen == await desk.rules()
    assert [one.rule.name for one in seen[6:]] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("distinct", [None, Distinct.IP_ADDRESS])
def test_a_draft_is_a_rule_but_for_its_id(distinct: Distinct | None) -> None:
    draft = replace(DRAFT, distinct=distinct, enabled=distinct is None)

    assert asdict(draft.rule("its id")) == {"id": "its id", **asdict(draft)}


async def test_of_many_that_are_made_at_once_as_many_are_made_as_the_plan_has(database_url: str) -> None:
    async with open_desk(database_url) as desk:
        outcomes: list[str] = []

        async def create() -> None:
            try:
                await desk.create(limit=3)
                outcomes.append("made")
            except AlertRuleLimitReached:
                outcomes.append("refused")

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(create)
        assert sorted(outcomes) == ["made"] * 3 + ["refused"] * 7
        assert len(await desk.rules()) == 9


async def test_what_cannot_be_is_refused(database_url: str) -> None:
    async with open_desk(database_url) as desk:
        with pytest.raises(InvalidRequest) as refused:
            await desk.create(replace(DRAFT, threshold=0, window_seconds=59))
        with pytest.raises(Conflict):
            await desk.delete("auth_brute_force")
        for rule_id in (str(uuid4()), "no_such_rule"):
            with pytest.raises(NotFound):
                await desk.update(rule_id, enabled=False)
            with pytest.raises(NotFound):
                await desk.delete(rule_id)

    assert [detail.field for detail in refused.value.details] == ["threshold", "window_seconds"]


# -- alerts --------------------------------------------------------------------------------------------------------


async def test_alerts_are_listed_found_and_moved(database_url: str) -> None:
    async with open_desk(database_url) as desk:
        alerts = [an_alert(NOW - timedelta(minutes=n), group_key=f"u{n % 2}") for n in range(5)]
        no = desk.project.no
        await desk.database.transact(lambda conn: insert_alert(conn, no, *alerts))
        wanted = AlertFilter(status=AlertStatus.OPEN, severity=Severity.HIGH, group_key="u0")
        first = await desk.address.ask(ListAlerts(no, wanted, 2, None), timeout=5)
        second = await desk.address.ask(ListAlerts(no, wanted, 2, first.next), timeout=5)
        resolved = await desk.set_status(alerts[0].id, AlertStatus.RESOLVED)
        found = await desk.address.ask(GetAlert(no, alerts[0].id), timeout=5)
        after = await desk.address.ask(ListAlerts(no, wanted, 10, None), timeout=5)
        with pytest.raises(Conflict):
            await desk.set_status(alerts[0].id, AlertStatus.ACKNOWLEDGED)
        with pytest.raises(NotFound):
            await desk.address.ask(GetAlert(no + 1, alerts[0].id), timeout=5)

    assert first.alerts == (alerts[0], alerts[2])
    assert (second.alerts, second.next) == ((alerts[4],), None)
    assert found == resolved == replace(alerts[0], status=AlertStatus.RESOLVED, resolved_at=NOW)
    assert after.alerts == (alerts[2], alerts[4])


async def test_of_two_who_acknowledge_an_alert_one_has_done_it(database_url: str) -> None:
    async with open_desk(database_url) as desk:
        alert = an_alert(NOW)
        await desk.database.transact(lambda conn: insert_alert(conn, desk.project.no, alert))
        outcomes: list[str] = []

        async def acknowledge() -> None:
            try:
                await desk.set_status(alert.id, AlertStatus.ACKNOWLEDGED)
                outcomes.append("done")
            except Conflict:
                outcomes.append("conflict")

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(acknowledge)

    assert sorted(outcomes) == ["conflict"] * 7 + ["done"]


async def test_webhooks_are_told_in_the_same_transaction(database_url: str) -> None:
    async with open_desk(database_url) as desk:
        alert, no = an_alert(NOW), desk.project.no

        def listening(conn: Any) -> None:
            insert_alert(conn, no, alert)
            conn.execute(
                """INSERT INTO webhooks (project_no, webhook_id, url, min_severity, events, enabled, secret, created_at)
                   VALUES (%s, gen_random_uuid(), 'https://hooks.example', 'low',
                           '{alert.acknowledged}', true, '\\x00', %s)""",
                (no, NOW),
            )

        await desk.database.transact(listening)
        for status in (AlertStatus.ACKNOWLEDGED, AlertStatus.RESOLVED):
            await desk.set_status(alert.id, status)
        rows = await desk.database.transact(
            lambda conn: conn.execute("SELECT type, alert_id FROM deliveries").fetchall(), read_only=True
        )

    assert rows == [("alert.acknowledged", alert.id)]
