"""``logstitch verify``: recompute everything that the stored events prove, and compare.

For each project: ``seq`` without a gap; every body canonical, its content hash its own under its salts; every tenant's
log without a gap, its head and its subtree hashes those of its events. Events that arrive meanwhile are left out, by
``seq``; the logs are read in the same snapshot as the project's head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from logstitch.evidence.commitments import verify_event
from logstitch.evidence.merkle import TenantHead, append, leaf_hash
from logstitch.store.database import Connection, Database
from logstitch.store.verification import Logs, ProjectHead, StoredEvent, list_heads, read_events, read_logs

CHUNK = 1_000
"""Events read in one transaction."""
MAX_PROBLEMS = 100
"""Problems told of one project; the rest is only counted."""

Progress = Callable[[int], None]
"""Told how many more events were checked."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found in one project: how many events were checked, and what is wrong, in sentences."""

    project: ProjectHead
    events: int
    tenants: int
    problems: tuple[str, ...]


async def verify(database: Database, progress: Progress) -> list[Finding]:
    """Check every project."""
    heads = await database.transact(list_heads, read_only=True)
    return [await _verify_project(database, head.no, progress) for head in heads]


async def _verify_project(database: Database, project_no: int, progress: Progress) -> Finding:
    def snapshot(conn: Connection) -> tuple[ProjectHead, Logs]:
        return next(head for head in list_heads(conn) if head.no == project_no), read_logs(conn, project_no)

    head, logs = await database.transact(snapshot, read_only=True, timeout=60)
    check = _Check(head, logs)
    while check.seq < head.seq:
        after = check.seq

        def chunk(conn: Connection, after: int = after) -> list[StoredEvent]:
            return read_events(conn, project_no, after=after, through=head.seq, limit=CHUNK)

        events = await database.transact(chunk, read_only=True, timeout=30)
        if not events:
            break
        check.events(events)
        progress(len(events))
    return check.finish()


class _Check:
    """The running state of one project's verification."""

    def __init__(self, head: ProjectHead, logs: Logs) -> None:
        self._head = head
        self._logs = logs
        self._tenants: dict[int, TenantHead] = {}
        self._problems: list[str] = []
        self._count = 0
        self.seq = 0

    def events(self, events: list[StoredEvent]) -> None:
        leaves: dict[int, list[bytes]] = {}
        for event in events:
            if event.seq != self.seq + 1:
                self._problem(f"events {self.seq + 1} to {event.seq - 1} are missing")
            self.seq = event.seq
            self._count += 1
            verdict = verify_event(event.body.encode(), event.salts)
            if not verdict:
                self._problem(f"event {event.seq}: {verdict.value}")
            elif f'"content_hash":"{event.content_hash.hex()}"' not in event.body:
                self._problem(f"event {event.seq}: the content hash beside the body is not the body's")
            log = leaves.setdefault(event.tenant_no, [])
            expected = self._tenants.get(event.tenant_no, TenantHead()).size + len(log)
            if event.tenant_seq != expected:
                self._problem(f"event {event.seq}: is leaf {event.tenant_seq} of its tenant, expected {expected}")
            log.append(leaf_hash(event.content_hash))
        for tenant_no, log in leaves.items():
            self._extend(tenant_no, log)

    def _extend(self, tenant_no: int, log: list[bytes]) -> None:
        self._tenants[tenant_no], completed = append(self._tenants.get(tenant_no, TenantHead()), log)
        for subtree, root in completed:
            if self._logs.subtrees.get((tenant_no, subtree)) != root:
                self._problem(f"tenant {tenant_no}: the hash of leaves {256 * subtree}… is not that of its events")

    def finish(self) -> Finding:
        if self.seq != self._head.seq:
            self._problem(f"the newest event is {self.seq}, the head says {self._head.seq}")
        for tenant_no, (tenant_id, stored) in self._logs.heads.items():
            if self._tenants.get(tenant_no) != TenantHead(stored.size, stored.edge):
                self._problem(f"tenant {tenant_id!r}: the head of its log is not that of its events")
        for tenant_no in self._tenants.keys() - self._logs.heads.keys():
            self._problem(f"tenant {tenant_no} has events and no log")
        return Finding(self._head, self._count, len(self._tenants), tuple(self._problems))

    def _problem(self, text: str) -> None:
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(text)
