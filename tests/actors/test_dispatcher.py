"""The dispatcher: what is in the outbox goes out, at least once, and one endpoint's trouble is no other's."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import h11
import orjson
import pytest
import standardwebhooks
import trio
import trio.testing

from logstitch import metrics
from logstitch.actors import dispatcher
from logstitch.actors.dispatcher import (
    CONNECTION_FAILED_SECONDS,
    IN_FLIGHT,
    IN_FLIGHT_EACH,
    IN_FLIGHT_OF_PROJECT,
    LEASE,
    SETTLE_SECONDS,
    Dispatcher,
)
from logstitch.actors.mailbox import Address
from logstitch.actors.messages.webhooks import Dispatch
from logstitch.actors.supervisor import Supervisor, open_supervisor
from logstitch.egress import resolver
from logstitch.egress.addresses import Allow
from logstitch.egress.client import ATTEMPT_SECONDS, REFUSED, Category, Outcome, open_egress
from logstitch.ids import IdKind, id_text
from logstitch.recording.outbox import announce_test
from logstitch.recording.webhooks import deletion, rotation, settle, update
from logstitch.store import webhooks as store
from logstitch.store.database import Connection, Database, open_database
from logstitch.store.webhooks import WebhookRow
from logstitch.webhooks.signing import new_secret, secret_text
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
    make_project,
    make_webhook,
    tell,
    webhook,
)

ADA = UUID(int=7)
LOOPBACK = Allow.parse("127.0.0.1")
SECONDS = 20
"""Bound of every wait."""


class Bench:
    """One process's dispatcher, on a database that others may share."""

    def __init__(self, database: Database, supervisor: Supervisor, address: Address) -> None:
        self.database = database
        self.supervisor = supervisor
        self.address = address

    async def do(self, work: Callable[[Connection], Any]) -> Any:
        """What ``work`` returns, in a transaction."""
        return await self.database.transact(work)

    async def statuses(self, row: WebhookRow | None = None) -> Counter[str]:
        """How many deliveries, of one endpoint or all, stand how."""
        wanted = None if row is None else row.id
        query = "SELECT status FROM deliveries WHERE %s::uuid IS NULL OR webhook_id = %s"
        rows = await self.do(lambda conn: conn.execute(query, (wanted, wanted)).fetchall())
        return Counter(status for (status,) in rows)

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Wait until something is so in the database."""
        with trio.fail_after(SECONDS):
            while not await condition():  # noqa: ASYNC110  # the database has no events to wait for
                await trio.sleep(0.01)

    async def until_statuses(self, row: WebhookRow | None = None, **expected: int) -> None:
        """Wait until deliveries stand so."""

        async def so() -> bool:
            return await self.statuses(row) == expected

        await self.until(so)

    async def pass_time(self, seconds: float = 40_000) -> None:
        """As if every delivery had been due that much earlier."""
        query = "UPDATE deliveries SET due_at = due_at - make_interval(secs => %s)"
        await self.do(lambda conn: conn.execute(query, (seconds,)) and None)
        self.address.tell(Dispatch())

    async def stop(self) -> None:
        await self.supervisor.stop("dispatcher", deadline_seconds=SECONDS)


@asynccontextmanager
async def open_bench(url: str, egress: StubEgress | None = None, **options: Any) -> AsyncIterator[Bench]:
    """A dispatcher that sends through a stub, or, without one, through real sockets."""
    through = open_egress if egress is None else egress.open
    settings: dict[str, Any] = {"egress": through, "poll_seconds": 0.05, "chance": lambda: 0.5} | {
        "connection_failed_seconds": 0.05,
        **options,
    }
    async with open_database(url) as database, open_supervisor(drain_seconds=SECONDS) as supervisor:
        address = supervisor.start("dispatcher", lambda: Dispatcher(database, LOOPBACK, **settings), capacity=4)
        yield Bench(database, supervisor, address)


async def project_in(bench: Bench) -> tuple[int, UUID]:
    made: tuple[int, UUID] = await bench.do(make_project)
    return made


async def endpoint_in(bench: Bench, project: tuple[int, UUID], **fields: Any) -> WebhookRow:
    made: WebhookRow = await bench.do(lambda conn: make_webhook(conn, project[0], **fields))
    return made


class Looks:
    """How often dispatchers have looked for what is due."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._count = 0
        self._changed = trio.Event()
        look = Dispatcher._claim

        async def counted(dispatcher: Dispatcher) -> None:
            await look(dispatcher)
            self._count += 1
            self._changed.set()
            self._changed = trio.Event()

        monkeypatch.setattr(Dispatcher, "_claim", counted)

    async def more(self, bench: Bench, count: int = 3) -> None:
        """Wait until there have been that many more."""
        until = self._count + count
        with trio.fail_after(SECONDS):
            while self._count < until:
                bench.address.tell(Dispatch())
                await self._changed.wait()


# -- through real sockets ------------------------------------------------------------------------------------------


class Receiver:
    """A webhook receiver on loopback that answers with one status after the other, the last one again and again."""

    def __init__(self, *statuses: int) -> None:
        self._statuses = list(statuses)
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/hook"
        task_status.started()
        await trio.serve_listeners(self._handle, [listener])

    async def _handle(self, stream: trio.SocketStream) -> None:
        async with stream:
            http, headers, body = h11.Connection(h11.SERVER), {}, b""
            while True:
                event = http.next_event()
                if event is h11.NEED_DATA:
                    http.receive_data(await stream.receive_some())
                elif isinstance(event, h11.Request):
                    headers = {name.decode(): value.decode() for name, value in event.headers}
                elif isinstance(event, h11.Data):
                    body += event.data
                else:
                    break
            self.requests.append((headers, body))
            status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
            said = b"what a receiver says stays with it"
            response = h11.Response(status_code=status, headers=[("content-length", str(len(said)))])
            for part in (response, h11.Data(data=said), h11.EndOfMessage()):
                await stream.send_all(http.send(part) or b"")


@asynccontextmanager
async def receiver(*statuses: int) -> AsyncIterator[Receiver]:
    async with trio.open_nursery() as nursery:
        made = Receiver(*statuses)
        await nursery.start(made.serve)
        yield made
        nursery.cancel_scope.cancel()


async def test_an_alert_arrives_signed_and_every_repetition_is_the_same_message(database_url: str) -> None:
    async with receiver(500, 302, 200) as there, open_bench(database_url) as bench:
        project = await project_in(bench)
        row = await endpoint_in(bench, project, url=there.url)
        told = alert()
        await bench.do(lambda conn: tell(conn, project, told))

        for count in (1, 2):
            await bench.until(_ended_attempts(bench, count))
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


def _ended_attempts(bench: Bench, count: int) -> Callable[[], Awaitable[bool]]:
    async def so() -> bool:
        query = "SELECT count(*) FROM delivery_attempts WHERE error IS NOT NULL"
        return bool(await bench.do(lambda conn: conn.execute(query).fetchone()) == (count,))

    return so


async def test_the_secret_is_rotated_between_two_attempts(database_url: str) -> None:
    async with receiver(500, 200) as there, open_bench(database_url) as bench:
        project = await project_in(bench)
        row = await endpoint_in(bench, project, url=there.url)
        await bench.do(lambda conn: tell(conn, project))
        await bench.until(_ended_attempts(bench, 1))
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
        await bench.until(_sent(egress, 2))


def _sent(egress: StubEgress, count: int) -> Callable[[], Awaitable[bool]]:
    async def so() -> bool:
        await trio.lowlevel.checkpoint()
        return len(egress.sent) == count

    return so


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
        await bench.until(_sent(egress, 1))

        await bench.pass_time(60)
        await bench.until_statuses(delivered=1)
        go_on.set()
        await bench.stop()

        assert await bench.statuses() == {"delivered": 1}
        after = await bench.do(lambda conn: store.find_webhook(conn, project[0], row.id))
    assert after == row


# -- endpoints do not delay each other -----------------------------------------------------------------------------


async def test_a_slow_endpoint_with_a_long_queue_delays_no_other(database_url: str) -> None:
    let_go = trio.Event()

    async def slow_or_quick(sent: Sent) -> Outcome:
        if "slow" in sent.url:
            await let_go.wait()
        return answer(200)

    egress = StubEgress(slow_or_quick)
    async with open_bench(database_url, egress) as bench:
        project = await project_in(bench)
        slow = await endpoint_in(bench, project, url="https://slow.example/")
        await bench.do(lambda conn: tell(conn, project, *[alert() for _ in range(500)]))
        quick = await endpoint_in(bench, project, url="https://quick.example/")

        began = trio.current_time()
        await bench.do(lambda conn: tell(conn, project, *[alert() for _ in range(20)]))
        await bench.until_statuses(quick, delivered=20)

        assert trio.current_time() - began < 5
        assert await bench.statuses(slow) == {"pending": 520}
        assert sum("slow" in sent.url for sent in egress.sent) == IN_FLIGHT_EACH
        let_go.set()
        await bench.until_statuses(delivered=540)
    assert Counter(Counter(sent.id for sent in egress.sent).values()) == {1: 540}


async def test_no_more_are_in_flight_than_may_be_and_everybody_has_a_turn(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(monkeypatch)
    let_go = trio.Event()
    projects, each = IN_FLIGHT // IN_FLIGHT_OF_PROJECT + 2, 9

    async def wait(sent: Sent) -> Outcome:
        await let_go.wait()
        return answer(200)

    egress = StubEgress(wait)
    async with open_bench(database_url, egress) as bench:
        for number in range(projects):
            project = await project_in(bench)
            for _ in range(each):
                await endpoint_in(bench, project, url=f"https://receiver{number}.example/")
            await bench.do(partial(_tell_five, project=project))
        await bench.until(_sent(egress, IN_FLIGHT))
        await looks.more(bench)
        assert egress.most == IN_FLIGHT

        let_go.set()
        await bench.until_statuses(delivered=5 * each * projects)

    assert egress.most == IN_FLIGHT
    # Whoever had to wait came next, before those that had been served.
    first_turns = [sent.url for sent in egress.sent[: IN_FLIGHT + 2 * IN_FLIGHT_OF_PROJECT]]
    assert len(set(first_turns)) == projects


def _tell_five(conn: Connection, project: tuple[int, UUID]) -> None:
    tell(conn, project, *[alert() for _ in range(5)])


async def test_slow_endpoints_of_one_project_delay_no_other_project(database_url: str) -> None:
    let_go = trio.Event()

    async def slow_or_quick(sent: Sent) -> Outcome:
        if "slow" in sent.url:
            await let_go.wait()
        return answer(200)

    egress = StubEgress(slow_or_quick)
    async with open_bench(database_url, egress) as bench:
        slow = await project_in(bench)
        rows = [await endpoint_in(bench, slow, url="https://slow.example/") for _ in range(20)]
        await bench.do(lambda conn: tell(conn, slow, *[alert() for _ in range(20)]))
        await bench.until(_sent(egress, IN_FLIGHT_OF_PROJECT))
        quick = await project_in(bench)
        row = await endpoint_in(bench, quick, url="https://quick.example/")
        await bench.do(lambda conn: tell(conn, quick, *[alert() for _ in range(20)]))
        await bench.until_statuses(row, delivered=20)

        assert sum("slow" in sent.url for sent in egress.sent) == IN_FLIGHT_OF_PROJECT
        query = "SELECT DISTINCT webhook_id FROM deliveries WHERE attempt = 1 AND project_no = %s"
        served = await bench.do(lambda conn: conn.execute(query, (slow[0],)).fetchall())
        assert len(served) == len(rows)  # each of them has one, before any has all that it may
        let_go.set()
        await bench.until_statuses(delivered=420)


async def test_endpoints_to_which_nothing_gets_through_have_one_in_flight_each(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(monkeypatch)
    let_go = trio.Event()

    async def fail(sent: Sent) -> Outcome:
        await let_go.wait()
        return answer(503)

    egress = StubEgress(fail)
    async with open_bench(database_url, egress) as bench:
        project = await project_in(bench)
        failing = [await endpoint_in(bench, project, failing_since=NOW) for _ in range(3)]
        await bench.do(lambda conn: conn.execute("UPDATE webhooks SET failing_since = now()") and None)
        await bench.do(lambda conn: tell(conn, project, *[alert() for _ in range(5)]))
        await bench.until(_sent(egress, len(failing)))
        await looks.more(bench)
        assert len(egress.sent) == len(failing)
        let_go.set()
        await bench.until(_ended_attempts(bench, 15))


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
        await bench.until(_sent(egress, IN_FLIGHT_EACH))

        await bench.do(deletion(project[0], row.id, by=ADA, event_id=MINT.one(NOW_MS), now=lambda: NOW).run)
        let_go.set()
        await bench.until(_ended_attempts(bench, IN_FLIGHT_EACH))
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
                await bench.until(_sent(egress, IN_FLIGHT_EACH))
                await looks.more(bench)

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
        await bench.until(_sent(egress, 1))
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
        await bench.until(_sent(egress, 1))
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
        await bench.until(_sent(egress, IN_FLIGHT_EACH))
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
        await bench.until(_ended_attempts(bench, 2))
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
