"""Webhooks without HTTP: projects and endpoints in a real database, alerts to tell of, and a stand-in for sending."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import trio

from logstitch.detection.alerts import Alert, AlertStatus
from logstitch.detection.rules import GroupBy, Severity
from logstitch.egress.addresses import Allow
from logstitch.egress.client import Category, Outcome
from logstitch.egress.targets import Target
from logstitch.ids import UlidMint, as_uuid
from logstitch.model import Plan
from logstitch.recording.outbox import announce
from logstitch.store import projects
from logstitch.store import webhooks as store
from logstitch.store.database import Connection
from logstitch.store.webhooks import WebhookRow
from logstitch.webhooks.payloads import WebhookEvent

NOW = datetime(2026, 11, 23, 8, 0, 0, 123000, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
SECRET = bytes(range(32))
MINT = UlidMint()
ALL_EVENTS = tuple(event.value for event in WebhookEvent)


def make_project(conn: Connection, plan: Plan = Plan.ENTERPRISE) -> tuple[int, UUID]:
    """A project of a new organization: its number and id."""
    organization = projects.create_organization(conn, name="o", plan=plan, now=NOW)
    project = projects.create_project(conn, organization_id=organization.id, name="p", now=NOW)
    return project.no, project.id


def webhook(**changes: Any) -> WebhookRow:
    """An endpoint as it is stored."""
    fields: dict[str, Any] = {
        "id": as_uuid(MINT.one(NOW_MS)),
        "url": "https://receiver.example/hook",
        "description": None,
        "min_severity": "low",
        "events": ALL_EVENTS,
        "enabled": True,
        "disabled_reason": None,
        "failing_since": None,
        "created_at": NOW,
    }
    return WebhookRow(**(fields | changes))


def make_webhook(conn: Connection, project_no: int, *, secret: bytes = SECRET, **changes: Any) -> WebhookRow:
    """An endpoint in the database."""
    row = webhook(**changes)
    store.insert_webhook(conn, project_no, row, secret)
    store.update_webhook(conn, project_no, row)
    return row


def alert(**changes: Any) -> Alert:
    """An alert of high severity."""
    fields: dict[str, Any] = {
        "id": as_uuid(MINT.one(NOW_MS)),
        "rule_id": "auth_brute_force",
        "rule_name": "Auth Brute Force",
        "severity": Severity.HIGH,
        "status": AlertStatus.OPEN,
        "group_by": GroupBy.ACTOR_ID,
        "group_key": "usr_42",
        "tenant_id": "acme",
        "event_count": 5,
        "event_ids": tuple(uuid4().bytes for _ in range(5)),
        "threshold": 5,
        "window_seconds": 300,
        "triggered_at": NOW,
        "acknowledged_at": None,
        "resolved_at": None,
    }
    return Alert(**(fields | changes))


def tell(
    conn: Connection, project: tuple[int, UUID], *alerts: Alert, kind: WebhookEvent = WebhookEvent.TRIGGERED
) -> int:
    """Put alerts (one, if none is given) into the outbox, as the evaluator does."""
    return announce(conn, project, kind, alerts or (alert(),), mint=MINT, now=NOW)


@dataclass(frozen=True, slots=True)
class Sent:
    """One attempt, as the receiver would see it."""

    url: str
    body: bytes
    headers: Mapping[str, str]

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


def answer(status: int) -> Outcome:
    """What ``Sender.post`` makes of a status."""
    if 200 <= status <= 299:
        return Outcome(status, Category.DELIVERED, 12)
    return Outcome(status, Category.REDIRECT if status < 400 else Category.HTTP_ERROR, 12)


@dataclass
class StubEgress:
    """In place of ``open_egress``: notes what is sent, and answers what ``receive`` says."""

    receive: Callable[[Sent], Awaitable[Outcome]] | None = None
    sent: list[Sent] = field(default_factory=list)
    most: int = 0
    """Attempts at the same time, at most."""
    _under_way: int = 0

    @asynccontextmanager
    async def open(self, allow: Allow) -> AsyncIterator[StubEgress]:
        yield self

    async def post(self, target: Target, body: bytes, headers: Mapping[str, str]) -> Outcome:
        sent = Sent(target.url, body, headers)
        self.sent.append(sent)
        self._under_way += 1
        self.most = max(self.most, self._under_way)
        try:
            await trio.lowlevel.checkpoint()
            return answer(200) if self.receive is None else await self.receive(sent)
        finally:
            self._under_way -= 1
