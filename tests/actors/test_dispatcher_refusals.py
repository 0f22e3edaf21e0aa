"""The dispatcher: endpoints that go away, what must not be reached, and what the times of attempts tell."""

from __future__ import annotations

from functools import partial
from uuid import UUID

import orjson
import pytest
import trio
import trio.testing

from logstitch.actors.dispatcher import (
    CONNECTION_FAILED_SECONDS,
    IN_FLIGHT,
    IN_FLIGHT_EACH,
    LEASE,
    SETTLE_SECONDS,
)
from logstitch.egress import resolver
from logstitch.egress.client import ATTEMPT_SECONDS, REFUSED, Category, Outcome
from logstitch.recording.outbox import announce_test
from logstitch.recording.webhooks import deletion, update
from logstitch.store import webhooks as store
from logstitch.store.database import Connection, open_database
from tests.support.dispatching import ADA, Looks, ended_attempts, endpoint_in, has_sent, open_bench, project_in
from tests.support.webhooks import (
    MINT,
    NOW,
    NOW_MS,
    Sent,
    StubEgress,
    alert,
    answer,
    tell,
)

# -- endpoints that go away ----------------------------------------------------------------------------------------


async def test_410_disables_the_endpoint_and_cancels_the_rest(database_url: str) -> None:
    async def gone(sent: Sent) -> Outcome:
        return answer(410)

    egress = StubEgress(gone)
    async with open_bench(database_url, egress) as bench:
        project = await project_in(bench)
        row = await endpoint_in(bench, project, failing_since=NOW)  # so they go one by one
        await bench.do(lambda conn: conn.execute("UPDATE webhooks SET failing_since = now()") and None)
        await bench.do(lambda conn: tell(conn, project, *[alert() for _ in range(6)]))
        await bench.until_statuses(failed=1, cancelled=5)

        after = await bench.do(lambda conn: store.find_webhook(conn, project[0], row.id))
        assert (after.enabled, after.disabled_reason) == (False, "gone")
        assert await bench.do(lambda conn: tell(conn, project)) == 0
    assert len(egress.sent) == 1


async def test_an_endpoint_that_is_deleted_with_retries_pending_hears_no_more(database_url: str) -> None:
    let_go = trio.Event()

    async def fail(sent: Sent) -> Outcome:
        await let_go.wait()
        return answer(503)

    egress = StubEgress(fail)
    async with open_bench(database_url, egress) as bench:
        project = await project_in(bench)
        row = await endpoint_in(bench, project)
        await bench.do(lambda conn: tell(conn, project, *[alert() for _ in range(6)]))
        await bench.until(has_sent(egress, IN_FLIGHT_EACH))

        await bench.do(deletion(project[0], row.id, by=ADA, event_id=MINT.one(NOW_MS), now=lambda: NOW).run)
        let_go.set()
        await bench.until(ended_attempts(bench, IN_FLIGHT_EACH))
        await bench.pass_time()
        await bench.stop()

        assert await bench.statuses() == {"cancelled": 6}
    assert len(egress.sent) == IN_FLIGHT_EACH


async def test_a_disabled_endpoint_hears_tests_only(database_url: str) -> None:
    egress = StubEgress()
    async with open_bench(database_url, egress) as bench:
        project = await project_in(bench)
        row = await endpoint_in(bench, project)
        await bench.do(
            update(project[0], row.id, {"enabled": False}, by=ADA, event_id=MINT.one(NOW_MS), now=lambda: NOW).run
        )
        await bench.do(lambda conn: tell(conn, project))
        await bench.do(lambda conn: announce_test(conn, project, row.id, delivery_id=UUID(int=1), now=NOW) and None)
        await bench.until_statuses(delivered=1)

    assert [orjson.loads(sent.body)["type"] for sent in egress.sent] == ["webhook.test"]


async def test_what_may_not_be_reached_any_more_is_not_sent(database_url: str) -> None:
    egress = StubEgress()
    async with open_bench(database_url, egress) as bench:
        project = await project_in(bench)
        row = await endpoint_in(bench, project, url="https://10.0.0.1/")  # allowed, when it was saved
        await bench.do(lambda conn: announce_test(conn, project, row.id, delivery_id=UUID(int=1), now=NOW) and None)
        await bench.until_statuses(failed=1)
        ((error, duration),) = await bench.do(
            lambda conn: conn.execute("SELECT error, duration_ms FROM delivery_attempts").fetchall()
        )

    assert egress.sent == []
    assert (error, duration) == (Category.CONNECTION_FAILED, None)


# -- what the times tell -------------------------------------------------------------------------------------------


async def test_what_could_not_be_sent_is_under_way_until_a_fixed_time(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(monkeypatch)

    async def refuse(sent: Sent) -> Outcome:
        return REFUSED

    egress = StubEgress(refuse)
    async with open_database(database_url) as database:
        with trio.CancelScope() as life:
            async with open_bench(database_url, egress, connection_failed_seconds=600) as bench:
                project = await project_in(bench)
                row = await endpoint_in(bench, project)
                forbidden = await endpoint_in(bench, project, url="https://10.0.0.1/")  # allowed, when it was saved
                await bench.do(lambda conn: tell(conn, project, *[alert() for _ in range(9)]))
                await bench.do(
                    lambda conn: announce_test(conn, project, row.id, delivery_id=UUID(int=1), now=NOW) and None
                )
                await bench.until(has_sent(egress, IN_FLIGHT_EACH))
                await looks.more()

                # Neither its end nor the beginning of the next one tells when it was known.
                assert len(egress.sent) == IN_FLIGHT_EACH
                assert await bench.statuses(row) == {"pending": 10}
                assert await bench.statuses(forbidden) == {"pending": 9}
                life.cancel()
                await trio.sleep_forever()

        # Nor does a stop of the service.
        rows = await database.transact(lambda conn: conn.execute("SELECT error FROM delivery_attempts").fetchall())
    assert rows == [(None,)] * 2 * IN_FLIGHT_EACH


async def test_whatever_failed_before_the_request_went_out_ends_at_the_same_time(database_url: str) -> None:
    swallowed = 0.3

    async def refuse(sent: Sent) -> Outcome:
        if "swallows" in sent.url:
            await trio.sleep(swallowed)
        return REFUSED

    async with open_bench(database_url, StubEgress(refuse), connection_failed_seconds=2 * swallowed) as bench:
        project = await project_in(bench)
        for url in ("https://closed.example/", "https://swallows.example/", "https://10.0.0.1/"):
            row = await endpoint_in(bench, project, url=url)
            await bench.do(partial(_test_once, project=project, webhook_id=row.id))
        await bench.until_statuses(failed=3)
        query = (
            "SELECT extract(epoch FROM d.ended_at - a.began_at)::float8, a.duration_ms, a.error"
            " FROM deliveries d JOIN delivery_attempts a USING (project_no, delivery_id)"
        )
        ends = await bench.do(lambda conn: conn.execute(query).fetchall())

    assert all(seconds >= 2 * swallowed for seconds, _, _ in ends)
    assert {(duration, error) for _, duration, error in ends} == {(None, "connection_failed")}


def _test_once(conn: Connection, project: tuple[int, UUID], webhook_id: UUID) -> None:
    announce_test(conn, project, webhook_id, delivery_id=webhook_id, now=NOW)


def test_the_lease_outlasts_every_attempt_and_the_writing_down_of_it() -> None:
    assert ATTEMPT_SECONDS < CONNECTION_FAILED_SECONDS
    assert LEASE.total_seconds() > CONNECTION_FAILED_SECONDS + SETTLE_SECONDS


def test_there_are_threads_for_all_look_ups_that_attempts_may_have_left_behind() -> None:
    attempts = IN_FLIGHT * resolver.LOOK_UP_SECONDS / CONNECTION_FAILED_SECONDS
    assert attempts <= resolver.THREADS
