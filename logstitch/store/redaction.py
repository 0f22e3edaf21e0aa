"""Redaction rules of a project: read as one snapshot with their version, and changed under the project's head row.

``rules_version`` is raised in the transaction of every change. Events are stored under the same row, by whoever knows
by which version they were redacted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from logstitch.store.database import Connection
from logstitch.store.queries import load

_sql = load("redaction")


@dataclass(frozen=True, slots=True)
class BuiltinRow:
    """A built-in rule that a project has set otherwise than it is by default."""

    slug: str
    enabled: bool
    behavior: str


@dataclass(frozen=True, slots=True)
class RuleRow:
    """A project's own rule: ``type`` is ``pattern`` (then ``fields`` is empty) or ``field_redact`` (``pattern`` is
    None)."""

    id: UUID
    name: str
    type: str
    pattern: str | None
    fields: tuple[str, ...]
    behavior: str
    enabled: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Rules:
    """Everything that decides how a project's events are redacted. ``custom`` in order of creation; ``secret`` is the
    project's own, 32 bytes, which also keys its idempotency digests."""

    version: int
    secret: bytes
    builtins: Sequence[BuiltinRow]
    custom: Sequence[RuleRow]


def load_rules(conn: Connection, project_no: int) -> Rules:
    """The project's rules. In a snapshot, or under the head row, they are those of the version; else they may be newer.

    Raises ``LookupError`` when there is no such project.
    """
    values = {"project_no": project_no}
    with conn.pipeline():
        version = conn.execute(_sql.rules_version, values)
        builtins = conn.execute(_sql.list_builtins, values)
        custom = conn.execute(_sql.list_rules, values)
    row = version.fetchone()
    if row is None:
        raise LookupError(f"there is no project {project_no}")
    return Rules(
        row[0],
        bytes(row[1]),
        [BuiltinRow(*builtin) for builtin in builtins],
        [
            RuleRow(id_, name, type_, pattern, tuple(fields), *rest)
            for id_, name, type_, pattern, fields, *rest in custom
        ],
    )


def raise_version(conn: Connection, project_no: int) -> int:
    """Say that the rules changed; what events must be redacted by from the commit on. Takes the head row."""
    row = conn.execute(_sql.raise_version, {"project_no": project_no}).fetchone()
    if row is None:
        raise LookupError(f"project {project_no} has no head row")
    return int(row[0])


def save_builtin(conn: Connection, project_no: int, row: BuiltinRow) -> None:
    """Set a built-in otherwise than it is by default."""
    values = {"project_no": project_no, "slug": row.slug, "enabled": row.enabled, "behavior": row.behavior}
    conn.execute(_sql.save_builtin, values)


def forget_builtin(conn: Connection, project_no: int, slug: str) -> None:
    """Leave a built-in as it is by default."""
    conn.execute(_sql.forget_builtin, {"project_no": project_no, "slug": slug})


def insert_rule(conn: Connection, project_no: int, row: RuleRow) -> datetime:
    """Store a new rule behind all others; returns when it was created: ``row.created_at`` to the millisecond, or a
    millisecond after the newest rule's where a clock went back."""
    values = {**_values(project_no, row), "type": row.type, "now": row.created_at}
    found = conn.execute(_sql.insert_rule, values).fetchone()
    assert found is not None  # noqa: S101  (an INSERT … RETURNING of one row returns one row)
    created_at: datetime = found[0]
    return created_at


def update_rule(conn: Connection, project_no: int, row: RuleRow) -> None:
    """Store a rule that is there anew; its type and its time of creation stay."""
    conn.execute(_sql.update_rule, _values(project_no, row))


def delete_rule(conn: Connection, project_no: int, rule_id: UUID) -> None:
    """Remove a rule for good."""
    conn.execute(_sql.delete_rule, {"project_no": project_no, "rule_id": rule_id})


def _values(project_no: int, row: RuleRow) -> dict[str, object]:
    return {
        "project_no": project_no,
        "rule_id": row.id,
        "name": row.name,
        "pattern": row.pattern,
        "fields": list(row.fields),
        "behavior": str(row.behavior),
        "enabled": row.enabled,
    }
