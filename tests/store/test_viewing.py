"""Reading under a view finds what looking at each event as it is shown would find, and tells nothing of the rest."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

import orjson
import psycopg
import pytest
from psycopg.rows import TupleRow

from logstitch.actors.indexer import Builder, index_next
from logstitch.actors.messages.events import EventFilter, EventPage, GetEvent, ListEvents
from logstitch.actors.messages.pages import Order, Position
from logstitch.actors.reader import find_event, list_events
from logstitch.search import pages
from logstitch.search.pages import PAGE_BYTES
from logstitch.search.segments import Layout
from logstitch.search.terms import matches, query_words
from logstitch.store import queries
from logstitch.viewing.tiers import Tier, View
from tests.support.stored import AT, Stored, an_event, matching, store
from tests.support.viewers_world import shows

LAYOUT = Layout(3, 1, 1)
"""Segments of 8 events, parts of two, volumes of two segments."""


class RecordingCursor(psycopg.Cursor[TupleRow]):
    """Remembers which statements ran, and how many rows each had."""

    ran: ClassVar[list[tuple[str, int]]] = []
    NAMES: ClassVar = {
        statement.text: statement.name for file in ("reading", "words") for statement in queries.load(file)
    }

    def execute(self, query: Any, params: Any = None, **options: Any) -> RecordingCursor:
        super().execute(query, params, **options)
        if (name := self.NAMES.get(query)) is not None:
            self.ran.append((name, self.rowcount))
        return self


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection[TupleRow]]:
    with psycopg.connect(database_url, cursor_factory=RecordingCursor) as connection:
        yield connection


def a_tier(*hidden: str, categories: tuple[str, ...] | None = None, actions: tuple[str, ...] | None = None) -> Tier:
    return Tier(UUID(int=1), "support", categories, actions, hidden, datetime(2026, 1, 1, tzinfo=UTC))


def ask(
    conn: psycopg.Connection[TupleRow],
    wanted: EventFilter,
    view: View,
    *,
    project_no: int = 1,
    order: Order = Order.DESC,
    limit: int = 10,
    after: Position | None = None,
    **options: Any,
) -> EventPage:
    """One page."""
    return list_events(conn, ListEvents(project_no, wanted, order, limit, after, view), layout=LAYOUT, **options)


def read_all(conn: psycopg.Connection[TupleRow], wanted: EventFilter, view: View, **options: Any) -> list[str]:
    """Every page, one after the other. All but the last are full."""
    bodies: list[str] = []
    after: Position | None = None
    limit = options.get("limit", 10)
    while True:
        page = ask(conn, wanted, view, after=after, **options)
        bodies += page.bodies
        if page.next is None:
            return bodies
        assert "budget" in options or len(page.bodies) == limit
        assert page.next != after, "a page must get on"
        after = page.next


def index_all(conn: psycopg.Connection[TupleRow]) -> None:
    with Builder() as builder:
        while index_next(conn, builder, LAYOUT):
            pass


# -- against the naive reader --------------------------------------------------------------------------------------

WORDS = ["login", "report", "Zürich", "k8s", "x" * 60]
ACTORS = ["ada", "bob", "o'neil", "é", "e\u0301"]
ACTIONS = ["auth.login", "auth.login_failed", "doc.viewed", "doc.shared.link", "user.role.updated"]
TENANTS = ["acme", "Acme", "acme ", "big", "é", "e\u0301"]
VIEWS = [
    None,
    a_tier(),
    a_tier(categories=("auth", "admin")),
    a_tier(actions=("auth.*", "doc.viewed")),
    a_tier(actions=("auth.login_%", "*link", "nothing.*")),
    a_tier("metadata.note", "actor.name", "target.name", categories=("auth",), actions=("*.login*",)),
    a_tier("metadata", "changes.*.after", "actor.name"),
    a_tier("metadata.**", "context", actions=("doc.*",)),
]


def random_events(chance: random.Random, count: int) -> list[tuple[int, dict[str, Any]]]:
    given = []
    for number in range(count):
        at = AT + number if chance.random() < 0.6 else AT - chance.randrange(30)
        event = an_event(
            action=chance.choice(ACTIONS),
            category=chance.choice(["auth", "access", "admin"]),
            tenant_id=chance.choice(TENANTS),
            actor={"id": chance.choice(ACTORS), "type": "user", "name": chance.choice(WORDS)},
            target={"id": "t", "type": "doc", "name": chance.choice(WORDS)} if chance.random() < 0.7 else None,
            metadata={"note": " ".join(chance.choices(WORDS, k=2)), "other": chance.choice(WORDS)},
            changes=[{"field": "f", "before": chance.choice(WORDS), "after": chance.choice(WORDS)}],
        )
        given.append((at, event))
    return given


def random_filter(chance: random.Random) -> EventFilter:
    wanted: dict[str, Any] = {}
    for _ in range(chance.choice([0, 1, 1, 2])):
        match chance.choice(["tenant", "actor", "action", "category", "target", "dates", "words", "words"]):
            case "tenant":
                wanted["tenant_id"] = chance.choice([*TENANTS, "nobody"])
            case "actor":
                wanted["actor_id"] = chance.choice([*ACTORS, "nobody"])
            case "action":
                wanted["action"] = chance.choice([*ACTIONS, "auth.*", "*", "*l*", "auth.login_*", "auth.%"])
            case "category":
                wanted["category"] = chance.choice(["auth", "access", "system"])
            case "target":
                wanted["target_type"] = "doc"
            case "dates":
                wanted["start_ms"] = AT + chance.randrange(-30, 60)
            case "words":
                wanted["words"] = tuple(query_words(chance.choice([*WORDS, "rep", "login report", "nowhere"])))
    return EventFilter(**wanted)


def expected(stored: list[Stored], wanted: EventFilter, view: View, order: Order) -> list[dict[str, Any]]:
    """What is shown, told by looking at every event: through the tier first, and then whether it fits."""
    shown = []
    for one in stored:
        event = orjson.loads(one.body)
        if shows(view, event):
            left = view.strip(event)
            shown.append(replace(one, body=orjson.dumps(left).decode()))
    mine = replace(wanted, tenant_id=None)
    return [orjson.loads(one.body) for one in matching(shown, mine, order)]


def check(conn: psycopg.Connection[TupleRow], seed: int, **options: Any) -> None:
    chance = random.Random(seed)
    stored = store(conn, 1, random_events(chance, 120), bits=3, chance=chance)
    store(conn, 2, random_events(chance, 20), bits=3, chance=chance)
    index_all(conn)
    stored += store(conn, 1, random_events(chance, 30), bits=3, chance=chance)
    for _ in range(25):
        view = View(chance.choice([*TENANTS, "nobody"]), chance.choice(VIEWS))
        wanted, order, limit = random_filter(chance), chance.choice(list(Order)), chance.choice([1, 3, 10, 100])
        found = read_all(conn, wanted, view, order=order, limit=limit, **options)
        assert list(map(orjson.loads, found)) == expected(stored, wanted, view, order), (seed, wanted, view, order)


@pytest.mark.parametrize("seed", range(4))
def test_reading_equals_looking_at_every_event_as_it_is_shown(conn: psycopg.Connection[TupleRow], seed: int) -> None:
    check(conn, seed)


@pytest.mark.parametrize("seed", range(100, 103))
def test_the_same_holds_over_many_short_walks(
    conn: psycopg.Connection[TupleRow], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    for name in ("WALK_EVENTS", "WALK_EVENTS_FOR_WORDS", "LONGEST_WALK", "LONGEST_WALK_FOR_WORDS", "VERIFY_EVENTS"):
        monkeypatch.setattr(pages, name, 2)
    check(conn, seed)


def test_a_search_that_runs_out_of_time_goes_on_where_it_stopped(
    conn: psycopg.Connection[TupleRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "WALK_EVENTS_FOR_WORDS", 4)
    monkeypatch.setattr(pages, "LONGEST_WALK_FOR_WORDS", 4)
    ticks = iter(range(10**9))
    monkeypatch.setattr("logstitch.actors.reader.time.monotonic", lambda: float(next(ticks)))
    check(conn, 7, budget=2.5)


# -- one event -----------------------------------------------------------------------------------------------------


def test_one_event_is_found_where_it_would_be_listed_and_nowhere_else(conn: psycopg.Connection[TupleRow]) -> None:
    chance = random.Random(1)
    stored = store(conn, 1, random_events(chance, 60), bits=3, chance=chance)
    for tier in VIEWS:
        for tenant_id in TENANTS:
            view = View(tenant_id, tier)
            for one in stored:
                body = find_event(conn, GetEvent(1, one.id, view))
                event = orjson.loads(one.body)
                assert (None if body is None else orjson.loads(body)) == (
                    view.strip(event) if shows(view, event) else None
                )
                assert find_event(conn, GetEvent(2, one.id, view)) is None


# -- nothing tells -------------------------------------------------------------------------------------------------

TIER = a_tier("metadata.secret", "actor.email", "actor.id", categories=("auth",))
QUESTIONS = [
    EventFilter(),
    *(
        EventFilter(words=tuple(query_words(text)))
        for text in ("needle", "need", "hay", "needle hay", "nowhere", "pin", "elsewhere")
    ),
    EventFilter(action="auth.login", words=(b"needle",)),
    EventFilter(action="auth.*"),
    EventFilter(target_id="needle"),
    EventFilter(category="auth"),
    EventFilter(category="access"),
]


def twins(chance: random.Random) -> tuple[list[tuple[int, dict[str, Any]]], list[tuple[int, dict[str, Any]]]]:
    """Two logs that differ in what is hidden from a viewer of ``acme``, and in nothing else: in the hidden fields, in
    whatever other tenants have, and in events of the tenant's that the tier does not show."""
    one, other = [], []
    for number in range(300):
        at = AT + number
        if number % 3:
            hidden = [("needle", "pin"), ("haystack", "nothing"), ("pin needle", "other words")][number % 3]
            both = [
                an_event(
                    action="auth.login",
                    category="auth",
                    actor={"id": text, "type": "user", "email": f"{text}@example.com"},
                    metadata={"secret": text.ljust(12), "shown": "hay" if number % 5 == 0 else "straw"},
                )
                for text in hidden
            ]
        elif number % 2:
            both = [
                an_event(tenant_id="other", category="auth", action="auth.login", metadata={"n": text, "of": number})
                for text in ("needle", "elsewhere")
            ]
        else:
            both = [
                an_event(category="access", action="auth.login", target={"id": text, "type": "t"}, metadata={"n": text})
                for text in ("needle", "nowhere")
            ]
        one.append((at, both[0]))
        other.append((at, both[1]))
    return one, other


def differences(conn: psycopg.Connection[TupleRow]) -> list[str]:
    """The questions to which two logs that look the same to a viewer are answered otherwise, or otherwise looked up."""
    chance = random.Random(5)
    for project_no, given in enumerate(twins(chance), 1):
        store(conn, project_no, given, bits=3, chance=random.Random(9))
    index_all(conn)
    view = View("acme", TIER)
    told = []
    for wanted in QUESTIONS:
        for limit in (3, 100):
            for order in Order:
                seen = []
                for project_no in (1, 2):
                    RecordingCursor.ran.clear()
                    after, bodies = None, []
                    for _ in range(3):
                        page = ask(conn, wanted, view, project_no=project_no, order=order, limit=limit, after=after)
                        after = page.next
                        bodies.append((page.bodies, after))
                        if after is None:
                            break
                    seen.append((bodies, list(RecordingCursor.ran)))
                if seen[0] != seen[1]:
                    told.append(f"{wanted} by {limit} {order}")
    return told


@pytest.fixture
def short_walks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Walks so short that nearly everything would come from an index, if one were asked."""
    for name in ("WALK_EVENTS", "WALK_EVENTS_FOR_WORDS", "LONGEST_WALK", "LONGEST_WALK_FOR_WORDS"):
        monkeypatch.setattr(pages, name, 8)


@pytest.mark.usefixtures("short_walks")
def test_what_is_hidden_makes_no_difference_to_any_page_cursor_or_look_up(conn: psycopg.Connection[TupleRow]) -> None:
    assert differences(conn) == []


@pytest.mark.usefixtures("short_walks")
def test_that_would_be_noticed_if_words_were_looked_for_in_the_whole_event(
    conn: psycopg.Connection[TupleRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a reader that searches the stored event and strips it afterwards, then the words in hidden fields tell."""

    def found(search: Any, body: pages.Body, text: str) -> pages.Body | None:
        if not matches(text.encode(), search.query.words):
            return None
        return pages._written(search.query.view.strip(orjson.loads(text)))

    monkeypatch.setattr(pages._Search, "_found", found)

    assert any("needle" in question for question in differences(conn))


@pytest.mark.usefixtures("short_walks")
def test_it_would_be_noticed_if_an_index_were_asked(
    conn: psycopg.Connection[TupleRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a reader that verifies every candidate, but lets the word index name them, then the look-ups tell."""
    monkeypatch.setattr(pages.Query, "along_only", property(lambda query: not query.words))

    assert differences(conn)


@pytest.mark.usefixtures("short_walks")
@pytest.mark.parametrize("wanted", [replace(q, actor_type="user") for q in QUESTIONS])
def test_no_index_of_the_whole_project_is_asked(conn: psycopg.Connection[TupleRow], wanted: EventFilter) -> None:
    store(conn, 1, twins(random.Random(1))[0], bits=3)
    index_all(conn)
    RecordingCursor.ran.clear()

    read_all(conn, wanted, View("acme", TIER))

    allowed = {"settle_plans", "find_tenant", "walk_tenant_desc", "find_bodies", "find_body"}
    assert {name for name, _ in RecordingCursor.ran} <= allowed


# -- size ----------------------------------------------------------------------------------------------------------


def test_a_page_is_as_long_as_what_is_shown_and_not_as_what_is_stored(conn: psycopg.Connection[TupleRow]) -> None:
    """Given events of a megabyte each, all hidden but a few bytes, then they are all on one page."""
    bulk = {"secret": "x" * (PAGE_BYTES // 4)}
    store(conn, 1, [(AT + n, an_event(category="auth", metadata=bulk)) for n in range(10)])
    hidden, shown = View("acme", a_tier("metadata.secret")), View("acme", a_tier())

    assert len(ask(conn, EventFilter(), hidden).bodies) == 10
    assert len(ask(conn, EventFilter(words=(b"viewed",)), hidden).bodies) == 10
    assert len(ask(conn, EventFilter(), shown).bodies) == 3
    assert len(read_all(conn, EventFilter(), shown, budget=60)) == 10


def test_what_is_read_for_one_page_has_a_bound(
    conn: psycopg.Connection[TupleRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "MOST_READ", 50_000)
    bulk = {"secret": "x" * 20_000}
    store(conn, 1, [(AT + n, an_event(category="auth", metadata=bulk)) for n in range(7)])
    view = View("acme", a_tier("metadata.secret"))

    page = ask(conn, EventFilter(), view)

    assert len(page.bodies) == 2
    assert page.next is not None
    assert len(read_all(conn, EventFilter(), view, budget=60)) == 7


def test_globs_mean_the_same_to_the_database(conn: psycopg.Connection[TupleRow]) -> None:
    actions = ["a.b", "a.b_c", "a.bxc", "a.b.c", "aa.b", "a.b%"[:3] + "c"]
    stored = store(conn, 1, [(AT + n, an_event(action=action)) for n, action in enumerate(actions)])
    for glob in ("a.b", "a.*", "a.b_c", "*b*c", "a.b%", "*", "a\\.b", "*.b*", "%", "_.b"):
        view = View("acme", a_tier(actions=(glob,)))
        listed = [orjson.loads(body)["action"] for body in read_all(conn, EventFilter(), view)]
        pattern = ".*".join(map(re.escape, glob.split("*")))
        assert listed == [a for a in reversed(actions) if re.fullmatch(pattern, a)]
        assert [one.event["action"] for one in stored if find_event(conn, GetEvent(1, one.id, view))] == listed[::-1]
