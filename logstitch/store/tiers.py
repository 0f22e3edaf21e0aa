"""Tiers of a project: what holders of viewer tokens are shown. They are changed under the project's head row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from logstitch.store.database import Connection
from logstitch.store.queries import load

_sql = load("tiers")


@dataclass(frozen=True, slots=True)
class TierRow:
    """A tier. None of ``categories`` or of ``actions`` shows all."""

    id: UUID
    name: str
    categories: tuple[str, ...] | None
    actions: tuple[str, ...] | None
    hidden_fields: tuple[str, ...]
    created_at: datetime


def list_tiers(conn: Connection, project_no: int) -> list[TierRow]:
    """All tiers of a project, newest first."""
    return [_row(row) for row in conn.execute(_sql.list_tiers, {"project_no": project_no})]


def find_tier(conn: Connection, project_no: int, tier_id: UUID) -> TierRow | None:
    """The tier with this id."""
    row = conn.execute(_sql.find_tier, {"project_no": project_no, "tier_id": tier_id}).fetchone()
    return None if row is None else _row(row)


def find_tier_by_name(conn: Connection, project_no: int, name: str) -> TierRow | None:
    """The tier with exactly this name."""
    row = conn.execute(_sql.find_tier_by_name, {"project_no": project_no, "name": name}).fetchone()
    return None if row is None else _row(row)


def insert_tier(conn: Connection, project_no: int, row: TierRow) -> None:
    """Store a new tier."""
    conn.execute(_sql.insert_tier, _values(project_no, row))


def update_tier(conn: Connection, project_no: int, row: TierRow) -> None:
    """Replace everything of a tier but its id and its age."""
    conn.execute(_sql.update_tier, _values(project_no, row))


def delete_tier(conn: Connection, project_no: int, tier_id: UUID) -> None:
    """Remove a tier for good."""
    conn.execute(_sql.delete_tier, {"project_no": project_no, "tier_id": tier_id})


def _row(row: Sequence[Any]) -> TierRow:
    id_, name, categories, actions, hidden_fields, created_at = row
    return TierRow(id_, name, _tuple(categories), _tuple(actions), tuple(hidden_fields), created_at)


def _tuple(values: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)


def _values(project_no: int, row: TierRow) -> dict[str, object]:
    return {
        "project_no": project_no,
        "tier_id": row.id,
        "name": row.name,
        "categories": None if row.categories is None else list(row.categories),
        "actions": None if row.actions is None else list(row.actions),
        "hidden_fields": list(row.hidden_fields),
        "created_at": row.created_at,
    }
