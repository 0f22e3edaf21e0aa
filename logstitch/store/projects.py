"""Organizations, their projects, and the secrets that every process of a deployment shares."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from logstitch.model import Plan
from logstitch.store.database import Connection
from logstitch.store.queries import load

_sql = load("projects")


@dataclass(frozen=True, slots=True)
class OrganizationRow:
    """A company."""

    id: UUID
    name: str
    plan: Plan
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ProjectRow:
    """A project; ``no`` is the short number that stands for it in every other table."""

    no: int
    id: UUID
    organization_id: UUID
    name: str
    created_at: datetime


def create_organization(conn: Connection, *, name: str, plan: Plan, now: datetime) -> OrganizationRow:
    """Make an organization."""
    row = OrganizationRow(uuid.uuid4(), name, plan, now)
    conn.execute(
        _sql.insert_organization, {"organization_id": row.id, "name": name, "plan": plan.value, "created_at": now}
    )
    return row


def list_organizations(conn: Connection) -> list[OrganizationRow]:
    """Every organization, oldest first."""
    rows = conn.execute(_sql.list_organizations)
    return [OrganizationRow(id_, name, Plan(plan), created_at) for id_, name, plan, created_at in rows]


def set_plan(conn: Connection, organization_id: UUID, plan: Plan) -> bool:
    """Put the organization on another plan; false when there is no such organization."""
    row = conn.execute(_sql.set_plan, {"organization_id": organization_id, "plan": plan.value}).fetchone()
    return row is not None


def create_project(conn: Connection, *, organization_id: UUID, name: str, now: datetime) -> ProjectRow:
    """Make a project with a fresh idempotency secret and an empty head."""
    project_id = uuid.uuid4()
    values = {
        "project_id": project_id,
        "organization_id": organization_id,
        "name": name,
        "created_at": now,
        "secret": os.urandom(32),
    }
    row = conn.execute(_sql.insert_project, values).fetchone()
    assert row is not None  # noqa: S101  (an INSERT … RETURNING of one row returns one row)
    return ProjectRow(row[0], project_id, organization_id, name, now)


def find_project(conn: Connection, organization_id: UUID, project_id: UUID) -> ProjectRow | None:
    """The organization's project with this id."""
    values = {"organization_id": organization_id, "project_id": project_id}
    row = conn.execute(_sql.find_project, values).fetchone()
    return ProjectRow(*row) if row else None


def find_any_two_projects(conn: Connection, organization_id: UUID) -> list[ProjectRow]:
    """Up to two of the organization's projects: enough to tell none, the only one, and several."""
    rows = conn.execute(_sql.find_any_two_projects, {"organization_id": organization_id})
    return [ProjectRow(*row) for row in rows]


def list_projects(
    conn: Connection, organization_id: UUID, *, limit: int, after: tuple[datetime, UUID] | None
) -> list[ProjectRow]:
    """The organization's projects, newest first, after a (created_at, id)."""
    values: dict[str, Any] = {"organization_id": organization_id, "limit": limit}
    if after is None:
        rows = conn.execute(_sql.list_projects, values)
    else:
        rows = conn.execute(_sql.list_projects_after, {**values, "created_at": after[0], "id": after[1]})
    return [ProjectRow(*row) for row in rows]


def idempotency_secret(conn: Connection, project_no: int) -> bytes:
    """The key of the project's idempotency digests."""
    row = conn.execute(_sql.idempotency_secret, {"project_no": project_no}).fetchone()
    if row is None:
        raise LookupError(f"there is no project {project_no}")
    return bytes(row[0])


def service_secret(conn: Connection, name: str) -> bytes:
    """The deployment's secret of this name, made on first use; the first process to ask decides."""
    conn.execute(_sql.insert_service_secret, {"name": name, "secret": os.urandom(32)})
    row = conn.execute(_sql.service_secret, {"name": name}).fetchone()
    assert row is not None  # noqa: S101  (the statement above made it if nobody had)
    return bytes(row[0])
