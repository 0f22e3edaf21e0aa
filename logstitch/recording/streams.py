"""The transaction that stores a group of anonymous requests, each in its own stream: what is refused, what is new.

A stream's row is locked while its events are stored, so a claim finds all of them or they find the claim. Redaction is
by rules that nobody changes, and is done with before; the digest of what was sent is made here, where the stream's
secret is known.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from typing import Any, Final, NamedTuple
from uuid import UUID

from logstitch.errors import (
    Conflict,
    LogStitchError,
    RateLimited,
    StreamAlreadyClaimed,
    StreamDailyLimitReached,
    StreamExpired,
)
from logstitch.evidence.canonical import canonical
from logstitch.ids import as_uuid, event_id_text
from logstitch.model import IncomingEvent
from logstitch.recording.admission import Admission, Claim, Known, admit
from logstitch.recording.commit import Recorded
from logstitch.recording.preparation import keyed_digest
from logstitch.redaction.definitions import BUILTINS, Behavior, BuiltinState
from logstitch.redaction.engine import Change, RuleSet
from logstitch.redaction.rules import compile_rules
from logstitch.store import events as project_events
from logstitch.store import streams as store
from logstitch.store.database import Connection
from logstitch.store.streams import NewEvent, NewStream, StreamRow, Totals
from logstitch.streams import ALL_BYTES, ALL_STREAMS, DAILY_EVENTS, STREAM_BYTES, StreamStatus
from logstitch.times import from_ms

ROW_BYTES: Final = 200
"""What an event counts for beyond its text: its other columns, and its places in two indexes."""
FULL_RETRY_SECONDS: Final = 3600
"""When to come again where there is no room: until streams are claimed or expire, nothing changes."""
CEILING: Final = Totals(ALL_STREAMS, ALL_BYTES)

_ALSO_ON: Final = frozenset({"email", "phone"})


@cache
def stream_rules() -> RuleSet:
    """What is redacted in streams: the built-ins as every project begins with them, and e-mail and phone as well.

    Everything is replaced, so no secret goes into it, and one rule set serves all streams.
    """
    states = [BuiltinState(rule.slug, rule.enabled or rule.slug in _ALSO_ON, Behavior.REPLACE) for rule in BUILTINS]
    return compile_rules(states, (), secret=b"")


class StreamEvent(NamedTuple):
    """An event that is ready to be stored in whatever stream."""

    id: bytes
    id_text: str
    occurred_at_ms: int
    body: str
    """Canonical JSON, as redaction has left the event."""
    redactions: str | None
    key_hash: bytes | None
    sent: bytes
    """Canonical JSON of the event as it was sent, where it has an idempotency key. It is nowhere stored."""
    redacted_count: int
    """Field values that redaction changed, on record or not."""

    @property
    def size(self) -> int:
        """What it counts for, in bytes."""
        return len(self.body.encode()) + len((self.redactions or "").encode()) + ROW_BYTES


def prepare_stream_event(
    incoming: IncomingEvent,
    stored: Mapping[str, Any],
    changes: Sequence[Change],
    *,
    received_at_ms: int,
    event_id: bytes,
) -> StreamEvent:
    """Encode one event: ``incoming`` as it was sent, ``stored`` as redacted."""
    key = incoming.raw.get("idempotency_key")
    # When it occurred is a column; as it was spelled it belongs to what was sent.
    body = canonical({name: value for name, value in stored.items() if name != "occurred_at"})
    records = [{"field": change.field, "rules": list(change.rules)} for change in changes]
    return StreamEvent(
        event_id,
        event_id_text(event_id),
        received_at_ms if incoming.occurred_at_ms is None else incoming.occurred_at_ms,
        body.decode(),
        canonical(records).decode() if records else None,
        None if key is None else sha256(key.encode()).digest()[:16],
        b"" if key is None else canonical(incoming.raw),
        sum(change.values for change in changes),
    )


def cost(events: int, size: int) -> int:
    """What a request of so many events and of ``size`` bytes counts for, before anything is done with it."""
    return size + events * ROW_BYTES


def repeated_keys(events: Sequence[IncomingEvent]) -> frozenset[str]:
    """The idempotency keys that several of the events have."""
    counts = Counter(event.raw.get("idempotency_key") for event in events)
    return frozenset(key for key, count in counts.items() if key is not None and count > 1)


def conflict_within(events: Sequence[IncomingEvent], repeated: Collection[str], *, batch: bool) -> Conflict | None:
    """Refuse a request that contradicts itself: of the events under a repeated key, one is not the other."""
    claims = [
        Claim(b"", key.encode(), sha256(canonical(event.raw)).digest())
        if (key := event.raw.get("idempotency_key")) in repeated and key is not None
        else Claim(b"")
        for event in events
    ]
    decision = admit(claims, {}, batch=batch)
    return None if isinstance(decision, Admission) else decision


@dataclass(frozen=True, slots=True)
class StreamBatch:
    """One request's events, and the digest of the token that it came with. ``batch``: an array was sent."""

    digest: bytes
    events: Sequence[StreamEvent]
    batch: bool
    received_at_ms: int


Outcome = Recorded | LogStitchError
"""What becomes of one batch."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a group came to: an outcome for each batch, in order, and the digests of the streams that were made."""

    outcomes: list[Outcome]
    made: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A run whose commit may or may not have happened: what it came to, and an event of each stream that tells."""

    stored: Stored
    witnesses: Sequence[tuple[bytes, int, UUID]]


class StreamCommit:
    """Stores one group. ``run`` is the work of a transaction, and may be run again after one of which nobody knows
    whether it was committed."""

    def __init__(self, batches: Sequence[StreamBatch], *, ceiling: Totals = CEILING) -> None:
        self._batches = batches
        self._ceiling = ceiling
        first = {batch.digest: batch for batch in reversed(batches)}
        self._new = [
            NewStream(digest, os.urandom(32), from_ms(batch.received_at_ms)) for digest, batch in sorted(first.items())
        ]
        self._attempt: _Attempt | None = None

    def run(self, conn: Connection) -> Stored:
        """Store what may be stored; streams that are not there are made."""
        made = store.insert_streams(conn, self._new)
        rows = store.lock_streams(conn, [stream.digest for stream in self._new])
        if self._attempt is not None and self._was_committed(conn, rows):
            return self._attempt.stored
        self._attempt = None
        group = _Group(conn, rows, made, self._ceiling)
        digests = {
            digest: keyed_digest(row.secret) for digest, row in rows.items() if row.secret is not None
        }  # fmt: skip
        group.known = _known(conn, rows, self._batches)
        outcomes = [group.admit(batch, digests.get(batch.digest)) for batch in self._batches]
        stored = Stored(outcomes, group.save())
        self._attempt = _Attempt(stored, group.witnesses)
        return stored

    def _was_committed(self, conn: Connection, rows: Mapping[bytes, StreamRow]) -> bool:
        """Whether an event of the earlier run is stored, in its stream or in the project that has claimed it since."""
        assert self._attempt is not None  # noqa: S101
        for digest, n, event_id in self._attempt.witnesses:
            row = rows[digest]
            if row.claimed_by is not None:
                found = project_events.has_event(conn, row.claimed_by, event_id)
            else:
                found = store.has_event(conn, row.no, n, event_id)
            if found:
                return True
        return False


class _Group:
    """What a transaction has decided so far."""

    def __init__(
        self, conn: Connection, rows: Mapping[bytes, StreamRow], made: Collection[int], ceiling: Totals
    ) -> None:
        self._conn = conn
        self._rows = dict(rows)
        self._made = made
        self._ceiling = ceiling
        self._totals = store.read_totals(conn)
        self._changed: dict[bytes, None] = {}
        self._events: list[NewEvent] = []
        self.known: dict[int, dict[bytes, Known]] = {}
        self.witnesses: list[tuple[bytes, int, UUID]] = []

    def admit(self, batch: StreamBatch, digest: Any) -> Outcome:
        """Take the batch as a whole, or say why not."""
        row = self._rows[batch.digest]
        now = from_ms(batch.received_at_ms)
        if (refusal := ended(row, now)) is not None:
            return refusal
        known = self.known.setdefault(row.no, {})
        claims = [
            Claim(event.id) if event.key_hash is None else Claim(event.id, event.key_hash, digest(event.sent))
            for event in batch.events
        ]
        decision = admit(claims, known, batch=batch.batch)
        if not isinstance(decision, Admission):
            return decision
        fresh = [batch.events[position] for position in decision.fresh]
        size = sum(event.size for event in fresh)
        after = _count(row, now, len(fresh), size)
        if fresh and (refusal := self._too_much(row, after, size, now)) is not None:
            return refusal
        known |= decision.keys
        if fresh:
            self._totals = Totals(
                self._totals.streams + (row.no in self._made and row.event_count == 0), self._totals.bytes + size
            )
            self._put(row, after, fresh, batch.received_at_ms)
        ids = tuple(event_id_text(event_id) for event_id in decision.ids)
        return Recorded(ids, sum(event.redacted_count for event in fresh), decision.replays)

    def _too_much(self, row: StreamRow, after: StreamRow, size: int, now: datetime) -> LogStitchError | None:
        if after.day_events > DAILY_EVENTS:
            tomorrow = datetime.combine(after.day + timedelta(days=1), datetime.min.time(), UTC)
            return StreamDailyLimitReached(
                f"A stream takes {DAILY_EVENTS} events a UTC day; {max(0, DAILY_EVENTS - _events_of_day(row, now))} "
                "are left of this one.",
                retry_after=max(1, round((tomorrow - now).total_seconds())),
            )
        if after.bytes > STREAM_BYTES:
            return RateLimited("The stream holds as much as it may. Claim it.", FULL_RETRY_SECONDS)
        is_new = row.no in self._made and row.event_count == 0
        if self._totals.bytes + size > self._ceiling.bytes or (
            is_new and self._totals.streams >= self._ceiling.streams
        ):
            return no_room()
        return None

    def _put(self, row: StreamRow, after: StreamRow, fresh: Sequence[StreamEvent], received_at_ms: int) -> None:
        if row.digest not in self._changed:
            self.witnesses.append((row.digest, row.event_count + 1, as_uuid(fresh[0].id)))
        self._rows[row.digest] = after
        self._changed[row.digest] = None
        digests = self.known[row.no]
        for n, event in enumerate(fresh, row.event_count + 1):
            self._events.append(
                NewEvent(
                    row.no,
                    n,
                    as_uuid(event.id),
                    received_at_ms,
                    event.occurred_at_ms,
                    event.body,
                    event.redactions,
                    None if event.key_hash is None else UUID(bytes=event.key_hash),
                    None if event.key_hash is None else digests[event.key_hash].digest,
                    event.size,
                )
            )

    def save(self) -> frozenset[bytes]:
        """Write it; returns the digests of streams that are new."""
        rows = [self._rows[digest] for digest in self._changed]
        new = frozenset(row.digest for row in rows if row.no in self._made)
        # A request that is refused leaves nothing behind.
        store.forget_streams(self._conn, {row.no for row in self._rows.values() if row.no in self._made} - {
            row.no for row in rows
        })  # fmt: skip
        if rows:
            store.insert_events(self._conn, self._events)
            store.save_streams(self._conn, rows)
            store.add_to_totals(self._conn, streams=len(new), bytes=sum(event.size for event in self._events))
        return new


def ended(row: StreamRow, now: datetime) -> LogStitchError | None:
    """Why a stream takes nothing, and cannot be claimed, any more; None while it is active."""
    match row.status_at(now):
        case StreamStatus.CLAIMED:
            return StreamAlreadyClaimed("This stream has been claimed.")
        case StreamStatus.EXPIRED:
            return StreamExpired("This stream has expired; its events are removed.")
    return None


def no_room() -> RateLimited:
    """There is as much of streams as there may be, of all clients together."""
    return RateLimited("The service holds as many anonymous events as it may.", FULL_RETRY_SECONDS)


def _known(
    conn: Connection, rows: Mapping[bytes, StreamRow], batches: Sequence[StreamBatch]
) -> dict[int, dict[bytes, Known]]:
    known: dict[int, dict[bytes, Known]] = {}
    for (no, key_hash), key in store.find_keys(conn, sorted(_keys(rows, batches))).items():
        known.setdefault(no, {})[key_hash] = Known(key.id, key.digest)
    return known


def _keys(rows: Mapping[bytes, StreamRow], batches: Sequence[StreamBatch]) -> set[tuple[int, bytes]]:
    def keys() -> Iterator[tuple[int, bytes]]:
        for batch in batches:
            for event in batch.events:
                if event.key_hash is not None:
                    yield rows[batch.digest].no, event.key_hash

    return set(keys())


def _count(row: StreamRow, now: datetime, count: int, size: int) -> StreamRow:
    """The stream with so many events more; a request from before midnight that is late counts for the newer day."""
    return replace(
        row,
        event_count=row.event_count + count,
        bytes=row.bytes + size,
        day=max(row.day, now.date()),
        day_events=_events_of_day(row, now) + count,
        last_event_at=now if row.last_event_at is None else max(now, row.last_event_at),
    )


def _events_of_day(row: StreamRow, now: datetime) -> int:
    return 0 if now.date() > row.day else row.day_events
