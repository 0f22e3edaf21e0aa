"""Reading everything back, in order and in bounded steps, to check it against itself."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from logstitch.store.database import Connection
from logstitch.store.events import Tenant
from logstitch.store.queries import load

_sql = load("verification")


@dataclass(frozen=True, slots=True)
class ProjectHead:
    """A project and the ``seq`` of its newest event; ``id`` or ``seq`` is None where the row that says so is gone."""

    no: int
    id: UUID | None
    seq: int | None


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A row as evidence: its place in the project, its place in the tenant's log, its hash, salts and body; and the
    columns that it is filtered by, which must say what the body says. Times are in milliseconds and exact, whatever
    PostgreSQL holds: also fractions, years that nothing else here has, and infinity."""

    seq: int
    id: UUID
    tenant_no: int
    tenant_seq: int
    content_hash: bytes
    salts: bytes
    body: str
    occurred_at_ms: Decimal
    received_at_ms: Decimal
    action: str
    category: str
    actor_id: str
    actor_type: str
    target_id: str | None
    target_type: str | None


@dataclass(frozen=True, slots=True)
class Logs:
    """What is kept of the tenants' logs: heads by tenant number, with the tenant's id, and subtree hashes by
    (tenant number, subtree)."""

    heads: dict[int, tuple[str, Tenant]]
    subtrees: dict[tuple[int, int], bytes]


def list_projects(conn: Connection) -> list[int]:
    """The number of every project, and those that events or logs name and no project has."""
    return [no for (no,) in conn.execute(_sql.list_projects)]


def read_head(conn: Connection, project_no: int) -> ProjectHead:
    """The head of a project, as far as it is there."""
    (row,) = conn.execute(_sql.read_head, {"project_no": project_no}).fetchall()
    return ProjectHead(*row)


def read_newest(conn: Connection, project_no: int) -> int:
    """The highest ``seq`` of a project's events, whatever its head says; 0 where there is none."""
    ((seq,),) = conn.execute(_sql.read_newest, {"project_no": project_no}).fetchall()
    return int(seq)


def read_strays(conn: Connection, project_no: int, *, through: int, limit: int) -> tuple[list[int], int]:
    """Events that nobody looks for, with a ``seq`` below 1 or above ``through``: the first ``limit``, and how many."""
    values = {"project_no": project_no, "through": through, "limit": limit}
    rows = conn.execute(_sql.read_strays, values).fetchall()
    return [seq for seq, _ in rows], rows[0][1] if rows else 0


def read_events(conn: Connection, project_no: int, *, after: int, through: int, limit: int) -> list[StoredEvent]:
    """The next ``limit`` events after ``seq`` ``after``, up to ``through``."""
    values = {"project_no": project_no, "after": after, "through": through, "limit": limit}
    return [StoredEvent(*row) for row in conn.execute(_sql.read_events, values)]


def read_logs(conn: Connection, project_no: int) -> Logs:
    """The heads and subtree hashes of a project's tenants."""
    values = {"project_no": project_no}
    heads = {
        no: (tenant_id, Tenant(no, size, edge)) for no, tenant_id, size, edge in conn.execute(_sql.read_tenants, values)
    }
    subtrees = {(no, subtree): hash_ for no, subtree, hash_ in conn.execute(_sql.read_subtrees, values)}
    return Logs(heads, subtrees)
