"""Changes of settings, whoever makes them: when each is said to have been made, and what it counts for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import orjson
import psycopg
import pytest
import trio

from logstitch.actors.alerts import Alerts
from logstitch.actors.mailbox import Ask
from logstitch.actors.messages.alerts import AlertRuleDraft, CreateAlertRule, SetAlertStatus
from logstitch.actors.messages.projects import Project
from logstitch.actors.messages.redaction import CreateRule, RuleDraft
from logstitch.actors.messages.viewers import CreateTier
from logstitch.actors.messages.webhooks import CreateWebhook, DeleteWebhook, RotateSecret, UpdateWebhook
from logstitch.actors.redaction import Redaction
from logstitch.actors.supervisor import Actor, open_supervisor
from logstitch.actors.viewers import Viewers
from logstitch.actors.webhooks import Webhooks
from logstitch.detection.alerts import AlertStatus
from logstitch.detection.rules import GroupBy, Severity
from logstitch.egress.addresses import Allow
from logstitch.ids import UlidMint
from logstitch.model import Plan
from logstitch.redaction.definitions import Behavior, RuleType
from logstitch.store.database import Connection, Database, open_database
from logstitch.times import format_moment, to_ms
from logstitch.webhooks.payloads import WebhookEvent
from tests.support.alerts_rows import insert_alert
from tests.support.alerts_world import an_alert
from tests.support.locks import wait_for_a_lock
from tests.support.ulids import ulid_ms
from tests.support.webhooks import make_project, make_webhook

NOW = datetime(2026, 11, 23, 8, 0, 0, 123000, tzinfo=UTC)
LATER = NOW + timedelta(seconds=3)
ADA = UUID(int=7)
ALERT_RULE = AlertRuleDraft("guessing", "auth.failed*", 20, 120, GroupBy.TENANT_ID, Severity.CRITICAL, 600, True, None)
REDACTION_RULE = RuleDraft("accounts", RuleType.PATTERN, "ACCT-[0-9]+", (), Behavior.REPLACE, True)
FREE_EVENTS = 1_000
"""Of a day, on the free plan."""


class Clock:
    """What time it is for the actors."""

    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> datetime:
        return self.time


@dataclass
class Scene:
    """A project on the free plan, with an alert and a webhook, and one actor, whose clock this is."""

    database: Database
    clock: Clock
    project: Project
    alert_id: UUID
    webhook_id: UUID
    start: Callable[[Callable[[], Actor]], Any]

    async def told(self) -> list[tuple[datetime, datetime, UUID, bytes]]:
        """When the events that tell of changes occurred and were received, their ids, and what they say."""
        return await self.database.transact(
            lambda conn: conn.execute("SELECT occurred_at, received_at, id, body FROM events").fetchall(),
            read_only=True,
        )

    async def events_of_the_day(self) -> int:
        (row,) = await self.database.transact(
            lambda conn: conn.execute("SELECT day_events FROM project_heads").fetchall(), read_only=True
        )
        return int(row[0])


@asynccontextmanager
async def open_scene(url: str) -> AsyncIterator[Scene]:
    def prepare(conn: Connection) -> tuple[Project, UUID, UUID]:
        no, id = make_project(conn, Plan.FREE)
        alert, webhook = an_alert(NOW - timedelta(hours=1)), make_webhook(conn, no)
        insert_alert(conn, no, alert)
        conn.execute("UPDATE project_heads SET day = %s, day_events = %s", (NOW.date(), FREE_EVENTS))
        return Project(no, id, uuid4(), "p", NOW), alert.id, webhook.id

    async with open_database(url) as database, open_supervisor() as supervisor:
        made = await database.transact(prepare)
        yield Scene(database, Clock(), *made, start=lambda factory: supervisor.start("actor", factory, capacity=4))


def redaction(scene: Scene) -> Actor:
    return Redaction(scene.database, scene.project.no, UlidMint(), now=scene.clock.now)


def alerts(scene: Scene) -> Actor:
    return Alerts(scene.database, UlidMint(), now=scene.clock.now)


def webhooks(scene: Scene) -> Actor:
    return Webhooks(scene.database, UlidMint(), Allow.parse(""), now=scene.clock.now)


def viewers(scene: Scene) -> Actor:
    return Viewers(scene.database, UlidMint(), now=scene.clock.now)


def a_webhook(scene: Scene) -> CreateWebhook:
    url, events = "https://hooks.acme.example/logstitch", tuple(WebhookEvent)
    return CreateWebhook(scene.project.no, ADA, url, None, Severity.LOW, events, True)


class Change(NamedTuple):
    """Who makes a change, and how it is asked for."""

    actor: Callable[[Scene], Actor]
    message: Callable[[Scene], Ask[Any]]


CHANGES = {
    "redaction rule": Change(redaction, lambda scene: CreateRule(ADA, REDACTION_RULE)),
    "alert rule": Change(alerts, lambda scene: CreateAlertRule(scene.project.no, ADA, 500, ALERT_RULE)),
    "alert": Change(alerts, lambda scene: SetAlertStatus(scene.project, ADA, scene.alert_id, AlertStatus.RESOLVED)),
    "tier": Change(viewers, lambda scene: CreateTier(scene.project.no, ADA, "support", None, None, ())),
    "new webhook": Change(webhooks, a_webhook),
    "webhook": Change(
        webhooks, lambda scene: UpdateWebhook(scene.project.no, ADA, scene.webhook_id, {"enabled": False})
    ),
    "secret": Change(webhooks, lambda scene: RotateSecret(scene.project.no, ADA, scene.webhook_id)),
    "removal": Change(webhooks, lambda scene: DeleteWebhook(scene.project.no, ADA, scene.webhook_id)),
}

every_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


async def made_late(scene: Scene, url: str, change: Change) -> Any:
    """The answer to a change that was asked for at ``NOW``, and had to wait for another one until ``LATER``."""
    address = scene.start(lambda: change.actor(scene))
    answers: list[Any] = []

    async def ask() -> None:
        answers.append(await address.ask(change.message(scene), timeout=10))

    async with trio.open_nursery() as nursery:
        with psycopg.connect(url) as another:
            another.execute("SELECT FROM project_heads FOR UPDATE")
            nursery.start_soon(ask)
            await wait_for_a_lock(url)
            scene.clock.time = LATER
    return answers[0]


@every_change
async def test_a_change_that_had_to_wait_is_of_the_time_at_which_it_was_made(database_url: str, change: Change) -> None:
    """So of two, the later one, which is what holds, is behind the other in every list."""
    async with open_scene(database_url) as scene:
        await made_late(scene, database_url, change)
        ((occurred_at, received_at, event_id, _),) = await scene.told()

    assert occurred_at == received_at == LATER
    assert ulid_ms(event_id.bytes) == to_ms(LATER)


async def test_an_alert_is_resolved_when_it_was_and_not_when_that_was_asked_for(database_url: str) -> None:
    async with open_scene(database_url) as scene:
        resolved = await made_late(scene, database_url, CHANGES["alert"])
    assert resolved.resolved_at == LATER


async def test_a_secret_is_rotated_when_it_was_and_not_when_that_was_asked_for(database_url: str) -> None:
    async with open_scene(database_url) as scene:
        await made_late(scene, database_url, CHANGES["secret"])
        ((_, _, _, body),) = await scene.told()
    assert orjson.loads(body)["changes"] == [{"field": "secret_rotated_at", "after": format_moment(LATER)}]


@every_change
async def test_what_the_service_records_itself_is_none_of_the_days_events(database_url: str, change: Change) -> None:
    async with open_scene(database_url) as scene:
        await scene.start(lambda: change.actor(scene)).ask(change.message(scene), timeout=10)

        assert len(await scene.told()) == 1
        assert await scene.events_of_the_day() == FREE_EVENTS
