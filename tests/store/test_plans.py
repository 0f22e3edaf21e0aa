"""What a page costs is what it holds: no filter, frequent or rare, makes PostgreSQL touch the project's size of rows.

Judged by EXPLAIN ANALYZE of the very statements, run as a page runs them: which indexes, how many rows of ``events``,
how many pages of memory. Times say little on a busy machine, these numbers are the same on every one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import TupleRow

from logstitch.actors.indexer import Builder, index_next
from logstitch.actors.messages.events import EventFilter
from logstitch.actors.messages.pages import Order, Position
from logstitch.actors.reader import list_events
from logstitch.search.segments import SEGMENT_BITS, SEGMENT_EVENTS, Layout
from logstitch.store import queries, reading
from logstitch.viewing.tiers import Tier, View
from tests.support.postgres import Databases
from tests.support.stored import AT, an_event, request, store

pytestmark = pytest.mark.slow

EVENTS = 6 * SEGMENT_EVENTS + 2000
"""In the project that is read: six closed segments and the beginning of one."""
LAYOUT = Layout(volume_bits=1)
"""Volumes of two segments, so there are three."""
LATE_MS = 20_000
RARE = 10
"""Events that a rare value has."""

WALKED = 1_000
"""Events of one walk; see ``search.pages``."""
PAGE = 50


@dataclass
class Plans:
    """The plans of the statements that ran: what they used of each relation."""

    indexes: set[str] = field(default_factory=set)
    sequential: set[str] = field(default_factory=set)
    rows: int = 0
    """Rows of ``events`` that were looked at, those thrown away included."""
    buffers: int = 0
    """Pages touched, in memory or not."""
    statements: int = 0

    def add(self, plan: dict[str, Any]) -> None:
        self.statements += 1
        self.buffers += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        self._add_node(plan)

    def _add_node(self, node: dict[str, Any]) -> None:
        if index := node.get("Index Name"):
            self.indexes.add(index)
        relation = node.get("Relation Name")
        if relation and node["Node Type"] == "Seq Scan":
            self.sequential.add(relation)
        if relation == "events":
            thrown = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
            self.rows += round((node["Actual Rows"] + thrown) * node["Actual Loops"])
        for child in node.get("Plans", ()):
            self._add_node(child)


class ExplainingCursor(psycopg.Cursor[TupleRow]):
    """Explains every statement of ``reading`` and ``words`` before it runs it."""

    plans = Plans()
    generic = False
    NAMES: ClassVar = {
        statement.text: f"{file}_{statement.name}"
        for file in ("reading", "words")
        for statement in queries.load(file)
        if statement.preparable and statement.name not in ("settle_plans", "claim_segment", "mark_words_ready")
    }

    def execute(self, query: Any, params: Any = None, **options: Any) -> ExplainingCursor:
        if (name := self.NAMES.get(query)) is not None:
            with psycopg.Cursor(self.connection) as other:
                if self.generic:
                    # What PostgreSQL may turn to once psycopg has prepared a statement and it ran five times.
                    statement = next(one for one in queries.every_statement() if one.text == query)
                    order = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", query)))
                    other.execute("SET LOCAL plan_cache_mode = force_generic_plan")
                    other.execute(
                        sql.SQL("PREPARE {} AS ").format(sql.Identifier(name)) + sql.SQL(statement.numbered())
                    )
                    values = sql.SQL(", ").join(sql.Literal(params[key]) for key in order)
                    call = sql.SQL("EXECUTE {}({})").format(sql.Identifier(name), values)
                    other.execute(sql.SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ") + call)
                else:
                    other.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + query, params)
                row = other.fetchone()
                assert row is not None
                self.plans.add(row[0][0]["Plan"])
                if self.generic:
                    other.execute(sql.SQL("DEALLOCATE {}").format(sql.Identifier(name)))
        super().execute(query, params, **options)
        return self


@pytest.fixture(scope="module")
def filled(databases: Databases, migrated_template: str) -> Iterator[str]:
    """A project of 100,000 events between two others; its URL."""
    with databases.database(migrated_template) as url:
        chance = random.Random(3)
        rare = set(chance.sample(range(EVENTS), RARE))
        given = []
        for number in range(EVENTS):
            odd = number in rare
            event = an_event(
                action="billing.refunded"
                if odd
                else chance.choices(["doc.viewed", "doc.edited", "auth.login"], [80, 19, 1])[0],
                category="security" if odd else chance.choices(["access", "admin"], [99, 1])[0],
                tenant_id="tiny" if odd else chance.choices(["big", f"t{chance.randrange(500)}"], [1, 1])[0],
                actor={"id": "eve" if odd else f"u{chance.randrange(1000)}", "type": "system" if odd else "user"},
                target={"id": f"d{number}", "type": "safe" if odd else "document"},
                metadata={"note": "hippopotamus" if odd else f"word{chance.randrange(500)} common"},
            )
            given.append((AT + number - chance.randrange(LATE_MS), event))
        with psycopg.connect(url) as conn, Builder() as builder:
            store(conn, 1, given[:3000], chance=chance)
            for start in range(0, EVENTS, 20_000):
                store(conn, 2, given[start : start + 20_000], chance=chance)
            store(conn, 3, given[:3000], chance=chance)
            conn.commit()
            while index_next(conn, builder, LAYOUT):
                conn.commit()
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("SELECT gin_clean_pending_list('events_facets')")
            conn.execute("ANALYZE")
        yield url


@pytest.fixture(params=["custom", "generic"])
def conn(filled: str, request: pytest.FixtureRequest) -> Iterator[psycopg.Connection[TupleRow]]:
    with psycopg.connect(filled, cursor_factory=ExplainingCursor) as connection:
        ExplainingCursor.generic = request.param == "generic"
        yield connection


def explain(
    conn: psycopg.Connection[TupleRow], wanted: EventFilter, order: Order, after: Position | None, project_no: int = 2
) -> tuple[Plans, int]:
    """What a page costs, and how many events it has."""
    ExplainingCursor.plans = plans = Plans()
    asked = request(wanted, project_no=project_no, order=order, limit=PAGE, after=after)
    page = list_events(conn, asked, budget=1e9, layout=LAYOUT)
    conn.rollback()
    return plans, len(page.bodies)


MIDDLE = Position(AT + EVENTS // 2, UUID(int=0))
ALWAYS = {"events_pkey", "segments_pkey"}
WALK = ALWAYS | {"events_time"}
VOLUMES = {"volumes_pkey", "word_blocks_pkey"}
FACETS = WALK | VOLUMES | {"events_facets"}
ACTIONS = {"project_actions_pkey"}
TENANT = ALWAYS | {"events_tenant_time", "tenants_project_no_tenant_id_key"}
WORDS = WALK | VOLUMES


@dataclass(frozen=True, slots=True)
class Case:
    wanted: EventFilter
    indexes: set[str]
    rows: int
    """At most so many events are looked at."""


PAGE_ROWS = 2 * (PAGE + 1)
"""A page's events: once to find them, once for their bodies."""
CASES = {
    "nothing": Case(EventFilter(), WALK, PAGE_ROWS),
    "dates": Case(EventFilter(start_ms=AT + 30_000, end_ms=AT + 90_000), WALK, PAGE_ROWS),
    "tenant, frequent": Case(EventFilter(tenant_id="big"), TENANT, PAGE_ROWS),
    "tenant, mid": Case(EventFilter(tenant_id="t7"), TENANT, PAGE_ROWS),
    "tenant, rare": Case(EventFilter(tenant_id="tiny"), TENANT, PAGE_ROWS),
    "action, frequent": Case(EventFilter(action="doc.viewed"), WALK, WALKED + PAGE_ROWS),
    "action, mid": Case(EventFilter(action="auth.login"), FACETS, WALKED + 1200),
    "action, rare": Case(EventFilter(action="billing.refunded"), FACETS, WALKED + 100),
    "glob, frequent": Case(EventFilter(action="doc.*"), WALK | ACTIONS, WALKED + PAGE_ROWS),
    "glob, rare": Case(EventFilter(action="*refund*"), FACETS | ACTIONS, WALKED + 100),
    "category, frequent": Case(EventFilter(category="access"), WALK, WALKED + PAGE_ROWS),
    "category, mid": Case(EventFilter(category="admin"), FACETS, WALKED + 1200),
    "category, rare": Case(EventFilter(category="security"), FACETS, WALKED + 100),
    "actor, mid": Case(EventFilter(actor_id="u7"), FACETS, WALKED + 300),
    "actor, rare": Case(EventFilter(actor_id="eve"), FACETS, WALKED + 100),
    "actor, none": Case(EventFilter(actor_id="nobody"), FACETS, WALKED),
    "actor type, frequent": Case(EventFilter(actor_type="user"), WALK, WALKED + PAGE_ROWS),
    "actor type, rare": Case(EventFilter(actor_type="system"), FACETS, WALKED + 100),
    "target, one": Case(EventFilter(target_id="d4711"), FACETS, WALKED + 10),
    "target type, frequent": Case(EventFilter(target_type="document"), WALK, WALKED + PAGE_ROWS),
    "target type, rare": Case(EventFilter(target_type="safe"), FACETS, WALKED + 100),
    "tenant and action, frequent": Case(EventFilter(tenant_id="big", action="doc.viewed"), TENANT, WALKED + PAGE_ROWS),
    "tenant and action, mid": Case(
        EventFilter(tenant_id="big", action="auth.login"), TENANT | VOLUMES | {"events_facets"}, WALKED + 800
    ),
    "tenant and action, small": Case(EventFilter(tenant_id="t7", action="auth.login"), TENANT, WALKED),
    "search, frequent": Case(EventFilter(words=(b"common",)), WORDS, 3 * PAGE + 1000),
    "search, mid": Case(EventFilter(words=(b"word77",)), WORDS, 2000 + 1000 + 1200),
    "search, rare": Case(EventFilter(words=(b"hippo",)), WORDS, 2000 + 1000 + 100),
}  # the newest segment has 2,000 events, which are all looked at where no page is filled from fewer


@pytest.mark.parametrize("after", [None, MIDDLE], ids=["first", "deep"])
@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("name", CASES)
def test_a_page_touches_what_it_holds(
    conn: psycopg.Connection[TupleRow], name: str, order: Order, after: Position | None
) -> None:
    case = CASES[name]
    plans, found = explain(conn, case.wanted, order, after)
    assert plans.sequential <= {"segments", "tenants", "project_actions"}
    assert plans.indexes <= case.indexes
    assert plans.rows <= case.rows
    # Every row may lie on a page of its own, and every statement descends a few trees.
    assert plans.buffers <= 2 * case.rows + 60 * plans.statements + 500, plans
    assert found > 0 or name in ("actor, none", "target, one", "tenant and action, small")


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("tenant_id", [None, "big"])
def test_a_page_of_a_few_moments_does_not_go_on_behind_them(
    conn: psycopg.Connection[TupleRow], tenant_id: str | None, order: Order
) -> None:
    """Given a page that the dates do not fill, then the walk ends with them, and not with the project."""
    wanted = EventFilter(tenant_id=tenant_id, start_ms=AT + 50_000, end_ms=AT + 50_010)
    plans, found = explain(conn, wanted, order, None)

    assert 0 < found <= 30
    assert plans.rows <= 2 * 30
    assert plans.buffers <= 100


TIER = Tier(
    UUID(int=1),
    "t",
    ("access", "security"),
    ("doc.*", "billing.*"),
    ("metadata.note",),
    datetime(2026, 1, 1, tzinfo=UTC),
)
SHOWN = {
    "nothing": EventFilter(),
    "action, rare": EventFilter(action="billing.refunded"),
    "glob": EventFilter(action="doc.*"),
    "actor, none": EventFilter(actor_id="nobody"),
    "search, none": EventFilter(words=(b"hippo",)),
}


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("name", SHOWN)
def test_under_a_view_a_page_walks_along_the_tenants_own_events(
    conn: psycopg.Connection[TupleRow], name: str, order: Order
) -> None:
    """Given a tenant of a two-hundredth of the half of a project, then no other's events are touched, whatever is
    asked for."""
    ExplainingCursor.plans = plans = Plans()
    asked = replace(request(SHOWN[name], project_no=2, order=order, limit=PAGE), view=View("t7", TIER))
    list_events(conn, asked, budget=1e9, layout=LAYOUT)
    conn.rollback()

    assert plans.sequential <= {"tenants"}
    assert plans.indexes <= {"events_tenant_time", "events_pkey", "tenants_project_no_tenant_id_key"}
    assert plans.rows <= 2 * EVENTS // 500
    assert plans.buffers <= 2 * plans.rows + 60 * plans.statements + 500, plans


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("name", CASES)
def test_a_small_project_beside_a_large_one_stays_small(
    conn: psycopg.Connection[TupleRow], name: str, order: Order
) -> None:
    plans, _ = explain(conn, CASES[name].wanted, order, None, project_no=1)
    assert plans.sequential <= {"segments", "tenants", "project_actions"}
    assert plans.indexes <= CASES[name].indexes | {"events_facets"}
    assert plans.rows <= CASES[name].rows + 3000
    assert plans.buffers <= 10_000, plans


def test_without_the_settings_the_planner_does_choose_wrongly(filled: str) -> None:
    """The check sees what it should: a plan that sorts or scans the project is told from one that does not."""
    with psycopg.connect(filled) as conn:
        conn.execute("SET LOCAL enable_indexscan = off")
        cursor = ExplainingCursor(conn)
        ExplainingCursor.plans, ExplainingCursor.generic = plans, _ = Plans(), False
        everything = reading.Range(0, UUID(int=0), AT * 2, UUID(int=0), newest_first=True)
        statement = queries.load("reading").walk_desc
        cursor.execute(
            statement, reading._parameters(2, reading.Columns(), everything) | {"events": PAGE, "limit": PAGE}
        )
        assert plans.rows > EVENTS / 2


def test_the_settings_end_with_the_transaction(filled: str) -> None:
    with psycopg.connect(filled) as conn:
        reading.settle_plans(conn)
        assert conn.execute("SHOW enable_sort").fetchone() == ("off",)
        conn.rollback()
        assert conn.execute("SHOW enable_sort").fetchone() == ("on",)


def test_segments_are_as_large_as_these_numbers_take_them_to_be() -> None:
    assert SEGMENT_EVENTS == 2**SEGMENT_BITS == 16_384


@pytest.mark.parametrize("count", [100, 512])
def test_bodies_are_read_by_key_also_from_a_table_that_was_not_analyzed_yet(database_url: str, count: int) -> None:
    ExplainingCursor.generic = False
    with psycopg.connect(database_url, cursor_factory=ExplainingCursor) as conn:
        store(conn, 1, [(AT + n, an_event(metadata={"note": "x" * 500})) for n in range(10_000)])
        reading.settle_plans(conn)
        ExplainingCursor.plans = plans = Plans()

        found = reading.find_bodies(conn, 1, range(5000, 5000 + count))

    assert len(found) == count
    assert plans.indexes == {"events_pkey"}
    assert plans.rows <= 2 * count
