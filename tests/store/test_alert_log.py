"""Lists of alerts: newest first, every filter, and what a page costs however many there are."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import TupleRow

from logstitch.detection.alerts import Alert, AlertStatus
from logstitch.detection.rules import Severity
from logstitch.recording.alerts import alert_of
from logstitch.store import queries
from logstitch.store.alert_log import MAX_WALK, Place, Wanted, list_alerts
from logstitch.store.database import Connection
from tests.support.alerts_rows import insert_alert
from tests.support.alerts_world import an_alert
from tests.support.postgres import Databases

AT = datetime(2026, 11, 23, 8, 0, 0, tzinfo=UTC)
AT_MS = int(AT.timestamp() * 1000)
MANY = 100_000
LATER = timedelta(milliseconds=1)


def pages(conn: Connection, wanted: Wanted, *, limit: int, walk: int = MAX_WALK, no: int = 1) -> Iterator[list[Alert]]:
    after: Place | None = None
    while True:
        rows, after = list_alerts(conn, no, wanted, limit=limit, after=after, walk=walk)
        assert len(rows) <= limit
        yield [alert_of(row) for row in rows]
        if after is None:
            return


def some_alerts(count: int, seed: int) -> list[Alert]:
    """Several at each moment, of a few rules and groups."""
    chance = random.Random(seed)
    return [
        an_alert(
            AT + LATER * chance.randrange(count // 3),
            rule_id=chance.choice(["a", "b"]),
            group_key=chance.choice(["x", "y", "ž"]),
            status=chance.choice(list(AlertStatus)),
            severity=chance.choice(list(Severity)),
            event_ids=tuple(chance.randbytes(16) for _ in range(chance.randrange(1, 101))),
        )
        for _ in range(count)
    ]


WANTED = [
    Wanted(),
    Wanted(status="open"),
    Wanted(severity="critical"),
    Wanted(rule_id="a"),
    Wanted(rule_id="c"),
    Wanted(group_key="x"),
    Wanted(rule_id="a", group_key="ž"),
    Wanted(rule_id="a", group_key="ž", status="resolved", severity="low"),
    Wanted(start_ms=AT_MS + 10, end_ms=AT_MS + 20),
    Wanted(start_ms=AT_MS + 10, end_ms=AT_MS + 10),
    Wanted(rule_id="b", group_key="y", start_ms=AT_MS + 10, end_ms=AT_MS + 20),
    Wanted(start_ms=AT_MS + 20, end_ms=AT_MS + 10),
    Wanted(start_ms=-(10**15), end_ms=10**15),
]


@pytest.mark.parametrize(("limit", "walk"), [(100, 1000), (3, 1000), (3, 5), (1, 1)])
@pytest.mark.parametrize("wanted", WANTED, ids=str)
def test_pages_have_what_is_wanted_newest_first_and_each_once(
    conn: Connection, wanted: Wanted, limit: int, walk: int
) -> None:
    alerts = some_alerts(90, seed=3)
    insert_alert(conn, 1, *alerts)
    insert_alert(conn, 2, *some_alerts(30, seed=4))

    found = [alert for page in pages(conn, wanted, limit=limit, walk=walk) for alert in page]

    assert found == sorted(
        (alert for alert in alerts if _fits(alert, wanted)), key=lambda one: (one.triggered_at, one.id), reverse=True
    )


def _fits(alert: Alert, wanted: Wanted) -> bool:
    ms = (alert.triggered_at - AT) // LATER + AT_MS
    return (
        wanted.status in (None, alert.status)
        and wanted.severity in (None, alert.severity)
        and wanted.rule_id in (None, alert.rule_id)
        and wanted.group_key in (None, alert.group_key)
        and (wanted.start_ms is None or ms >= wanted.start_ms)
        and (wanted.end_ms is None or ms <= wanted.end_ms)
    )


@pytest.mark.parametrize("walk", [1000, 7, 1])
@pytest.mark.parametrize("wanted", [Wanted(), Wanted(rule_id="a", group_key="x")], ids=str)
def test_alerts_of_one_moment_are_paged_by_their_ids(conn: Connection, wanted: Wanted, walk: int) -> None:
    """A rule without a cooldown fires for every event, and many events come in one millisecond."""
    alerts = [an_alert(AT + LATER * (n // 20), rule_id="a", group_key="x") for n in range(60)]
    insert_alert(conn, 1, *alerts)

    found = [alert for page in pages(conn, wanted, limit=3, walk=walk) for alert in page]

    assert found == sorted(alerts, key=lambda one: (one.triggered_at, one.id), reverse=True)


def test_alerts_that_fire_while_a_list_is_read_are_not_in_it(conn: Connection) -> None:
    alerts = [an_alert(AT + LATER * n) for n in range(5)]
    insert_alert(conn, 1, *alerts)
    rows, after = list_alerts(conn, 1, Wanted(), limit=2, after=None)

    insert_alert(conn, 1, an_alert(AT + LATER * 10))
    rest, _ = list_alerts(conn, 1, Wanted(), limit=10, after=after)

    assert [alert_of(row) for row in (*rows, *rest)] == alerts[::-1]


# -- what a page costs ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filled(databases: Databases, migrated_template: str) -> Iterator[str]:
    """A project of 100,000 alerts between two others; one of them is open and critical, the oldest."""
    with databases.database(migrated_template) as url:
        with psycopg.connect(url) as conn:
            conn.execute(
                """INSERT INTO alerts (project_no, alert_id, rule_id, rule_name, severity, status, group_by, group_key,
                       tenant_id, event_count, event_ids, threshold, window_seconds, seq, triggered_at)
                   SELECT p, gen_random_uuid(), 'rule' || n %% 7, 'r', CASE n WHEN 1 THEN 'critical' ELSE 'high' END,
                       CASE n WHEN 1 THEN 'open' ELSE 'resolved' END, 'actor_id', 'group' || n %% 500, 't', 5,
                       array_fill(gen_random_uuid(), ARRAY[5]), 5, 300, n, %(at)s::timestamptz + n * interval '1 s'
                   FROM generate_series(1, 3) AS p,
                       generate_series(1, CASE p WHEN 2 THEN %(many)s ELSE 5000 END) AS n""",
                {"at": AT, "many": MANY},
            )
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("ANALYZE")
        yield url


class Used:
    """What the statements of one page used."""

    def __init__(self) -> None:
        self.buffers = 0
        self.rows = 0
        self.nodes: set[str] = set()
        self.milliseconds = 0.0

    def add(self, answer: dict[str, Any]) -> None:
        self.milliseconds += answer["Execution Time"]
        plan = answer["Plan"]
        self.buffers += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        self._add_node(plan)

    def _add_node(self, node: dict[str, Any]) -> None:
        if node.get("Relation Name") == "alerts" or "Index Name" in node:
            self.nodes.add(node.get("Index Name", node["Node Type"]))
            self.rows += round(node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
        for child in node.get("Plans", ()):
            self._add_node(child)


def explained(conn: Connection, wanted: Wanted, after: Place | None, generic: bool) -> Used:
    """What the very statements used, with the very values that a page runs."""
    used = Used()
    statements = {one.text: one for one in queries.load("alert_log") if one.name.startswith(("walk", "end"))}

    class Explaining(psycopg.Cursor[TupleRow]):
        def execute(self, query: Any, params: Any = None, **more: Any) -> Explaining:
            if (statement := statements.get(query)) is not None:
                with psycopg.Cursor(conn) as other:
                    if generic:
                        # What PostgreSQL may turn to once psycopg has prepared a statement and it ran five times.
                        order = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", query)))
                        other.execute("SET LOCAL plan_cache_mode = force_generic_plan")
                        name = sql.Identifier(statement.name)
                        other.execute(sql.SQL("PREPARE {} AS ").format(name) + sql.SQL(statement.numbered()))
                        values = sql.SQL(", ").join(sql.Literal(params[key]) for key in order)
                        call = sql.SQL("EXECUTE {}({})").format(name, values)
                        other.execute(sql.SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ") + call)
                    else:
                        other.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + query, params)
                    row = other.fetchone()
                    assert row is not None
                    used.add(row[0][0])
            super().execute(query, params, **more)
            return self

    conn.cursor_factory = Explaining
    list_alerts(conn, 2, wanted, limit=50, after=after)
    return used


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("deep", [False, True], ids=["first", "deep"])
@pytest.mark.parametrize(
    ("wanted", "index", "rows"),
    [
        (Wanted(), "alerts_newest", 60),
        (Wanted(severity="high", status="resolved"), "alerts_newest", 60),
        (Wanted(rule_id="rule3"), "alerts_newest", 400),
        (Wanted(group_key="group3"), "alerts_newest", 2 * MAX_WALK),
        (Wanted(status="open"), "alerts_newest", 2 * MAX_WALK),
        (Wanted(rule_id="nothing"), "alerts_newest", 2 * MAX_WALK),
        (Wanted(rule_id="rule3", group_key="group3"), "alerts_fired", 60),
        (Wanted(rule_id="rule3", group_key="group3", status="open"), "alerts_fired", 60),
        (Wanted(start_ms=AT_MS + 10_000, end_ms=AT_MS + 20_000), "alerts_newest", 60),
    ],
    ids=str,
)
def test_a_page_costs_what_a_bounded_number_of_alerts_costs(
    filled: str, wanted: Wanted, index: str, rows: int, deep: bool, generic: bool
) -> None:
    after = Place(AT + timedelta(seconds=MANY // 2), UUID(int=0)) if deep else None
    with psycopg.connect(filled) as conn:
        used = explained(conn, wanted, after, generic)

    print(f"{used.milliseconds:.1f} ms, {used.rows} rows, {used.buffers} buffers")
    assert used.nodes <= {index}
    assert used.rows <= rows
    assert used.buffers <= 2 * rows + 100


def test_the_settings_end_with_the_transaction(filled: str) -> None:
    with psycopg.connect(filled) as conn:
        list_alerts(conn, 2, Wanted(), limit=1, after=None)
        assert conn.execute("SHOW enable_seqscan").fetchone() == ("off",)
        conn.rollback()
        assert conn.execute("SHOW enable_seqscan").fetchone() == ("on",)
