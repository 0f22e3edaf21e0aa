"""Endpoints in the database: what may be changed of them, what is on record of it, and the log of deliveries."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from logstitch.errors import Conflict, NotFound
from logstitch.ids import as_uuid
from logstitch.model import RESERVED_TENANT
from logstitch.recording.outbox import announce_test, retry
from logstitch.recording.webhooks import MAX_WEBHOOKS, Ending, creation, deletion, rotation, settle, update
from logstitch.store import webhooks as store
from logstitch.store.database import Connection
from logstitch.store.webhooks import WebhookRow
from logstitch.webhooks.schedule import TRIES
from tests.support.outbox import ADA, DELIVERED, FAILED, claim, claim_one, pass_time, standing, statuses
from tests.support.webhooks import MINT, NOW, NOW_MS, SECRET, make_project, make_webhook, tell, webhook


@pytest.fixture
def project(conn: Connection) -> tuple[int, UUID]:
    """The number and the id of a project."""
    made = make_project(conn)
    conn.commit()
    return made


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
