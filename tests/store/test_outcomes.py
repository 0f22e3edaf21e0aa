"""What became of attempts: whose outcome counts, and what it does to deliveries and endpoints."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from logstitch.recording.outbox import announce_test, retry
from logstitch.recording.webhooks import Ending, deletion, settle, update
from logstitch.store import webhooks as store
from logstitch.store.database import Connection
from logstitch.webhooks.schedule import TRIES, WAITS
from tests.support.outbox import ADA, DELIVERED, FAILED, claim, claim_one, deliveries, pass_time, standing, statuses
from tests.support.webhooks import MINT, NOW, NOW_MS, alert, make_project, make_webhook, tell, webhook


@pytest.fixture
def project(conn: Connection) -> tuple[int, UUID]:
    """The number and the id of a project."""
    made = make_project(conn)
    conn.commit()
    return made


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
