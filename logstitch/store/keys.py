"""API keys: created, looked up by digest, listed, revoked, and marked as used in bulk."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from logstitch.model import Plan
from logstitch.store.database import Connection
from logstitch.store.projects import ProjectRow
from logstitch.store.queries import load

_sql = load("keys")


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key without its digest. ``project_id`` is ``None`` for a master key."""

    id: UUID
    type: str
    name: str
    prefix: str
    project_id: UUID | None
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a key, as authentication needs it."""

    key_id: UUID
    type: str
    organization_id: UUID
    plan: Plan
    revoked_at: datetime | None
    project: ProjectRow | None


def create_key(
    conn: Connection,
    *,
    organization_id: UUID,
    project_id: UUID | None,
    name: str,
    prefix: str,
    digest: bytes,
    now: datetime,
) -> KeyRow:
    """Store a key by its digest: a project key, or with ``project_id=None`` a master key."""
    row = KeyRow(uuid.uuid4(), "project" if project_id else "master", name, prefix, project_id, now, None, None)
    values = {
        "key_id": row.id,
        "organization_id": organization_id,
        "project_id": project_id,
        "type": row.type,
        "name": name,
        "prefix": prefix,
        "digest": digest,
        "created_at": now,
    }
    conn.execute(_sql.insert_key, values)
    return row


def authenticate(conn: Connection, digest: bytes) -> Holder | None:
    """Who holds the key with this SHA-256, revoked ones included.

    The look-up compares digests of keys that hold 214 random bits: its timing tells nothing of any key.
    """
    row = conn.execute(_sql.authenticate, {"digest": digest}).fetchone()
    if row is None:
        return None
    key_id, type_, organization_id, plan, revoked_at, *project = row
    project_row = ProjectRow(*project) if project[0] is not None else None
    return Holder(key_id, type_, organization_id, Plan(plan), revoked_at, project_row)


def list_keys(
    conn: Connection,
    organization_id: UUID,
    *,
    project_id: UUID | None,
    limit: int,
    after: tuple[datetime, UUID] | None,
) -> list[KeyRow]:
    """Keys of the organization or of one of its projects, newest first, after a (created_at, id)."""
    values: dict[str, Any] = {"organization_id": organization_id, "project_id": project_id, "limit": limit}
    if after is None:
        rows = conn.execute(_sql.list_keys, values)
    else:
        rows = conn.execute(_sql.list_keys_after, {**values, "created_at": after[0], "id": after[1]})
    return [KeyRow(*row) for row in rows]


def revoke_key(
    conn: Connection,
    organization_id: UUID,
    key_id: UUID,
    *,
    project_id: UUID | None,
    types: Sequence[str],
    now: datetime,
) -> KeyRow | None:
    """Revoke a key of these types for ever; the first ``revoked_at`` stays. ``None`` when there is no such key."""
    values = {
        "organization_id": organization_id,
        "key_id": key_id,
        "project_id": project_id,
        "types": list(types),
        "now": now,
    }
    row = conn.execute(_sql.revoke_key, values).fetchone()
    return KeyRow(*row) if row else None


def mark_used(conn: Connection, used: Mapping[UUID, datetime]) -> None:
    """Move ``last_used_at`` forward; never back, whatever another process wrote."""
    conn.execute(_sql.mark_used, {"key_ids": list(used), "at": list(used.values())})
