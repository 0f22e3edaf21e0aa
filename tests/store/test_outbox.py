"""The outbox in the database: what is put there, and who may take it."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import orjson
import psycopg
import pytest

from logstitch.detection.alerts import alert_fields
from logstitch.detection.rules import Severity
from logstitch.model import Plan
from logstitch.recording.webhooks import update
from logstitch.store import webhooks as store
from logstitch.store.database import Connection
from logstitch.store.webhooks import Claim
from logstitch.webhooks.payloads import WebhookEvent
from logstitch.webhooks.schedule import TRIES
from tests.support.outbox import ADA, START, claim, claim_one, deliveries, pass_time, statuses
from tests.support.service import wait_until
from tests.support.webhooks import MINT, NOW, NOW_MS, SECRET, alert, make_project, make_webhook, tell


@pytest.fixture
def project(conn: Connection) -> tuple[int, UUID]:
    """The number and the id of a project."""
    made = make_project(conn)
    conn.commit()
    return made


# -- the outbox ----------------------------------------------------------------------------------------------------


def test_an_alert_is_put_there_for_each_endpoint_that_wants_it(conn: Connection, project: tuple[int, UUID]) -> None:
    no, _ = project
    wants = [
        make_webhook(conn, no),
        make_webhook(conn, no, min_severity="high", events=("alert.triggered",)),
    ]
    make_webhook(conn, no, min_severity="critical")
    make_webhook(conn, no, events=("alert.acknowledged", "alert.resolved"))
    make_webhook(conn, no, enabled=False)
    stranger = make_project(conn)
    make_webhook(conn, stranger[0])

    count = tell(conn, project, alert(severity=Severity.HIGH))

    rows = conn.execute("SELECT project_no, webhook_id, status, attempt, tries_left FROM deliveries").fetchall()
    assert count == 2
    assert sorted(rows) == sorted((no, row.id, "pending", 0, TRIES) for row in wants)


@pytest.mark.parametrize("least", Severity)
@pytest.mark.parametrize("severity", Severity)
def test_from_its_least_severity_on(
    conn: Connection, project: tuple[int, UUID], severity: Severity, least: Severity
) -> None:
    make_webhook(conn, project[0], min_severity=least.value)

    assert tell(conn, project, alert(severity=severity)) == (severity.rank >= least.rank)


@pytest.mark.parametrize("kind", WebhookEvent)
def test_the_body_is_made_once_and_says_what_the_alert_was_then(
    conn: Connection, project: tuple[int, UUID], kind: WebhookEvent
) -> None:
    make_webhook(conn, project[0])
    make_webhook(conn, project[0])
    told = [alert(group_key="żółć 🦊 \u0000" * n) for n in range(3)]

    assert tell(conn, project, *told, kind=kind) == 6

    bodies = Counter(body for (body,) in conn.execute("SELECT body FROM deliveries"))
    assert set(bodies.values()) == {2}
    expected = [
        {
            "type": kind.value,
            "timestamp": "2026-11-23T08:00:00.123Z",
            "data": {"project_id": str(project[1]), "alert": alert_fields(one)},
        }
        for one in told
    ]
    assert sorted(map(orjson.loads, bodies), key=str) == sorted(expected, key=str)


def test_nobody_is_told_on_a_plan_without_webhooks(conn: Connection) -> None:
    free = make_project(conn, Plan.FREE)
    make_webhook(conn, free[0])

    assert tell(conn, free) == 0
    assert deliveries(conn) == []


def test_what_was_put_there_before_a_downgrade_is_still_sent(conn: Connection, project: tuple[int, UUID]) -> None:
    make_webhook(conn, project[0])
    tell(conn, project)
    conn.execute("UPDATE organizations SET plan = 'free'")

    assert tell(conn, project) == 0
    assert len(claim(conn)) == 1


def test_what_is_rolled_back_was_never_there(conn: Connection, project: tuple[int, UUID]) -> None:
    make_webhook(conn, project[0])
    conn.commit()

    tell(conn, project)
    conn.rollback()

    assert claim(conn) == []


def test_whoever_listens_is_woken(conn: Connection, other: Connection, project: tuple[int, UUID]) -> None:
    other.autocommit = True
    other.execute(f"LISTEN {store.CHANNEL}".encode())
    make_webhook(conn, project[0])
    tell(conn, project)
    conn.commit()

    assert [one.channel for one in other.notifies(timeout=5, stop_after=1)] == [store.CHANNEL]


def test_nothing_is_put_there_for_an_endpoint_that_is_being_disabled(
    conn: Connection, other: Connection, watcher: Connection, project: tuple[int, UUID]
) -> None:
    row = make_webhook(conn, project[0])
    conn.commit()
    change = update(project[0], row.id, {"enabled": False}, by=ADA, event_id=MINT.one(NOW_MS), now=lambda: NOW)
    change.run(conn)  # and is not committed yet

    with ThreadPoolExecutor() as pool:
        told = pool.submit(tell, other, project)
        wait_until(lambda: waits_for_a_lock(watcher), seconds=10)
        conn.commit()
        assert told.result(timeout=10) == 0


def test_who_disables_waits_for_what_is_being_put_there_and_cancels_it(
    conn: Connection, other: Connection, watcher: Connection, project: tuple[int, UUID]
) -> None:
    row = make_webhook(conn, project[0])
    conn.commit()
    tell(conn, project)  # and is not committed yet
    change = update(project[0], row.id, {"enabled": False}, by=ADA, event_id=MINT.one(NOW_MS), now=lambda: NOW)

    with ThreadPoolExecutor() as pool:
        changed = pool.submit(change.run, other)
        wait_until(lambda: waits_for_a_lock(watcher), seconds=10)
        conn.commit()
        assert not changed.result(timeout=10).enabled
        other.commit()

    assert statuses(conn) == {"cancelled": 1}


def waits_for_a_lock(conn: Connection) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    (row,) = conn.execute(query)
    return bool(row[0])


# -- claims --------------------------------------------------------------------------------------------------------


def test_a_claim_begins_an_attempt_and_has_what_is_to_be_sent(conn: Connection, project: tuple[int, UUID]) -> None:
    row = make_webhook(conn, project[0])
    tell(conn, project)
    conn.commit()
    (body, delivery_id) = conn.execute("SELECT body, delivery_id FROM deliveries").fetchone() or ("", None)

    found = claim_one(conn)

    assert found == Claim(project[0], row.id, delivery_id, 1, TRIES - 1, body, row.url, (SECRET,))
    assert "receiver.example" not in repr(found)
    assert repr(SECRET) not in repr(found)
    attempts = conn.execute("SELECT attempt, duration_ms, response_status, error FROM delivery_attempts").fetchall()
    assert attempts == [(1, None, None, None)]
    assert claim(conn) == []  # the lease


def test_a_lease_that_runs_out_is_the_next_attempt_of_whoever_comes(
    conn: Connection, project: tuple[int, UUID]
) -> None:
    make_webhook(conn, project[0])
    tell(conn, project)
    first = claim_one(conn)

    pass_time(conn, 59)
    assert claim(conn) == []
    pass_time(conn, 1)
    second = claim_one(conn)

    assert (second.delivery_id, second.body) == (first.delivery_id, first.body)
    assert (second.attempt, second.tries_left) == (2, TRIES - 2)


def test_crashed_attempts_count(conn: Connection, project: tuple[int, UUID]) -> None:
    make_webhook(conn, project[0])
    tell(conn, project)
    for _ in range(TRIES):
        claim_one(conn)
        pass_time(conn, 60)

    assert claim(conn) == []

    assert deliveries(conn) == [("failed", TRIES, 0)]
    (row,) = conn.execute("SELECT due_at, ended_at IS NOT NULL FROM deliveries")
    assert row == (None, True)


def test_no_more_of_one_endpoint_than_it_may_have_in_flight(conn: Connection, project: tuple[int, UUID]) -> None:
    slow, other = make_webhook(conn, project[0]), make_webhook(conn, project[0])
    failing = make_webhook(conn, project[0], failing_since=NOW)
    tell(conn, project, *[alert() for _ in range(10)])

    assert Counter(one.webhook_id for one in claim(conn)) == {slow.id: 4, other.id: 4, failing.id: 1}
    no = project[0]
    busy = {(no, slow.id): 4, (no, other.id): 3, (no, failing.id): 1}
    assert [one.webhook_id for one in claim(conn, busy=busy)] == [other.id]
    assert claim(conn, busy=busy | {(no, other.id): 5}) == []


def test_no_more_of_one_project_than_it_may_have_in_flight(conn: Connection, project: tuple[int, UUID]) -> None:
    mine = [make_webhook(conn, project[0]) for _ in range(5)]
    tell(conn, project, *[alert() for _ in range(9)])
    neighbour = make_project(conn)
    theirs = make_webhook(conn, neighbour[0])
    tell(conn, neighbour, *[alert() for _ in range(9)])

    found = Counter(one.webhook_id for one in claim(conn, each_project=12))
    assert found.pop(theirs.id) == 4
    assert found.total() == 12
    assert sorted(found.values()) == [2, 2, 2, 3, 3]  # in turns

    busy = {(project[0], row.id): found[row.id] for row in mine} | {(neighbour[0], theirs.id): 2}
    assert [one.webhook_id for one in claim(conn, each_project=12, busy=busy)] == [theirs.id] * 2
    # What it has in flight of an endpoint that is deleted counts, too.
    gone = {(project[0], uuid4()): 11}
    assert len([one for one in claim(conn, each_project=12, busy=gone) if one.project_no == project[0]]) == 1


def test_of_a_project_the_endpoint_with_the_fewest_in_flight_comes_first(
    conn: Connection, project: tuple[int, UUID]
) -> None:
    rows = [make_webhook(conn, project[0]) for _ in range(3)]
    tell(conn, project, *[alert() for _ in range(9)])
    busy = dict(zip([(project[0], row.id) for row in rows], [3, 1, 2], strict=True))

    assert Counter(one.webhook_id for one in claim(conn, each_project=7, busy=busy)) == {rows[1].id: 1}


def test_the_oldest_of_an_endpoint_first(conn: Connection, project: tuple[int, UUID]) -> None:
    make_webhook(conn, project[0])
    told = [alert() for _ in range(3)]
    for one in told:
        tell(conn, project, one)
        conn.commit()  # one transaction has one time

    found = [claim(conn, each=1)[0].body for _ in told]

    assert [orjson.loads(body)["data"]["alert"]["id"] for body in found] == [alert_fields(one)["id"] for one in told]


def test_a_claim_that_is_full_is_gone_on_with_behind_its_last_project(conn: Connection) -> None:
    for _ in range(3):
        somebody = make_project(conn)
        for _ in range(3):
            make_webhook(conn, somebody[0])
        tell(conn, somebody, *[alert() for _ in range(5)])
    conn.commit()

    busy: Counter[tuple[int, UUID]] = Counter()
    turns: list[Claim] = []
    after = START
    for _ in range(9):
        found = claim(conn, limit=2, each=1, busy=busy, after=after)
        turns += found
        busy.update((one.project_no, one.webhook_id) for one in found)
        after = found[-1].project_no if len(found) == 2 else START

    # Every project had a turn before any had two, and every endpoint before any had two.
    assert len({one.project_no for one in turns[:6]}) == 3
    assert set(busy.values()) == {1}
    assert len(busy) == 9


def test_two_that_claim_at_once_never_get_the_same(database_url: str, project: tuple[int, UUID]) -> None:
    with psycopg.connect(database_url) as conn:
        for _ in range(5):
            make_webhook(conn, project[0])
        tell(conn, project, *[alert() for _ in range(40)])
    start = threading.Barrier(4)

    def take() -> list[tuple[UUID, int]]:
        with psycopg.connect(database_url) as own:
            start.wait(timeout=10)
            return [(one.delivery_id, one.attempt) for _ in range(25) for one in claim(own, limit=7)]

    with ThreadPoolExecutor(4) as pool:
        takers = [pool.submit(take) for _ in range(4)]
        taken = [one for taker in takers for one in taker.result(timeout=60)]

    assert len(taken) == len(set(taken)) == 200
    assert {attempt for _, attempt in taken} == {1}


def test_a_claim_looks_at_no_more_of_a_long_queue_than_it_takes(conn: Connection, project: tuple[int, UUID]) -> None:
    slow, quick = make_webhook(conn, project[0]), make_webhook(conn, project[0])
    conn.execute(
        "INSERT INTO deliveries (project_no, delivery_id, webhook_id, alert_id, type, body, status, tries_left, due_at,"
        " created_at) SELECT %s, gen_random_uuid(), %s, gen_random_uuid(), 'alert.triggered', '{}', 'pending', 8,"
        " now() - n * interval '1 second', now() FROM generate_series(1, 20000) n",
        (project[0], slow.id),
    )
    tell(conn, project)
    conn.commit()
    conn.autocommit = True
    conn.execute("VACUUM ANALYZE deliveries")

    seen = rows_seen(conn, busy={(project[0], slow.id): 4})

    assert seen < 100
    found = claim(conn, busy={(project[0], slow.id): 4})
    assert [one.webhook_id for one in found] == [quick.id]


def rows_seen(conn: Connection, busy: dict[tuple[int, UUID], int]) -> int:
    """Rows of ``deliveries`` that a claim looks at."""
    values = {
        "limit": 64,
        "each": 4,
        "each_project": 32,
        "busy_projects": [project_no for project_no, _ in busy],
        "busy_webhooks": [webhook_id for _, webhook_id in busy],
        "busy": list(busy.values()),
        "lease": 60.0,
        "after_project": 0,
    }
    with conn.transaction(force_rollback=True):
        explain = b"EXPLAIN (ANALYZE, FORMAT JSON) " + store._sql.claim_deliveries.encode()
        (row,) = conn.execute(explain, values)
    seen = 0
    nodes = [row[0][0]["Plan"]]
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        if node.get("Relation Name") == "deliveries":
            thrown = node.get("Rows Removed by Filter", 0)
            seen += round((node["Actual Rows"] + thrown) * node["Actual Loops"])
    return seen
