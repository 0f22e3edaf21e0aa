"""Stored events in bulk: in order, bounded, and at the price of what is read."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import TupleRow

from logstitch.store import laboratory, queries
from logstitch.store.laboratory import Bodies, next_bodies
from logstitch.times import MAX_MS, MIN_MS
from tests.support.postgres import Databases
from tests.support.stored import AT, Stored, an_event, store

EVENTS = 20_000
BATCH = 512


@pytest.fixture(scope="module")
def filled(databases: Databases, migrated_template: str) -> Iterator[tuple[str, list[Stored]]]:
    """A project of 20,000 events between two others, three at each moment, a few of them large."""
    with databases.database(migrated_template) as url:
        chance = random.Random(5)
        given = [
            (AT + number // 3, an_event(metadata={"note": "x" * (20_000 if number % 500 == 0 else 20)}))
            for number in range(EVENTS)
        ]
        chance.shuffle(given)
        with psycopg.connect(url) as conn:
            store(conn, 1, given[:3000])
            stored = store(conn, 2, given)
            store(conn, 3, given[:3000])
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("ANALYZE")
        yield url, sorted(stored, key=lambda one: one.place, reverse=True)


def read(conn: psycopg.Connection[TupleRow], **options: Any) -> Bodies:
    defaults = {"start_ms": None, "end_ms": None, "after": None, "events": BATCH, "max_bytes": 1 << 20}
    return next_bodies(conn, 2, **defaults | options)


def test_all_events_in_order_batch_by_batch(filled: tuple[str, list[Stored]]) -> None:
    url, stored = filled
    found: list[tuple[int, UUID, bytes]] = []
    with psycopg.connect(url) as conn:
        while not (batch := read(conn, after=found[-1][:2] if found else None)).last:
            assert len(batch.events) <= BATCH
            found += batch.events
        found += batch.events

    assert found == [(one.at, one.id, one.body.encode()) for one in stored]


@pytest.mark.parametrize("size", [1, 10_000, 100_000])
def test_bytes_are_bounded_but_for_the_event_that_reaches_it(filled: tuple[str, list[Stored]], size: int) -> None:
    with psycopg.connect(filled[0]) as conn:
        bodies = [body for _, _, body in read(conn, max_bytes=size).events]

    assert bodies
    assert sum(map(len, bodies[:-1])) < size


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 0), (100, 200), (EVENTS, None), (None, -1), (EVENTS // 3, None), (300, 100), (MIN_MS - AT, MAX_MS - AT)],
)
def test_both_bounds_are_included(filled: tuple[str, list[Stored]], start: int | None, end: int | None) -> None:
    url, stored = filled
    low, high = (None if bound is None else AT + bound for bound in (start, end))
    expected = [one.id for one in stored if (low is None or one.at >= low) and (high is None or one.at <= high)]
    with psycopg.connect(url) as conn:
        batch = read(conn, start_ms=low, end_ms=high)

    assert [event_id for _, event_id, _ in batch.events] == expected[:BATCH]
    assert batch.last is (len(expected) < BATCH)


def test_a_project_without_events(filled: tuple[str, list[Stored]]) -> None:
    with psycopg.connect(filled[0]) as conn:
        empty = next_bodies(conn, 9, start_ms=None, end_ms=None, after=None, events=5, max_bytes=5)

    assert empty == Bodies((), last=True)


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"after": (AT + EVENTS // 6, UUID(int=0))},
        {"start_ms": AT + 1000, "end_ms": AT + 1010},
        {"start_ms": AT - 10, "end_ms": AT - 1},
        {"max_bytes": 1},
    ],
    ids=["first", "deep", "few", "none", "one"],
)
def test_a_batch_touches_what_it_holds(
    filled: tuple[str, list[Stored]], options: dict[str, Any], generic: bool
) -> None:
    with psycopg.connect(filled[0]) as conn:
        plan = explained(conn, options, generic)

    assert plan.relations == {"Index Scan events_time"}
    assert plan.rows <= BATCH
    # Events lie wherever they were put; each may be on a page of its own, a large body on some more.
    assert plan.buffers <= 2 * BATCH + 100


def test_without_the_settings_the_planner_may_leave_the_way(
    filled: tuple[str, list[Stored]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check sees what it should."""
    monkeypatch.setattr(laboratory, "settle_plans", lambda conn: conn.execute("SET LOCAL enable_indexscan = off"))
    with psycopg.connect(filled[0]) as conn:
        plan = explained(conn, {}, generic=False)

    assert plan.relations != {"Index Scan events_time"}
    assert plan.rows > BATCH


class Plan:
    """What a statement used of ``events``."""

    def __init__(self, node: dict[str, Any]) -> None:
        self.buffers = node["Shared Hit Blocks"] + node["Shared Read Blocks"]
        self.relations: set[str] = set()
        self.rows = 0
        self._add(node)

    def _add(self, node: dict[str, Any]) -> None:
        if "Relation Name" in node or "Index Name" in node:
            self.relations.add(
                f"{node['Node Type']} {node.get('Index Name', '')}".removesuffix(" ").replace(" Backward", "")
            )
            self.rows += round(node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
        for child in node.get("Plans", ()):
            self._add(child)


def explained(conn: psycopg.Connection[TupleRow], options: dict[str, Any], generic: bool) -> Plan:
    """The plan of the very statement with the very values that ``next_bodies`` runs."""
    ran: list[tuple[Any, Any]] = []

    class Watching(psycopg.Cursor[TupleRow]):
        def execute(self, query: Any, params: Any = None, **more: Any) -> Watching:
            ran.append((query, params))
            super().execute(query, params, **more)
            return self

    conn.cursor_factory = Watching
    read(conn, **options)
    conn.cursor_factory = psycopg.Cursor
    query, values = next(one for one in ran if one[0] == queries.load("laboratory").next_bodies)
    if generic:
        # What PostgreSQL may turn to once psycopg has prepared a statement and it ran five times.
        statement = next(one for one in queries.load("laboratory") if one.name == "next_bodies")
        order = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", query)))
        conn.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        conn.execute(sql.SQL("PREPARE looked AS ") + sql.SQL(statement.numbered()))
        call = sql.SQL("EXECUTE looked({})").format(sql.SQL(", ").join(sql.Literal(values[key]) for key in order))
        found = conn.execute(sql.SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ") + call)
    else:
        found = conn.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + query, values)
    row = found.fetchone()
    assert row is not None
    return Plan(row[0][0]["Plan"])


def test_the_settings_end_with_the_transaction(filled: tuple[str, list[Stored]]) -> None:
    with psycopg.connect(filled[0]) as conn:
        read(conn)
        assert conn.execute("SHOW enable_sort").fetchone() == ("off",)
        conn.rollback()
        assert conn.execute("SHOW enable_sort").fetchone() == ("on",)
