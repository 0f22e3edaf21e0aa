"""The transaction that stores a group of batches: one head lock, one COPY, one commit, an outcome for each batch.

Numbers are given out here, under the project's head row, so they are gap-free and in commit order whatever other
process ingests for the same project. What was read from the tables is kept for the next group and used only when the
head shows that nobody wrote in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from logstitch.actors.ingest.admission import Admission, Known, admit
from logstitch.actors.ingest.preparation import PreparedEvent
from logstitch.actors.messages import Accepted
from logstitch.errors import DailyEventLimitReached, LogStitchError
from logstitch.evidence.merkle import TenantHead, append, leaf_hash
from logstitch.ids import as_uuid, event_id_text
from logstitch.search.segments import lexeme_prefix, segment_of
from logstitch.store import events
from logstitch.store.database import Connection

MAX_KNOWN_TENANTS = 20_000
"""Log heads kept between groups: about 10 MB. Beyond it all are forgotten and read again."""
MAX_KNOWN_ACTIONS = 10_000
"""Actions known to be recorded. Beyond it they are offered to the table again, which ignores them."""


@dataclass(frozen=True, slots=True)
class PreparedBatch:
    """One request's events. ``batch``: an array was sent. ``daily_limit``: events a UTC day, ``None`` for no limit."""

    events: Sequence[PreparedEvent]
    batch: bool
    received_at_ms: int
    redacted_count: int
    daily_limit: int | None


Outcome = Accepted | LogStitchError
"""What one batch is answered with."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is true in the tables as of ``seq``."""

    seq: int
    tenants: dict[str, events.Tenant]
    actions: set[str]
    tenant_count: int


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A run whose commit may or may not have happened: its outcomes, and the event that tells."""

    witness: UUID
    outcomes: list[Outcome]
    seen: _Seen


class GroupCommit:
    """Stores one project's groups, one at a time.

    ``run`` is the work of a transaction; it may be run again for the same group when the connection was lost, and then
    finds out by itself whether the earlier run had committed. ``settle`` is called once the commit is certain, or
    certainly did not happen.
    """

    def __init__(self, project_no: int) -> None:
        self._project_no = project_no
        self._seen: _Seen | None = None
        self._attempt: _Attempt | None = None

    def settle(self, *, committed: bool) -> None:
        """End the group: what its transaction saw is what the next one may rely on, or nothing is."""
        self._seen = self._attempt.seen if committed and self._attempt else self._seen if committed else None
        self._attempt = None

    def run(self, conn: Connection, batches: Sequence[PreparedBatch]) -> list[Outcome]:
        """Store the group. One outcome for each batch, in order."""
        head = events.lock_head(conn, self._project_no)
        if self._attempt and events.has_event(conn, self._project_no, self._attempt.witness):
            return self._attempt.outcomes
        self._attempt = None
        outcomes, admitted, head_after = self._admit(conn, batches, head)
        if not admitted:
            return outcomes
        seen = self._write(conn, head, head_after, admitted)
        self._attempt = _Attempt(as_uuid(admitted[0][0].claim.id), outcomes, seen)
        return outcomes

    def _admit(
        self, conn: Connection, batches: Sequence[PreparedBatch], head: events.Head
    ) -> tuple[list[Outcome], list[tuple[PreparedEvent, int]], events.Head]:
        hashes = {event.claim.key_hash for batch in batches for event in batch.events if event.claim.key_hash}
        stored = events.find_keys(conn, self._project_no, map(as_uuid, hashes))
        known = {key_hash.bytes: Known(key.id.bytes, key.digest) for key_hash, key in stored.items()}
        outcomes: list[Outcome] = []
        admitted: list[tuple[PreparedEvent, int]] = []
        for batch in batches:
            decision = admit([event.claim for event in batch.events], known, batch=batch.batch)
            if isinstance(decision, Admission):
                day_after = _count_day(head, batch.received_at_ms, len(decision.fresh))
                if decision.fresh and batch.daily_limit is not None and day_after.day_events > batch.daily_limit:
                    outcomes.append(_over_limit(batch.daily_limit, batch.received_at_ms))
                    continue
                head = day_after
                known |= decision.keys
                admitted += [(batch.events[position], batch.received_at_ms) for position in decision.fresh]
                texts = tuple(event_id_text(event_id) for event_id in decision.ids)
                outcomes.append(Accepted(texts, batch.redacted_count, decision.replays))
            else:
                outcomes.append(decision)
        return outcomes, admitted, replace(head, seq=head.seq + len(admitted))

    def _write(
        self,
        conn: Connection,
        head: events.Head,
        head_after: events.Head,
        admitted: Sequence[tuple[PreparedEvent, int]],
    ) -> _Seen:
        no = self._project_no
        seen = self._recall(conn, head.seq)
        tenants = self._tenants(conn, seen, {event.tenant_id for event, _ in admitted})
        leaves: dict[str, list[bytes]] = {tenant_id: [] for tenant_id in tenants}
        spans: dict[int, tuple[int, int]] = {}
        rows: list[bytes] = []
        segment, prefix = -1, b""
        for seq, (event, received_at_ms) in enumerate(admitted, head.seq + 1):
            if segment_of(seq) != segment:
                segment = segment_of(seq)
                prefix = lexeme_prefix(no, segment)
            occurred = event.occurred_at_ms
            oldest, newest = spans.get(segment, (occurred, occurred))
            spans[segment] = (min(oldest, occurred), max(newest, occurred))
            tenant, log = tenants[event.tenant_id], leaves[event.tenant_id]
            rows.append(
                events.row(
                    no,
                    seq,
                    event.claim.id,
                    tenant.no,
                    tenant.size + len(log),
                    occurred,
                    received_at_ms,
                    prefix,
                    event.facets,
                    event.tail,
                )
            )
            log.append(leaf_hash(event.content_hash))
        events.copy_events(conn, rows)
        events.save_subtrees(conn, no, _extend_logs(tenants, leaves))
        events.save_heads(conn, no, head_after, tenants, spans)
        actions = {event.action for event, _ in admitted} - seen.actions
        if actions:
            events.save_actions(conn, no, actions)
        return _Seen(
            seq=head_after.seq,
            tenants={**seen.tenants, **tenants} if len(seen.tenants) < MAX_KNOWN_TENANTS else tenants,
            actions=seen.actions | actions if len(seen.actions) < MAX_KNOWN_ACTIONS else actions,
            tenant_count=max(seen.tenant_count, *(tenant.no for tenant in tenants.values())),
        )

    def _recall(self, conn: Connection, seq: int) -> _Seen:
        """What is known as of ``seq``: all of it, if this process wrote last, else nothing but the tenants' count."""
        if self._seen is not None and self._seen.seq == seq:
            return self._seen
        return _Seen(seq, {}, set(), events.count_tenants(conn, self._project_no))

    def _tenants(self, conn: Connection, seen: _Seen, tenant_ids: set[str]) -> dict[str, events.Tenant]:
        tenants = {tenant_id: seen.tenants[tenant_id] for tenant_id in tenant_ids & seen.tenants.keys()}
        unknown = tenant_ids - tenants.keys()
        if unknown:
            tenants |= events.find_tenants(conn, self._project_no, unknown)
            for no, tenant_id in enumerate(sorted(unknown - tenants.keys()), seen.tenant_count + 1):
                tenants[tenant_id] = events.Tenant(no, 0, b"")
        return tenants


def _extend_logs(tenants: dict[str, events.Tenant], leaves: dict[str, list[bytes]]) -> list[tuple[int, int, bytes]]:
    """Append the leaves to the tenants' logs. ``tenants`` holds the new heads afterwards; returned are the subtrees
    that became complete: (tenant number, subtree, hash)."""
    subtrees: list[tuple[int, int, bytes]] = []
    for tenant_id, log in leaves.items():
        tenant = tenants[tenant_id]
        log_head, completed = append(TenantHead(tenant.size, tenant.edge), log)
        tenants[tenant_id] = events.Tenant(tenant.no, log_head.size, log_head.edge)
        subtrees += [(tenant.no, index, root) for index, root in completed]
    return subtrees


def _count_day(head: events.Head, received_at_ms: int, count: int) -> events.Head:
    """The head after ``count`` more events; a batch from before midnight that is late counts for the newer day."""
    day = _utc_day(received_at_ms)
    if day > head.day:
        return replace(head, day=day, day_events=count)
    return replace(head, day_events=head.day_events + count)


def _over_limit(limit: int, received_at_ms: int) -> DailyEventLimitReached:
    tomorrow = datetime.combine(_utc_day(received_at_ms) + timedelta(days=1), datetime.min.time(), UTC)
    seconds = max(1, round(tomorrow.timestamp() - received_at_ms / 1000))
    return DailyEventLimitReached(f"The plan's {limit:,} events of this UTC day are used up.", retry_after=seconds)


def _utc_day(at_ms: int) -> date:
    return datetime.fromtimestamp(at_ms / 1000, UTC).date()
