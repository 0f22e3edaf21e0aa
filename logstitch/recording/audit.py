"""A change of settings is one transaction: the change itself, and the event that tells of it.

The event belongs to the reserved tenant of the project and says who changed what, before and after. It is written as
any other, under the same head row, so a change that happened is on record and one that is on record has happened. It
does not go through redaction: what it holds are settings, which a rule must not hide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from logstitch.ids import as_uuid
from logstitch.model import RESERVED_TENANT, IncomingEvent
from logstitch.recording.commit import GroupCommit, PreparedBatch, Recorded
from logstitch.recording.preparation import Preparation
from logstitch.store import events, projects
from logstitch.store.database import Connection
from logstitch.times import to_ms

R = TypeVar("R")
S = TypeVar("S")

Moment = Callable[[], datetime]
"""What tells the time when it is asked."""

Change = Callable[[Connection, events.Head, datetime], tuple[R, Mapping[str, Any] | None]]
"""Reads, decides and writes under the project's head row, at the time that it is given. Returns its result and the
event that tells of it, or ``None`` where nothing had to be changed. The event's ``seq`` will be ``head.seq + 1``."""


@dataclass(frozen=True, slots=True)
class Amendment(Generic[R]):
    """One rule, tier or the like before and after: ``None`` before it is made, and after it is removed."""

    before: R | None
    after: R | None

    @property
    def subject(self) -> R:
        """What is changed: as it is then, or as it was until it was removed."""
        if self.after is not None:
            return self.after
        if self.before is not None:
            return self.before
        raise ValueError("a change of nothing is none")


DecisionOver = Callable[[S], Amendment[R]]
"""What is to change of what is there (``S``), or the error that says why it may not."""


class AuditedChange(Generic[R]):
    """One change of one project. ``run`` is the work of a transaction, and may be run again after one of which nobody
    knows whether it was committed.

    ``now`` is asked under the head row, and ``event_id``, a fresh id of 16 bytes, then made to begin with that time: so
    events are in the order of the changes, however long these had to wait.
    """

    def __init__(self, project_no: int, change: Change[R], *, event_id: bytes, now: Moment) -> None:
        self._project_no = project_no
        self._change = change
        self._event_id = event_id
        self._now = now
        self._attempt: tuple[R] | None = None

    def run(self, conn: Connection) -> R:
        """Change, and record it. Nothing is written, and nothing recorded, where all is so already."""
        no = self._project_no
        head, _ = events.lock_head(conn, no)
        if self._attempt is not None and events.has_event(conn, no, as_uuid(self._event_id)):
            return self._attempt[0]
        self._attempt = None
        now = self._now()
        received_at_ms = to_ms(now)
        self._event_id = received_at_ms.to_bytes(6, "big") + self._event_id[6:]
        result, event = self._change(conn, head, now)
        if event is not None:
            self._record(conn, event, received_at_ms)
            self._attempt = (result,)
        return result

    def _record(self, conn: Connection, event: Mapping[str, Any], received_at_ms: int) -> None:
        no = self._project_no
        raw = dict(event)
        prepared = Preparation(projects.idempotency_secret(conn, no)).prepare(
            [IncomingEvent(raw, None)], [raw], [()], received_at_ms=received_at_ms, ids=[self._event_id]
        )
        # Read again, since the change may be one of the redaction rules' version.
        head, _ = events.lock_head(conn, no)
        # What the service records itself is none of the events that a plan counts.
        batch = PreparedBatch(prepared, False, received_at_ms, None, head.rules_version, of_today=False)
        (outcome,) = GroupCommit(no).run(conn, [batch])
        if not isinstance(outcome, Recorded):
            raise TypeError(f"a change was not recorded: {type(outcome).__name__}")


def audit_event(
    resource: str,
    target_id: str,
    name: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    by: UUID,
    *,
    verb: str | None = None,
) -> dict[str, Any]:
    """The event that tells of a change of a resource such as ``redaction_rule``: its fields before and after, ``None``
    before it is made and after it is removed. ``by`` is the key that asked for it. ``verb`` says what was done, where
    that has a better name than created, updated or deleted."""
    if verb is None:
        verb = "created" if before is None else "deleted" if after is None else "updated"
    old, new = before or {}, after or {}
    return {
        "action": f"logstitch.{resource}.{verb}",
        "category": "admin",
        "actor": {"id": str(by), "type": "api_key"},
        "tenant_id": RESERVED_TENANT,
        "target": {"id": target_id, "type": resource, "name": name},
        "changes": [
            {
                "field": field,
                **({"before": old[field]} if field in old else {}),
                **({"after": new[field]} if field in new else {}),
            }
            for field in {**old, **new}
            if field not in old or field not in new or old[field] != new[field]
        ],
    }
