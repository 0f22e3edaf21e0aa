"""Deliveries that ended long ago leave the log, in small steps, with their attempts, and nothing else does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from logstitch.recording.outbox import retry
from logstitch.recording.webhooks import deletion, settle
from logstitch.store import webhooks as store
from logstitch.store.database import Connection
from logstitch.store.webhooks import WebhookRow
from logstitch.webhooks.schedule import KEPT_FOR, WAITS
from tests.support.outbox import ADA, FAILED, claim_one, deliveries
from tests.support.webhooks import MINT, NOW, NOW_MS, make_project, make_webhook, tell

DAY = timedelta(days=1)
MANY = 1000


@pytest.fixture
def project(conn: Connection) -> tuple[int, UUID]:
    """The number and the id of a project."""
    made = make_project(conn)
    conn.commit()
    return made


@pytest.fixture
def row(conn: Connection, project: tuple[int, UUID]) -> WebhookRow:
    """An endpoint of it."""
    made = make_webhook(conn, project[0])
    conn.commit()
    return made


def put(
    conn: Connection,
    no: int,
    row: WebhookRow,
    count: int = 1,
    *,
    ended: timedelta | None,
    attempts: int = 1,
    status: str = "delivered",
) -> None:
    """Deliveries that ended so long ago, a second apart, or have not ended, with their attempts."""
    conn.execute(
        "WITH made AS ("
        " INSERT INTO deliveries (project_no, delivery_id, webhook_id, alert_id, type, body, status, attempt,"
        " tries_left, due_at, created_at, ended_at)"
        " SELECT %(no)s, gen_random_uuid(), %(webhook_id)s, gen_random_uuid(), 'alert.triggered', '{}', %(status)s,"
        " %(attempts)s, 0, CASE WHEN %(ended)s::interval IS NULL THEN now() END, now() - interval '1 year',"
        " now() - %(ended)s::interval - n * interval '1 second' FROM generate_series(1, %(count)s) n"
        " RETURNING project_no, delivery_id)"
        " INSERT INTO delivery_attempts (project_no, delivery_id, attempt, began_at, response_status)"
        " SELECT project_no, delivery_id, n, now(), 200 FROM made, generate_series(1, %(attempts)s) n",
        {
            "no": no,
            "webhook_id": row.id,
            "status": status,
            "attempts": attempts,
            "ended": ended,
            "count": count,
        },
    )
    conn.commit()


def step(conn: Connection, limit: int = MANY) -> int:
    removed = store.remove_old(conn, KEPT_FOR, limit)
    conn.commit()
    return removed


def counts(conn: Connection) -> tuple[int, int]:
    """Deliveries and attempts that are there."""
    query = "SELECT (SELECT count(*) FROM deliveries), (SELECT count(*) FROM delivery_attempts)"
    (found,) = conn.execute(query)
    return found[0], found[1]


def test_the_schedule_ends_long_before_a_delivery_is_forgotten() -> None:
    assert timedelta(seconds=sum(WAITS)) * 10 < KEPT_FOR == timedelta(days=90)


@pytest.mark.parametrize("status", ["delivered", "failed", "cancelled"])
def test_what_ended_long_ago_goes_with_its_attempts(
    conn: Connection, project: tuple[int, UUID], row: WebhookRow, status: str
) -> None:
    put(conn, project[0], row, 3, ended=KEPT_FOR, attempts=2, status=status)
    put(conn, project[0], row, 2, ended=KEPT_FOR - DAY, attempts=2, status=status)

    assert step(conn) == 3 + 3 * 2
    assert step(conn) == 0
    assert counts(conn) == (2, 2 * 2)


def test_what_has_not_ended_stays_however_old_it_is(
    conn: Connection, project: tuple[int, UUID], row: WebhookRow
) -> None:
    put(conn, project[0], row, 3, ended=None, status="pending")

    assert step(conn) == 0
    assert counts(conn) == (3, 3)


def test_so_does_the_log_of_an_endpoint_that_was_deleted(
    conn: Connection, project: tuple[int, UUID], row: WebhookRow
) -> None:
    put(conn, project[0], row, ended=KEPT_FOR)
    deletion(project[0], row.id, by=ADA, event_id=MINT.one(NOW_MS), now=lambda: NOW).run(conn)
    conn.commit()

    step(conn)

    assert counts(conn) == (0, 0)


def test_a_step_is_bounded_also_by_attempts_and_takes_the_oldest_first(
    conn: Connection, project: tuple[int, UUID], row: WebhookRow
) -> None:
    """Given deliveries that were tried by hand again and again, then no step removes more rows than it may, and no
    attempt is left without its delivery."""
    put(conn, project[0], row, 3, ended=KEPT_FOR + DAY, attempts=25)
    put(conn, project[0], row, 12, ended=KEPT_FOR, attempts=0)

    removed = []
    while count := step(conn, limit=10):
        removed.append(count)
        orphans = "SELECT FROM delivery_attempts a LEFT JOIN deliveries d USING (project_no, delivery_id)"
        assert conn.execute(f"{orphans} WHERE d.delivery_id IS NULL").fetchall() == []
        conn.rollback()

    # 75 attempts of the three oldest, whose last five let ten deliveries go with them, and then the rest.
    assert removed == [10] * 7 + [5 + 10, 5]
    assert counts(conn) == (0, 0)


def test_two_processes_take_different_ones_and_wait_for_nobody(
    conn: Connection, other: Connection, project: tuple[int, UUID], row: WebhookRow
) -> None:
    put(conn, project[0], row, 10, ended=KEPT_FOR, attempts=0)

    other.execute("SET lock_timeout = '5s'")
    assert store.remove_old(conn, KEPT_FOR, 6) == 6
    assert store.remove_old(other, KEPT_FOR, 6) == 4
    for connection in (conn, other):
        connection.commit()
    assert counts(conn) == (0, 0)


def test_what_somebody_tries_again_at_this_moment_stays(
    conn: Connection, other: Connection, watcher: Connection, project: tuple[int, UUID], row: WebhookRow
) -> None:
    put(conn, project[0], row, ended=KEPT_FOR)
    (delivery_id,) = conn.execute("SELECT delivery_id FROM deliveries").fetchone() or ()
    conn.rollback()

    retry(conn, project[0], row.id, delivery_id)
    with ThreadPoolExecutor() as threads:
        assert threads.submit(step, other).result(timeout=10) == 0
    conn.commit()

    assert step(other) == 0
    assert deliveries(watcher) == [("pending", 1, 1)]


def test_an_outcome_that_comes_when_its_delivery_is_forgotten_is_none(
    conn: Connection, project: tuple[int, UUID], row: WebhookRow
) -> None:
    """Given an attempt of which nothing was heard, and whose delivery was cancelled and forgotten meanwhile."""
    tell(conn, project)
    conn.commit()
    late = claim_one(conn)
    conn.execute("UPDATE deliveries SET status = 'cancelled', due_at = NULL, ended_at = now() - %s", (KEPT_FOR,))
    conn.commit()
    step(conn)

    assert settle(conn, late, FAILED, 0.5) is None
    assert store.find_webhook(conn, project[0], row.id) == row
    assert counts(conn) == (0, 0)


@pytest.mark.parametrize("plans", ["custom", "generic"])
def test_a_step_looks_at_no_more_than_it_removes(
    conn: Connection, project: tuple[int, UUID], row: WebhookRow, plans: str
) -> None:
    put(conn, project[0], row, 20_000, ended=DAY, attempts=2)
    put(conn, project[0], row, 5_000, ended=KEPT_FOR, attempts=1)
    conn.execute("ANALYZE deliveries, delivery_attempts")
    conn.execute(f"SET plan_cache_mode = force_{plans}_plan")
    values: dict[str, Any] = {"kept_for": KEPT_FOR.total_seconds(), "limit": 500}

    old = explain(conn, store._sql.hold_old, values)
    held = conn.execute(store._sql.hold_old, values).fetchall()
    values |= {"project_nos": [no for no, _ in held], "delivery_ids": [id_ for _, id_ in held]}
    attempts = explain(conn, store._sql.delete_some_attempts, values)
    gone = explain(conn, store._sql.delete_deliveries, values)

    assert len(held) == 500
    assert old["indexes"] == {"deliveries_ended"}
    assert attempts["indexes"] == {"delivery_attempts_pkey"}
    assert gone["indexes"] == {"deliveries_pkey"}
    assert all(not used["sequential"] for used in (old, attempts, gone))
    assert max(used["rows"] for used in (old, attempts, gone)) <= 501


def explain(conn: Connection, statement: Any, values: dict[str, Any]) -> dict[str, Any]:
    """What the very statement used: indexes, tables read as a whole, and rows of a node, at most."""
    (answer,) = conn.execute(b"EXPLAIN (ANALYZE, FORMAT JSON) " + statement.encode(), values)
    used: dict[str, Any] = {"indexes": set(), "sequential": set(), "rows": 0}
    nodes = [answer[0][0]["Plan"]]
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", ())
        if "Index Name" in node:
            used["indexes"].add(node["Index Name"])
        if node["Node Type"] == "Seq Scan":
            used["sequential"].add(node["Relation Name"])
        if "Relation Name" in node:
            rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            used["rows"] = max(used["rows"], rows * node["Actual Loops"])
    return used
