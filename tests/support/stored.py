"""Events stored as the ingest actor's transaction stores them, without the actor: for tests of reading.

Segments may be made small here (``bits``), so that a few dozen events fill many.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from logstitch.actors.messages.events import EventFilter, ListEvents
from logstitch.actors.messages.pages import Order, Position
from logstitch.search import terms
from logstitch.search.segments import SEGMENT_BITS, lexeme_prefix, segment_of
from logstitch.store import events
from logstitch.store.database import Connection
from logstitch.times import format_time

AT = 1_760_000_000_000
"""A moment for events, in milliseconds."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An event as it is in the database."""

    seq: int
    id: UUID
    at: int
    event: dict[str, Any]
    body: str

    @property
    def place(self) -> tuple[int, UUID]:
        return self.at, self.id


def an_event(**changes: Any) -> dict[str, Any]:
    """A valid event; ``target=None`` leaves the target out."""
    event: dict[str, Any] = {
        "action": "document.viewed",
        "category": "access",
        "tenant_id": "acme",
        "actor": {"id": "ada", "type": "user"},
        "target": {"id": "doc_1", "type": "document"},
    } | changes
    return {name: value for name, value in event.items() if value is not None}


def store(
    conn: Connection,
    project_no: int,
    given: Iterable[tuple[int, dict[str, Any]]],
    *,
    bits: int = SEGMENT_BITS,
    chance: random.Random | None = None,
    spelled: Callable[[UUID], str] = str,
) -> list[Stored]:
    """Append events, each with its occurred_at in milliseconds, to the project; ids are random, and in the bodies
    ``spelled`` so."""
    conn.execute("INSERT INTO project_heads (project_no) VALUES (%s) ON CONFLICT DO NOTHING", (project_no,))
    head, _ = events.lock_head(conn, project_no)
    chance = chance or random.Random(head.seq)
    stored, rows = [], []
    spans: dict[int, tuple[int, int]] = {}
    known = conn.execute("SELECT tenant_id, tenant_no FROM tenants WHERE project_no = %s", (project_no,))
    tenants: dict[str, int] = {tenant_id: tenant_no for tenant_id, tenant_no in known}
    for seq, (at, event) in enumerate(given, head.seq + 1):
        event_id = UUID(int=chance.getrandbits(128))
        body = orjson.dumps(
            event | {"id": spelled(event_id), "occurred_at": format_time(at)}, option=orjson.OPT_SORT_KEYS
        )
        tenant_no = tenants.setdefault(event["tenant_id"], len(tenants) + 1)
        segment = segment_of(seq, bits)
        oldest, newest = spans.get(segment, (at, at))
        spans[segment] = (min(oldest, at), max(newest, at))
        target = event.get("target", {})
        tail = events.row_tail(
            event_id=event_id.bytes,
            occurred_at_ms=at,
            received_at_ms=at,
            action=event["action"],
            category=event["category"],
            actor_id=event["actor"]["id"],
            actor_type=event["actor"]["type"],
            target_id=target.get("id"),
            target_type=target.get("type"),
            key_hash=None,
            key_digest=None,
            content_hash=bytes(32),
            salts=bytes(16),
            body=body,
        )
        rows.append(
            events.row(project_no, seq, tenant_no, seq, lexeme_prefix(project_no, segment), terms.facets(event), tail)
        )
        stored.append(Stored(seq, event_id, at, event, body.decode()))
    events.copy_events(conn, rows)
    after = events.Head(head.seq + len(stored), head.day, head.day_events)
    logs = {tenant: events.Tenant(no, 0, b"") for tenant, no in tenants.items()}
    events.save_heads(conn, project_no, after, logs, spans, actions={one.event["action"] for one in stored})
    return stored


def matching(stored: Iterable[Stored], wanted: EventFilter, order: Order) -> list[Stored]:
    """What reading must find, told by looking at every event."""
    found = [one for one in stored if _passes(one, wanted)]
    return sorted(found, key=lambda one: one.place, reverse=order is Order.DESC)


def _passes(one: Stored, wanted: EventFilter) -> bool:
    event, target = one.event, one.event.get("target", {})
    exact = [
        (wanted.tenant_id, event["tenant_id"]),
        (wanted.actor_id, event["actor"]["id"]),
        (wanted.actor_type, event["actor"]["type"]),
        (wanted.category, event["category"]),
        (wanted.target_id, target.get("id")),
        (wanted.target_type, target.get("type")),
    ]
    return (
        all(value is None or value == has for value, has in exact)
        and (wanted.action is None or _glob(wanted.action, event["action"]))
        and (wanted.start_ms is None or one.at >= wanted.start_ms)
        and (wanted.end_ms is None or one.at <= wanted.end_ms)
        and (not wanted.words or terms.matches(one.body.encode(), wanted.words))
    )


def _glob(pattern: str, text: str) -> bool:
    """``*`` is any run of characters: told by trying every split, as plainly as can be."""
    head, star, rest = pattern.partition("*")
    if not star:
        return pattern == text
    return text.startswith(head) and any(_glob(rest, text[at:]) for at in range(len(head), len(text) + 1))


def request(
    wanted: EventFilter,
    *,
    project_no: int = 1,
    order: Order = Order.DESC,
    limit: int = 10,
    after: Position | None = None,
) -> ListEvents:
    """A question for the reader."""
    return ListEvents(project_no, wanted, order, limit, after)
