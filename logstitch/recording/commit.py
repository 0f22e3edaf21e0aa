"""The transaction that stores a group of batches: one head lock, one COPY, one commit, an outcome for each batch.

Numbers are given out here, under the project's head row, so they are gap-free and in commit order whatever other
process ingests for the same project. What was read from the tables is kept for the next group and used only when the
head shows that nobody wrote in between.

The head row also carries the version of the project's redaction rules. A change of rules raises it under the same lock,
so a batch that is stored was redacted by the rules that hold at that very moment, in whatever process it came in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from hmac import compare_digest
from uuid import UUID

from logstitch.detection.facts import Fact
from logstitch.errors import DailyEventLimitReached, LogStitchError
from logstitch.evidence.canonical import canonical
from logstitch.evidence.merkle import TenantHead, append
from logstitch.ids import as_uuid, event_id_text
from logstitch.model import IncomingEvent
from logstitch.recording.admission import Admission, Claim, FromStream, Known, admit, from_stream
from logstitch.recording.preparation import PreparedEvent, keyed_digest
from logstitch.search.segments import SEGMENT_EVENTS, lexeme_prefix, segment_of
from logstitch.store import events, streams
from logstitch.store.database import Connection
from logstitch.times import from_ms

MAX_KNOWN_TENANTS = 20_000
"""Log heads kept between groups: about 10 MB. Beyond it all are forgotten and read again."""
MAX_KNOWN_ACTIONS = 10_000
"""Actions known to be recorded. Beyond it they are offered to the table again, which ignores them."""


@dataclass(frozen=True, slots=True)
class PreparedBatch:
    """One request's events. ``batch``: an array was sent. ``daily_limit``: events a UTC day, ``None`` for no limit.
    ``rules_version``: of the redaction rules that all of them went through. ``of_today``: they count among the events
    of the day. ``sent``: the events as they were sent, to compare with those that were claimed from a stream."""

    events: Sequence[PreparedEvent]
    batch: bool
    received_at_ms: int
    daily_limit: int | None
    rules_version: int
    of_today: bool = True
    sent: Sequence[IncomingEvent] = ()


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request's events are stored, or were before. ``ids`` as answered, in request order; ``replays`` of them were
    stored by an earlier request, and ``redacted_count`` is of the others: what this one would have changed is not what
    was changed then."""

    ids: tuple[str, ...]
    redacted_count: int
    replays: int


@dataclass(frozen=True, slots=True)
class StaleRules:
    """The redaction rules have changed since the batch went through them, and nothing of it is stored. It may be tried
    again once it went through those of ``version``."""

    version: int


Outcome = Recorded | StaleRules | LogStitchError
"""What becomes of one batch."""

Tell = Callable[[Sequence[Outcome]], Sequence[PreparedEvent]]
"""The service's own events that tell of what has become of the batches. They are stored behind theirs, and count in no
plan."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is true in the tables as of ``seq``."""

    seq: int
    tenants: dict[str, events.Tenant]
    actions: set[str]
    tenant_count: int


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A run whose commit may or may not have happened: its outcomes, the event that tells, and all that it stored."""

    witness: UUID
    outcomes: list[Outcome]
    seen: _Seen
    admitted: Sequence[PreparedEvent]


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
        self._stored: Sequence[PreparedEvent] = ()

    def settle(self, *, committed: bool) -> None:
        """End the group: what its transaction saw is what the next one may rely on, or nothing is."""
        self._seen = self._attempt.seen if committed and self._attempt else self._seen if committed else None
        self._stored = self._attempt.admitted if committed and self._attempt else ()
        self._attempt = None

    def facts(self) -> list[Fact]:
        """What detection is told of the group that was settled last: the events that it stored, so no replays."""
        if self._seen is None:
            return []
        first_seq = self._seen.seq - len(self._stored) + 1
        return [
            Fact(
                seq,
                event.claim.id,
                event.received_at_ms,
                event.occurred_at_ms,
                event.action,
                event.tenant_id,
                event.actor_id,
                event.ip_address,
            )
            for seq, event in enumerate(self._stored, first_seq)
        ]

    @property
    def last_seq(self) -> int:
        """The number of the last event that the newest run has stored; 0 where it stored none."""
        return 0 if self._attempt is None else self._attempt.seen.seq

    def run(self, conn: Connection, batches: Sequence[PreparedBatch], *, tell: Tell = lambda _: ()) -> list[Outcome]:
        """Store the group, and what is to ``tell`` of it. One outcome for each batch, in order."""
        claims = [[event.claim for event in batch.events] for batch in batches]
        hashes = {claim.key_hash for each in claims for claim in each if claim.key_hash}
        head, stored = events.lock_head(conn, self._project_no, hashes)
        if self._attempt and events.has_event(conn, self._project_no, self._attempt.witness):
            return self._attempt.outcomes
        self._attempt = None
        claimed = {key.stream_no for one in stored.values() if (key := from_stream(one.digest)) is not None}
        secrets = streams.claim_secrets(conn, self._project_no, claimed)
        outcomes, admitted, head_after = _admit(batches, claims, head, stored, secrets)
        if told := tell(outcomes):
            admitted += told
            head_after = replace(head_after, seq=head_after.seq + len(told))
        if not admitted:
            return outcomes
        seen = self._write(conn, head, head_after, admitted)
        self._attempt = _Attempt(as_uuid(admitted[0].claim.id), outcomes, seen, admitted)
        return outcomes

    def _write(
        self,
        conn: Connection,
        head: events.Head,
        head_after: events.Head,
        admitted: Sequence[PreparedEvent],
    ) -> _Seen:
        no = self._project_no
        seen = self._recall(conn, head.seq)
        tenants = self._tenants(conn, seen, {event.tenant_id for event in admitted})
        leaves: dict[str, list[bytes]] = {tenant_id: [] for tenant_id in tenants}
        spans: dict[int, tuple[int, int]] = {}
        subtrees: list[tuple[int, int, bytes]] = []

        def rows() -> Iterator[bytes]:
            seq = head.seq
            for segment, part in _by_segment(seq + 1, admitted):
                prefix = lexeme_prefix(no, segment)
                times = [event.occurred_at_ms for event in part]
                spans[segment] = min(times), max(times)
                for _, _, tenant_id, _, _, leaf, facets, tail, _, _, _, _ in part:
                    seq += 1
                    tenant, log = tenants[tenant_id], leaves[tenant_id]
                    yield events.row(no, seq, tenant.no, tenant.size + len(log), prefix, facets, tail)
                    log.append(leaf)

        # Whoever writes the project's events waits for this, so both sides work at the same time.
        events.copy_events(conn, rows(), lambda: subtrees.extend(_extend_logs(tenants, leaves)))
        actions = {event.action for event in admitted} - seen.actions
        events.save_heads(conn, no, head_after, tenants, spans, subtrees, actions)
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


def _admit(
    batches: Sequence[PreparedBatch],
    claims: Sequence[Sequence[Claim]],
    head: events.Head,
    stored: Mapping[bytes, events.StoredKey],
    secrets: Mapping[int, bytes],
) -> tuple[list[Outcome], list[PreparedEvent], events.Head]:
    """What becomes of each batch, the events to store, and the head after them."""
    known = {key_hash: Known(key.id, key.digest) for key_hash, key in stored.items()}
    outcomes: list[Outcome] = []
    admitted: list[PreparedEvent] = []
    for batch, claimed in zip(batches, claims, strict=True):
        if batch.rules_version != head.rules_version:
            outcomes.append(StaleRules(head.rules_version))
            continue
        decision = admit(claimed, known, batch=batch.batch, resent=partial(_is_resent, batch.sent, secrets))
        if isinstance(decision, Admission):
            day_after = _count_day(head, batch.received_at_ms, len(decision.fresh)) if batch.of_today else head
            if decision.fresh and batch.daily_limit is not None and day_after.day_events > batch.daily_limit:
                outcomes.append(_over_limit(batch.daily_limit, batch.received_at_ms))
                continue
            head = day_after
            known |= decision.keys
            if decision.replays:
                fresh: Sequence[PreparedEvent] = [batch.events[position] for position in decision.fresh]
                texts = tuple([event_id_text(event_id) for event_id in decision.ids])
            else:
                fresh = batch.events
                texts = tuple([event.id_text for event in fresh])
            admitted += fresh
            redacted_count = sum([event.redacted_count for event in fresh])
            outcomes.append(Recorded(texts, redacted_count, decision.replays))
        else:
            outcomes.append(decision)
    return outcomes, admitted, replace(head, seq=head.seq + len(admitted))


def _is_resent(sent: Sequence[IncomingEvent], secrets: Mapping[int, bytes], position: int, claimed: FromStream) -> bool:
    """Whether an event was sent to the stream before: told by the digest that it would have there."""
    secret = secrets.get(claimed.stream_no)
    if secret is None or not sent:
        return False
    return compare_digest(keyed_digest(secret)(canonical(sent[position].raw)), claimed.digest)


def _by_segment(first_seq: int, admitted: Sequence[PreparedEvent]) -> Iterator[tuple[int, Sequence[PreparedEvent]]]:
    """Each segment that the events fall into, with its share of them."""
    start = 0
    while start < len(admitted):
        segment = segment_of(first_seq + start)
        stop = start + SEGMENT_EVENTS - (first_seq + start - 1) % SEGMENT_EVENTS
        yield segment, admitted[start:stop]
        start = stop


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
    return from_ms(at_ms).date()
