"""What may be changed of a project's tiers, and the transaction that does it: the change, and the event that tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from logstitch.errors import Conflict, NotFound
from logstitch.recording.audit import Amendment, AuditedChange, DecisionOver, Moment, audit_event
from logstitch.store import tiers as store
from logstitch.store.database import Connection
from logstitch.store.events import Head
from logstitch.store.tiers import TierRow
from logstitch.viewing.tiers import MAX_TIERS, Tier, check_tier

RESOURCE = "tier"

Decision = DecisionOver[list[Tier], Tier]


def creation(tier: Tier) -> Decision:
    """Add a tier. Raises ``InvalidRequest``, and ``Conflict`` where its name is taken or there are too many."""
    return partial(_create, tier)


def update(tier_id: UUID, fields: Mapping[str, Any]) -> Decision:
    """Set these fields of a tier, by their names in ``Tier``. Raises ``NotFound`` and what ``creation`` does."""
    return partial(_update, tier_id, fields)


def deletion(tier_id: UUID) -> Decision:
    """Remove a tier. Raises ``NotFound``."""
    return partial(_delete, tier_id)


def _create(tier: Tier, tiers: list[Tier]) -> Amendment[Tier]:
    check_tier(tier)
    if len(tiers) >= MAX_TIERS:
        raise Conflict(f"The project has {MAX_TIERS} tiers, as many as it may have.")
    _check_name(tier, tiers)
    return Amendment(None, tier)


def _update(tier_id: UUID, fields: Mapping[str, Any], tiers: list[Tier]) -> Amendment[Tier]:
    before = _find(tier_id, tiers)
    after = replace(before, **fields)
    check_tier(after)
    _check_name(after, tiers)
    return Amendment(before, after)


def _delete(tier_id: UUID, tiers: list[Tier]) -> Amendment[Tier]:
    return Amendment(_find(tier_id, tiers), None)


def _find(tier_id: UUID, tiers: list[Tier]) -> Tier:
    for tier in tiers:
        if tier.id == tier_id:
            return tier
    raise NotFound("There is no such tier.")


def _check_name(tier: Tier, tiers: list[Tier]) -> None:
    if any(other.name == tier.name and other.id != tier.id for other in tiers):
        raise Conflict("The project has a tier of this name.")


def tier_change(
    project_no: int, decide: Decision, *, by: UUID, event_id: bytes, now: Moment
) -> AuditedChange[Tier | None]:
    """One change of one project's tiers, as the work of a transaction: the tier as it is then, ``None`` once it is
    removed. ``by`` is the id of the key that asks for it."""

    def change(conn: Connection, head: Head, at: datetime) -> tuple[Tier | None, Mapping[str, Any] | None]:
        amendment = decide(list_tiers(conn, project_no))
        before, after = amendment.before, amendment.after
        if before == after:
            return after, None
        if after is None:
            if before is not None:
                store.delete_tier(conn, project_no, before.id)
        elif before is None:
            store.insert_tier(conn, project_no, _row(after))
        else:
            store.update_tier(conn, project_no, _row(after))
        return after, _audit_event(amendment, by)

    return AuditedChange(project_no, change, event_id=event_id, now=now)


def list_tiers(conn: Connection, project_no: int) -> list[Tier]:
    """A project's tiers, newest first; there are ``MAX_TIERS`` at most."""
    return [tier_of(row) for row in store.list_tiers(conn, project_no)]


def tier_of(row: TierRow) -> Tier:
    """A tier as the engine takes it."""
    return Tier(row.id, row.name, row.categories, row.actions, row.hidden_fields, row.created_at)


def _row(tier: Tier) -> TierRow:
    return TierRow(tier.id, tier.name, tier.categories, tier.actions, tier.hidden_fields, tier.created_at)


def _audit_event(amendment: Amendment[Tier], by: UUID) -> dict[str, Any]:
    tier = amendment.subject
    before, after = _settings(amendment.before), _settings(amendment.after)
    return audit_event(RESOURCE, str(tier.id), tier.name, before, after, by)


def _settings(tier: Tier | None) -> dict[str, Any] | None:
    """What is told of a tier, as JSON has it."""
    if tier is None:
        return None
    return {
        "name": tier.name,
        "categories": None if tier.categories is None else list(tier.categories),
        "actions": None if tier.actions is None else list(tier.actions),
        "hidden_fields": list(tier.hidden_fields),
    }
