"""What an empty database begins with: an organization, a project, a master key and a project key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from logstitch import credentials
from logstitch.model import Plan
from logstitch.store import keys, projects
from logstitch.store.database import Connection
from logstitch.store.queries import load

_sql = load("bootstrap")


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """The first organization and its keys; the two secrets are shown this once and stored nowhere."""

    organization_id: UUID
    project_id: UUID
    master_key: str
    project_key: str


def bootstrap(conn: Connection, *, now: datetime) -> Bootstrap | None:
    """Make the first organization; ``None``, and nothing is changed, when the database has one.

    Two processes that start on one empty database agree on who does it.
    """
    conn.execute(_sql.lock_organizations)
    if projects.list_organizations(conn):
        return None
    organization = projects.create_organization(conn, name="default", plan=Plan.ENTERPRISE, now=now)
    project = projects.create_project(conn, organization_id=organization.id, name="default", now=now)
    master = credentials.mint("master")
    keys.create_key(
        conn,
        organization_id=organization.id,
        project_id=None,
        name="first master key",
        prefix=master.prefix,
        digest=master.digest,
        now=now,
    )
    first = credentials.mint("project")
    keys.create_key(
        conn,
        organization_id=organization.id,
        project_id=project.id,
        name="first project key",
        prefix=first.prefix,
        digest=first.digest,
        now=now,
    )
    return Bootstrap(organization.id, project.id, master.secret, first.secret)
