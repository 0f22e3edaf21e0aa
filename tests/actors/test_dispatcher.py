"""The dispatcher: what is in the outbox goes out, at least once, whatever breaks and whoever is killed."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import standardwebhooks
import trio
import trio.testing

from logstitch import metrics
from logstitch.actors import dispatcher
from logstitch.actors.dispatcher import (
    IN_FLIGHT_EACH,
    LEASE,
)
from logstitch.egress.client import Category, Outcome
from logstitch.ids import IdKind, id_text
from logstitch.recording.outbox import announce_test
from logstitch.recording.webhooks import rotation, settle
from logstitch.store import webhooks as store
from logstitch.store.database import Connection, open_database
from logstitch.webhooks.signing import new_secret, secret_text
from tests.support.dispatching import (
    ADA,
    SECONDS,
    ended_attempts,
    endpoint_in,
    has_sent,
    open_bench,
    project_in,
    receiver,
)
from tests.support.errors import ErrorLogs
from tests.support.webhooks import (
    MINT,
    NOW,
    NOW_MS,
    SECRET,
    Sent,
    StubEgress,
    alert,
    answer,
    tell,
    webhook,
)

# -- through real sockets ------------------------------------------------------------------------------------------


async def test_an_alert_arrives_signed_and_every_repetition_is_the_same_message(database_url: str) -> None:
    async with receiver(500, 302, 200) as there, open_bench(database_url) as bench:
        project = await project_in(bench)
        row = await endpoint_in(bench, project, url=there.url)
        told = alert()
        await bench.do(lambda conn: tell(conn, project, told))

        for count in (1, 2):
            await bench.until(ended_attempts(bench, count))
            await bench.pass_time()
        await bench.until_statuses(delivered=1)

        (shown,), _ = await bench.do(
            lambda conn: store.list_deliveries(conn, project[0], row.id, status=None, limit=5, after=None)
        )
    assert [(a.number, a.response_status, a.error) for a in shown.attempts] == [
        (1, 500, "http_error"),
        (2, 302, "redirect"),
        (3, 200, None),
    ]
    assert {body for _, body in there.requests} == {there.requests[0][1]}
    assert {headers["webhook-id"] for headers, _ in there.requests} == {id_text(IdKind.DELIVERY, shown.id.bytes)}
    for headers, body in there.requests:
        message = standardwebhooks.Webhook(secret_text(SECRET)).verify(body, headers)
        assert message["data"]["alert"]["id"] == id_text(IdKind.ALERT, told.id.bytes)
        assert headers["content-type"] == "application/json"
        assert headers["user-agent"].startswith("LogStitch")


async def test_the_secret_is_rotated_between_two_attempts(database_url: str) -> None:
    async with receiver(500, 200) as there, open_bench(database_url) as bench:
        project = await project_in(bench)
        row = await endpoint_in(bench, project, url=there.url)
        await bench.do(lambda conn: tell(conn, project))
        await bench.until(ended_attempts(bench, 1))
        fresh = new_secret()
        await bench.do(
            rotation(project[0], row.id, fresh, by=ADA, event_id=MINT.one(NOW_MS), now=lambda: NOW).run,
        )

        await bench.pass_time()
        await bench.until_statuses(delivered=1)

    (first, _), (second, body) = there.requests
    assert len(first["webhook-signature"].split()) == 1
    for secret in (SECRET, fresh):
        standardwebhooks.Webhook(secret_text(secret)).verify(body, second)


# -- waking --------------------------------------------------------------------------------------------------------


async def test_a_notification_wakes_it(database_url: str) -> None:
    egress = StubEgress()
    async with open_bench(database_url, egress, poll_seconds=600) as bench:
        project = await project_in(bench)
        await endpoint_in(bench, project)
        for count in (1, 2, 3):  # the first may be found by the look at the start
            await bench.do(lambda conn: tell(conn, project))
            await bench.until_statuses(delivered=count)


async def test_without_a_notification_it_looks_for_itself(database_url: str) -> None:
    egress = StubEgress()
    async with open_bench(database_url, egress, poll_seconds=0.05) as bench:
        project = await project_in(bench)
        row = await endpoint_in(bench, project)
        await bench.do(lambda conn: tell(conn, project))
        await bench.until_statuses(delivered=1)
        query = "UPDATE deliveries SET status = 'pending', due_at = now(), tries_left = 1"
        await bench.do(lambda conn: conn.execute(query) and None)
        await bench.until_statuses(row, delivered=1)
        await bench.until(has_sent(egress, 2))


async def test_an_attempt_that_ends_makes_room_for_the_next(database_url: str) -> None:
    async with open_bench(database_url, StubEgress(), poll_seconds=600) as bench:
        project = await project_in(bench)
        await endpoint_in(bench, project)
        await bench.do(lambda conn: tell(conn, project, *[alert() for _ in range(5 * IN_FLIGHT_EACH)]))
        await bench.until_statuses(delivered=5 * IN_FLIGHT_EACH)


# -- one attempt by one process ------------------------------------------------------------------------------------


async def test_two_processes_share_the_work_and_send_nothing_twice(database_url: str) -> None:
    egress = StubEgress()  # one for both, so that it sees everything
    async with open_bench(database_url, egress) as one, open_bench(database_url, egress):
        project = await project_in(one)
        for _ in range(4):
            await endpoint_in(one, project)
        for _ in range(10):
            await one.do(lambda conn: tell(conn, project, *[alert() for _ in range(5)]))
        await one.until_statuses(delivered=200)

    assert Counter(Counter(sent.id for sent in egress.sent).values()) == {1: 200}


async def test_who_is_killed_after_the_post_has_it_sent_again_with_the_same_id(database_url: str) -> None:
    arrived = trio.Event()

    async def take_and_hang(sent: Sent) -> Outcome:
        arrived.set()
        await trio.sleep_forever()
        raise AssertionError

    egress, second = StubEgress(take_and_hang), StubEgress()
    lease = timedelta(seconds=0.5)
    async with trio.open_nursery() as nursery:

        async def first_life() -> None:
            async with open_bench(database_url, egress, lease=lease) as bench:
                project = await project_in(bench)
                await endpoint_in(bench, project)
                await bench.do(lambda conn: tell(conn, project))
                await trio.sleep_forever()

        nursery.start_soon(first_life)
        with trio.fail_after(SECONDS):
            await arrived.wait()
        nursery.cancel_scope.cancel()

    async with open_bench(database_url, second, lease=timedelta(seconds=60)) as bench:
        await bench.until_statuses(delivered=1)
        ((attempt, left),) = await bench.do(
            lambda conn: conn.execute("SELECT attempt, tries_left FROM deliveries").fetchall()
        )

    assert [sent.id for sent in second.sent] == [sent.id for sent in egress.sent]
    assert [sent.body for sent in second.sent] == [sent.body for sent in egress.sent]
    assert (attempt, left) == (2, 6)


async def test_an_answer_that_has_come_is_written_down_although_the_actor_is_cancelled(database_url: str) -> None:
    arrived = trio.Event()

    async def answer_late(sent: Sent) -> Outcome:
        arrived.set()
        with trio.CancelScope(shield=True):  # as the sender does once the head of the answer is there
            await trio.sleep(0.05)
        return answer(200)

    async with open_database(database_url) as database:
        with trio.CancelScope() as life:
            async with open_bench(database_url, StubEgress(answer_late)) as bench:
                project = await project_in(bench)
                await endpoint_in(bench, project)
                await bench.do(lambda conn: tell(conn, project))
                with trio.fail_after(SECONDS):
                    await arrived.wait()
                life.cancel()
                await trio.sleep_forever()
        rows = await database.transact(lambda conn: conn.execute("SELECT status FROM deliveries").fetchall())
    assert rows == [("delivered",)]


async def test_a_late_outcome_of_an_attempt_whose_lease_ran_out_changes_nothing(database_url: str) -> None:
    go_on = trio.Event()
    statuses = iter([410, 200])

    async def first_late(sent: Sent) -> Outcome:
        status = next(statuses)
        if status == 410:
            await go_on.wait()
        return answer(status)

    egress = StubEgress(first_late)
    async with open_bench(database_url, egress) as bench:
        project = await project_in(bench)
        row = await endpoint_in(bench, project)
        await bench.do(lambda conn: tell(conn, project))
        await bench.until(has_sent(egress, 1))

        await bench.pass_time(60)
        await bench.until_statuses(delivered=1)
        go_on.set()
        await bench.stop()

        assert await bench.statuses() == {"delivered": 1}
        after = await bench.do(lambda conn: store.find_webhook(conn, project[0], row.id))
    assert after == row


# -- failures of ours ----------------------------------------------------------------------------------------------


async def test_a_defect_with_one_message_ends_no_other_attempt(database_url: str, error_logs: ErrorLogs) -> None:
    error_logs.expect("webhooks.attempt_failed")
    let_go = trio.Event()

    async def break_or_wait(sent: Sent) -> Outcome:
        if "bad" in sent.url:
            raise RuntimeError("a defect")
        await let_go.wait()
        return answer(200)

    egress = StubEgress(break_or_wait)
    async with open_bench(database_url, egress) as bench:
        project = await project_in(bench)
        good = await endpoint_in(bench, project)
        await bench.do(lambda conn: tell(conn, project))
        await bench.until(has_sent(egress, 1))
        bad = await endpoint_in(bench, project, url="https://bad.example/")
        await bench.do(lambda conn: announce_test(conn, project, bad.id, delivery_id=UUID(int=1), now=NOW) and None)
        await bench.until_statuses(bad, failed=1)
        let_go.set()
        await bench.until_statuses(good, delivered=1)
        assert bench.address.health().restarts == 0
        (error,) = await bench.do(
            lambda conn: conn.execute("SELECT error FROM delivery_attempts WHERE error <> ''").fetchone()
        )
    assert error == dispatcher.INTERNAL_ERROR


async def test_an_outcome_that_cannot_be_written_for_a_defect_is_left_to_its_lease_and_costs_no_other(
    database_url: str, error_logs: ErrorLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    error_logs.expect("webhooks.not_settled")
    broken, let_go = trio.Event(), trio.Event()
    token = trio.lowlevel.current_trio_token()

    def break_once(conn: Connection, claim: store.Claim, *args: Any) -> Any:
        if "bad" in claim.url and claim.attempt == 1:
            token.run_sync_soon(broken.set)
            raise RuntimeError("a defect")
        return settle(conn, claim, *args)

    async def hold_the_good(sent: Sent) -> Outcome:
        if "bad" not in sent.url:
            await let_go.wait()
        return answer(200)

    monkeypatch.setattr(dispatcher, "settle", break_once)
    egress = StubEgress(hold_the_good)
    before = metrics.DELIVERY_ATTEMPTS.labels(dispatcher.INTERNAL_ERROR)._value.get()
    async with open_bench(database_url, egress) as bench:
        project = await project_in(bench)
        good = await endpoint_in(bench, project)
        await bench.do(lambda conn: tell(conn, project))
        await bench.until(has_sent(egress, 1))
        bad = await endpoint_in(bench, project, url="https://bad.example/")
        await bench.do(lambda conn: tell(conn, project))
        with trio.fail_after(SECONDS):
            await broken.wait()
        let_go.set()
        await bench.until_statuses(good, delivered=2)
        assert await bench.statuses(bad) == {"pending": 1}
        assert bench.address.health().restarts == 0

        await bench.pass_time(LEASE.total_seconds())  # a lease's length later it goes out again
        await bench.until_statuses(bad, delivered=1)
    assert Counter(sent.url for sent in egress.sent) == {good.url: 2, bad.url: 2}
    assert metrics.DELIVERY_ATTEMPTS.labels(dispatcher.INTERNAL_ERROR)._value.get() == before + 1


async def test_a_drain_finishes_what_is_in_flight_and_begins_nothing(database_url: str) -> None:
    let_go = trio.Event()

    async def wait(sent: Sent) -> Outcome:
        await let_go.wait()
        return answer(200)

    egress = StubEgress(wait)
    async with open_bench(database_url, egress) as bench:
        project = await project_in(bench)
        await endpoint_in(bench, project)
        await bench.do(lambda conn: tell(conn, project, *[alert() for _ in range(10)]))
        await bench.until(has_sent(egress, IN_FLIGHT_EACH))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.stop)
            await trio.testing.wait_all_tasks_blocked()
            let_go.set()

        assert await bench.statuses() == {"delivered": IN_FLIGHT_EACH, "pending": 10 - IN_FLIGHT_EACH}
    assert len(egress.sent) == IN_FLIGHT_EACH


async def test_what_was_claimed_when_the_drain_began_is_sent(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_bench(database_url, StubEgress()) as bench:
        project = await project_in(bench)
        await endpoint_in(bench, project)
        claim, token = store.claim_deliveries, trio.lowlevel.current_trio_token()

        def claim_and_drain(conn: Connection, **options: Any) -> list[store.Claim]:
            found = claim(conn, **options)
            if found:
                # With the token: what asks from here must not be cancelled with the task that waits for this thread.
                trio.from_thread.run_sync(bench.supervisor.retire, "dispatcher", trio_token=token)
                trio.from_thread.run(trio.testing.wait_all_tasks_blocked, trio_token=token)
            return found

        monkeypatch.setattr(store, "claim_deliveries", claim_and_drain)
        await bench.do(lambda conn: tell(conn, project))
        with trio.fail_after(SECONDS):
            while not bench.address.closed:  # noqa: ASYNC110  # closed by the thread
                await trio.sleep(0.01)
        await bench.stop()

        assert await bench.statuses() == {"delivered": 1}


# -- numbers, and what is left over --------------------------------------------------------------------------------


async def test_it_counts_and_cleans_up(database_url: str) -> None:
    async def fail(sent: Sent) -> Outcome:
        return Outcome(None, Category.TIMEOUT, 15_000)

    def attempts() -> float:
        return float(metrics.DELIVERY_ATTEMPTS.labels("timeout")._value.get())

    before = attempts()
    async with open_bench(database_url, StubEgress(fail), look_after_seconds=0.05) as bench:
        project = await project_in(bench)
        row, left = await endpoint_in(bench, project), await endpoint_in(bench, project)
        await bench.do(lambda conn: tell(conn, project))
        await bench.until(ended_attempts(bench, 2))
        await bench.do(lambda conn: store.update_webhook(conn, project[0], webhook(id=left.id, enabled=False)))
        await bench.until_statuses(left, cancelled=1)
        await bench.until_statuses(row, pending=1)

        async def counted() -> bool:
            await trio.lowlevel.checkpoint()
            return bool(metrics.DELIVERIES_PENDING._value.get() == 1)

        await bench.until(counted)
    assert attempts() == before + 2


async def test_messages_carry_the_time_of_the_attempt(database_url: str) -> None:
    egress = StubEgress()
    async with open_bench(database_url, egress, clock=lambda: 1_700_000_000.9) as bench:
        project = await project_in(bench)
        await endpoint_in(bench, project)
        await bench.do(lambda conn: tell(conn, project))
        await bench.until_statuses(delivered=1)
    assert egress.sent[0].headers["webhook-timestamp"] == "1700000000"
