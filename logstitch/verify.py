"""``logstitch verify``: recompute everything that the stored events prove, and compare.

For each project: ``seq`` without a gap from 1 to the head's, and no event outside of that; every body canonical, its
content hash its own under its salts; the columns that events are filtered by as the bodies say; every tenant's log
without a gap, its head and its subtree hashes those of its events. So too for what is stored under the number of no
project, or of one whose head is gone. Events that arrive meanwhile are left out, by ``seq``; the logs are read in the
same snapshot as the project's head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import orjson

from logstitch.evidence.commitments import verify_event
from logstitch.evidence.merkle import BLOCK, TenantHead, append, leaf_hash
from logstitch.ids import event_id_text
from logstitch.store.database import Connection, Database
from logstitch.store.verification import (
    Logs,
    ProjectHead,
    StoredEvent,
    list_projects,
    read_events,
    read_head,
    read_logs,
    read_newest,
    read_strays,
)
from logstitch.times import parse_time

CHUNK = 1_000
"""Events read in one transaction."""
MAX_PROBLEMS = 100
"""Problems told of one project; the rest is only counted."""

Progress = Callable[[int], None]
"""Told how many more events were checked."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found in one project: how many events were checked, how many problems there are, and the first of them
    in sentences."""

    project: ProjectHead
    events: int
    tenants: int
    problems: tuple[str, ...]
    problem_count: int


async def verify(database: Database, progress: Progress) -> list[Finding]:
    """Check every project, and what is stored under the number of none."""
    numbers = await database.transact(list_projects, read_only=True, timeout=60)
    return [await _verify_project(database, number, progress) for number in numbers]


async def _verify_project(database: Database, project_no: int, progress: Progress) -> Finding:
    def snapshot(conn: Connection) -> _Snapshot:
        head = read_head(conn, project_no)
        through = read_newest(conn, project_no) if head.seq is None else head.seq
        strays, stray_count = read_strays(conn, project_no, through=through, limit=MAX_PROBLEMS)
        return _Snapshot(head, through, strays, stray_count, read_logs(conn, project_no))

    begun = await database.transact(snapshot, read_only=True, timeout=60)
    check = _Check(begun)
    while check.seq < begun.through:
        after = check.seq

        def chunk(conn: Connection, after: int = after) -> list[StoredEvent]:
            return read_events(conn, project_no, after=after, through=begun.through, limit=CHUNK)

        events = await database.transact(chunk, read_only=True, timeout=30)
        if not events:
            break
        check.events(events)
        progress(len(events))
    return check.finish()


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """A project at the moment of which it is verified; ``through`` is the ``seq`` of the last event that is."""

    head: ProjectHead
    through: int
    strays: Sequence[int]
    stray_count: int
    logs: Logs


class _Check:
    """The running state of one project's verification."""

    def __init__(self, begun: _Snapshot) -> None:
        self._begun = begun
        self._logs = begun.logs
        self._made: set[tuple[int, int]] = set()  # the subtrees that the events seen so far complete
        self._tenants: dict[int, TenantHead] = {}
        self._next: dict[int, int] = {}  # the leaf that each tenant's next event must be
        self._torn: set[int] = set()  # tenants with a gap: nothing can be said of their hashes any more
        self._problems: list[str] = []
        self._problem_count = 0
        self._count = 0
        self.seq = 0

    def events(self, events: Sequence[StoredEvent]) -> None:
        """The next events by ``seq``."""
        leaves: dict[int, list[bytes]] = {}
        for event in events:
            if event.seq != self.seq + 1:
                self._problem(f"events {self.seq + 1} to {event.seq - 1} are missing")
            self.seq = event.seq
            self._count += 1
            self._check_event(event)
            self._check_leaf(event)
            leaves.setdefault(event.tenant_no, []).append(leaf_hash(event.content_hash))
        for tenant_no, log in leaves.items():
            if tenant_no not in self._torn:
                self._extend(tenant_no, log)

    def finish(self) -> Finding:
        """What was found, now that every event was seen."""
        head, through = self._begun.head, self._begun.through
        if head.id is None:
            self._problem("no project has this number")
        if head.seq is None:
            self._problem("its head is missing, which numbers the events to come")
        if self.seq != through:
            self._problem(f"events {self.seq + 1} to {through} are missing")
        for seq in self._begun.strays:
            self._problem(f"event {seq}: is outside of the project's events, 1 to {through}")
        self._problem_count += self._begun.stray_count - len(self._begun.strays)
        for tenant_no, (tenant_id, stored) in self._logs.heads.items():
            made = self._tenants.get(tenant_no, TenantHead())
            if tenant_no not in self._torn and (made.size, made.edge) != (stored.size, stored.edge):
                self._problem(f"tenant {tenant_id!r}: the head of its log is not that of its events")
        for tenant_no in self._next.keys() - self._logs.heads.keys():
            self._problem(f"tenant number {tenant_no} has events and no log")
        for tenant_no, subtree in sorted(self._logs.subtrees.keys() - self._made):
            if tenant_no not in self._torn:
                self._problem(f"tenant number {tenant_no}: has a hash of {_leaves(subtree)}, which it does not have")
        return Finding(head, self._count, len(self._next), tuple(self._problems), self._problem_count)

    def _check_event(self, event: StoredEvent) -> None:
        verdict = verify_event(event.body.encode(), event.salts)
        if not verdict:
            self._problem(f"event {event.seq}: {verdict.value}")
            return
        body = orjson.loads(event.body)
        if body["content_hash"] != event.content_hash.hex():
            self._problem(f"event {event.seq}: the content hash beside the body is not the body's")
        tenant_id, _ = self._logs.heads.get(event.tenant_no, (None, None))
        self._compare(event.seq, "id", event_id_text(event.id.bytes), body["id"])
        self._compare(event.seq, "tenant_no", tenant_id, body["tenant_id"])
        for name, stored in (("occurred_at", event.occurred_at_ms), ("received_at", event.received_at_ms)):
            try:
                self._compare(event.seq, name, stored, parse_time(body[name]))
            except ValueError:
                self._problem(f"event {event.seq}: the body's {name} is not a time")
        self._compare(event.seq, "action", event.action, body["action"])
        self._compare(event.seq, "category", event.category, body["category"])
        # The hash says nothing of what is in a section: whoever forged it may have left anything out.
        self._compare(event.seq, "actor_id", event.actor_id, body["actor"].get("id"))
        self._compare(event.seq, "actor_type", event.actor_type, body["actor"].get("type"))
        self._compare(event.seq, "target_id", event.target_id, body.get("target", {}).get("id"))
        self._compare(event.seq, "target_type", event.target_type, body.get("target", {}).get("type"))

    def _compare(self, seq: int, column: str, stored: object, said: object) -> None:
        if stored != said:
            self._problem(f"event {seq}: the column {column} does not say what the body says")

    def _check_leaf(self, event: StoredEvent) -> None:
        tenant_no, leaf = event.tenant_no, event.tenant_seq
        expected = self._next.get(tenant_no, 0)
        if leaf != expected:
            self._torn.add(tenant_no)
            self._problem(
                f"tenant number {tenant_no}: leaves {expected} to {leaf - 1} are missing before event {event.seq}"
                if leaf > expected
                else f"event {event.seq}: is leaf {leaf} of its tenant, which another event is already"
            )
        self._next[tenant_no] = max(leaf + 1, expected)

    def _extend(self, tenant_no: int, log: Sequence[bytes]) -> None:
        self._tenants[tenant_no], completed = append(self._tenants.get(tenant_no, TenantHead()), log)
        for subtree, root in completed:
            self._made.add((tenant_no, subtree))
            if self._logs.subtrees.get((tenant_no, subtree)) != root:
                self._problem(f"tenant number {tenant_no}: the hash of {_leaves(subtree)} is not that of its events")

    def _problem(self, text: str) -> None:
        self._problem_count += 1
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(text)


def _leaves(subtree: int) -> str:
    return f"leaves {BLOCK * subtree} to {BLOCK * subtree + BLOCK - 1}"
