"""Ingest without HTTP: an organization in a real database, its ingest actor, and events to send."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from logstitch.actors.directory import Directory
from logstitch.actors.ingest import Ingest
from logstitch.actors.mailbox import KeyedTells
from logstitch.actors.messages.events import Accepted, SubmitEvents
from logstitch.actors.redaction import Redaction
from logstitch.actors.supervisor import Supervisor, open_supervisor
from logstitch.ids import UlidMint
from logstitch.model import Plan, validate_events
from logstitch.store import projects
from logstitch.store.database import Connection, Database, open_database


def event(**fields: Any) -> dict[str, Any]:
    """A valid event, with these fields on top."""
    return {
        "action": "user.login",
        "category": "auth",
        "actor": {"id": "u1", "type": "user"},
        "tenant_id": "acme",
        **fields,
    }


def submission(
    *events: dict[str, Any], daily_limit: int | None = None, received_at_ms: int | None = None
) -> SubmitEvents:
    """The message that a handler would send for an array of these events."""
    now_ms = received_at_ms or time.time_ns() // 1_000_000
    size = len(orjson.dumps(events))
    return SubmitEvents(validate_events(list(events), now_ms=now_ms), True, size, now_ms, daily_limit)


@dataclass
class Evaluators:
    """Takes down what is told to evaluators, or refuses it."""

    told: list[Any] = field(default_factory=list)
    refusal: Exception | None = None

    def tell(self, key: int, message: object) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.told.append((key, message))


@dataclass(frozen=True, slots=True)
class Bench:
    """One process's ingest, on a database that others may share."""

    database: Database
    supervisor: Supervisor
    redaction: Directory
    ingest: Directory
    project_no: int

    async def submit(self, *events: dict[str, Any], **options: Any) -> Accepted:
        """Send one batch."""
        return await self.ingest.ask(self.project_no, submission(*events, **options), timeout=15)

    async def rows(self, sql: str) -> list[Any]:
        """What a query on the project answers; ``%(no)s`` is its number."""
        return await self.database.transact(
            lambda conn: conn.execute(sql.encode(), {"no": self.project_no}).fetchall(), read_only=True
        )

    async def bodies(self) -> list[dict[str, Any]]:
        """Every stored event, in order of ``seq``."""
        rows = await self.rows("SELECT body FROM events WHERE project_no = %(no)s ORDER BY seq")
        return [orjson.loads(body) for (body,) in rows]


async def make_project(database: Database) -> int:
    """A project of a new organization; its number."""

    def make(conn: Connection) -> int:
        now = datetime.now(UTC)
        organization = projects.create_organization(conn, name="test", plan=Plan.ENTERPRISE, now=now)
        return projects.create_project(conn, organization_id=organization.id, name="test", now=now).no

    return await database.transact(make)


@asynccontextmanager
async def open_bench(
    url: str, *, project_no: int | None = None, evaluators: KeyedTells | None = None
) -> AsyncIterator[Bench]:
    """Ingest for a new project, or for one that another bench made. ``evaluators`` are told of what is committed."""
    async with open_database(url) as database, open_supervisor() as supervisor:
        mint = UlidMint()
        redaction = Directory(supervisor, "redaction", lambda no: Redaction(database, no, mint), capacity=64)
        told = evaluators or Evaluators()
        ingest = Directory(supervisor, "ingest", lambda no: Ingest(database, redaction, told, no, mint), capacity=256)
        no = project_no if project_no is not None else await make_project(database)
        yield Bench(database, supervisor, redaction, ingest, no)
