"""One transaction a call, committed before its result comes back; opening, closing, and is the server to be trusted.

Tests that hurt a server have one of their own (``server``); it is killed and stopped, and healthy again after each.
"""

from __future__ import annotations

import threading
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import trio
from psycopg.conninfo import make_conninfo

from logstitch.errors import ConfigurationError, DatabaseUnavailable
from logstitch.store import database as module
from logstitch.store.connections import connections_for_us
from logstitch.store.database import Connection, open_database
from tests.support.notes import insert, stored
from tests.support.own_server import SOON, Server, eventually

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
