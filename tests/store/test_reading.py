"""Reading finds what looking at every event would find: each event once, in order, whatever the filter and the page."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from logstitch.actors.indexer import Builder, index_next
from logstitch.actors.messages.events import EventFilter, EventPage
from logstitch.actors.messages.pages import Order, Position
from logstitch.actors.reader import MOST_ACTIONS, list_events
from logstitch.search import pages
from logstitch.search.segments import Layout
from logstitch.search.terms import query_words
from logstitch.store import reading, words
from logstitch.store.database import Connection
from logstitch.times import MAX_MS, MIN_MS
from tests.support.stored import AT, an_event, matching, request, store

BITS = 3
"""Segments of 8 events."""


def layout_of(bits: int) -> Layout:
    """Parts of two events, and volumes of two segments."""
    return Layout(bits, min(bits, 1), 1)


def index_all(conn: Connection, bits: int = BITS, *, most: int = 1000) -> int:
    """Build the word blocks of closed segments, then of volumes, then of parts; how many that were."""
    with Builder() as builder:
        return next((n for n in range(most) if not index_next(conn, builder, layout_of(bits))), most)


def read_all(
    conn: Connection, wanted: EventFilter, order: Order = Order.DESC, limit: int = 10, bits: int = BITS, **options: Any
) -> list[str]:
    """Every page, one after the other."""
    bodies: list[str] = []
    after: Position | None = None
    while True:
        page = list_events(
            conn, request(wanted, order=order, limit=limit, after=after), layout=layout_of(bits), **options
        )
        assert len(page.bodies) <= limit
        bodies += page.bodies
        if page.next is None:
            return bodies
        assert page.next != after, "a page must get on"
        after = page.next


# -- against the naive reader --------------------------------------------------------------------------------------

WORDS = [
    *(
        "login",
        "report",
        "Zürich",
        "naïve",
        "ΣΊΣΥΦΟΣ",
        "ﬁnance",
        "straße",
        "k8s",
        "日本",
        "\u212aelvin",
        "x" * 60,
        "O'Brien",
    ),
]
VALUES = [
    *(
        "ada",
        "bob",
        "o'neil",
        "back\\slash",
        'q"uote',
        "a & b | !c",
        "'; --",
        "é",
        "e\u0301",
        "a:*",
        "*",
        "%",
        "L" * 250,
    ),
]
KINDS = ["tenant", "actor", "type", "action", "glob", "category", "target", "kind", "dates", "words"]
GLOBS = ["auth.*", "*.login", "*role*", "*", "a*n*d", "auth.login_*", "auth.%*", "x*"]
SEARCHES = [*WORDS, "log", "l", "Z", "naive", "finance", "STRASSE", "two", "wo", "bed", "login report", "日"]
ACTIONS = ["auth.login", "auth.login_failed", "auth.logout", "doc.viewed", "doc.shared.link", "user.role.updated"]


def random_events(chance: random.Random, count: int) -> list[tuple[int, dict[str, Any]]]:
    """Few different moments, so that many events tie; some in order, some backfilled in any order."""
    spread = chance.choice([3, 50, 100_000])
    given = []
    for number in range(count):
        at = AT + number if chance.random() < 0.6 else AT - chance.randrange(spread)
        target = {"id": chance.choice(VALUES), "type": chance.choice(["document", "invoice"])}
        event = an_event(
            action=chance.choice(ACTIONS),
            category=chance.choice(["auth", "access", "admin"]),
            tenant_id=chance.choice(["acme", "Acme", "big", 'q"uote']),
            actor={"id": chance.choice(VALUES), "type": chance.choice(["user", "service"])},
            target=target if chance.random() < 0.8 else None,
            metadata={
                "note": " ".join(chance.choices(WORDS, k=2)),
                "n": chance.choice(["one\ntwo", "tab\tbed", "\u0001odd"]),
            },
        )
        given.append((at, event))
    return given


def random_filter(chance: random.Random) -> EventFilter:
    wanted: dict[str, Any] = {}
    for _ in range(chance.choice([0, 1, 1, 1, 2, 3])):
        match chance.choice(KINDS):
            case "tenant":
                wanted["tenant_id"] = chance.choice(["acme", "Acme", "big", 'q"uote', "nobody"])
            case "actor":
                wanted["actor_id"] = chance.choice([*VALUES, "nobody"])
            case "type":
                wanted["actor_type"] = chance.choice(["user", "service"])
            case "action":
                wanted["action"] = chance.choice(ACTIONS)
            case "glob":
                wanted["action"] = chance.choice(GLOBS)
            case "category":
                wanted["category"] = chance.choice(["auth", "access", "admin", "system"])
            case "target":
                wanted["target_id"] = chance.choice(VALUES)
            case "kind":
                wanted["target_type"] = chance.choice(["document", "invoice"])
            case "dates":
                wanted["start_ms"] = AT + chance.randrange(-60, 60)
                wanted["end_ms"] = wanted["start_ms"] + chance.randrange(0, 60)
            case "words":
                wanted["words"] = tuple(query_words(chance.choice(SEARCHES)))
    return EventFilter(**wanted)


def check_against_looking_at_every_event(conn: Connection, seed: int) -> None:
    chance = random.Random(seed)
    stored = store(conn, 1, random_events(chance, chance.randrange(1, 150)), bits=BITS, chance=chance)
    store(conn, 2, random_events(chance, 40), bits=BITS, chance=chance)  # somebody else's
    # None, some or all of the closed segments have word blocks, and so have volumes and parts; and of what came later.
    index_all(conn, most=chance.choice([0, 3, 20, 1000]))
    stored += store(conn, 1, random_events(chance, chance.randrange(60)), bits=BITS, chance=chance)
    index_all(conn, most=chance.choice([0, 1, 5, 1000]))
    for _ in range(40):
        wanted, order, limit = random_filter(chance), chance.choice(list(Order)), chance.choice([1, 3, 10, 100])
        expected = [one.body for one in matching(stored, wanted, order)]
        assert read_all(conn, wanted, order, limit) == expected, (seed, wanted, order, limit)


@pytest.mark.parametrize("seed", range(6))
def test_reading_equals_looking_at_every_event(conn: Connection, seed: int) -> None:
    check_against_looking_at_every_event(conn, seed)


@pytest.fixture
def short_walks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Walks so short that nearly everything comes from the inverted index and the word blocks."""
    monkeypatch.setattr(pages, "WALK_EVENTS", 2)
    monkeypatch.setattr(pages, "WALK_EVENTS_FOR_WORDS", 2)
    monkeypatch.setattr(pages, "LONGEST_WALK", 5)
    monkeypatch.setattr(pages, "LONGEST_WALK_FOR_WORDS", 5)
    monkeypatch.setattr(pages, "SCAN_EVENTS", 2)
    monkeypatch.setattr(pages, "VERIFY_EVENTS", 2)
    monkeypatch.setattr(pages, "FEW_CANDIDATES", 1)
    monkeypatch.setattr(words, "FETCH_BLOCKS", 2)


@pytest.mark.usefixtures("short_walks")
@pytest.mark.parametrize("seed", range(100, 112))
def test_the_same_holds_for_what_is_too_rare_for_a_walk(conn: Connection, seed: int) -> None:
    check_against_looking_at_every_event(conn, seed)


@pytest.mark.usefixtures("short_walks")
@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("seconds", [0.0, 2.5, 6.0])
@pytest.mark.parametrize("seed", range(2))
def test_a_search_that_runs_out_of_time_goes_on_where_it_stopped(
    conn: Connection, monkeypatch: pytest.MonkeyPatch, seed: int, seconds: float, order: Order
) -> None:
    """Given a clock that moves on by a second at each look, then pages are short, and together they are complete."""
    chance = random.Random(seed)
    stored = store(conn, 1, random_events(chance, 100), bits=BITS, chance=chance)
    index_all(conn, most=14)  # the 12 closed segments and two volumes
    ticks = iter(range(10**9))
    monkeypatch.setattr("logstitch.actors.reader.time.monotonic", lambda: float(next(ticks)))
    for wanted in (
        EventFilter(target_id="ada"),
        EventFilter(tenant_id="big", actor_id="bob"),
        EventFilter(words=(b"report",)),
        EventFilter(action="auth.*", words=(b"report", b"k8s")),
    ):
        expected = [one.body for one in matching(stored, wanted, order)]
        assert read_all(conn, wanted, order, budget=seconds) == expected


# -- one thing at a time -------------------------------------------------------------------------------------------


def test_the_order_is_by_time_and_then_by_id(conn: Connection) -> None:
    stored = store(conn, 1, [(AT, an_event()), (AT + 1, an_event()), (AT, an_event()), (AT - 1, an_event())], bits=BITS)
    newest_first = [one.body for one in sorted(stored, key=lambda one: one.place, reverse=True)]
    assert read_all(conn, EventFilter(), Order.DESC, 1) == newest_first
    assert read_all(conn, EventFilter(), Order.ASC, 1) == newest_first[::-1]


def test_dates_are_inclusive_to_the_millisecond(conn: Connection) -> None:
    stored = store(conn, 1, [(AT + n, an_event()) for n in range(5)], bits=BITS)
    assert read_all(conn, EventFilter(start_ms=AT + 1, end_ms=AT + 3), Order.ASC) == [one.body for one in stored[1:4]]


def test_the_first_and_the_last_years_can_be_read(conn: Connection) -> None:
    stored = store(conn, 1, [(MIN_MS, an_event()), (AT, an_event()), (MAX_MS, an_event())], bits=0)
    assert read_all(conn, EventFilter(), Order.ASC, 1, bits=0) == [one.body for one in stored]
    assert read_all(conn, EventFilter(actor_id="ada", start_ms=MAX_MS), bits=0) == [stored[2].body]
    assert read_all(conn, EventFilter(actor_id="ada", end_ms=MIN_MS), bits=0) == [stored[0].body]


def test_an_end_before_the_start_is_an_empty_page(conn: Connection) -> None:
    store(conn, 1, [(AT, an_event())], bits=BITS)
    assert list_events(conn, request(EventFilter(start_ms=AT + 1, end_ms=AT - 1))) == EventPage((), None)


def test_an_unknown_tenant_is_an_empty_page(conn: Connection) -> None:
    store(conn, 1, [(AT, an_event(tenant_id="acme"))], bits=BITS)
    assert list_events(conn, request(EventFilter(tenant_id="Acme"))) == EventPage((), None)


def test_another_project_is_never_read(conn: Connection) -> None:
    store(conn, 1, [(AT, an_event(tenant_id="acme"))], bits=BITS)
    store(conn, 17, [(AT, an_event(tenant_id="acme", metadata={"note": "secret"}))] * 20, bits=BITS)
    index_all(conn)
    for wanted in (
        EventFilter(words=(b"secret",)),
        EventFilter(start_ms=AT + 1),
    ):
        assert list_events(conn, request(wanted), layout=layout_of(BITS)) == EventPage((), None)


HOSTILE = [
    *("'", "''", "\\", "\\'", "a'b", "a\\", "' | 'x", "a:*", "a:A", "!x", "<->", "( & )", " ", "\t", "\n", "%", "%s"),
    *(
        "$1",
        "é",
        "e\u0301",
        "\u200b",
        "\U0001f600",
        "\ufeff",
        "日本語",
        "A" * 200,
        "A" * 201,
        "é" * 101,
        "\x7f",
        "\x01",
    ),
]


@pytest.mark.usefixtures("short_walks")
@pytest.mark.parametrize("indexed", [0, 1000])
def test_any_text_is_found_exactly(conn: Connection, indexed: int) -> None:
    """Whatever a value holds, it finds its own event through volumes and the inverted index and no other's."""
    given = [(AT + n, an_event(actor={"id": text, "type": "user"})) for n, text in enumerate(HOSTILE)]
    stored = store(conn, 1, given, bits=BITS)
    index_all(conn, most=indexed)
    for text, one in zip(HOSTILE, stored, strict=True):
        assert read_all(conn, EventFilter(actor_id=text)) == [one.body], text


@pytest.mark.usefixtures("short_walks")
@pytest.mark.parametrize("glob", ["a.b_c*", "*b_c", "*.b_c", "a*c", "*", "a.*.c", "*%*", "a**c", "*a.b_c*", "*.*.*"])
def test_an_action_glob_means_what_it_says(conn: Connection, glob: str) -> None:
    actions = ["a.b_c", "a.bxc", "a.b_c.d", "a.x.c", "aa.b_c", "a.c", "x.y"]
    stored = store(conn, 1, [(AT + n, an_event(action=action)) for n, action in enumerate(actions * 3)], bits=1)
    expected = [one.body for one in matching(stored, EventFilter(action=glob), Order.DESC)]
    assert read_all(conn, EventFilter(action=glob), bits=1) == expected


def test_a_glob_of_more_actions_than_can_be_named_is_compared_while_walking(conn: Connection) -> None:
    given = [(AT + n, an_event(action=f"{'auth' if n % 3 else 'doc'}.a{n}")) for n in range(MOST_ACTIONS * 2)]
    stored = store(conn, 1, given, bits=BITS)
    wanted = EventFilter(action="auth.*")
    assert read_all(conn, wanted, limit=100) == [one.body for one in matching(stored, wanted, Order.DESC)]
    narrower = EventFilter(action="auth.*", actor_id="ada", end_ms=AT + 50)
    assert read_all(conn, narrower) == [one.body for one in matching(stored, narrower, Order.DESC)]


def test_only_so_many_actions_are_compared_with_a_glob(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LOOK_ACTIONS", 50)
    actions = [f"{kind}.a{n}" for n in range(40) for kind in ("auth", "doc")]
    stored = store(conn, 1, [(AT + n, an_event(action=action)) for n, action in enumerate(actions)], bits=BITS)
    assert reading.find_actions(conn, 1, "%a3", 1000) is None
    assert reading.find_actions(conn, 1, "doc%a3", 1000, "doc") == ["doc.a3"]
    for glob in ("*a3", "doc*a3"):
        wanted = EventFilter(action=glob)
        assert read_all(conn, wanted) == [one.body for one in matching(stored, wanted, Order.DESC)]


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("words", [(), (b"report",)])
def test_a_page_ends_before_its_bodies_are_too_many(
    conn: Connection, monkeypatch: pytest.MonkeyPatch, order: Order, words: tuple[bytes, ...]
) -> None:
    """Given events of 300 kB, and pages of 1 MB, then what is beyond is not even read, and nothing is skipped."""
    monkeypatch.setattr(pages, "PAGE_BYTES", 1_000_000)
    read: list[int] = []
    find_body = reading.find_body

    def counted(conn: Connection, project_no: int, seq: int) -> str:
        read.append(seq)
        return find_body(conn, project_no, seq)

    monkeypatch.setattr(reading, "find_body", counted)
    notes = [f"report{n} " * 40_000 for n in range(8)]
    given = [(AT + n, an_event(metadata={"n": note})) for n, note in enumerate(notes)]
    given[4:4] = [(AT + 4, an_event(metadata={"n": "report " * 200_000}))]  # more than a page alone
    stored = store(conn, 1, given, bits=BITS)
    wanted = EventFilter(words=words)
    first = list_events(conn, request(wanted, order=order, limit=100), layout=layout_of(BITS))
    assert len(first.bodies) == 3
    assert first.next is not None
    if not words:
        assert len(read) == 3
    assert read_all(conn, wanted, order, 100) == [one.body for one in matching(stored, wanted, order)]


@pytest.mark.usefixtures("short_walks")
@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("indexed", [0, 1, 1000])
def test_the_time_is_looked_at_after_every_body(
    conn: Connection, monkeypatch: pytest.MonkeyPatch, order: Order, indexed: int
) -> None:
    """Given bodies of which each takes a second, then a page searches what its budget has, and skips none."""
    now = [0.0]
    matches = pages._Search._matches

    def slow(search: Any, body: str) -> bool:
        now[0] += 1
        return matches(search, body)

    monkeypatch.setattr(pages._Search, "_matches", slow)
    monkeypatch.setattr("logstitch.actors.reader.time.monotonic", lambda: now[0])
    chance = random.Random(11)
    events = enumerate(random_events(chance, 60))
    given = [(at, event | {"metadata": {"n": f"ä report{n % 7}"}}) for n, (at, event) in events]
    stored = store(conn, 1, given, bits=BITS, chance=chance)
    index_all(conn, most=indexed)
    for word in (b"report", b"report3", b"nowhere"):
        wanted = EventFilter(words=(word,))
        expected = [one.body for one in matching(stored, wanted, order)]
        bodies: list[str] = []
        after: Position | None = None
        while True:
            began = now[0]
            page = list_events(conn, request(wanted, order=order, after=after), layout=layout_of(BITS), budget=4)
            assert now[0] - began <= 5
            bodies += page.bodies
            if page.next is None:
                break
            after = page.next
        assert bodies == expected


@pytest.mark.usefixtures("short_walks")
@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("target", ["rare", "nowhere"])
def test_the_time_is_looked_at_after_every_look_into_volumes(
    conn: Connection, monkeypatch: pytest.MonkeyPatch, order: Order, target: str
) -> None:
    """Given looks that take a second each, and five of them to ask all 64 volumes, then it takes several pages."""
    now = [0.0]
    find_exact = words.find_exact_blocks

    def slow(*args: Any) -> Any:
        now[0] += 1
        return find_exact(*args)

    monkeypatch.setattr(words, "find_exact_blocks", slow)
    monkeypatch.setattr("logstitch.actors.reader.time.monotonic", lambda: now[0])
    rare = an_event(target={"id": "rare", "type": "document"})
    given = [(AT + n, rare if n in (60, 100, 200) else an_event()) for n in range(256)]
    stored = store(conn, 1, given, bits=1)
    index_all(conn, bits=1)
    bodies: list[str] = []
    after: Position | None = None
    count = 0
    while True:
        count += 1
        began = now[0]
        asked = request(EventFilter(target_id=target), order=order, after=after)
        page = list_events(conn, asked, layout=layout_of(1), budget=1.5)
        assert now[0] - began <= 2
        bodies += page.bodies
        if page.next is None:
            break
        after = page.next
    assert count > 1
    assert bodies == [one.body for one in matching(stored, EventFilter(target_id=target), order)]


@pytest.mark.parametrize("order", list(Order))
def test_events_that_arrive_between_pages_displace_none(conn: Connection, order: Order) -> None:
    """Each event stored before the first page is on exactly one page, wherever in time the later ones fall."""
    chance = random.Random(5)
    before = store(conn, 1, random_events(chance, 60), bits=BITS, chance=chance)
    wanted = EventFilter(category="auth")
    seen: list[str] = []
    after: Position | None = None
    while True:
        page = list_events(conn, request(wanted, order=order, limit=3, after=after), layout=layout_of(BITS))
        seen += page.bodies
        if page.next is None:
            break
        after = page.next
        if len(seen) < 40:
            store(conn, 1, random_events(chance, 5), bits=BITS, chance=chance)
        index_all(conn, most=1)
    assert len(set(seen)) == len(seen)
    old = {one.body for one in before}
    assert [body for body in seen if body in old] == [one.body for one in matching(before, wanted, order)]


@pytest.mark.usefixtures("short_walks")
@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (EventFilter(target_id="rare"), 1),
        (EventFilter(target_id="nowhere"), 0),
        (EventFilter(action="rare.*"), 1),
        (EventFilter(words=(b"hippo",)), 1),
        (EventFilter(words=(b"nowhere",)), 0),
    ],
)
def test_segments_that_their_volumes_leave_out_are_not_looked_into(
    conn: Connection, monkeypatch: pytest.MonkeyPatch, wanted: EventFilter, found: int, order: Order
) -> None:
    """Given 256 events in 128 segments, all in volumes, and a value that one event has, then the first segment is
    looked into, since the value might have been frequent, and the one that has it. The volumes are asked in five steps.
    """
    rare = an_event(action="rare.one", target={"id": "rare", "type": "document"}, metadata={"n": "hippopotamus"})
    store(conn, 1, [(AT + n, rare if n == 100 else an_event(metadata={"n": f"w{n}"})) for n in range(256)], bits=1)
    index_all(conn, bits=1)
    looked: list[int] = []
    asked: list[int] = []
    find_having, find_blocks, find_exact = reading.find_having, words.find_blocks, words.find_exact_blocks

    def having(*args: Any) -> Any:
        looked.append(len(set(re.findall(r"'1\.([0-9a-f]+):", args[4]))))
        return find_having(*args)

    def blocks(conn: Connection, project_no: int, keys: Any, prefix: bytes, *, most: int | None = None) -> Any:
        (looked if most is None else asked).append(len(keys))
        return find_blocks(conn, project_no, keys, prefix, most=most)

    def exact(conn: Connection, project_no: int, keys: Any, lexemes: Any) -> Any:
        asked.append(len(keys))
        return find_exact(conn, project_no, keys, lexemes)

    monkeypatch.setattr(reading, "find_having", having)
    monkeypatch.setattr(words, "find_blocks", blocks)
    monkeypatch.setattr(words, "find_exact_blocks", exact)
    page = list_events(conn, request(wanted, order=order), layout=layout_of(1))
    assert len(page.bodies) == found
    assert looked == [1] * (1 + found)
    assert asked == [1, 4, 16, 32, 11]


@pytest.mark.usefixtures("short_walks")
def test_search_finds_folded_words_in_segments_with_and_without_blocks(conn: Connection) -> None:
    notes = [
        "Kelvin",
        "KELVIN",
        "\u212aelvin",
        "ﬁnance",
        "FINANCE",
        "Straße",
        "x\nkelvin",
        "ＫＥＬＶＩＮ",
        "kelvins",
        "akelvin",
    ]
    stored = store(conn, 1, [(AT + n, an_event(metadata={"n": note})) for n, note in enumerate(notes)], bits=BITS)
    for _ in range(2):
        for text in ("kelvin", "finance", "STRASSE", "straß", "fin kel", "kelvin"):
            wanted = EventFilter(words=tuple(query_words(text)))
            assert read_all(conn, wanted) == [one.body for one in matching(stored, wanted, Order.DESC)], text
        index_all(conn)  # 8 of the 10 events are a closed segment, the other two a part of an open one


@pytest.mark.usefixtures("short_walks")
def test_words_with_one_prefix_may_fill_many_blocks(conn: Connection) -> None:
    """Given an event here and there with hundreds of words of its own, then their common prefix finds every event."""
    notes = [" ".join(f"many{n}x{k}" for k in range(800)) if n % 3 else "nothing" for n in range(8)]
    stored = store(conn, 1, [(AT + n, an_event(metadata={"n": note})) for n, note in enumerate(notes)], bits=BITS)
    assert index_all(conn) == 1
    row = conn.execute("SELECT count(*) FROM word_blocks WHERE first_word >= 'many' AND first_word < 'manz'").fetchone()
    assert row is not None
    assert row[0] > 10
    for text in ("many", "many5", "many5x7", "many1x1 many"):
        wanted = EventFilter(words=tuple(query_words(text)))
        assert read_all(conn, wanted) == [one.body for one in matching(stored, wanted, Order.DESC)], text
