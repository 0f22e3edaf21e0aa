"""A call has a bound and an end: statements, locks, conflicts, connections, callers that were cancelled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psycopg
import pytest
import trio
from psycopg.conninfo import make_conninfo

from logstitch.errors import DatabaseUnavailable
from logstitch.store import database as module
from logstitch.store.database import Connection, open_database
from tests.support.notes import Gate, insert, stored
from tests.support.own_server import SOON, eventually

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
