"""The word index in the database: claimed once, written whole or not at all, found by prefix."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from logstitch.search import blocks
from logstitch.search.segments import SEGMENT_EVENTS
from logstitch.store import words
from logstitch.store.database import Connection
from tests.support.stored import AT, an_event, store

BITS = 2
"""Segments of 4 events."""


@pytest.fixture
def conn(database_url: str) -> Iterator[Connection]:
    with psycopg.connect(database_url) as connection:
        yield connection


@pytest.fixture
def other(database_url: str) -> Iterator[Connection]:
    with psycopg.connect(database_url) as connection:
        yield connection


def test_only_closed_segments_are_claimed_and_each_by_one(conn: Connection, other: Connection) -> None:
    store(conn, 7, [(AT, an_event())] * 11, bits=BITS)  # two closed segments and three events
    conn.commit()
    first, second = words.claim_segment(conn, BITS), words.claim_segment(other, BITS)
    assert first is not None
    assert second is not None
    assert {(one.project_no, one.number, one.seqs) for one in (first, second)} == {
        (7, 0, range(1, 5)),
        (7, 1, range(5, 9)),
    }
    words.write_blocks(conn, first, [])
    conn.commit()
    assert words.claim_segment(conn, BITS) is None  # the other one is still claimed
    other.rollback()
    assert words.claim_segment(conn, BITS) == second  # and is free again


def test_a_claim_waits_for_nobody(conn: Connection, other: Connection) -> None:
    """An ingest transaction that widens the open segment's span holds up no claim, nor the other way round."""
    store(conn, 7, [(AT, an_event())] * 6, bits=BITS)
    conn.commit()
    other.execute("SET LOCAL lock_timeout = '1s'")
    assert words.claim_segment(conn, BITS) is not None
    store(other, 7, [(AT + 1, an_event())], bits=BITS)
    other.commit()


def test_bodies_come_in_the_order_of_seq(conn: Connection) -> None:
    stored = store(conn, 7, [(AT - n, an_event(metadata={"n": f"ü{n}"})) for n in range(5)], bits=BITS)
    segment = words.claim_segment(conn, BITS)
    assert segment is not None
    assert [body.decode() for body in words.read_bodies(conn, segment)] == [one.body for one in stored[:4]]


def test_a_segment_with_a_hole_is_refused(conn: Connection) -> None:
    """Positions stand for seqs. A hole cannot be, and if it is, the index must not be built as if it were not."""
    store(conn, 7, [(AT, an_event())] * 3, bits=BITS)
    segment = words.Segment(7, 0, range(1, 5))
    with pytest.raises(LookupError, match="has 3 events"):
        list(words.read_bodies(conn, segment))


def test_blocks_are_found_by_prefix(conn: Connection) -> None:
    store(conn, 7, [(AT, an_event())] * 12, bits=BITS)
    for number in (0, 1, 2):
        segment = words.Segment(7, number, range(4 * number + 1, 4 * number + 5))
        names = [b"b", b"bb", b"d", b"dx"] if number else [b"c", b"d"]
        words.write_blocks(conn, segment, [(name, b"%d%s" % (number, name)) for name in names])

    def find(prefix: bytes, *segments: int) -> list[bytes]:
        return sorted(payload for _, payload in words.find_blocks(conn, 7, segments, prefix))

    assert find(b"a", 1) == []
    assert find(b"b", 1) == [b"1b", b"1bb"]
    assert find(b"c", 1) == [b"1bb"]
    assert find(b"d", 1) == [b"1d", b"1dx"]
    assert find(b"zz", 1) == [b"1dx"]
    assert find(b"d", 0, 2) == [b"0d", b"2d", b"2dx"]
    assert find(b"d", 3) == []
    assert words.find_blocks(conn, 8, [0, 1, 2], b"d") == []
    assert {segment for segment, _ in words.find_blocks(conn, 7, [0, 2], b"d")} == {0, 2}


def test_blocks_lie_in_the_table_itself(conn: Connection) -> None:
    """Given blocks as they are built, of words that do not compress, then no look-up takes the way over TOAST."""
    segment = words.Segment(7, 0, range(1, SEGMENT_EVENTS + 1))
    built = list(blocks.build([[b"%032x" % (n * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128)] for n in range(4000)]))
    assert len(built) > 10
    words.write_blocks(conn, segment, ((block.first_word, block.payload) for block in built))
    row = conn.execute(
        "SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE relname = 'word_blocks' AND reltoastrelid <> 0"
    ).fetchone()
    assert row in (None, (0,))
    found = words.find_blocks(conn, 7, [0], built[5].first_word)
    assert [payload for _, payload in found] == [built[5].payload]
