"""Leases and fences, the events that are looked at, and alerts in the database."""

from __future__ import annotations

import random
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import errors as pg

from logstitch.detection.detector import GRACE_MS, Missing
from logstitch.recording import evaluation
from logstitch.recording.evaluation import Interest
from logstitch.store import alerts as store
from logstitch.store.alerts import Advance, Lease, LeaseLost, NewAlert
from logstitch.store.database import Connection
from logstitch.store.reading import settle_plans
from tests.support.stored import AT, Stored, an_event
from tests.support.stored import store as store_events

NO = 1


def written(conn: Connection) -> list[tuple[int, int, bool]]:
    """Position, fence, and whether somebody has the lease."""
    rows = conn.execute(
        "SELECT seq, fence, lease_until > clock_timestamp() IS TRUE FROM evaluators ORDER BY project_no"
    )
    return [(seq, fence, held) for seq, fence, held in rows]


def alert(number: int, **changes: Any) -> NewAlert:
    fields: dict[str, Any] = {
        "id": UUID(int=number),
        "rule_id": "auth_brute_force",
        "rule_name": "Auth Brute Force",
        "severity": "high",
        "group_by": "actor_id",
        "group_key": "eve",
        "tenant_id": "acme",
        "event_count": 5,
        "event_ids": (UUID(int=1).bytes, UUID(int=2).bytes),
        "threshold": 5,
        "window_seconds": 300,
        "seq": number,
        "triggered_at_ms": AT + number,
    }
    return NewAlert(**(fields | changes))


# -- leases ----------------------------------------------------------------------------------------------------------


def test_a_lease_is_one_holders_until_it_is_released_or_runs_out(conn: Connection) -> None:
    assert store.take_lease(conn, NO) == Lease(0, 1)
    assert store.take_lease(conn, NO) is None
    assert store.take_lease(conn, 2) == Lease(0, 1), "another project's is another one"

    store.release(conn, NO, 1, 7)
    assert store.take_lease(conn, NO, seconds=-1) == Lease(7, 2)
    assert store.take_lease(conn, NO) == Lease(7, 3)


def test_of_two_who_want_it_at_the_same_time_one_gets_it(conn: Connection, other: Connection) -> None:
    assert store.take_lease(conn, NO) is not None
    other.execute("SET lock_timeout = '50ms'")
    with pytest.raises(pg.LockNotAvailable):
        store.take_lease(other, NO)
    other.rollback()
    conn.commit()
    assert store.take_lease(other, NO) is None


def test_under_an_older_fence_nothing_is_written(conn: Connection) -> None:
    store.take_lease(conn, NO, seconds=-1)
    store.take_lease(conn, NO)
    with pytest.raises(LeaseLost):
        store.advance(conn, NO, 1, 9)
    store.release(conn, NO, 1, 9)
    assert written(conn) == [(0, 2, True)]


def test_a_position_never_goes_back_and_writing_it_renews_the_lease(conn: Connection) -> None:
    store_events(conn, NO, [(AT, an_event())] * 12)
    store.take_lease(conn, NO, seconds=-1)
    assert written(conn) == [(0, 1, False)]
    assert store.advance(conn, NO, 1, 9) == Advance(before=0, head=12)
    assert store.advance(conn, NO, 1, 4) == Advance(before=9, head=12)
    assert store.advance(conn, NO, 1, 9) == Advance(before=9, head=12)
    store.release(conn, NO, 1, 5)
    assert written(conn) == [(9, 1, False)]


def test_projects_that_wait_are_those_with_events_and_nobody_at_work(conn: Connection) -> None:
    for no in range(1, 6):
        conn.execute("INSERT INTO project_heads (project_no, seq) VALUES (%s, %s)", (no, 0 if no == 5 else 10))
    for no in (2, 3, 4):
        store.take_lease(conn, no, seconds=60 if no == 2 else -1)
    store.release(conn, 4, 1, 10)
    # 1 was never looked at, 2 is being looked at, 3 was left alone, 4 is done with, 5 has nothing.
    assert sorted(store.find_waiting(conn, 10)) == [1, 3]
    assert len(store.find_waiting(conn, 1)) == 1


def test_what_was_stored_before_there_were_alerts_is_not_looked_at(conn: Connection) -> None:
    """The migration says so for each project; here is what its statement does."""
    conn.execute("INSERT INTO project_heads (project_no, seq) VALUES (1, 41)")
    conn.execute("INSERT INTO evaluators (project_no, seq) SELECT project_no, seq FROM project_heads")
    assert store.find_waiting(conn, 10) == []
    assert store.take_lease(conn, NO) == Lease(41, 1)


# -- events ----------------------------------------------------------------------------------------------------------


def some_events(conn: Connection, many: int = 60) -> list[Stored]:
    chance = random.Random(7)
    return store_events(
        conn,
        NO,
        [
            (
                AT + n,
                an_event(
                    action=chance.choice(("auth.failed", "user.login", "doc.deleted")),
                    tenant_id=chance.choice(("acme", "globex")),
                    actor={"id": chance.choice(("ada", "bob")), "type": "user"},
                    context=chance.choice((None, {"ip_address": f"203.0.113.{n}"}, {"session_id": "s"})),
                ),
            )
            for n in range(many)
        ],
    )


def row_of(one: Stored, *, addresses: bool = False) -> store.EventRow:
    event = one.event
    address = event.get("context", {}).get("ip_address") if addresses else None
    return one.seq, one.id.bytes, one.at, one.at, event["action"], event["tenant_id"], event["actor"]["id"], address


def test_events_are_read_by_seq_as_they_are(conn: Connection) -> None:
    stored = some_events(conn)
    store_events(conn, 2, [(AT, an_event())])
    assert store.read_events(conn, NO, 10, 20, 100) == [row_of(one) for one in stored[10:20]]
    assert store.read_events(conn, NO, 0, 60, 5) == [row_of(one) for one in stored[:5]]
    assert store.read_events(conn, NO, 0, 60, 100, addresses=True) == [row_of(one, addresses=True) for one in stored]
    assert store.read_events(conn, NO, 60, 99, 100) == []


def test_events_of_some_actions_actors_and_tenants(conn: Connection) -> None:
    stored = some_events(conn)
    of = [row_of(one) for one in stored if one.event["action"] != "user.login"]
    assert store.read_events(conn, NO, 0, 60, 100, actions=["auth.failed", "doc.deleted"]) == of
    assert store.read_events(conn, NO, 0, 60, 100, actions=[]) == []
    about = [one for one in stored if one.event["actor"]["id"] == "ada" or one.event["tenant_id"] == "acme"]
    both = partial(store.read_events_about, conn, NO, 0, 60, 100, actor_ids=["ada"], tenant_ids=["acme", "nobody"])
    assert both() == [row_of(one) for one in about]
    deleted = [row_of(one, addresses=True) for one in about if one.event["action"] == "doc.deleted"]
    assert both(actions=["doc.deleted"], addresses=True) == deleted


def test_a_page_ends_where_it_was_looked_and_not_with_what_was_found(conn: Connection) -> None:
    store_events(conn, NO, [(AT, an_event())] * 300 + [(AT, an_event(action="auth.failed"))] + [(AT, an_event())] * 99)
    page = evaluation.read_page(conn, NO, 0, Interest(lambda action: action == "auth.failed", addresses=False))
    assert ([fact.seq for fact in page.facts], page.through, page.head) == ([301], 400, 400)
    page = evaluation.read_page(conn, NO, 0, Interest(lambda _: False, addresses=False), until=320)
    assert (page.facts, page.through) == ([], 320)


def test_a_full_page_ends_with_its_last_event(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "PAGE_FACTS", 50)
    store_events(conn, NO, [(AT, an_event())] * 80)
    page = evaluation.read_page(conn, NO, 0, Interest(lambda _: True, addresses=False))
    assert (len(page.facts), page.through, page.head) == (50, 50, 80)
    monkeypatch.setattr(evaluation, "PAGE_SCAN", 7)
    assert evaluation.read_page(conn, NO, 50, Interest(lambda _: True, addresses=False)).through == 57


def test_changes_of_rules_are_read_whatever_matters(conn: Connection) -> None:
    change = an_event(action="logstitch.alert_rule.updated", tenant_id="$logstitch")
    store_events(conn, NO, [(AT, an_event())] * 400 + [(AT, change)])
    page = evaluation.read_page(conn, NO, 0, Interest(lambda _: False, addresses=False))
    assert [(fact.seq, evaluation.changes_rules(fact)) for fact in page.facts] == [(401, True)]


def claim(conn: Connection, first: int, last: int, at_ms: int = AT) -> None:
    """These events were claimed from a stream."""
    conn.execute("INSERT INTO claims VALUES (%s, %s, %s, to_timestamp(%s / 1000.0))", (NO, first, last, at_ms))


def test_events_that_were_claimed_are_left_out(conn: Connection) -> None:
    store_events(conn, NO, [(AT, an_event())] * 500)
    for first, last in ((1, 3), (4, 4), (50, 60), (61, 99), (300, 480), (499, 500)):
        claim(conn, first, last)
    conn.execute("INSERT INTO claims VALUES (2, 1, 500, now())")
    claimed = {*range(1, 5), *range(50, 100), *range(300, 481), 499, 500}
    found: list[int] = []
    after = 0
    while after < 500:
        page = evaluation.read_page(conn, NO, after, Interest(lambda _: True, addresses=False))
        found += [fact.seq for fact in page.facts]
        assert page.through > after
        after = page.through
    assert found == [seq for seq in range(1, 501) if seq not in claimed]
    missing = Missing(frozenset(), frozenset({"ada"}), frozenset(), 0, 480)
    past = evaluation.read_past(conn, NO, 99, missing, Interest(lambda _: True, addresses=False))
    assert ([fact.seq for fact in past.facts], past.through) == ([*range(100, 300)], 299)
    assert evaluation.read_past(conn, NO, 299, missing, Interest(lambda _: True, addresses=False)).through == 479


def test_an_event_that_was_claimed_has_the_time_of_its_claim(conn: Connection) -> None:
    store_events(conn, NO, [(AT + n, an_event()) for n in range(9)])
    claim(conn, 3, 5, AT + 777)
    times = [store.received_at_ms(conn, NO, seq) - AT for seq in range(1, 10)]
    assert times == [0, 1, 777, 777, 777, 5, 6, 7, 8]
    with pytest.raises(LookupError):
        store.received_at_ms(conn, NO, 10)


def test_the_time_of_a_claim_is_cut_to_the_millisecond_as_every_time_is(conn: Connection) -> None:
    store_events(conn, NO, [(AT, an_event())])
    claim(conn, 1, 1, AT + 777)
    conn.execute("UPDATE claims SET claimed_at = claimed_at + interval '600 microseconds'")
    assert store.received_at_ms(conn, NO, 1) == AT + 777


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.integers(0, 3_000), min_size=300, max_size=600),
    back=st.lists(st.integers(0, GRACE_MS), min_size=600, max_size=600),
    ago=st.integers(0, 900_000),
)
def test_where_the_past_begins_that_matters(
    conn: Connection, monkeypatch: pytest.MonkeyPatch, steps: list[int], back: list[int], ago: int
) -> None:
    """Up to there all is old, though times step back by as much as they may; and not much more than that is left."""
    monkeypatch.setattr(evaluation, "_SEARCHED", 8)
    now, times = AT, []
    for step, earlier in zip(steps, back, strict=False):
        now += step
        times.append(now - earlier)
    store_events(conn, NO, [(at, an_event()) for at in times])
    after = times[-1] - ago
    start = evaluation.find_start(conn, NO, len(times), after)
    conn.rollback()
    assert all(at <= after for at in times[:start])
    first = next((n for n, at in enumerate(times) if at > after - 2 * GRACE_MS), 0)
    assert start >= first - evaluation._SEARCHED


@pytest.mark.parametrize("analyzed", [False, True])
def test_a_range_of_events_costs_what_it_holds(conn: Connection, analyzed: bool) -> None:
    for no in (NO, 2, 3):
        store_events(conn, no, [(AT + n % 977, an_event(tenant_id=f"t{n % 50}")) for n in range(3_000)])
    conn.commit()
    if analyzed:
        conn.execute("ANALYZE")
    assert plan_of(conn, store._sql.read_events) == {"events_pkey"}
    assert plan_of(conn, store._sql.read_events_of) == {"events_pkey"}
    assert plan_of(conn, store._sql.read_events_about) == {"events_pkey"}


def plan_of(conn: Connection, statement: Any) -> set[str]:
    """The indexes by which the statement finds its events."""
    values = {
        "project_no": NO,
        "after": 1_000,
        "through": 2_000,
        "limit": 500,
        "addresses": False,
        "actions": ["document.viewed", "a.b"],
        "actor_ids": ["ada"],
        "tenant_nos": [1, 2],
    }
    settle_plans(conn)
    row = conn.execute(b"EXPLAIN (FORMAT json) " + statement.encode(), values).fetchone()
    assert row is not None
    found: set[str] = set()

    def walk(node: dict[str, Any]) -> None:
        if node.get("Relation Name") == "events":
            found.add(node.get("Index Name", node["Node Type"]))
        for child in node.get("Plans", ()):
            walk(child)

    walk(row[0][0]["Plan"])
    return found


# -- alerts ----------------------------------------------------------------------------------------------------------


def test_an_event_fires_a_rule_once(conn: Connection) -> None:
    assert store.insert_alerts(conn, NO, [alert(1), alert(2)]) == {UUID(int=1), UUID(int=2)}
    again = alert(3, seq=2)
    other_rule = alert(4, seq=2, rule_id="bulk_data_export")
    assert store.insert_alerts(conn, NO, [again, other_rule]) == {UUID(int=4)}
    assert store.insert_alerts(conn, 2, [alert(1)]) == {UUID(int=1)}, "another project is another matter"


def test_an_alert_is_stored_as_it_was_fired(conn: Connection) -> None:
    one = alert(1, event_ids=(UUID(int=9).bytes,), group_key='żółw, {"a"}', rule_name="'; --")
    store.insert_alerts(conn, NO, [one, alert(2, event_ids=())])
    row = conn.execute(
        "SELECT rule_name, severity, status, group_key, event_ids, seq,"
        " (extract(epoch FROM triggered_at) * 1000)::bigint, acknowledged_at, resolved_at FROM alerts WHERE seq = 1"
    ).fetchone()
    assert row == ("'; --", "high", "open", 'żółw, {"a"}', [UUID(int=9)], 1, AT + 1, None, None)


def test_what_fired_is_read_page_by_page_from_a_time_on(conn: Connection) -> None:
    store.insert_alerts(conn, NO, [alert(n, group_key=f"u{n % 3}", triggered_at_ms=AT + n // 4) for n in range(1, 41)])
    store.insert_alerts(conn, 2, [alert(99)])
    found: list[store.FiredRow] = []
    place: tuple[int, UUID | None] = AT + 5, None
    while rows := store.list_fired(conn, NO, place[0], place[1], 7):
        found += rows
        place = rows[-1].triggered_at_ms, rows[-1].alert_id
    assert [(row.triggered_at_ms, row.group_key) for row in found] == [
        (AT + n // 4, f"u{n % 3}") for n in range(20, 41)
    ]


def test_when_a_group_last_fired(conn: Connection) -> None:
    store.insert_alerts(conn, NO, [alert(n, group_key=f"u{n % 3}") for n in range(1, 8)])
    store.insert_alerts(conn, NO, [alert(50, rule_id="other", group_key="u1")])
    wanted = [("auth_brute_force", "u0"), ("auth_brute_force", "u1"), ("other", "u1"), ("other", "u2")]
    assert store.find_fired(conn, NO, wanted) == {
        ("auth_brute_force", "u0"): AT + 6,
        ("auth_brute_force", "u1"): AT + 7,
        ("other", "u1"): AT + 50,
    }
    assert store.find_fired(conn, NO, []) == {}


def test_versions_that_hold_for_nothing_any_more_are_dropped(conn: Connection) -> None:
    for start, end in ((0, 5), (5, 9), (9, None)):
        conn.execute(
            "INSERT INTO alert_rules"
            " SELECT 1, 'r', %s, %s, 0, 'n', '*', 1, 60, 'actor_id', NULL, 'low', 0, true, now()",
            (start, end),
        )
    store.forget_versions(conn, NO, 8)
    assert conn.execute("SELECT valid_from FROM alert_rules ORDER BY 1").fetchall() == [(5,), (9,)]
    store.forget_versions(conn, 2, 99)
    store.forget_versions(conn, NO, 9)
    assert conn.execute("SELECT valid_from FROM alert_rules").fetchall() == [(9,)]
