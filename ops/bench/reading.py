"""How long a page of `GET /events` takes, filter by filter, with a project of N events behind it.

    ops/bench/run reading --events 1000000 [--database-url URL] [--json FILE] [--samples 40] [--keep]

Fills an empty database (an embedded server's, unless a URL names one) with a project of N realistic events of about 700
bytes, in the very format of the ingest actor's transaction, and times pages as the reader answers them: one read-only
transaction through `Database.transact`, 50 events a page, one question at a time, a warm cache as far as memory goes,
Python's garbage collector set as the service sets it (else one page in twenty has 30 ms of it). The indexes are built
in bulk after all but the last 30,000 events, which come in as commits of 1,000 do, so the inverted index has a pending
list and the newest segment has no word blocks, as in a service at work. One event in 500 came late, by up to a day.

`cpu` is the processor time of service and server together (median, milliseconds; Linux and a server on this machine
only): what the page would take on an idle machine whose cache is warm. The other two also hold what others do here.

A filter is `frequent` (5 % of the events or more), `mid` (about 1 in 1,000) or `rare` (20 events of all). `deep` is the
1,000th page, or for filters without so many the page at half the project's time. Values of mid filters differ from
sample to sample.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import psycopg
import trio

from logstitch import ids
from logstitch.actors.indexer import Builder, index_next
from logstitch.actors.messages.events import EventFilter, EventPage, ListEvents
from logstitch.actors.messages.pages import Order, Position
from logstitch.actors.reader import list_events
from logstitch.app import GC_THRESHOLD
from logstitch.search import terms
from logstitch.search.segments import lexeme_prefix, segment_of
from logstitch.store import events
from logstitch.store.database import Database, open_database
from logstitch.store.embedded import open_embedded_postgres
from logstitch.store.migrations import migrate
from logstitch.times import format_time

PROJECT = 1
TEMPLATES = 20_000
RARE_EVENTS = 20
LAST_EVENTS = 30_000
GROUP = 1_000
SPAN_MS = 90 * 86_400_000
END_MS = 1_760_000_000_000
LATE_MS = 86_400_000
PAGE = 50
NAME = "bench reading"
DEEP = 1_000
PROGRESS_SECONDS = 30.0

# -- the events ----------------------------------------------------------------------------------------------------

ACTIONS = [
    "auth.login", "auth.logout", "auth.login_failed", "document.viewed", "document.edited", "document.shared.link",
    "document.deleted", "invoice.created", "invoice.paid", "invoice.deleted", "user.invited", "user.role.updated",
    "user.deleted", "team.role.updated", "team.created", "setting.changed", "report.exported", "api_key.created",
    "api_key.deleted", "session.revoked",
]  # fmt: skip
ACTION_WEIGHTS = [30, 8, 3, 25, 12, 1, 1, 3, 3, 0.5, 0.5, 0.2, 0.1, 0.1, 0.1, 2, 2, 0.1, 0.1, 0.3]
NAMES = ["Ada Lovelace", "Grace Hopper", "Linus Pauling", "Mary Shelley", "Noor Khan", "Jürgen Groß"]
NOTES = [
    *("quarterly", "revenue", "forecast", "contract", "renewal", "customer", "onboarding", "budget", "review"),
    *("security", "questionnaire", "vendor", "agreement", "migration", "checklist", "incident", "postmortem"),
    *("roadmap", "planning", "hiring", "interview", "payroll", "compliance", "audit"),
]
AGENTS = [
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36",
    "Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0",
    "acme-sdk/2.4 python/3.12",
]


def template(chance: random.Random, number: int, *, rare: bool = False) -> dict[str, Any]:
    """An event but for what is unique to it, which stands in it as placeholders of the same length."""
    tenant = f"org_{min(int(chance.paretovariate(0.6)), 2000)}"  # org_1 has a third of all, org_500 about 1 in 1,000
    actor = "svc_sync" if chance.random() < 0.06 else f"user_{chance.randrange(1500)}"
    return {
        "action": "billing.refund.issued" if rare else chance.choices(ACTIONS, ACTION_WEIGHTS)[0],
        "actor": {
            "email": f"person{chance.randrange(1500)}@example.com",
            "id": "auditor_7" if rare else actor,
            "name": chance.choice(NAMES),
            "type": "system" if rare else "service" if actor == "svc_sync" else "user",
        },
        "category": "security"
        if rare
        else chance.choices(["access", "mutation", "auth", "admin"], [60, 30, 9.9, 0.1])[0],
        "changes": [{"after": "final", "before": "draft", "field": "status"}],
        "content_hash": f"{number:064x}",
        "context": {
            "ip_address": f"203.0.{chance.randrange(256)}.{chance.randrange(256)}",
            "session_id": "@SESSION@@@@@@@@",
            "user_agent": chance.choices(AGENTS, [60, 30, 10])[0],
        },
        "id": "@ID@@@@@@@@@@@@@@@@@@@@@@@@@@@",
        "metadata": {
            "n": chance.randrange(1000),
            "note": " ".join(
                [*chance.choices(NOTES, k=5), "hippopotamus" if rare else f"topic{chance.randrange(1000)}"]
            ),
            "request": "@REQUEST@@@@@@@@",
        },
        "occurred_at": "@OCCURRED@@@@@@@@@@@@@@@",
        "received_at": "@RECEIVED@@@@@@@@@@@@@@@",
        "target": {
            "id": "@TARGET@@@@@@@",
            "name": " ".join(chance.choices(NOTES, k=3)),
            "type": "contract" if rare else chance.choices(["document", "invoice", "folder"], [80, 19.9, 0.1])[0],
        },
        "tenant_id": "tiny_org" if rare else tenant,
    }


@dataclass(frozen=True, slots=True)
class Prepared:
    """A template taken apart as far as it can be."""

    body: bytes
    facets: tuple[bytes, ...]
    columns: dict[str, str]
    tenant: str


def prepare(event: dict[str, Any]) -> Prepared:
    """Take a template apart."""
    body = orjson.dumps(event, option=orjson.OPT_SORT_KEYS)
    columns = {
        "action": event["action"],
        "category": event["category"],
        "actor_id": event["actor"]["id"],
        "actor_type": event["actor"]["type"],
        "target_type": event["target"]["type"],
    }
    facets = tuple(lexeme for lexeme in terms.facets(event) if not lexeme.startswith(b"G"))
    return Prepared(body.replace(b"%", b"%%"), facets, columns, event["tenant_id"])


def frequent_target(number: int) -> bool:
    """One event in 16 is about the same document."""
    return number % 16 == 3


class Fill:
    """Rows of N events, in order, and what is kept beside them."""

    def __init__(self, count: int) -> None:
        self.count = count
        chance = random.Random(7)
        self.templates = [prepare(template(chance, n)) for n in range(TEMPLATES)]
        self.rare = prepare(template(chance, 0, rare=True))
        self.tenants: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.spans: dict[int, tuple[int, int]] = {}
        self.chance = chance

    def rows(self, first: int, last: int) -> Iterator[bytes]:
        """The rows of events ``first`` to ``last``, for ``events.copy_events``."""
        every = max(1, self.count // RARE_EVENTS)
        draw, bits = self.chance.random, self.chance.getrandbits
        prefix, segment = b"", -1
        fields = [b"@SESSION@@@@@@@@", b"@ID@@@@@@@@@@@@@@@@@@@@@@@@@@@", b"@REQUEST@@@@@@@@"]
        fields += [b"@OCCURRED@@@@@@@@@@@@@@@", b"@RECEIVED@@@@@@@@@@@@@@@", b"@TARGET@@@@@@@"]
        marks = sorted(fields, key=self.templates[0].body.index)
        order = [marks.index(one) for one in fields]
        bodies: dict[int, bytes] = {}
        for seq in range(first, last + 1):
            rare = seq % every == every // 2
            which = -1 if rare else int(draw() * TEMPLATES)
            base = self.rare if rare else self.templates[which]
            form = bodies.get(which)
            if form is None:
                form = base.body
                for one in fields:
                    form = form.replace(one, b"%s")
                bodies[which] = form
            received = END_MS - SPAN_MS + SPAN_MS * seq // self.count
            occurred = received - int(draw() * (LATE_MS if seq % 500 == 0 else 2000))
            number = bits(64)
            event_id = received.to_bytes(6, "big") + struct.pack(">HQ", seq >> 48, seq * 2654435761 % 2**64)
            target = b"doc_main000000" if frequent_target(seq) else b"doc_%010x" % (number >> 24)
            values = (
                b"%016x" % number,
                ids.event_id_text(event_id).encode(),
                b"%016x" % (number * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF),
                format_time(occurred).encode(),
                format_time(received).encode(),
                target,
            )
            body = form % tuple(value for _, value in sorted(zip(order, values, strict=True)))
            if segment_of(seq) != segment:
                segment = segment_of(seq)
                prefix = lexeme_prefix(PROJECT, segment)
            oldest, newest = self.spans.get(segment, (occurred, occurred))
            self.spans[segment] = (min(oldest, occurred), max(newest, occurred))
            tenant_no = self.tenants.setdefault(base.tenant, len(self.tenants) + 1)
            tenant_seq = self.sizes.get(base.tenant, 0)
            self.sizes[base.tenant] = tenant_seq + 1
            noise = number.to_bytes(8, "big") * 10
            tail = events.row_tail(
                event_id=event_id,
                occurred_at_ms=occurred,
                received_at_ms=received,
                **base.columns,
                target_id=target.decode(),
                key_hash=struct.pack(">QQ", number, seq),
                key_digest=noise[:32],
                content_hash=noise[:32],
                salts=noise,
                body=body,
            )
            facets = (*base.facets, b"G" + target)
            yield events.row(PROJECT, seq, tenant_no, tenant_seq, prefix, facets, tail)


def fill(url: str, count: int, say: Callable[[str], None]) -> None:
    """Store the events and index their words."""
    began = time.monotonic()
    made = Fill(count)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("SET statement_timeout = 0; SET maintenance_work_mem = '512MB'")
        indexes = [
            row[0]
            for row in conn.execute(
                "SELECT indexdef FROM pg_indexes WHERE tablename = 'events' AND indexname <> 'events_pkey'"
            )
        ]
        names = [definition.split()[3 if "UNIQUE" in definition else 2] for definition in indexes]
        for name in names:
            conn.execute(f"DROP INDEX {name}")
        bulk = max(0, count - LAST_EVENTS)
        with ThreadPoolExecutor(1) as writer:  # the next group is made while one is written
            pending = None
            for first in range(1, bulk + 1, 4 * GROUP):
                rows = list(made.rows(first, min(bulk, first + 4 * GROUP - 1)))
                if pending is not None:
                    pending.result()
                pending = writer.submit(events.copy_events, conn, rows)
            if pending is not None:
                pending.result()
        say(f"{bulk:,} rows after {time.monotonic() - began:.0f} s")
        for definition in indexes:
            conn.execute(definition)
        say(f"indexes after {time.monotonic() - began:.0f} s")
        for first in range(bulk + 1, count + 1, GROUP):
            with conn.transaction():
                events.copy_events(conn, list(made.rows(first, min(count, first + GROUP - 1))))
        with conn.transaction():
            conn.execute("INSERT INTO project_heads (project_no) VALUES (%s)", (PROJECT,))
            logs = {t: events.Tenant(no, made.sizes[t], b"") for t, no in made.tenants.items()}
            actions = {base.columns["action"] for base in (*made.templates, made.rare)}
            events.save_heads(conn, PROJECT, events.Head(count, date.today(), count), logs, made.spans, actions=actions)
    say(f"rows, indexes and heads after {time.monotonic() - began:.0f} s")

    index(url, count, say)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("SET statement_timeout = 0")
        conn.execute("ANALYZE")
        sizes = conn.execute(
            "SELECT relname, pg_size_pretty(pg_relation_size(oid)) FROM pg_class "
            "WHERE relname LIKE 'events%' OR relname LIKE 'word_blocks%' ORDER BY relname"
        ).fetchall()
    say("sizes: " + ", ".join(f"{name} {size}" for name, size in sizes))


def index(url: str, count: int, say: Callable[[str], None]) -> None:
    """Build the word blocks of the segments, volumes and parts, with two processes."""
    began = told = time.monotonic()
    done = 0

    def work(_: int) -> int:
        nonlocal done, told
        mine = 0
        with psycopg.connect(url) as conn, Builder() as builder:
            while index_next(conn, builder):
                conn.commit()
                mine += 1
                done += 1
                if (now := time.monotonic()) > told + PROGRESS_SECONDS:
                    told = now
                    say(f"{done} segments, volumes and parts after {now - began:.0f} s")
        return mine

    with ThreadPoolExecutor(2) as builders:
        # One that finds its next work taken by the other stops early, and may begin again.
        while sum(builders.map(work, range(2))):
            pass
    took = time.monotonic() - began
    with psycopg.connect(url) as conn:
        row = conn.execute("SELECT count(*) FROM volumes WHERE words_ready").fetchone()
    volumes = row[0] if row else 0
    each = 2e6 * took / count
    say(f"{done} segments, parts and volumes ({volumes}) in {took:.0f} s with 2 processes, {each:.1f} µs an event each")


# -- the questions -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Case:
    """A filter; ``draw`` makes one of its variants. ``share``: about which part of the events pass."""

    name: str
    kind: str
    draw: Callable[[random.Random], EventFilter]
    share: float


def constant(**fields: Any) -> Callable[[random.Random], EventFilter]:
    return lambda _: EventFilter(**fields)


def search(text: str) -> tuple[bytes, ...]:
    return tuple(terms.query_words(text))


def mid_tenant(chance: random.Random) -> str:
    return f"org_{chance.randrange(90, 110)}"


def topic(chance: random.Random) -> str:
    return f"topic{chance.randrange(100, 1000)}"


CASES = [
    Case("none", "all", constant(), 1),
    Case("tenant_id", "frequent", constant(tenant_id="org_1"), 0.34),
    Case("tenant_id", "mid", lambda c: EventFilter(tenant_id=mid_tenant(c)), 4e-4),
    Case("tenant_id", "rare", constant(tenant_id="tiny_org"), 0),
    Case("actor_id", "frequent", constant(actor_id="svc_sync"), 0.06),
    Case("actor_id", "mid", lambda c: EventFilter(actor_id=f"user_{c.randrange(1500)}"), 6e-4),
    Case("actor_id", "rare", constant(actor_id="auditor_7"), 0),
    Case("actor_type", "frequent", constant(actor_type="user"), 0.94),
    Case("actor_type", "rare", constant(actor_type="system"), 0),
    Case("action", "frequent", constant(action="auth.login"), 0.32),
    Case("action", "mid", constant(action="user.role.updated"), 2e-3),
    Case("action", "rare", constant(action="billing.refund.issued"), 0),
    Case("action glob a.*", "frequent", constant(action="document.*"), 0.4),
    Case("action glob a.*", "rare", constant(action="billing.*"), 0),
    Case("action glob *.a", "mid", constant(action="*.deleted"), 0.017),
    Case("action glob *a*", "mid", constant(action="*role*"), 3e-3),
    Case("action glob *a*", "rare", constant(action="*refund*"), 0),
    Case("category", "frequent", constant(category="access"), 0.6),
    Case("category", "mid", constant(category="admin"), 1e-3),
    Case("category", "rare", constant(category="security"), 0),
    Case("target_id", "frequent", constant(target_id="doc_main000000"), 0.06),
    Case("target_id", "one", lambda c: EventFilter(target_id="@TARGET"), 0),
    Case("target_id", "none", lambda c: EventFilter(target_id=f"doc_{c.getrandbits(64):x}"), 0),
    Case("target_type", "frequent", constant(target_type="document"), 0.8),
    Case("target_type", "mid", constant(target_type="folder"), 1e-3),
    Case("target_type", "rare", constant(target_type="contract"), 0),
    Case(
        "dates, one day",
        "mid",
        lambda c: EventFilter(start_ms=(d := END_MS - c.randrange(2, 80) * 86_400_000), end_ms=d + 86_400_000 - 1),
        0.011,
    ),
    Case("search", "frequent", constant(words=search("chrome")), 0.6),
    Case("search", "mid", lambda c: EventFilter(words=search(f"topic{c.randrange(100, 1000)}")), 1e-3),
    Case("search", "rare", constant(words=search("hippopotamus")), 0),
    Case("search", "none", lambda c: EventFilter(words=search(f"zz{c.getrandbits(32):x}")), 0),
    Case("search prefix", "frequent", constant(words=search("quart")), 0.4),
    Case("search prefix", "mid", lambda c: EventFilter(words=search(f"topic{c.randrange(10, 100)}")), 0.011),
    Case("search prefix", "rare", constant(words=search("hippo")), 0),
    Case("search hex prefix", "rare", lambda c: EventFilter(words=search(f"{c.getrandbits(20):05x}")), 0),
    Case("search two words", "mid", lambda c: EventFilter(words=search(f"firefox {topic(c)}")), 3e-4),
    Case("tenant + action", "frequent", constant(tenant_id="org_1", action="auth.login"), 0.1),
    Case("tenant + action", "mid", constant(tenant_id="org_1", action="user.role.updated"), 7e-4),
    Case("tenant + action", "rare", constant(tenant_id="org_1", action="billing.refund.issued"), 0),
    Case("tenant + action", "small", lambda c: EventFilter(tenant_id=mid_tenant(c), action="auth.login"), 1e-4),
    Case("tenant + search", "mid", lambda c: EventFilter(tenant_id="org_1", words=search(topic(c))), 3e-4),
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one case. ``place`` is ``first``, ``page 1000`` or ``half`` (of the project's time)."""

    filter: str
    kind: str
    order: str
    place: str
    p50: float
    p99: float
    cpu: float | None
    events: int
    partial: int


async def read(database: Database, request: ListEvents) -> EventPage:
    return await database.transact(lambda conn: list_events(conn, request), read_only=True)


async def deep_position(
    database: Database, count: int, case: Case, order: Order, wanted: EventFilter
) -> tuple[str, Position]:
    """Where the 1,000th page begins, or half of the project's time for a filter with fewer pages."""
    if case.share * count < DEEP * PAGE * 1.05:
        return "half", Position(END_MS - SPAN_MS // 2, UUID(int=0))
    after: Position | None = None
    for _ in range((DEEP - 1) * PAGE // 75):  # pages of 75: 666 of them are 999 of 50
        page = await read(database, ListEvents(PROJECT, wanted, order, 75, after))
        if page.next is None:
            return "half", Position(END_MS - SPAN_MS // 2, UUID(int=0))
        after = page.next
    assert after is not None
    return f"page {DEEP}", after


class Meter:
    """Processor time of this process and of the server's processes that work for it, in seconds."""

    def __init__(self, url: str) -> None:
        with psycopg.connect(url) as conn:
            pids = conn.execute("SELECT pid FROM pg_stat_activity WHERE application_name = %s", (NAME,)).fetchall()
        self.files = [path for (pid,) in pids if (path := Path(f"/proc/{pid}/schedstat")).exists()]

    def read(self) -> float | None:
        if not self.files:
            return None
        return time.process_time() + sum(int(path.read_text().split()[0]) for path in self.files) / 1e9


async def measure(
    database: Database, url: str, count: int, samples: int, only: str, say: Callable[[str], None]
) -> list[Timing]:
    with psycopg.connect(url) as conn:
        targets = [
            row[0]
            for row in conn.execute(
                "SELECT target_id FROM events WHERE project_no = %s AND seq = ANY (%s)",
                (PROJECT, [random.Random(5).randrange(1, count) for _ in range(4 * samples)]),
            )
            if row[0] != "doc_main000000"
        ]
    timings = []
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)
    await read(database, ListEvents(PROJECT, EventFilter(), Order.DESC, PAGE, None))  # the pool connects
    meter = Meter(url)
    for case in CASES:
        if only and only not in case.name:
            continue
        for order in Order:
            for place in ("first", "deep"):
                chance = random.Random(11)
                position, name = None, "first"
                if place == "deep":
                    name, position = await deep_position(database, count, case, order, case.draw(chance))
                times, found, partial_pages, cpu = [], [], 0, list[float]()
                for number in range(samples + 3):
                    wanted = case.draw(chance)
                    if wanted.target_id == "@TARGET":
                        wanted = replace(wanted, target_id=targets[number % len(targets)])
                    request = ListEvents(PROJECT, wanted, order, PAGE, position)
                    used, began = meter.read(), time.perf_counter()
                    page = await read(database, request)
                    took = time.perf_counter() - began
                    if number >= 3:  # plans and caches
                        times.append(took * 1e3)
                        if used is not None and (now := meter.read()) is not None:
                            cpu.append((now - used) * 1e3)
                        found.append(len(page.bodies))
                        partial_pages += page.next is not None and len(page.bodies) < PAGE
                times.sort()
                timing = Timing(
                    case.name,
                    case.kind,
                    order.value,
                    name,
                    round(statistics.median(times), 1),
                    round(times[min(len(times) - 1, int(len(times) * 0.99))], 1),
                    round(statistics.median(cpu), 1) if cpu else None,
                    round(statistics.mean(found)),
                    partial_pages,
                )
                timings.append(timing)
                say(line(timing))
    return timings


def line(timing: Timing) -> str:
    note = f"  {timing.partial} partial" if timing.partial else ""
    return (
        f"{timing.filter:<18} {timing.kind:<9} {timing.order:<5} {timing.place:<10}"
        f"{timing.p50:>8.1f} {timing.p99:>8.1f} {'-' if timing.cpu is None else timing.cpu:>8} ms"
        f"{timing.events:>5} events{note}"
    )


@asynccontextmanager
async def server(url: str | None) -> AsyncIterator[str]:
    """The database to use: the one named, or a new embedded server's, which is removed afterwards."""
    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="logstitch-bench-") as directory:
        async with open_embedded_postgres(Path(directory)) as embedded:
            yield embedded.url


async def main(options: argparse.Namespace) -> None:
    say = partial(print, file=sys.stderr, flush=True)
    async with server(options.database_url) as url:
        if not options.keep:
            await trio.to_thread.run_sync(partial(migrate, url))
            await trio.to_thread.run_sync(fill, url, options.events, say)
        async with open_database(url, application_name=NAME, pool_size=1) as database:
            timings = await measure(database, url, options.events, options.samples, options.only, say)
    report = {"events": options.events, "processors": os.cpu_count(), "timings": [asdict(timing) for timing in timings]}
    if options.json:
        await trio.Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    print(f"{'filter':<18} {'kind':<9} {'order':<5} {'place':<10}{'p50':>8} {'p99':>8} {'cpu':>8}")
    for timing in timings:
        print(line(timing))
    slowest = max(timings, key=lambda timing: timing.p99)
    print(f"slowest: {line(slowest)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="ops/bench/run reading", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--samples", type=int, default=40, help="questions for each line of the table")
    parser.add_argument(
        "--database-url", help="an empty database; default: an embedded server in a temporary directory"
    )
    parser.add_argument("--keep", action="store_true", help="the database was filled before, with as many --events")
    parser.add_argument("--only", default="", help="only filters whose name contains this")
    parser.add_argument("--json", help="write the timings to this file, too")
    trio.run(main, parser.parse_args())
