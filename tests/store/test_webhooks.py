"""The outbox in the database: what is put there, who may take it, and whose outcome counts."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
import psycopg
import pytest

from logstitch.detection.alerts import alert_fields
from logstitch.detection.rules import Severity
from logstitch.errors import Conflict, NotFound
from logstitch.ids import as_uuid
from logstitch.model import RESERVED_TENANT, Plan
from logstitch.recording.outbox import announce_test, retry
from logstitch.recording.webhooks import MAX_WEBHOOKS, Ending, creation, deletion, rotation, settle, update
from logstitch.store import webhooks as store
from logstitch.store.database import Connection
from logstitch.store.webhooks import Claim, WebhookRow
from logstitch.webhooks.payloads import WebhookEvent
from logstitch.webhooks.schedule import TRIES, WAITS
from tests.support.service import wait_until
from tests.support.webhooks import MINT, NOW, NOW_MS, SECRET, alert, make_project, make_webhook, tell, webhook

ADA = UUID(int=7)
START = 0
MINUTE = timedelta(minutes=1)
FAILED = Ending(500, "http_error", 3)
DELIVERED = Ending(200, None, 3)


@pytest.fixture
def watcher(database_url: str) -> Iterator[Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def project(conn: Connection) -> tuple[int, UUID]:
    """The number and the id of a project."""
    made = make_project(conn)
    conn.commit()
    return made


def claim(
    conn: Connection,
    *,
    limit: int = 64,
    each: int = 4,
    each_project: int = 64,
    busy: dict[tuple[int, UUID], int] | None = None,
    lease: timedelta = MINUTE,
    after: int = START,
) -> list[Claim]:
    """Claim what is due, and commit."""
    found = store.claim_deliveries(
        conn, limit=limit, each=each, each_project=each_project, busy=busy or {}, lease=lease, after=after
    )
    conn.commit()
    return found


def claim_one(conn: Connection) -> Claim:
    (found,) = claim(conn)
    return found


def pass_time(conn: Connection, seconds: float) -> None:
    """As if every delivery had been due that much earlier."""
    conn.execute("UPDATE deliveries SET due_at = due_at - make_interval(secs => %s)", (seconds,))
    conn.commit()


def deliveries(conn: Connection) -> list[tuple[Any, ...]]:
    """Status, attempt and tries left of each, oldest first."""
    return conn.execute("SELECT status, attempt, tries_left FROM deliveries ORDER BY delivery_id").fetchall()


def statuses(conn: Connection) -> Counter[str]:
    return Counter(status for status, _, _ in deliveries(conn))


def standing(conn: Connection, project: tuple[int, UUID], row: WebhookRow) -> WebhookRow:
    found = store.find_webhook(conn, project[0], row.id)
    assert found is not None
    return found


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


# -- outcomes ------------------------------------------------------------------------------------------------------


def test_a_success_ends_it(conn: Connection, project: tuple[int, UUID]) -> None:
    row = make_webhook(conn, project[0], failing_since=NOW)
    tell(conn, project)

    settle(conn, claim_one(conn), DELIVERED, 0.5)

    assert deliveries(conn) == [("delivered", 1, TRIES - 1)]
    assert standing(conn, project, row).failing_since is None
    ((shown,), _) = store.list_deliveries(conn, project[0], row.id, status=None, limit=10, after=None)
    assert (shown.due_at, shown.in_flight) == (None, False)
    assert shown.ended_at is not None
    assert [(a.number, a.duration_ms, a.response_status, a.error) for a in shown.attempts] == [(1, 3, 200, None)]


def test_failures_are_tried_again_on_the_schedule_until_the_tries_are_used_up(
    conn: Connection, project: tuple[int, UUID]
) -> None:
    row = make_webhook(conn, project[0])
    tell(conn, project)

    for number, wait in enumerate([*WAITS[1:], None], 1):
        found = claim_one(conn)
        assert found.attempt == number
        settle(conn, found, FAILED, 0.5)
        conn.commit()
        if wait is not None:
            pass_time(conn, wait - 2)
            assert claim(conn) == []
            pass_time(conn, 2)

    assert claim(conn) == []
    assert deliveries(conn) == [("failed", TRIES, 0)]
    assert standing(conn, project, row).failing_since is not None
    assert standing(conn, project, row).enabled


def test_the_outcome_of_an_older_attempt_changes_nothing(conn: Connection, project: tuple[int, UUID]) -> None:
    row = make_webhook(conn, project[0])
    tell(conn, project)
    late = claim_one(conn)
    pass_time(conn, 60)
    current = claim_one(conn)
    before = conn.execute("TABLE deliveries").fetchall(), conn.execute("TABLE delivery_attempts").fetchall()

    for ending in (DELIVERED, FAILED, Ending(410, "http_error", 3)):
        assert settle(conn, late, ending, 0.5) is None
        conn.commit()

    assert (conn.execute("TABLE deliveries").fetchall(), conn.execute("TABLE delivery_attempts").fetchall()) == before
    assert standing(conn, project, row) == row
    settle(conn, current, DELIVERED, 0.5)
    assert deliveries(conn) == [("delivered", 2, TRIES - 2)]


def test_an_outcome_that_is_written_twice_counts_once(conn: Connection, project: tuple[int, UUID]) -> None:
    row = make_webhook(conn, project[0])
    tell(conn, project)
    found = claim_one(conn)
    settle(conn, found, DELIVERED, 0.5)
    retry(conn, project[0], row.id, found.delivery_id)

    assert settle(conn, found, DELIVERED, 0.5) is None

    assert deliveries(conn) == [("pending", 1, 1)]


@pytest.mark.parametrize(
    ("age", "status", "reason"),
    [(timedelta(0), 410, "gone"), (timedelta(days=5), 500, "failing"), (timedelta(days=4, hours=23), 500, None)],
)
def test_what_disables_an_endpoint(
    conn: Connection, project: tuple[int, UUID], age: timedelta, status: int, reason: str | None
) -> None:
    (now,) = conn.execute("SELECT now()").fetchone() or (NOW,)
    row = make_webhook(conn, project[0], failing_since=now - age if age else None)
    bystander = make_webhook(conn, project[0])
    tell(conn, project, *[alert() for _ in range(3)])
    conn.commit()
    (found,) = [one for one in claim(conn, each=1) if one.webhook_id == row.id]

    settle(conn, found, Ending(status, "http_error", 3), 0.5)

    after = standing(conn, project, row)
    assert (after.enabled, after.disabled_reason) == (reason is None, reason)
    of_it = Counter(
        status for (status,) in conn.execute("SELECT status FROM deliveries WHERE webhook_id = %s", (row.id,))
    )
    assert of_it == ({"pending": 3} if reason is None else {"failed": 1, "cancelled": 2})
    assert standing(conn, project, bystander) == bystander
    assert tell(conn, project) == (2 if reason is None else 1)


@pytest.mark.parametrize("ending", [DELIVERED, FAILED, Ending(410, "http_error", 3)])
@pytest.mark.parametrize("age", [timedelta(hours=1), timedelta(days=5)])
def test_what_comes_from_a_former_url_says_nothing_of_the_endpoint(
    conn: Connection, project: tuple[int, UUID], ending: Ending, age: timedelta
) -> None:
    row = make_webhook(conn, project[0])
    tell(conn, project, alert(), alert())
    conn.commit()
    (late,) = claim(conn, each=1)
    (now,) = conn.execute("SELECT now()").fetchone() or (NOW,)
    moved = webhook(id=row.id, url="https://new.example/hook", failing_since=now - age)
    store.update_webhook(conn, project[0], moved)

    verdict = settle(conn, late, ending, 0.5)

    assert verdict is not None
    assert verdict.disable is None
    assert standing(conn, project, row) == moved
    assert statuses(conn) == ({"delivered": 1, "pending": 1} if ending == DELIVERED else {"pending": 2})
    conn.commit()
    assert late.delivery_id not in [one.delivery_id for one in claim(conn, lease=timedelta(hours=1))]
    pass_time(conn, WAITS[1])
    # It goes on by its schedule, at the new URL.
    again = [(one.delivery_id, one.attempt, one.url) for one in claim(conn)]
    assert again == ([] if ending == DELIVERED else [(late.delivery_id, 2, moved.url)])


def test_a_first_failure_at_a_former_url_is_none_of_the_new_one(conn: Connection, project: tuple[int, UUID]) -> None:
    row = make_webhook(conn, project[0])
    tell(conn, project)
    late = claim_one(conn)
    store.update_webhook(conn, project[0], webhook(id=row.id, url="https://new.example/hook"))

    settle(conn, late, FAILED, 0.5)

    assert standing(conn, project, row).failing_since is None


# -- endpoints that go away ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["disabled", "deleted"])
def test_what_an_endpoint_was_still_to_be_told_is_cancelled_also_on_its_way(
    conn: Connection, project: tuple[int, UUID], how: str
) -> None:
    row = make_webhook(conn, project[0])
    tell(conn, project, *[alert() for _ in range(6)])
    conn.commit()
    on_their_way = claim(conn)

    change = (
        update(project[0], row.id, {"enabled": False}, by=ADA, event_id=MINT.one(NOW_MS), now=lambda: NOW)
        if how == "disabled"
        else deletion(project[0], row.id, by=ADA, event_id=MINT.one(NOW_MS), now=lambda: NOW)
    )
    change.run(conn)
    conn.commit()

    assert statuses(conn) == {"cancelled": 6}
    for one in on_their_way:
        assert settle(conn, one, FAILED, 0.5) is None
    pass_time(conn, 60)
    assert claim(conn) == []
    assert statuses(conn) == {"cancelled": 6}
    known = conn.execute("SELECT count(*) FROM delivery_attempts WHERE error = 'http_error'").fetchone()
    assert known == (4,)  # what became of those is known all the same


def test_what_does_not_fit_into_one_transaction_is_not_sent_and_cancelled_later(
    conn: Connection, project: tuple[int, UUID]
) -> None:
    row, bystander = make_webhook(conn, project[0]), make_webhook(conn, project[0])
    tell(conn, project, *[alert() for _ in range(10)])
    store.update_webhook(conn, project[0], webhook(id=row.id, enabled=False))
    assert store.cancel_deliveries(conn, project[0], row.id, limit=4) == 4
    conn.commit()

    assert {one.webhook_id for one in claim(conn)} == {bystander.id}
    assert [store.cancel_leftovers(conn, limit=4) for _ in range(3)] == [4, 2, 0]
    assert statuses(conn) == {"cancelled": 10, "pending": 10}


def test_what_is_left_of_a_deleted_endpoint_is_cancelled_later(conn: Connection, project: tuple[int, UUID]) -> None:
    row = make_webhook(conn, project[0])
    tell(conn, project)
    announce_test(conn, project, row.id, delivery_id=uuid4(), now=NOW)
    store.delete_webhook(conn, project[0], row.id)
    conn.commit()

    assert claim(conn) == []
    assert store.cancel_leftovers(conn) == 2
    assert store.count_pending(conn) == 0


# -- secrets -------------------------------------------------------------------------------------------------------


def test_an_attempt_is_signed_with_what_holds_when_it_begins(conn: Connection, project: tuple[int, UUID]) -> None:
    row = make_webhook(conn, project[0])
    tell(conn, project)

    def keys() -> tuple[bytes, ...]:
        pass_time(conn, 60)
        return claim_one(conn).keys

    def rotate(secret: bytes) -> None:
        rotation(project[0], row.id, secret, by=ADA, event_id=MINT.one(NOW_MS), now=lambda: NOW).run(conn)

    assert keys() == (SECRET,)
    rotate(b"2" * 32)
    assert keys() == (b"2" * 32, SECRET)
    rotate(b"3" * 32)
    assert keys() == (b"3" * 32, b"2" * 32)
    conn.execute("UPDATE webhooks SET former_until = former_until - interval '24 hours'")
    assert keys() == (b"3" * 32,)


# -- changes and their record --------------------------------------------------------------------------------------


def recorded(conn: Connection, no: int) -> list[dict[str, Any]]:
    rows = conn.execute("SELECT body FROM events WHERE project_no = %s ORDER BY seq", (no,))
    return [orjson.loads(body) for (body,) in rows]


def test_every_change_is_on_record_and_no_secret_is(conn: Connection, project: tuple[int, UUID]) -> None:
    no = project[0]
    row = webhook(url="https://chat.example:8443/services/T0/B0/a-token?key=another", description="the pager")

    def options() -> dict[str, Any]:
        return {"by": ADA, "event_id": MINT.one(NOW_MS), "now": lambda: NOW}

    creation(no, row, SECRET, **options()).run(conn)
    update(no, row.id, {"url": row.url + "2", "min_severity": "high"}, **options()).run(conn)
    update(no, row.id, {"min_severity": "high"}, **options()).run(conn)  # is so already
    rotation(no, row.id, b"2" * 32, **options()).run(conn)
    deletion(no, row.id, **options()).run(conn)

    events = recorded(conn, no)
    assert [event["action"] for event in events] == [
        "logstitch.webhook.created",
        "logstitch.webhook.updated",
        "logstitch.webhook.updated",
        "logstitch.webhook.deleted",
    ]
    assert {event["tenant_id"] for event in events} == {RESERVED_TENANT}
    assert {event["actor"]["id"] for event in events} == {str(ADA)}
    assert {event["target"]["name"] for event in events} == {"the pager"}
    assert [change["field"] for change in events[1]["changes"]] == ["url_sha256", "min_severity"]
    assert [change["field"] for change in events[2]["changes"]] == ["secret_rotated_at"]
    assert events[0]["changes"][0] == {"field": "url", "after": "https://chat.example:8443"}
    told = orjson.dumps(events)
    for secret in (b"token", b"another", b"AAECAwQF", b"MjIyMjIy"):
        assert secret not in told


def test_a_project_has_at_most_twenty(conn: Connection, other: Connection, project: tuple[int, UUID]) -> None:
    for _ in range(MAX_WEBHOOKS - 1):
        make_webhook(conn, project[0])
    conn.commit()

    def create(connection: Connection) -> str:
        change = creation(project[0], webhook(), SECRET, by=ADA, event_id=MINT.one(NOW_MS), now=lambda: NOW)
        with connection.transaction():
            try:
                change.run(connection)
            except Conflict:
                return "refused"
        return "made"

    with ThreadPoolExecutor() as pool:
        assert sorted(pool.map(create, (conn, other))) == ["made", "refused"]
    assert store.count_webhooks(conn, project[0]) == MAX_WEBHOOKS


def test_enabling_and_another_url_forget_failures(conn: Connection, project: tuple[int, UUID]) -> None:
    def change(row: WebhookRow, **fields: Any) -> WebhookRow:
        return update(project[0], row.id, fields, by=ADA, event_id=MINT.one(NOW_MS), now=lambda: NOW).run(conn)

    gone = make_webhook(conn, project[0], enabled=False, disabled_reason="gone", failing_since=NOW)
    assert change(gone, description="x").disabled_reason == "gone"
    again = change(gone, enabled=True)
    assert (again.enabled, again.disabled_reason, again.failing_since) == (True, None, None)

    failing = make_webhook(conn, project[0], failing_since=NOW)
    assert change(failing, enabled=True).failing_since == NOW
    assert change(failing, url="https://other.example/").failing_since is None
    assert standing(conn, project, failing).url == "https://other.example/"


def test_endpoints_of_other_projects_are_not_there(conn: Connection, project: tuple[int, UUID]) -> None:
    theirs = make_project(conn)
    row = make_webhook(conn, theirs[0])
    options: dict[str, Any] = {"by": ADA, "now": lambda: NOW}

    assert store.find_webhook(conn, project[0], row.id) is None
    for change in (
        update(project[0], row.id, {"enabled": False}, event_id=MINT.one(NOW_MS), **options),
        rotation(project[0], row.id, SECRET, event_id=MINT.one(NOW_MS), **options),
        deletion(project[0], row.id, event_id=MINT.one(NOW_MS), **options),
    ):
        with pytest.raises(NotFound):
            change.run(conn)
    with pytest.raises(NotFound):
        announce_test(conn, project, row.id, delivery_id=uuid4(), now=NOW)
    assert standing(conn, theirs, row) == row


# -- the log, tests, and retries -----------------------------------------------------------------------------------


def put(
    conn: Connection, no: int, row: WebhookRow, count: int, *, at: datetime = NOW, status: str = "delivered"
) -> None:
    """Deliveries of the past, a second apart."""
    conn.execute(
        "INSERT INTO deliveries (project_no, delivery_id, webhook_id, alert_id, type, body, status, tries_left,"
        " created_at) SELECT %s, gen_random_uuid(), %s, gen_random_uuid(), 'alert.triggered', '{}', %s, 0,"
        " %s + n * interval '1 second' FROM generate_series(1, %s) n",
        (no, row.id, status, at, count),
    )


def test_the_log_is_read_in_pages_newest_first(conn: Connection, project: tuple[int, UUID]) -> None:
    no = project[0]
    row = make_webhook(conn, no)
    put(conn, no, row, 12)
    put(conn, no, row, 12, status="failed")  # at the same times
    put(conn, no, make_webhook(conn, no), 5)

    for status, expected in ((None, 24), ("failed", 12), ("cancelled", 0)):
        seen, after = [], None
        while True:
            page, after = store.list_deliveries(conn, no, row.id, status=status, limit=5, after=after)
            assert len(page) <= 5
            seen += [(one.created_at, one.id) for one in page]
            if after is None:
                break
        assert len(seen) == expected
        assert seen == sorted(set(seen), reverse=True)


def test_a_status_that_is_rare_is_looked_for_in_bounded_steps(conn: Connection, project: tuple[int, UUID]) -> None:
    no = project[0]
    row = make_webhook(conn, no)
    put(conn, no, row, 1, status="failed")
    put(conn, no, row, 30, at=NOW + timedelta(hours=1))

    pages, after = [], None
    while True:
        page, after = store.list_deliveries(conn, no, row.id, status="failed", limit=5, after=after, looked_at=10)
        pages.append(len(page))
        if after is None:
            break

    assert pages == [0, 0, 0, 1]


def test_of_many_attempts_the_newest_are_shown(conn: Connection, project: tuple[int, UUID]) -> None:
    row = make_webhook(conn, project[0])
    tell(conn, project)
    for _ in range(25):
        found = claim_one(conn)
        settle(conn, found, FAILED, 0.5)
        retry(conn, project[0], row.id, found.delivery_id)

    ((shown,), _) = store.list_deliveries(conn, project[0], row.id, status=None, limit=5, after=None)

    assert [one.number for one in shown.attempts] == list(range(6, 26))


@pytest.mark.parametrize("enabled", [True, False])
def test_a_test_is_sent_once_also_to_an_endpoint_that_is_disabled(
    conn: Connection, project: tuple[int, UUID], enabled: bool
) -> None:
    row = make_webhook(conn, project[0], enabled=enabled)
    delivery_id = as_uuid(MINT.one(NOW_MS))

    for _ in range(2):  # as a transaction whose commit was in doubt is
        made = announce_test(conn, project, row.id, delivery_id=delivery_id, now=NOW)

    assert (made.id, made.alert_id, made.type, made.status, made.attempts) == (
        delivery_id,
        None,
        "webhook.test",
        "pending",
        (),
    )
    conn.commit()
    found = claim_one(conn)
    data = orjson.loads(found.body)["data"]
    assert data["project_id"] == str(project[1])
    assert found.tries_left == 0
    settle(conn, found, FAILED, 0.5)
    assert statuses(conn) == {"failed": 1}


@pytest.mark.parametrize("ending", [DELIVERED, FAILED])
def test_what_has_ended_is_tried_once_more(conn: Connection, project: tuple[int, UUID], ending: Ending) -> None:
    row = make_webhook(conn, project[0])
    tell(conn, project)
    conn.execute("UPDATE deliveries SET tries_left = 1")
    first = claim_one(conn)
    settle(conn, first, ending, 0.5)

    again = retry(conn, project[0], row.id, first.delivery_id)

    assert (again.status, again.ended_at, again.in_flight) == ("pending", None, False)
    conn.commit()
    second = claim_one(conn)
    assert (second.attempt, second.tries_left, second.body) == (2, 0, first.body)
    settle(conn, second, FAILED, 0.5)
    assert statuses(conn) == {"failed": 1}


def test_what_waits_for_its_next_try_is_tried_now_and_keeps_the_rest(
    conn: Connection, project: tuple[int, UUID]
) -> None:
    row = make_webhook(conn, project[0])
    tell(conn, project)
    first = claim_one(conn)
    settle(conn, first, FAILED, 0.5)
    assert claim(conn) == []

    retry(conn, project[0], row.id, first.delivery_id)
    conn.commit()

    assert claim_one(conn).tries_left == TRIES - 2


def test_what_cannot_be_tried_again(conn: Connection, project: tuple[int, UUID]) -> None:
    no = project[0]
    row, elsewhere = make_webhook(conn, no), make_webhook(conn, no, events=("alert.resolved",))
    tell(conn, project)
    found = claim_one(conn)

    with pytest.raises(Conflict, match="under way"):
        retry(conn, no, row.id, found.delivery_id)
    pass_time(conn, 60)  # whoever made the attempt is gone
    assert retry(conn, no, row.id, found.delivery_id).status == "pending"
    with pytest.raises(NotFound, match="delivery"):
        retry(conn, no, elsewhere.id, found.delivery_id)
    with pytest.raises(NotFound, match="webhook"):
        retry(conn, no, uuid4(), found.delivery_id)
    store.cancel_deliveries(conn, no, row.id)
    with pytest.raises(Conflict, match="cancelled"):
        retry(conn, no, row.id, found.delivery_id)
    conn.execute("UPDATE deliveries SET status = 'failed'")
    store.update_webhook(conn, no, webhook(id=row.id, enabled=False))
    with pytest.raises(Conflict, match="disabled"):
        retry(conn, no, row.id, found.delivery_id)
