"""Claiming a stream: its events become a project's, all of them or none, and exactly one claim ever succeeds.

Everything that costs time is done before: the events are read, go through the project's redaction rules and are
encoded. The transaction then takes the stream's row and finds out whether it is still the same; removes the stream's
events and marks it; and only then takes the project's head row, on which the project's ingest waits. There the version
of the rules is compared as for any batch.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from logstitch.errors import StreamNotFound
from logstitch.ids import as_uuid
from logstitch.model import IncomingEvent
from logstitch.recording.admission import digest_from_stream
from logstitch.recording.audit import audit_event
from logstitch.recording.commit import GroupCommit, Outcome, PreparedBatch, Recorded, StaleRules
from logstitch.recording.preparation import Preparation, PreparedEvent
from logstitch.recording.streams import ended
from logstitch.redaction.engine import Change, RuleSet, key_path, slices
from logstitch.redaction.turns import result_of
from logstitch.sections import SECTIONS
from logstitch.store import events as project_events
from logstitch.store import streams as store
from logstitch.store.database import Connection
from logstitch.store.streams import EventRow, StreamRow
from logstitch.times import to_ms

PIECE_EVENTS: Final = 50
"""Events that are redacted together: half of what a request may hold, so each has the time that a request's has."""
PIECE_ENCODED: Final = 25
"""Events that are encoded between two turns for others: a millisecond."""
LATE_EVENTS: Final = 100
"""Events that came while the others were prepared, and that are prepared under the stream's lock, since a client that
sends without a pause would keep a claim from ever being made. As many as a stream takes in a day; some 10 ms."""


class Claimed(NamedTuple):
    """What a claim came to: events that are the project's now, and those whose idempotency keys it had already."""

    migrated: int
    duplicates: int


class Grown(Exception):
    """The stream has far more events than were prepared: so many."""

    def __init__(self, event_count: int) -> None:
        super().__init__()
        self.event_count = event_count


class RulesChanged(Exception):
    """The project's redaction rules are others than those that the events went through."""


# -- before the transaction -----------------------------------------------------------------------------------------


def prepare_claim(rows: Sequence[EventRow], rules: RuleSet) -> Generator[None, None, list[PreparedEvent]]:
    """The stream's events as the project stores them: redacted by its rules, encoded, under their ids.

    In slices of some milliseconds: it yields where others may have a turn. All rules of the project apply, its own ones
    and the built-ins that it has switched on.
    """
    preparation = Preparation(None)
    prepared: list[PreparedEvent] = []
    for start in range(0, len(rows), PIECE_EVENTS):
        piece = rows[start : start + PIECE_EVENTS]
        events = [orjson.loads(row.body) for row in piece]
        results = yield from slices(events, rules)
        stored = [result.event for result in results]
        changes = [
            _all_changes(row, event, result.event, result.changes)
            for row, event, result in zip(piece, events, results, strict=True)
        ]
        yield
        for first in range(0, len(piece), PIECE_ENCODED):
            last = first + PIECE_ENCODED
            prepared += _encode(preparation, piece[first:last], stored[first:last], changes[first:last])
            yield
    return prepared


def _encode(
    preparation: Preparation,
    rows: Sequence[EventRow],
    stored: Sequence[Mapping[str, Any]],
    changes: Sequence[tuple[Change, ...]],
) -> Iterable[PreparedEvent]:
    # Those of one request were received at one time, and are prepared together.
    for received_at_ms, group in groupby(zip(rows, stored, changes, strict=True), lambda part: part[0].received_at_ms):
        parts = list(group)
        yield from preparation.prepare(
            [IncomingEvent(event, row.occurred_at_ms) for row, event, _ in parts],  # type: ignore[arg-type]
            [event for _, event, _ in parts],
            [change for _, _, change in parts],
            received_at_ms=received_at_ms,
            ids=[row.id.bytes for row, _, _ in parts],
            digests=[
                b"" if row.key_digest is None else digest_from_stream(row.stream_no, row.key_digest)
                for row, _, _ in parts
            ],
        )


def _all_changes(
    row: EventRow, before: Mapping[str, Any], after: Mapping[str, Any], later: tuple[Change, ...]
) -> tuple[Change, ...]:
    """What was done to an event in the stream, and what is done to it now, each field once."""
    if row.redactions is None:
        return later
    records = orjson.loads(row.redactions)
    fields = [record["field"] for record in records]
    places = dict(zip(fields, fields, strict=True)) if after is before else moved_paths(before, after, fields)
    rules: dict[str, dict[str, None]] = {}
    for record in records:
        if (place := places.get(record["field"])) is not None:
            rules.setdefault(place, {}).update(dict.fromkeys(record["rules"]))
    for change in later:
        rules.setdefault(change.field, {}).update(dict.fromkeys(change.rules))
    return tuple(Change(field, tuple(ids)) for field, ids in rules.items())


def moved_paths(before: Mapping[str, Any], after: Mapping[str, Any], fields: Iterable[str]) -> dict[str, str]:
    """Where what these paths of ``before`` lead to is in ``after``, which redaction has made of it.

    A path has the names of keys in it, and redaction may have taken those out: what is on record must not keep them.
    What was inside of a value that is replaced as a whole is where that value is.
    """
    wanted = set(fields)
    places = {}
    for section in SECTIONS:
        if section in before:
            for path, place in _walk(before[section], after[section], section, section, wanted):
                places[path] = place
    for path in wanted - places.keys():
        # A path that leads nowhere is none of the engine's; of such a one no more is kept than the section.
        section = path.partition(".")[0]
        if section in SECTIONS:
            places[path] = section
    return places


def _walk(old: Any, new: Any, path: str, place: str, wanted: set[str]) -> Iterable[tuple[str, str]]:
    if path in wanted:
        yield path, place
    if type(old) is dict:
        # Members keep their order, whatever they are called afterwards; but for an actor or target that was replaced,
        # whose names are the schema's.
        same = type(new) is dict and len(new) == len(old)
        below = new.items() if same else ((None, None) for _ in old)
        for (key, value), (name, changed) in zip(old.items(), below, strict=True):
            if name is None:
                yield from _walk(value, None, key_path(path, key), place, wanted)
            else:
                yield from _walk(value, changed, key_path(path, key), key_path(place, name), wanted)
    elif type(old) is list:
        same = type(new) is list
        for index, value in enumerate(old):
            if same:
                yield from _walk(value, new[index], f"{path}.{index}", f"{place}.{index}", wanted)
            else:
                yield from _walk(value, None, f"{path}.{index}", place, wanted)


# -- the transaction ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClaimOrder:
    """Which stream is to become whose: the digest of its token, the project's number, the id of the key that asks for
    it, and the time. ``audit_id`` is a fresh event id of 16 bytes."""

    digest: bytes
    project_no: int
    by: UUID
    audit_id: bytes
    now: datetime


class StreamClaim:
    """One claim. ``run`` is the work of a transaction, and may be run again after one of which nobody knows whether it
    was committed."""

    def __init__(self, order: ClaimOrder, prepared: Sequence[PreparedEvent], rules: RuleSet) -> None:
        """``prepared`` are the events of the stream from its first one on, as ``rules`` leave them."""
        self._order = order
        self._prepared = prepared
        self._rules = rules
        self._attempt: Claimed | None = None

    def run(self, conn: Connection) -> Claimed:
        """Move the events.

        Raises:
          StreamNotFound, StreamExpired, StreamAlreadyClaimed: there is nothing to claim, or not any more.
          Grown, RulesChanged: what was prepared is not what there is to claim.
        """
        order = self._order
        row = store.lock_streams(conn, [order.digest]).get(order.digest)
        if row is None:
            raise StreamNotFound("No stream has this token.")
        if self._attempt is not None and project_events.has_event(conn, order.project_no, as_uuid(order.audit_id)):
            return self._attempt
        self._attempt = None
        if (refusal := ended(row, order.now)) is not None:
            raise refusal
        prepared = [*self._prepared, *self._prepare_late(conn, row)]
        store.delete_events(conn, row.no)
        store.mark_claimed(conn, row.no, project_no=order.project_no, now=order.now)
        claimed = self._move(conn, row, prepared)
        store.add_to_totals(conn, streams=-1, bytes=-row.bytes)
        self._attempt = claimed
        return claimed

    def _prepare_late(self, conn: Connection, row: StreamRow) -> list[PreparedEvent]:
        """The events that have come since."""
        done, count = len(self._prepared), row.event_count
        if count == done:
            return []
        if count > done + LATE_EVENTS:
            raise Grown(count)
        return result_of(prepare_claim(store.read_events(conn, row.no, done, count), self._rules))

    def _move(self, conn: Connection, row: StreamRow, prepared: Sequence[PreparedEvent]) -> Claimed:
        """Store the events in the project, whose head row is ours from here on. The stream's secret stays with the
        claim: what is sent with their idempotency keys is compared under it."""
        order = self._order
        batch = PreparedBatch(prepared, True, self._now_ms, None, self._rules.version, of_today=False)
        commit, claimed = GroupCommit(order.project_no), Claimed(0, 0)

        def tell(outcomes: Sequence[Outcome]) -> list[PreparedEvent]:
            nonlocal claimed
            (outcome,) = outcomes
            if isinstance(outcome, StaleRules):
                raise RulesChanged
            if not isinstance(outcome, Recorded):
                raise TypeError(f"a claim was not recorded: {type(outcome).__name__}")
            claimed = Claimed(len(prepared) - outcome.replays, outcome.replays)
            return self._told(claimed)

        commit.run(conn, [batch], tell=tell)
        if claimed.migrated:
            last_seq = commit.last_seq - 1  # behind it stands the event that tells
            first_seq = last_seq - claimed.migrated + 1
            store.insert_claim(conn, order.project_no, first_seq, last_seq, row, now=order.now)
        return claimed

    def _told(self, claimed: Claimed) -> list[PreparedEvent]:
        """The event that tells of it, which is what this claim can be told by, too."""
        order = self._order
        # The first half of the digest: whoever has the token can find the event, and nobody finds the token.
        after = {"status": "claimed", "events_migrated": claimed.migrated, "duplicates": claimed.duplicates}
        stream_id, before = order.digest[:16].hex(), {"status": "active"}
        event = audit_event("stream", stream_id, "Anonymous stream", before, after, order.by, verb="claimed")
        return Preparation(None).prepare(
            [IncomingEvent(event, None)], [event], [()], received_at_ms=self._now_ms, ids=[order.audit_id]
        )

    @property
    def _now_ms(self) -> int:
        return to_ms(self._order.now)
