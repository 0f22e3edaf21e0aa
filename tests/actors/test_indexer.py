"""The indexer: every closed segment gets its words, once, whatever dies on the way."""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
import trio

from logstitch.actors import indexer
from logstitch.actors.indexer import Builder, BuilderDied, Indexer, index_next
from logstitch.actors.supervisor import Crash, open_supervisor
from logstitch.errors import DatabaseUnavailable
from logstitch.search import blocks
from logstitch.search.segments import FIRST_VOLUME_KEY, Layout
from logstitch.search.terms import Facet, entries, facet
from logstitch.store import words as stored_words
from logstitch.store.database import Connection, Database, open_database
from tests.support.errors import ErrorLogs
from tests.support.own_server import eventually
from tests.support.stored import AT, Stored, an_event, store

BITS = 3
"""Segments of 8 events."""
LAYOUT = Layout(BITS, 1, 1)
"""Parts of 2, and volumes of two segments."""
BODY = orjson.dumps(an_event())


def events(count: int) -> list[tuple[int, dict[str, Any]]]:
    return [(AT + n, an_event(metadata={"note": f"word{n} shared"})) for n in range(count)]


async def fill(database: Database, count: int, project_no: int = 1) -> list[Stored]:
    return await database.transact(lambda conn: store(conn, project_no, events(count), bits=BITS))


async def ready(database: Database) -> list[tuple[int, int]]:
    """The segments that have their words."""

    def look(conn: psycopg.Connection[Any]) -> list[tuple[int, int]]:
        return conn.execute("SELECT project_no, segment FROM segments WHERE words_ready ORDER BY 1, 2").fetchall()

    return await database.transact(look)


async def until(database: Database, expected: list[tuple[int, int]]) -> None:
    with trio.fail_after(30):
        while await ready(database) != expected:  # noqa: ASYNC110  # the database has no events to wait for
            await trio.sleep(0.02)


async def holding(database: Database, segment: int, prefix: bytes) -> set[int]:
    def look(conn: psycopg.Connection[Any]) -> set[int]:
        rows = conn.execute("SELECT block FROM word_blocks WHERE project_no = 1 AND segment = %s", (segment,))
        return set[int]().union(*(blocks.lookup(payload, prefix) for (payload,) in rows))

    return await database.transact(look)


@asynccontextmanager
async def open_indexers(
    url: str, count: int = 1, *, segment_seconds: float = indexer.SEGMENT_SECONDS
) -> AsyncIterator[Database]:
    crashes: list[Crash] = []
    async with open_database(url) as database, open_supervisor(on_crash=crashes.append) as supervisor:
        for n in range(count):
            supervisor.start(
                f"indexer{n}",
                lambda: Indexer(database, poll_seconds=0.05, segment_seconds=segment_seconds, layout=LAYOUT),
                capacity=4,
            )
        yield database
    assert crashes == []


async def test_closed_segments_get_their_words_and_the_open_one_does_not(database_url: str) -> None:
    async with open_indexers(database_url) as database:
        await fill(database, 20)
        await until(database, [(1, 0), (1, 1)])
        assert await holding(database, 0, b"word3") == {3}
        assert await holding(database, 1, b"word1") == {2, 3, 4, 5, 6, 7}  # word10 to word15 of word8 to word15
        assert await holding(database, 1, b"shared") == set(range(8))
        await fill(database, 4)
        await until(database, [(1, 0), (1, 1), (1, 2)])


async def test_full_parts_of_the_open_segment_get_words_until_it_is_closed(database_url: str) -> None:
    """Parts are of 2 events here, so 5 of a segment's 8 events are two full parts."""
    async with open_indexers(database_url) as database:
        stored = await fill(database, 5)
        await until_keys(database, [-2, -1])
        for number, key in ((0, -1), (2, -2)):
            assert await holding(database, key, f"word{number}".encode()) == {0}
            assert await holding(database, key, b"shared") == {0, 1}
        assert len(stored) == 5
        await fill(database, 4)
        await until_keys(database, [0])
        await fill(database, 1)
        await until_keys(database, [-5, 0])


async def until_keys(database: Database, expected: list[int]) -> None:
    def look(conn: psycopg.Connection[Any]) -> list[int]:
        return [key for (key,) in conn.execute("SELECT DISTINCT segment FROM word_blocks ORDER BY segment")]

    with trio.fail_after(30):
        while await database.transact(look) != expected:  # noqa: ASYNC110  # the database has no events to wait for
            await trio.sleep(0.02)


# -- volumes -------------------------------------------------------------------------------------------------------


async def volumes(database: Database, project_no: int = 1) -> set[int]:
    return await database.transact(lambda conn: stored_words.find_volumes(conn, project_no))


async def until_volumes(database: Database, expected: set[int], project_no: int = 1) -> None:
    with trio.fail_after(30):
        while await volumes(database, project_no) != expected:  # noqa: ASYNC110  # the database has no events
            await trio.sleep(0.02)


async def test_a_volume_is_built_when_its_segments_are(database_url: str) -> None:
    """Given three closed segments, then the first two are a volume, which tells in which of them a word or facet is."""
    async with open_indexers(database_url) as database:
        await fill(database, 24)
        await until_volumes(database, {0})
        assert await holding(database, FIRST_VOLUME_KEY, b"word3") == {0}
        assert await holding(database, FIRST_VOLUME_KEY, b"word1") == {0, 1}
        assert await holding(database, FIRST_VOLUME_KEY, b"word15") == {1}
        assert await holding(database, FIRST_VOLUME_KEY, b"word16") == set()
        assert await holding(database, FIRST_VOLUME_KEY, facet(Facet.ACTOR_ID, "ada") + b"\0") == {0, 1}
        assert await holding(database, FIRST_VOLUME_KEY, facet(Facet.ACTOR_ID, "ad") + b"\0") == set()
        await fill(database, 8)
        await until_volumes(database, {0, 1})


async def test_a_volume_comes_in_as_many_pieces_as_it_takes(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given segments of hundreds of blocks that are merged seven at a time, then the volume has all of their words."""
    monkeypatch.setattr(indexer, "MERGE_BLOCKS", 7)
    notes = [" ".join(f"{n * 7919 % 16:x}{k:03}x{n}" for k in range(700)) for n in range(16)]
    async with open_database(database_url) as database:
        given = [(AT + n, an_event(metadata={"note": note})) for n, note in enumerate(notes)]
        await database.transact(lambda conn: store(conn, 1, given, bits=BITS))
        with Builder() as builder:
            while await database.transact(lambda conn: index_next(conn, builder, LAYOUT)):
                pass
        assert await volumes(database) == {0}

        def look(conn: psycopg.Connection[Any]) -> list[tuple[bytes, set[int]]]:
            rows = conn.execute(
                "SELECT block FROM word_blocks WHERE segment = %s ORDER BY first_word", (FIRST_VOLUME_KEY,)
            ).fetchall()
            assert len(rows) > 20
            return [(word, blocks.lookup(block, word + b"\0")) for (block,) in rows for word in blocks.words(block)]

        found = await database.transact(look)
    expected: dict[bytes, set[int]] = {}
    for position, (_, event) in enumerate(given):
        for word in entries(orjson.dumps(event)):
            expected.setdefault(word, set()).add(position >> BITS)
    assert found == sorted(expected.items())


async def test_several_build_no_volume_twice(database_url: str) -> None:
    async with open_indexers(database_url, 3) as database:
        for project_no in (1, 2):
            await fill(database, 8 * 8, project_no)
        for project_no in (1, 2):
            await until_volumes(database, {0, 1, 2, 3}, project_no)


async def test_half_a_volume_leaves_nothing_in_the_child(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given blocks that cannot be read any further in the middle of a volume, then the child that has the first of them
    is not used for the next one."""
    monkeypatch.setattr(indexer, "MERGE_BLOCKS", 1)
    real = stored_words.read_blocks

    def broken(*args: Any) -> Iterable[tuple[int, bytes]]:
        yield next(iter(real(*args)))
        raise ZeroDivisionError

    async with open_database(database_url) as database:
        await fill(database, 16)
        with Builder() as builder:
            for _ in range(2):
                await database.transact(lambda conn: index_next(conn, builder, LAYOUT))
            monkeypatch.setattr(stored_words, "read_blocks", broken)
            with pytest.raises(ZeroDivisionError):
                await database.transact(lambda conn: index_next(conn, builder, LAYOUT))
            assert builder._child is None
            monkeypatch.setattr(stored_words, "read_blocks", real)
            assert await database.transact(lambda conn: index_next(conn, builder, LAYOUT))
        assert await volumes(database) == {0}
        assert await holding(database, FIRST_VOLUME_KEY, b"shared") == {0, 1}


# -- when it is stopped, killed, and what fails --------------------------------------------------------------------


async def test_it_ends_with_its_mailbox_between_two_looks(database_url: str) -> None:
    async with open_database(database_url) as database, open_supervisor() as supervisor:
        await fill(database, 8)
        supervisor.start("indexer", lambda: Indexer(database, poll_seconds=math.inf, layout=LAYOUT), capacity=4)
        await until(database, [(1, 0)])
        with trio.fail_after(10):
            await supervisor.stop("indexer", deadline_seconds=60)


async def test_a_database_that_is_away_is_no_crash() -> None:
    looks = trio.Semaphore(0)

    class Away:
        async def transact(self, *_: object, **__: object) -> bool:
            looks.release()
            raise DatabaseUnavailable("away")

    crashes: list[Crash] = []
    async with open_supervisor(on_crash=crashes.append) as supervisor:
        away: Any = Away()
        supervisor.start("indexer", lambda: Indexer(away, poll_seconds=0.001), capacity=4)
        with trio.fail_after(5):
            for _ in range(3):
                await looks.acquire()
    assert crashes == []


async def test_several_share_the_work_and_do_none_of_it_twice(database_url: str) -> None:
    """A segment written twice would break the blocks' primary key, and the indexer that did it would crash."""
    async with open_indexers(database_url, 3) as database:
        for project_no in (1, 2):
            await fill(database, 8 * 6, project_no)
        await until(database, sorted(itertools.product((1, 2), range(6))))


async def test_a_child_that_is_killed_leaves_nothing_half_done(
    database_url: str, monkeypatch: pytest.MonkeyPatch, error_logs: ErrorLogs
) -> None:
    """Given a child that is killed with half a segment in it, then that one is done by another child, a while later."""
    error_logs.expect("indexer.skipped")
    monkeypatch.setattr(indexer, "SKIP_SECONDS", 0.2)
    fatal = iter([True])
    write = blocks.write_bodies

    def write_and_kill(to_child: Any, bodies: Iterable[bytes]) -> None:
        def interrupted() -> Iterable[bytes]:
            for number, body in enumerate(bodies):
                yield body
                if number == 3 and next(fatal, False):
                    os.kill(children[-1], signal.SIGKILL)

        write(to_child, interrupted())

    children: list[int] = []
    start = Builder._pipes

    def remember(builder: Builder) -> Any:
        pipes = start(builder)
        assert builder._child is not None
        children.append(builder._child.pid)
        return pipes

    monkeypatch.setattr(stored_words, "PIECE_BYTES", 1)  # every event is a piece
    monkeypatch.setattr(indexer, "write_bodies", write_and_kill)
    monkeypatch.setattr(Builder, "_pipes", remember)
    async with open_indexers(database_url) as database:
        await fill(database, 16)
        await until(database, [(1, 0), (1, 1)])
        assert await holding(database, 0, b"shared") == set(range(8))
    assert len({*children}) >= 2
    assert len(error_logs.seen) == 1


async def test_it_stops_at_once_even_while_the_child_works(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a child that would never answer, when the actor is stopped, then the child is killed and nothing waits."""
    monkeypatch.setattr(indexer, "_CHILD", "import sys; sys.stdin.buffer.read()")
    async with open_database(database_url) as database:
        await fill(database, 8)
        crashes: list[Crash] = []
        with trio.fail_after(15):
            async with open_supervisor(on_crash=crashes.append) as supervisor:
                supervisor.start("indexer", lambda: Indexer(database, layout=LAYOUT), capacity=4)
                while not await is_claimed(database):  # noqa: ASYNC110  # nor has a lock
                    await trio.sleep(0.01)
                await supervisor.stop("indexer", deadline_seconds=10)
        assert crashes == []
        assert await ready(database) == []


AT_A_SEGMENT = """
import logstitch.search.blocks as module, os, time
real = module.entries
module.entries = lambda body: {} if b"bad" in body else real(body)
serve("""
AT_A_VOLUME = """
import logstitch.search.blocks as module, os, time
real = module.Merge.add
def add(merge, position, payload):
    if b"bad" in payload:
        {}
    real(merge, position, payload)
module.Merge.add = add
serve("""
SEGMENT, VOLUME = 1, FIRST_VOLUME_KEY
"""What is bad, by its number: the second segment, or the volume of the first two."""


def have_child_fail(monkeypatch: pytest.MonkeyPatch, bad: int, deed: str) -> None:
    """Have the child do this with what is bad."""
    program = (AT_A_SEGMENT if bad == SEGMENT else AT_A_VOLUME).replace("{}", deed)
    monkeypatch.setattr(indexer, "_CHILD", indexer._CHILD.replace("\nserve(", program))


def noted_skips(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, str, bool]]:
    """What was left alone: project, segment, the error's type, and whether its time was up."""
    skips: list[tuple[int, int, str, bool]] = []
    skip = Indexer._skip

    def note(actor: Indexer, claim: stored_words.Claim, error: Exception, *, late: bool) -> None:
        skip(actor, claim, error, late=late)
        skips.append((claim.project_no, claim.segment, type(error).__name__, late))

    monkeypatch.setattr(Indexer, "_skip", note)
    return skips


async def see_the_others_done(database: Database, bad: int, skips: list[Any]) -> None:
    """All segments but the one that is bad, and the open one's part; the volumes of good segments; other projects."""
    given = events(26)
    given[9] = (AT + 9, an_event(metadata={"note": "bad"}))
    await database.transact(lambda conn: store(conn, 1, given, bits=BITS))
    await fill(database, 8, project_no=2)
    others = [(1, 0), *([(1, 1)] if bad == VOLUME else []), (1, 2), (2, 0)]
    await until(database, others)
    await eventually(lambda: bool(skips))
    await fill(database, 6)
    await until(database, sorted([*others, (1, 3)]))
    await until_volumes(database, {1})


@pytest.mark.parametrize("bad", [pytest.param(SEGMENT, id="segment"), pytest.param(VOLUME, id="volume")])
async def test_what_takes_too_long_does_not_keep_the_others_waiting(
    bad: int, database_url: str, monkeypatch: pytest.MonkeyPatch, error_logs: ErrorLogs
) -> None:
    """Given a segment, or a volume, that hangs the child, then the child is killed, and that one is left alone for a
    while: the other segments, and the other volumes, get their turn."""
    error_logs.expect("indexer.skipped")
    have_child_fail(monkeypatch, bad, "time.sleep(1000)")
    skips = noted_skips(monkeypatch)
    async with open_indexers(database_url, segment_seconds=2.0) as database:
        await see_the_others_done(database, bad, skips)
    assert skips == [(1, bad, "BuilderDied", True)]


@pytest.mark.parametrize("bad", [pytest.param(SEGMENT, id="segment"), pytest.param(VOLUME, id="volume")])
async def test_what_the_child_dies_of_does_not_keep_the_others_waiting(
    bad: int, database_url: str, monkeypatch: pytest.MonkeyPatch, error_logs: ErrorLogs
) -> None:
    error_logs.expect("indexer.skipped")
    have_child_fail(monkeypatch, bad, "os._exit(9)")
    skips = noted_skips(monkeypatch)
    async with open_indexers(database_url) as database:
        await see_the_others_done(database, bad, skips)
    assert skips == [(1, bad, "BuilderDied", False)]
    assert len(error_logs.seen) == 1


@pytest.mark.parametrize("error", [LookupError, ValueError, OSError])
async def test_a_segment_that_cannot_be_read_does_not_keep_the_others_waiting(
    error: type[Exception], database_url: str, monkeypatch: pytest.MonkeyPatch, error_logs: ErrorLogs
) -> None:
    """Given a segment with a hole, an event that is too long for the child, or no child to be had."""
    error_logs.expect("indexer.skipped")
    real = stored_words.read_bodies

    def read_bodies(conn: Connection, project_no: int, seqs: range) -> Iterator[bytes]:
        yield from real(conn, project_no, seqs)
        if (project_no, seqs.start) == (1, 9):
            raise error

    monkeypatch.setattr(stored_words, "read_bodies", read_bodies)
    skips = noted_skips(monkeypatch)
    async with open_indexers(database_url) as database:
        await see_the_others_done(database, SEGMENT, skips)
    assert skips == [(1, SEGMENT, error.__name__, False)]


async def test_a_database_that_goes_away_under_a_segment_is_not_the_segments_fault(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a link that breaks while a segment is read, then that segment is the next look's, not left alone."""
    breaks = iter([True])
    real = stored_words.read_bodies

    def read_bodies(conn: Connection, project_no: int, seqs: range) -> Iterator[bytes]:
        yield from real(conn, project_no, seqs)
        if next(breaks, False):
            raise DatabaseUnavailable("The connection broke.")

    monkeypatch.setattr(stored_words, "read_bodies", read_bodies)
    skips = noted_skips(monkeypatch)
    async with open_indexers(database_url) as database:
        await fill(database, 8)
        await until(database, [(1, 0)])
    assert skips == []
    assert next(breaks, None) is None


async def test_what_fails_again_is_left_alone_for_longer(
    database_url: str, monkeypatch: pytest.MonkeyPatch, error_logs: ErrorLogs
) -> None:
    error_logs.expect("'seconds': 0.01")
    error_logs.expect("'seconds': 0.02")
    error_logs.expect("'seconds': 0.04")
    monkeypatch.setattr(indexer, "SKIP_SECONDS", 0.01)
    monkeypatch.setattr(indexer, "MOST_SKIP_SECONDS", 0.04)
    have_child_fail(monkeypatch, SEGMENT, "os._exit(9)")
    skips = noted_skips(monkeypatch)
    async with open_indexers(database_url) as database:
        await database.transact(lambda conn: store(conn, 1, [(AT, an_event(metadata={"note": "bad"}))] * 8, bits=BITS))
        await eventually(lambda: len(skips) >= 4)


def test_a_child_ends_when_its_parent_is_killed() -> None:
    """Even one whose input stays open: here it is held by the test."""
    read, write = os.pipe()
    program = (
        "import os, subprocess, sys\n"
        "from logstitch import children\n"
        "start = subprocess.Popen\n"
        "def popen(*args, **options):\n"
        f"    return start(*args, **options | {{'stdin': {read}}})\n"
        "subprocess.Popen = popen\n"
        "child = subprocess.Popen(children.command('sys.stdin.read()'), **children.options())\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[read]
    )
    try:
        with parent:
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            parent.kill()
        give_up = time.monotonic() + 20
        while is_running(child):
            assert time.monotonic() < give_up
            time.sleep(0.05)
    finally:
        os.close(read)
        os.close(write)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def is_claimed(database: Database) -> bool:
    def look(conn: psycopg.Connection[Any]) -> bool:
        return conn.execute("SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted").fetchone() is not None

    return await database.transact(look)


async def test_a_child_lives_no_longer_than_the_work(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = trio.Event()
    close: Callable[[Builder], None] = Builder.close

    def note(builder: Builder) -> None:
        child = builder._child
        close(builder)
        if child is not None and child.returncode is not None:
            ended.set()

    monkeypatch.setattr(Builder, "close", note)
    async with open_indexers(database_url) as database:
        await fill(database, 16)
        await until(database, [(1, 0), (1, 1)])
        with trio.fail_after(10):
            await ended.wait()


def test_the_child_says_what_the_engine_says() -> None:
    texts = [orjson.dumps(event) for _, event in events(50)]
    with Builder() as builder:
        for _ in range(2):  # one child, two segments
            assert list(builder.build(texts)) == list(blocks.build(map(entries, texts)))


def test_a_dead_child_is_an_error_and_the_next_one_is_new() -> None:
    with Builder() as builder:
        list(builder.build([BODY]))
        assert builder._child is not None
        builder._child.kill()
        with pytest.raises(BuilderDied):
            list(builder.build([BODY] * 10_000))
        assert len(list(builder.build([BODY]))) == 1


def test_a_builder_that_was_killed_starts_no_other_child() -> None:
    """A stop may come between the claim on a segment and the start of the child."""
    with Builder() as builder:
        builder.kill()
        with pytest.raises(BuilderDied):
            builder.build([BODY])


def test_what_goes_wrong_with_the_bodies_ends_the_child() -> None:
    def failing() -> Iterable[bytes]:
        yield BODY
        raise ZeroDivisionError

    with Builder() as builder:
        with pytest.raises(ZeroDivisionError):
            builder.build(failing())
        assert builder._child is None


async def test_nothing_is_indexed_twice_in_one_transaction(database_url: str) -> None:
    async with open_database(database_url) as database:
        await fill(database, 16)
        with Builder() as builder:
            done = [await database.transact(lambda conn: index_next(conn, builder, LAYOUT)) for _ in range(4)]
        assert done == [True, True, True, False]  # two segments, their volume
