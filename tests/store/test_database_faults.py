"""An answer within a bound whatever happens to the server: absent, crashed, full, stopped. Tried on real ones.

Tests that hurt a server have one of their own (``server``); it is killed and stopped, and healthy again after each.
"""

from __future__ import annotations

import os
import signal
import threading
import time

import psycopg
import pytest
import trio
from psycopg.conninfo import make_conninfo
from structlog.testing import capture_logs

from logstitch.errors import DatabaseUnavailable
from logstitch.store import database as module
from logstitch.store.database import Connection, Database, open_database
from tests.support.notes import Gate, backend_pid, insert, stored
from tests.support.own_server import SOON, Server, eventually

SLACK = 1.5
"""Seconds that a busy machine may add to a bound."""


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
