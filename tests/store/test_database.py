"""One transaction a call, and an answer within a bound whatever happens to the server: tried on real ones.

Tests that hurt a server have one of their own (``server``); it is killed and stopped, and healthy again after each.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import trio
from psycopg.conninfo import make_conninfo
from structlog.testing import capture_logs

from logstitch.errors import ConfigurationError, DatabaseUnavailable
from logstitch.store import database as module
from logstitch.store.connections import connections_for_us
from logstitch.store.database import Connection, Database, open_database
from tests.support.own_server import SOON, Server, eventually

SLACK = 1.5
"""Seconds that a busy machine may add to a bound."""


# -- helpers -------------------------------------------------------------------------------------------------------


@pytest.fixture
def url(blank_database_url: str) -> str:
    with psycopg.connect(blank_database_url) as conn:
        conn.execute("CREATE TABLE notes (n integer PRIMARY KEY, label text)")
    return blank_database_url


def insert(n: int, label: str = "") -> Callable[[Connection], int]:
    """Idempotent, as work under a hold must be."""

    def work(conn: Connection) -> int:
        conn.execute("INSERT INTO notes VALUES (%s, %s) ON CONFLICT DO NOTHING", (n, label))
        return n

    return work


def stored(url: str) -> list[int]:
    with psycopg.connect(url) as conn:
        return [n for (n,) in conn.execute("SELECT n FROM notes ORDER BY n")]


def backend_pid(conn: Connection) -> int:
    return conn.info.backend_pid


class Gate:
    """Work that waits inside its transaction until it is let go."""

    def __init__(self, work: Callable[[Connection], object]) -> None:
        self.entered = threading.Event()
        self.go = threading.Event()
        self.runs = 0
        self._work = work

    def __call__(self, conn: Connection) -> object:
        self.runs += 1
        result = self._work(conn)
        self.entered.set()
        assert self.go.wait(SOON)
        return result


# -- a transaction -------------------------------------------------------------------------------------------------


async def test_work_is_committed_before_its_result_comes_back(url: str) -> None:
    async with open_database(url) as database:
        assert await database.transact(insert(1)) == 1

        assert stored(url) == [1]


async def test_an_exception_rolls_back_and_comes_through_as_it_is(url: str) -> None:
    class Refused(Exception):
        pass

    def work(conn: Connection) -> None:
        insert(1)(conn)
        raise Refused

    async with open_database(url, pool_size=1) as database:
        with pytest.raises(Refused):
            await database.transact(work)
        assert await database.transact(insert(2)) == 2

        assert stored(url) == [2]
        assert database.statistics().connection_errors == 0


async def test_a_swallowed_error_is_not_acknowledged(url: str) -> None:
    """PostgreSQL answers the COMMIT of a failed transaction with ROLLBACK and no error."""

    def work(conn: Connection) -> str:
        insert(1)(conn)
        with suppress(psycopg.Error):
            conn.execute("SELECT 1/0")
        return "all is well"

    async with open_database(url) as database:
        with pytest.raises(RuntimeError, match="INERROR: nothing was committed"):
            await database.transact(work)

        assert stored(url) == []
        assert await database.transact(insert(2)) == 2


async def test_work_must_not_end_its_own_transaction(url: str) -> None:
    def work(conn: Connection) -> None:
        conn.execute("COMMIT")

    async with open_database(url) as database:
        with pytest.raises(RuntimeError, match="IDLE"):
            await database.transact(work)


async def test_a_defect_is_not_disguised_as_an_outage(url: str) -> None:
    async with open_database(url) as database:
        with pytest.raises(psycopg.errors.UndefinedTable):
            await database.transact(lambda conn: conn.execute("SELECT FROM nowhere"), hold=5)


async def test_an_error_of_the_links_kind_on_a_good_link_is_a_defect(url: str) -> None:
    """libpq also complains without an SQLSTATE of being misused; running that again would not help."""

    def misuse(conn: Connection) -> None:
        raise psycopg.OperationalError("another command is already in progress")

    async with open_database(url) as database:
        with pytest.raises(psycopg.OperationalError, match="another command"):
            await database.transact(misuse, hold=5)


async def test_an_unfinished_copy_costs_one_connection_only(url: str) -> None:
    def work(conn: Connection) -> None:
        conn.pgconn.exec_(b"COPY notes FROM STDIN")
        raise LookupError

    async with open_database(url, pool_size=1) as database:
        with pytest.raises(LookupError):
            await database.transact(work)

        assert await database.transact(insert(1)) == 1


async def test_savepoints_work_inside(url: str) -> None:
    def work(conn: Connection) -> None:
        insert(1)(conn)
        with suppress(psycopg.errors.UniqueViolation), conn.transaction():
            conn.execute("INSERT INTO notes VALUES (2), (1)")
        insert(3)(conn)

    async with open_database(url) as database:
        await database.transact(work)

    assert stored(url) == [1, 3]


async def test_read_only_is_one_snapshot(url: str) -> None:
    counts = []

    def count(conn: Connection) -> None:
        for _ in range(2):
            counts.append(conn.execute("SELECT count(*) FROM notes").fetchone())
            with psycopg.connect(url) as other:
                other.execute("INSERT INTO notes SELECT count(*) FROM notes")

    async with open_database(url) as database:
        await database.transact(count, read_only=True)

    assert counts == [(0,), (0,)]
    assert stored(url) == [0, 1]


async def test_writing_in_a_read_only_transaction_is_a_defect(url: str) -> None:
    async with open_database(url) as database:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await database.transact(insert(1), read_only=True, hold=5)


async def test_values_come_as_the_store_wants_them(url: str) -> None:
    """Stored JSON is spliced, never parsed; times are UTC whatever the server's zone."""
    text = '{"b": 1e2, "a": -0.0}'
    at = datetime(2024, 2, 29, 12, tzinfo=UTC)
    query = "SELECT %(text)s::json, '[1]'::jsonb, %(at)s::timestamptz, %(id)s::uuid"
    id_ = uuid.uuid4()

    def ask(conn: Connection) -> tuple[object, ...] | None:
        return conn.execute(query, {"text": text, "at": at, "id": id_}).fetchone()

    async with open_database(make_conninfo(url, options="-c datestyle=SQL")) as database:
        pass  # an operator's style wins, and is theirs to regret; ours is the one that psycopg reads
    async with open_database(url) as database:
        row = await database.transact(ask)

    assert row == (text, "[1]", at, id_)
    assert row is not None
    assert row[2].utcoffset() == timedelta(0)


async def test_every_connection_has_the_servers_timeouts(url: str) -> None:
    names = (
        "statement_timeout",
        "lock_timeout",
        "idle_in_transaction_session_timeout",
        "application_name",
        "timezone",
    )

    def ask(conn: Connection) -> list[object]:
        return [conn.execute(f"SHOW {name}".encode()).fetchone() for name in names]

    async with open_database(url) as database:
        assert await database.transact(ask, timeout=1.5) == [("1500ms",), ("3s",), ("10s",), ("logstitch",), ("UTC",)]
    async with open_database(make_conninfo(url, options="-c lock_timeout=7s", application_name="mine")) as database:
        assert await database.transact(ask) == [("5s",), ("7s",), ("10s",), ("mine",), ("UTC",)]


async def test_a_statement_timeout_does_not_leak_into_the_next_call(url: str) -> None:
    def ask(conn: Connection) -> tuple[object, ...] | None:
        return conn.execute("SHOW statement_timeout").fetchone()

    async with open_database(url, pool_size=1) as database:
        assert await database.transact(ask, timeout=1) == ("1s",)
        assert await database.transact(ask) == ("5s",)


# -- bounds --------------------------------------------------------------------------------------------------------


async def test_a_slow_statement_is_ended_by_the_server(url: str) -> None:
    async with open_database(url) as database:
        with pytest.raises(DatabaseUnavailable, match="did not answer in time"):
            await database.transact(lambda conn: conn.execute("SELECT pg_sleep(30)"), timeout=0.1, hold=5)

        assert database.statistics().cut == 0
        assert database.statistics().retried == 0  # it would only hold a connection for as long again


async def test_a_locked_row_is_not_waited_for_for_ever(url: str) -> None:
    async with open_database(make_conninfo(url, options="-c lock_timeout=50ms")) as database:
        await database.transact(insert(1))
        with psycopg.connect(url) as holder:
            holder.execute("UPDATE notes SET label = 'mine'")

            with pytest.raises(DatabaseUnavailable, match="locked"):
                await database.transact(lambda conn: conn.execute("UPDATE notes SET label = 'no, mine'"), hold=5)
            assert await database.transact(insert(2)) == 2  # others go on


async def test_a_deadlock_is_run_again_and_both_succeed(url: str) -> None:
    both_hold_one = threading.Barrier(2)
    runs = []

    def take(first: int, second: int) -> Callable[[Connection], None]:
        def work(conn: Connection) -> None:
            runs.append(first)
            conn.execute("UPDATE notes SET label = label || 'x' WHERE n = %s", (first,))
            if len(runs) <= 2:
                both_hold_one.wait(SOON)
            conn.execute("UPDATE notes SET label = label || 'x' WHERE n = %s", (second,))

        return work

    # The server's default is to look for deadlocks after a second.
    async with open_database(url) as database:
        await database.transact(insert(1))
        await database.transact(insert(2))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.transact, take(1, 2))
            nursery.start_soon(database.transact, take(2, 1))

        assert len(runs) == 3
        assert database.statistics().retried == 1
        assert database.statistics().errors == 0
        with psycopg.connect(url) as conn:
            assert conn.execute("SELECT DISTINCT label FROM notes").fetchall() == [("xx",)]


async def test_a_conflict_is_tried_three_times_at_most(url: str) -> None:
    runs = 0

    def lose(conn: Connection) -> None:
        nonlocal runs
        runs += 1
        conn.execute("DO $$ BEGIN RAISE EXCEPTION 'lost' USING ERRCODE = '40001'; END $$")

    async with open_database(url) as database:
        with pytest.raises(DatabaseUnavailable, match="concurrent"):
            await database.transact(lose, hold=30)

    assert runs == 3


async def test_an_exhausted_pool_refuses_within_its_bounds(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POOL_WAIT", 0.2)
    async with open_database(url, pool_size=1, max_waiting=1) as database, trio.open_nursery() as nursery:
        busy = Gate(insert(1))
        nursery.start_soon(database.transact, busy)
        await eventually(busy.entered.is_set)

        async def wait_in_vain() -> None:
            with pytest.raises(DatabaseUnavailable):
                await database.transact(insert(2))

        nursery.start_soon(wait_in_vain)
        await eventually(lambda: database.statistics().waiting == 1)
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match="Too many"):
            await database.transact(insert(3), hold=5)
        assert time.monotonic() - began < 0.1
        assert (await database.check()).reachable  # busy is not broken

        await eventually(lambda: database.statistics().errors == 2)
        busy.go.set()

    assert stored(url) == [1]


async def test_a_hold_outlasts_an_exhausted_pool(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POOL_WAIT", 0.05)
    async with open_database(url, pool_size=1) as database, trio.open_nursery() as nursery:
        busy = Gate(insert(1))
        nursery.start_soon(database.transact, busy)
        await eventually(busy.entered.is_set)

        async def hold() -> None:
            await database.transact(insert(2), hold=SOON)

        nursery.start_soon(hold)
        await eventually(lambda: database.statistics().retried >= 2)
        busy.go.set()

    assert stored(url) == [1, 2]


async def test_many_callers_share_few_connections(url: str) -> None:
    async with open_database(url, pool_size=3) as database:
        async with trio.open_nursery() as nursery:
            for n in range(60):
                nursery.start_soon(database.transact, insert(n))

        statistics = database.statistics()
        assert stored(url) == list(range(60))
        assert (statistics.requests, statistics.errors, statistics.in_flight) == (60, 0, 0)
        assert 1 <= statistics.size <= 4


# -- cancellation --------------------------------------------------------------------------------------------------


async def test_a_cancelled_caller_leaves_no_thread_behind(url: str) -> None:
    """The transaction that has begun ends first; its outcome is not thrown away."""
    async with open_database(url) as database, trio.open_nursery() as nursery:
        work = Gate(insert(1))
        results = []

        async def caller() -> None:
            results.append(await database.transact(work))

        nursery.start_soon(caller)
        await eventually(work.entered.is_set)
        nursery.cancel_scope.cancel()
        work.go.set()

    assert results == [1]
    assert stored(url) == [1]


async def test_a_caller_that_waits_for_a_slot_is_cancelled_at_once(url: str) -> None:
    async with open_database(url, pool_size=1) as database, trio.open_nursery() as nursery:
        busy = Gate(insert(1))
        nursery.start_soon(database.transact, busy)
        await eventually(busy.entered.is_set)

        with trio.move_on_after(0.01) as scope:
            await database.transact(insert(2))

        assert scope.cancelled_caught
        assert database.statistics().waiting == 0
        busy.go.set()

    assert stored(url) == [1]


# -- opening and closing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["postgresql://u:hunter2@host:port/db", "host=x passwort=hunter2", "hunter2"])
async def test_an_unreadable_url_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read") as caught:
        async with open_database(url):
            pass

    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__


async def test_what_the_body_raises_is_not_wrapped_in_a_group(url: str) -> None:
    with pytest.raises(LookupError, match="mine"):
        async with open_database(url):
            raise LookupError("mine")


async def test_cancelling_the_body_closes_the_database(url: str) -> None:
    with trio.fail_after(SOON), trio.CancelScope() as scope:
        async with open_database(url) as database:
            await database.transact(insert(1))
            scope.cancel()
            await trio.sleep_forever()

    assert scope.cancelled_caught


async def test_a_closed_database_refuses(url: str) -> None:
    async with open_database(url) as database:
        await database.transact(insert(1))

    began = time.monotonic()
    with pytest.raises(DatabaseUnavailable):
        await database.transact(insert(2), hold=5)
    assert time.monotonic() - began < 1
    assert not (await database.check()).reachable


async def test_closing_cuts_a_call_whose_task_outlives_the_database(url: str) -> None:
    async with trio.open_nursery() as nursery:
        began = time.monotonic()
        async with open_database(url) as database:
            entered = threading.Event()

            def work(conn: Connection) -> None:
                entered.set()
                conn.execute("SELECT pg_sleep(30)")

            async def caller() -> None:
                with pytest.raises(DatabaseUnavailable):
                    await database.transact(work, timeout=60)

            nursery.start_soon(caller)
            await eventually(entered.is_set)

    assert time.monotonic() - began < module.CLOSE_TIMEOUT


# -- the readiness check -------------------------------------------------------------------------------------------


async def test_a_trustworthy_server_is_ready(url: str) -> None:
    async with open_database(url) as database:
        check = await database.check()

    assert check.ready
    assert check.reachable
    assert check.problems == check.warnings == ()


async def test_the_oldest_supported_server_is_ready(postgres15_url: str) -> None:
    async with open_database(postgres15_url) as database:
        check = await database.check()

    assert check.ready


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("-c synchronous_commit=off", "synchronous_commit is off"),
        ("-c default_transaction_read_only=on", "transaction_read_only is on"),
    ],
)
async def test_a_session_that_cannot_keep_promises_is_not_ready(url: str, options: str, problem: str) -> None:
    async with open_database(make_conninfo(url, options=options)) as database:
        check = await database.check()

    assert check.reachable
    assert not check.ready
    assert len(check.problems) == 1
    assert problem in check.problems[0]


@pytest.mark.parametrize("level", ["local", "on", "remote_apply", "remote_write"])
async def test_other_levels_of_synchronous_commit_are_fine(url: str, level: str) -> None:
    async with open_database(make_conninfo(url, options=f"-c synchronous_commit={level}")) as database:
        assert (await database.check()).ready


async def test_a_server_tells_since_when_it_runs_and_how_many_it_can_serve(server: Server) -> None:
    async with open_database(server.url) as database:
        first = (await database.check()).started_at
        server.kill()
        server.start(max_connections="20", superuser_reserved_connections="5", reserved_connections="2")
        try:
            again = (await database.check()).started_at
            there_are = await trio.to_thread.run_sync(connections_for_us, server.url)
        finally:
            server.kill()

    assert first is not None
    assert again is not None
    assert again > first
    assert abs(again - time.time()) < 60
    assert there_are == 13


async def test_a_read_only_server_is_unavailable_to_writers_and_open_to_readers(url: str) -> None:
    async with open_database(make_conninfo(url, options="-c default_transaction_read_only=on")) as database:
        with pytest.raises(DatabaseUnavailable, match="read-only"):
            await database.transact(insert(1))
        count = await database.transact(lambda conn: conn.execute("SELECT count(*) FROM notes").fetchone())
        assert count == (0,)


async def test_a_server_without_fsync_is_not_ready(server: Server) -> None:
    server.kill()
    server.start(fsync="off", full_page_writes="off")
    try:
        async with open_database(server.url) as database:
            check = await database.check()
    finally:
        server.kill()

    assert [problem.partition(":")[0] for problem in check.problems] == ["fsync is off"]
    assert [warning.partition(":")[0] for warning in check.warnings] == ["full_page_writes is off"]


async def test_a_check_says_why_the_server_cannot_be_reached(url: str) -> None:
    async with open_database(make_conninfo(url, dbname="hunter2", password="hunter2")) as database:
        check = await database.check()

    assert not check.reachable
    assert "does not exist" in check.problems[0]
    assert "hunter2" not in check.problems[0]


# -- crashes -------------------------------------------------------------------------------------------------------


async def test_a_server_that_is_absent_at_start_is_found_when_it_comes(server: Server) -> None:
    server.kill()
    async with open_database(server.url) as database, trio.open_nursery() as nursery:
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            await database.transact(insert(1))
        assert time.monotonic() - began < module.POOL_WAIT + SLACK
        assert not (await database.check()).reachable

        async def held() -> None:
            await database.transact(insert(2), hold=30)

        nursery.start_soon(held)
        await trio.to_thread.run_sync(server.start)

    assert stored(server.url) == [2]


async def test_an_outage_costs_one_line_in_the_log_and_no_memory(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUIET", 0.0)
    monkeypatch.setattr(module, "POOL_WAIT", 0.1)
    monkeypatch.setattr(module, "RECONNECT_EVERY", 0.01)
    server.kill()
    with capture_logs() as lines:
        async with open_database(server.url, pool_size=2) as database:
            for _ in range(5):
                with pytest.raises(DatabaseUnavailable):
                    await database.transact(insert(1))
            assert database._pool.get_stats()["requests_waiting"] == 0
            await trio.to_thread.run_sync(server.start)
            await database.transact(insert(2), hold=SOON)

    trouble, recovered = lines
    assert (trouble["event"], trouble["log_level"]) == ("database.trouble", "warning")
    assert trouble["message"] == "The database cannot be reached."
    assert trouble["sqlstate"] is None
    assert trouble["reason"].startswith("connection failed")
    assert "refused" in trouble["reason"]
    assert recovered["event"] == "database.recovered"
    assert recovered["trouble_seconds"] > 0


async def test_a_server_on_which_only_reads_work_is_one_trouble(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def write(database: Database) -> None:
        with pytest.raises(DatabaseUnavailable):
            await database.transact(insert(1))

    with capture_logs() as lines:
        async with open_database(make_conninfo(url, options="-c default_transaction_read_only=on")) as database:
            for _ in range(3):
                await write(database)
                await database.transact(lambda conn: conn.execute("SELECT 1").fetchone())
            # Long after the last write, the check still knows better than a read that succeeds.
            await database.check()
            monkeypatch.setattr(module, "QUIET", 0.0)
            await database.transact(lambda conn: conn.execute("SELECT 1").fetchone())
            await write(database)

    assert [(line["event"], line["message"], line["sqlstate"]) for line in lines] == [
        ("database.trouble", "The database is read-only.", "25006")
    ]


async def test_a_locked_row_and_a_slow_statement_are_told_without_what_they_hold(url: str) -> None:
    canary = "4111111111111111"

    def locked(conn: Connection) -> None:
        conn.execute("SET LOCAL lock_timeout = '10ms'")
        conn.execute("UPDATE notes SET label = %s", (canary,))

    with capture_logs() as lines, psycopg.connect(url) as other:
        other.execute("INSERT INTO notes VALUES (1, 'x')")
        other.commit()
        other.execute("SELECT * FROM notes FOR UPDATE")
        async with open_database(url) as database:
            with pytest.raises(DatabaseUnavailable):
                await database.transact(locked)
            with pytest.raises(DatabaseUnavailable):
                await database.transact(lambda conn: conn.execute("SELECT pg_sleep(9), %s", (canary,)), timeout=0.05)

    assert [line["sqlstate"] for line in lines] == ["55P03", "57014"]
    assert canary not in str(lines)


async def test_a_crash_is_invisible_to_held_calls(server: Server) -> None:
    """Calls in flight at the moment of the SIGKILL and calls made during the outage all succeed, and soon."""
    first_success = 0.0

    async def held(n: int) -> None:
        nonlocal first_success
        assert await database.transact(insert(n), hold=30) == n
        first_success = first_success or time.monotonic()

    async with open_database(server.url) as database, trio.open_nursery() as nursery:
        in_flight = [Gate(insert(n)) for n in range(4)]
        for work in in_flight:

            async def caller(work: Gate = work) -> None:
                await database.transact(work, hold=30, timeout=SOON)

            nursery.start_soon(caller)
        await eventually(lambda: all(work.entered.is_set() for work in in_flight))

        await trio.to_thread.run_sync(server.kill)
        for work in in_flight:
            work.go.set()
        for n in range(10, 30):
            nursery.start_soon(held, n)
        await eventually(lambda: database.statistics().connection_errors > 3)
        await trio.to_thread.run_sync(server.start)
        back = time.monotonic()

    assert stored(server.url) == [*range(4), *range(10, 30)]
    assert [work.runs for work in in_flight] == [2] * 4
    assert database.statistics().errors == 0
    assert first_success - back < 0.3 + SLACK


async def test_dead_idle_connections_are_not_handed_out(server: Server) -> None:
    """All of the pool is dead after a crash that nobody was there to see; the first call needs no hold at all."""
    async with open_database(server.url, pool_size=6) as database:
        together = threading.Barrier(6)
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(database.transact, lambda conn: together.wait(SOON))
        assert database.statistics().idle == 6
        await trio.to_thread.run_sync(server.kill)
        await trio.to_thread.run_sync(server.start)

        began = time.monotonic()
        assert await database.transact(insert(1)) == 1

        assert time.monotonic() - began < 0.3 + SLACK
        assert database.statistics().retried == 0


async def test_a_terminated_backend_costs_one_more_run(server: Server) -> None:
    async with open_database(server.url) as database:
        runs = 0

        def work(conn: Connection) -> int:
            nonlocal runs
            runs += 1
            insert(runs)(conn)
            if runs == 1:
                with psycopg.connect(server.url) as admin:
                    admin.execute("SELECT pg_terminate_backend(%s, 5000)", (backend_pid(conn),))
            return insert(10)(conn)

        assert await database.transact(work, hold=5) == 10

    assert stored(server.url) == [2, 10]


async def test_without_a_hold_a_lost_connection_is_unavailable(server: Server) -> None:
    def work(conn: Connection) -> int:
        with psycopg.connect(server.url) as admin:
            admin.execute("SELECT pg_terminate_backend(%s, 5000)", (backend_pid(conn),))
        return insert(1)(conn)

    async with open_database(server.url) as database:
        with pytest.raises(DatabaseUnavailable):
            await database.transact(work)
        assert await database.transact(insert(2)) == 2

    assert stored(server.url) == [2]


async def test_running_out_of_connections_passes(server: Server) -> None:
    with psycopg.connect(server.url) as conn:
        conn.execute("DROP ROLE IF EXISTS limited")
        conn.execute("CREATE ROLE limited LOGIN CONNECTION LIMIT 0")
    async with open_database(make_conninfo(server.url, user="limited")) as database, trio.open_nursery() as nursery:

        async def held() -> None:
            await database.transact(lambda conn: conn.execute("SELECT 1"), hold=SOON)

        nursery.start_soon(held)
        await eventually(lambda: database.statistics().connection_errors > 2)
        with psycopg.connect(server.url) as conn:
            conn.execute("ALTER ROLE limited CONNECTION LIMIT 5")

    assert database.statistics().errors == 0


# -- links that swallow everything ---------------------------------------------------------------------------------


async def test_the_watchdog_cuts_a_call_to_a_backend_that_stopped(server: Server) -> None:
    async with open_database(server.url) as database:
        stopped = 0

        def work(conn: Connection) -> None:
            nonlocal stopped
            stopped = backend_pid(conn)
            os.kill(stopped, signal.SIGSTOP)
            insert(1)(conn)

        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable), capture_logs() as lines:
            await database.transact(work, timeout=0.2)
        assert time.monotonic() - began < 0.2 + module.CUT_GRACE + SLACK
        assert [line["event"] for line in lines] == ["database.call_cut", "database.trouble"]

        statistics = database.statistics()
        assert (statistics.cut, statistics.in_flight) == (1, 0)
        assert await database.transact(insert(2)) == 2  # the others are fine
        os.kill(stopped, signal.SIGCONT)

    assert stored(server.url) == [2]


async def test_a_cut_call_is_run_again_under_a_hold(server: Server) -> None:
    async with open_database(server.url) as database:
        stopped = 0

        def work(conn: Connection) -> int:
            nonlocal stopped
            if not stopped:
                stopped = backend_pid(conn)
                os.kill(stopped, signal.SIGSTOP)
            return insert(1)(conn)

        assert await database.transact(work, timeout=1, hold=SOON) == 1
        os.kill(stopped, signal.SIGCONT)

    assert stored(server.url) == [1]


async def test_a_cut_makes_suspects_of_the_idle_connections(server: Server) -> None:
    """They share the link; without that, each would cost another call its whole timeout."""
    async with open_database(server.url, pool_size=3) as database:
        together = threading.Barrier(3)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(database.transact, lambda conn: together.wait(SOON))
        # The pool may just be making one more than met.
        await eventually(lambda: database.statistics().size == database.statistics().idle)
        with psycopg.connect(server.url) as conn:
            pids = conn.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'logstitch'").fetchall()
        assert len(pids) >= 3
        for (pid,) in pids:
            os.kill(pid, signal.SIGSTOP)

        with pytest.raises(DatabaseUnavailable):
            await database.transact(insert(1), timeout=0.2)
        for n in (2, 3, 4):
            await database.transact(insert(n), timeout=2)

        assert database.statistics().cut == 1
        server.signal_all(signal.SIGCONT)


async def test_a_stopped_server_is_answered_for_within_bounds(server: Server) -> None:
    async with open_database(server.url, pool_size=2) as database:
        together = threading.Barrier(2)
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(database.transact, lambda conn: together.wait(SOON))
        server.signal_all(signal.SIGSTOP)

        bound = module.POOL_WAIT + 0.2 + module.CUT_GRACE + SLACK
        for _ in range(2):  # on a pooled connection first, then on one that cannot be made
            began = time.monotonic()
            with pytest.raises(DatabaseUnavailable):
                await database.transact(insert(1), timeout=0.2)
            assert time.monotonic() - began < bound

        server.signal_all(signal.SIGCONT)
        assert await database.transact(insert(2), hold=SOON) == 2


async def test_the_pool_does_not_get_stuck_connecting(server: Server) -> None:
    """A stopped postmaster: the kernel accepts the connection and nobody answers."""
    server.signal_all(signal.SIGSTOP)
    began = time.monotonic()
    async with open_database(server.url) as database:
        with pytest.raises(DatabaseUnavailable):
            await database.transact(insert(1))
        assert time.monotonic() - began < module.POOL_WAIT + SLACK
        began = time.monotonic()
    assert time.monotonic() - began < module.CLOSE_TIMEOUT + SLACK
