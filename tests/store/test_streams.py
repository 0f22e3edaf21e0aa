"""Streams in their tables: what a group stores and refuses, and how they end in steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import psycopg
import pytest

from logstitch.errors import (
    Conflict,
    RateLimited,
    StreamAlreadyClaimed,
    StreamDailyLimitReached,
    StreamExpired,
)
from logstitch.ids import UlidMint
from logstitch.model import IncomingEvent
from logstitch.recording.commit import Recorded
from logstitch.recording.streams import (
    ROW_BYTES,
    Outcome,
    StreamBatch,
    StreamCommit,
    prepare_stream_event,
    stream_rules,
)
from logstitch.redaction.engine import MAX_RECORDS, redact
from logstitch.store import streams as store
from logstitch.store.database import Connection
from logstitch.store.streams import Reaped, Totals
from logstitch.streams import LIFE_DAYS, STREAM_BYTES, token_digest
from logstitch.times import DAY_MS
from tests.support.ingest import event
from tests.support.streams import NOON_MS, moment, new_token

MIDNIGHT_MS = NOON_MS + DAY_MS // 2
mint = UlidMint()


@pytest.fixture
def conn(database_url: str) -> Iterator[Connection]:
    """A connection; every ``with conn.transaction()`` is one of the service's."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def batch(token: str, *events: dict[str, Any], at_ms: int = NOON_MS) -> StreamBatch:
    """A request, as it is prepared."""
    ids = mint.mint(len(events), at_ms)
    prepared = [
        prepare_stream_event(
            IncomingEvent(raw, None), *redact(raw, stream_rules()), received_at_ms=at_ms, event_id=event_id
        )
        for raw, event_id in zip(events, ids, strict=True)
    ]
    return StreamBatch(token_digest(token), prepared, True, at_ms)


def store_group(conn: Connection, *batches: StreamBatch, ceiling: Totals = Totals(1000, 1 << 30)) -> list[Outcome]:  # noqa: B008
    """One transaction."""
    with conn.transaction():
        return StreamCommit(batches, ceiling=ceiling).run(conn).outcomes


def ids_of(outcome: Outcome) -> tuple[str, ...]:
    assert isinstance(outcome, Recorded), outcome
    return outcome.ids


def row(conn: Connection, token: str) -> store.StreamRow:
    return store.find_streams(conn, [token_digest(token)])[token_digest(token)]


# -- storing --------------------------------------------------------------------------------------------------------


def test_a_group_stores_each_request_in_its_own_stream(conn: Connection) -> None:
    one, two = new_token(), new_token()

    outcomes = store_group(conn, batch(one, event(), event()), batch(two, event()), batch(one, event()))

    assert [len(ids_of(outcome)) for outcome in outcomes] == [2, 1, 1]
    stored = [str(e.id) for e in store.read_events(conn, row(conn, one).no, 0, 9)]
    assert len(stored) == 3
    found = row(conn, one)
    assert (found.event_count, found.day_events, found.last_event_at) == (3, 3, moment(NOON_MS))
    assert found.expires_at == moment(NOON_MS + LIFE_DAYS * DAY_MS)
    totals = store.read_totals(conn)
    assert totals == Totals(2, found.bytes + row(conn, two).bytes)
    assert found.bytes > 3 * ROW_BYTES


def test_every_changed_value_is_counted_however_many_are_on_record(conn: Connection) -> None:
    token, mails = new_token(), ["jane.roe@example.com"] * 1_500

    (outcome,) = store_group(conn, batch(token, event(metadata={"mails": mails}), event(metadata={"mails": mails[:2]})))

    assert isinstance(outcome, Recorded)
    assert outcome.redacted_count == 1_502
    (first, _) = store.read_events(conn, row(conn, token).no, 0, 9)
    assert len(orjson.loads(first.redactions or "")) <= MAX_RECORDS + 1


def test_the_hundred_and_first_event_of_a_day_is_refused_with_its_whole_batch(conn: Connection) -> None:
    token = new_token()
    store_group(conn, batch(token, *[event() for _ in range(98)]))

    (refused,) = store_group(conn, batch(token, event(), event(), event()))
    assert isinstance(refused, StreamDailyLimitReached)
    assert refused.retry_after == 12 * 3600
    assert "2 are left" in refused.message

    first, second = store_group(conn, batch(token, event(), event()), batch(token, event()))
    assert len(ids_of(first)) == 2
    assert isinstance(second, StreamDailyLimitReached)
    assert row(conn, token).event_count == 100


def test_a_new_day_begins_at_midnight_utc_and_a_late_request_counts_for_it(conn: Connection) -> None:
    token = new_token()
    store_group(conn, batch(token, *[event() for _ in range(100)], at_ms=MIDNIGHT_MS - 1))

    (last,) = store_group(conn, batch(token, event(), at_ms=MIDNIGHT_MS - 1))
    assert isinstance(last, StreamDailyLimitReached)
    assert last.retry_after == 1
    store_group(conn, batch(token, *[event() for _ in range(99)], at_ms=MIDNIGHT_MS))
    (late, over) = store_group(
        conn, batch(token, event(), at_ms=MIDNIGHT_MS - 1), batch(token, event(), at_ms=MIDNIGHT_MS)
    )

    assert len(ids_of(late)) == 1
    assert isinstance(over, StreamDailyLimitReached)
    assert row(conn, token).day_events == 100


def test_a_key_that_is_used_again_is_a_replay_or_a_conflict_within_its_stream_only(conn: Connection) -> None:
    token, other = new_token(), new_token()
    (first,) = store_group(conn, batch(token, event(idempotency_key="k")))

    again, changed, elsewhere, twice = store_group(
        conn,
        batch(token, event(), event(idempotency_key="k")),
        batch(token, event(), event(idempotency_key="k", metadata={"x": 1})),
        batch(other, event(idempotency_key="k", metadata={"x": 1})),
        batch(token, event(idempotency_key="new"), event(idempotency_key="new")),
    )

    assert ids_of(again)[1] == ids_of(first)[0]
    assert isinstance(again, Recorded)
    assert again.replays == 1
    assert isinstance(changed, Conflict)
    assert [detail.field for detail in changed.details] == ["1.idempotency_key"]
    assert isinstance(elsewhere, Recorded)
    assert elsewhere.replays == 0
    assert len(set(ids_of(twice))) == 1
    assert row(conn, token).event_count == 3


def test_replays_are_answered_when_the_day_is_used_up(conn: Connection) -> None:
    token = new_token()
    (first,) = store_group(conn, batch(token, *[event(idempotency_key=str(n)) for n in range(100)]))

    (again,) = store_group(conn, batch(token, *[event(idempotency_key=str(n)) for n in range(100)]))

    assert ids_of(again) == ids_of(first)


def test_a_request_that_is_refused_leaves_no_stream_behind(conn: Connection) -> None:
    token = new_token()

    (outcome,) = store_group(
        conn, batch(token, event(idempotency_key="k"), event(idempotency_key="k", metadata={"x": 1}))
    )

    assert isinstance(outcome, Conflict)
    assert store.find_streams(conn, [token_digest(token)]) == {}
    assert store.read_totals(conn) == Totals(0, 0)


def test_a_stream_holds_a_bounded_number_of_bytes(conn: Connection) -> None:
    token = new_token()
    big = event(changes=[{"field": "f", "after": "x" * (STREAM_BYTES // 2)}])

    outcomes = store_group(conn, batch(token, big), batch(token, big), batch(token, event()))

    assert [isinstance(outcome, Recorded) for outcome in outcomes] == [True, False, True]
    assert isinstance(outcomes[1], RateLimited)


def test_all_streams_together_hold_a_bounded_number_of_bytes_and_streams(conn: Connection) -> None:
    tokens = [new_token() for _ in range(3)]
    size = batch(tokens[0], event()).events[0].size

    outcomes = store_group(conn, *[batch(token, event()) for token in tokens], ceiling=Totals(2, 1 << 20))
    assert [isinstance(outcome, Recorded) for outcome in outcomes] == [True, True, False]
    assert isinstance(outcomes[2], RateLimited)
    assert store.find_streams(conn, [token_digest(tokens[2])]) == {}

    (fits,) = store_group(conn, batch(tokens[0], event()), ceiling=Totals(2, 3 * size))
    (full,) = store_group(conn, batch(tokens[1], event()), ceiling=Totals(2, 3 * size))
    assert isinstance(fits, Recorded)
    assert isinstance(full, RateLimited)
    assert store.read_totals(conn) == Totals(2, 3 * size)


def test_from_the_moment_of_expiry_on_nothing_is_taken_reaped_or_not(conn: Connection) -> None:
    token = new_token()
    store_group(conn, batch(token, event()))
    end = NOON_MS + LIFE_DAYS * DAY_MS

    (last,) = store_group(conn, batch(token, event(), at_ms=end - 1))
    (late,) = store_group(conn, batch(token, event(), at_ms=end))

    assert isinstance(last, Recorded)
    assert isinstance(late, StreamExpired)


def test_a_claimed_stream_takes_nothing(conn: Connection) -> None:
    token = new_token()
    store_group(conn, batch(token, event()))
    with conn.transaction():
        store.mark_claimed(conn, row(conn, token).no, project_no=1, now=moment(NOON_MS))

    (outcome,) = store_group(conn, batch(token, event()))

    assert isinstance(outcome, StreamAlreadyClaimed)
    assert row(conn, token).secret is None


def test_a_run_whose_commit_was_not_heard_of_is_not_repeated(conn: Connection) -> None:
    token = new_token()
    commit = StreamCommit([batch(token, event(), event())])
    with conn.transaction():
        first = commit.run(conn)

    with conn.transaction():
        again = commit.run(conn)

    assert again is first
    assert row(conn, token).event_count == 2
    assert store.read_totals(conn).streams == 1


def test_a_run_that_was_rolled_back_is(conn: Connection) -> None:
    token = new_token()
    commit = StreamCommit([batch(token, event(), event())])
    with conn.transaction(force_rollback=True):
        commit.run(conn)
    assert store.find_streams(conn, [token_digest(token)]) == {}

    with conn.transaction():
        commit.run(conn)

    assert row(conn, token).event_count == 2


def test_what_was_sent_is_nowhere_in_the_tables(conn: Connection) -> None:
    token = new_token()
    raw = event(idempotency_key="k", metadata={"secret": "as it was sent"})
    stored = event(idempotency_key="k", metadata={"secret": "[REDACTED]"})
    prepared = prepare_stream_event(
        IncomingEvent(raw, None), stored, (), received_at_ms=NOON_MS, event_id=mint.one(NOON_MS)
    )

    store_group(conn, StreamBatch(token_digest(token), [prepared], False, NOON_MS))

    dump = conn.execute("SELECT e::text || s::text FROM stream_events e, streams s").fetchall()
    assert "as it was sent" not in str(dump)
    assert token not in str(dump)


# -- ending ---------------------------------------------------------------------------------------------------------


def reap(conn: Connection, at_ms: int, limit: int) -> Reaped:
    with conn.transaction():
        return store.reap(conn, moment(at_ms), limit)


def test_streams_end_in_steps_and_their_rows_stay(conn: Connection) -> None:
    old = [new_token() for _ in range(3)]
    young = new_token()
    for token in old:
        store_group(conn, batch(token, *[event() for _ in range(7)]))
    store_group(conn, batch(young, event(), at_ms=NOON_MS + 1))
    end = NOON_MS + LIFE_DAYS * DAY_MS

    assert not reap(conn, end - 1, 5)
    steps = [reap(conn, end, 5) for _ in range(6)]

    assert steps == [Reaped(3, 5), Reaped(0, 5), Reaped(0, 5), Reaped(0, 5), Reaped(0, 1), Reaped(0, 0)]
    for token in old:
        found = row(conn, token)
        assert (found.status, found.bytes, found.event_count, found.secret) == ("expired", 0, 7, None)
    assert row(conn, young).status == "active"
    assert store.read_totals(conn) == Totals(1, row(conn, young).bytes)
    assert conn.execute("SELECT count(*) FROM stream_events").fetchone() == (1,)


def test_a_stream_has_ended_before_the_first_of_its_events_goes(conn: Connection) -> None:
    token = new_token()
    store_group(conn, batch(token, *[event() for _ in range(7)]))

    reap(conn, NOON_MS + LIFE_DAYS * DAY_MS, 2)

    # So whoever's clock is behind cannot claim a part of it, nor add to it.
    (outcome,) = store_group(conn, batch(token, event()))
    assert isinstance(outcome, StreamExpired)
    assert row(conn, token).status_at(moment(NOON_MS)) == "expired"


def test_two_reapers_do_not_wait_for_each_other(conn: Connection, database_url: str) -> None:
    for _ in range(4):
        store_group(conn, batch(new_token(), event()))
    end = NOON_MS + LIFE_DAYS * DAY_MS
    conn.execute("SET lock_timeout = '2s'")
    with psycopg.connect(database_url) as other:
        other.execute("SELECT FROM streams ORDER BY expires_at LIMIT 2 FOR UPDATE")

        assert reap(conn, end, 10) == Reaped(2, 2)

        other.rollback()
    assert reap(conn, end, 10) == Reaped(2, 2)


def test_a_claimed_stream_is_not_the_reapers(conn: Connection) -> None:
    token = new_token()
    store_group(conn, batch(token, event()))
    with conn.transaction():
        store.mark_claimed(conn, row(conn, token).no, project_no=1, now=moment(NOON_MS))

    assert not reap(conn, NOON_MS + LIFE_DAYS * DAY_MS, 10)
    assert row(conn, token).status == "claimed"
