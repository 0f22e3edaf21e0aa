"""The word index in the database: claimed once, written whole or not at all, found by prefix."""

from __future__ import annotations

import pytest

from logstitch.search import blocks
from logstitch.store import words
from logstitch.store.database import Connection
from tests.support.stored import AT, an_event, store

BITS = 2
"""Segments of 4 events."""


def test_closed_segments_are_claimed_one_by_one(conn: Connection, other: Connection) -> None:
    """Two closed segments and three events. Each is random and may be the other's: a claim then finds nothing."""
    store(conn, 7, [(AT, an_event())] * 11, bits=BITS)
    conn.commit()
    mine = words.claim_segment(conn, BITS)
    assert mine is not None
    theirs = {words.claim_segment(other, BITS) for _ in range(40)}
    assert theirs == {None, words.Claim(7, 1 - mine.segment, None)}
    words.mark_words_ready(conn, 7, mine.segment, [], 0)
    conn.commit()
    assert words.claim_segment(conn, BITS) is None  # the other one is still claimed
    other.rollback()
    assert words.claim_segment(conn, BITS) == words.Claim(7, 1 - mine.segment, None)  # and is free again


def test_the_backlog_is_every_full_part_without_blocks(conn: Connection) -> None:
    def backlog() -> int:
        return words.count_backlog(conn, BITS, 1)

    assert backlog() == 0
    store(conn, 7, [(AT, an_event())] * 11, bits=BITS)  # two closed segments of two parts, one part, one event
    store(conn, 8, [(AT, an_event())] * 1, bits=BITS)
    assert backlog() == 10
    words.write_blocks(conn, 7, ~4, [(b"w", b"block"), (b"x", b"block")])  # the part of the open segment
    words.write_blocks(conn, 7, ~1, [(b"w", b"block")])  # a part of a closed one
    assert backlog() == 6
    conn.execute("UPDATE segments SET words_ready = true WHERE project_no = 7 AND segment = 0")  # that whole one
    assert backlog() == 4
    words.write_blocks(conn, 8, ~2, [(b"w", b"block")])  # another project's
    assert backlog() == 4


def test_parts_of_the_open_segment_are_claimed_first_to_last(conn: Connection, other: Connection) -> None:
    store(conn, 7, [(AT, an_event())] * 11, bits=BITS)  # of the third segment, 3 events: one part of 2
    conn.commit()
    assert words.claim_part(conn, BITS, 1) == words.Claim(7, 2, 0)
    assert words.claim_part(other, BITS, 1) is None
    words.write_blocks(conn, 7, ~4, [(b"w", b"block")])
    conn.commit()
    assert words.claim_part(other, BITS, 1) is None  # it is done, and the next one is not full
    assert words.claim_part(other, BITS, 0) == words.Claim(7, 2, 0)  # of parts of one event, none has blocks yet


def test_a_part_that_was_written_in_the_meantime_is_not_claimed(
    conn: Connection, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given somebody who takes the part, writes it and commits between the look for a part and its lock."""
    store(conn, 7, [(AT, an_event())] * 3, bits=BITS)
    conn.commit()
    lock = words._claim

    def late(connection: Connection, row: tuple[object, ...] | None) -> words.Claim | None:
        words.write_blocks(other, 7, -1, [(b"w", b"block")])
        other.commit()
        return lock(connection, row)

    monkeypatch.setattr(words, "_claim", late)
    assert words.claim_part(conn, BITS, 1) is None


def test_a_segment_that_is_marked_loses_its_parts(conn: Connection) -> None:
    store(conn, 7, [(AT, an_event())] * 8, bits=BITS)
    for key in (-1, -2, -3, 0):
        words.write_blocks(conn, 7, key, [(b"w", b"block")])
    words.mark_words_ready(conn, 7, 0, [-1, -2], 0)
    assert words.find_indexed(conn, 7, [-1, -2, -3, 0]) == {-3, 0}


def claim_volume(conn: Connection, *skip: tuple[int, int]) -> words.Claim | None:
    """Volumes of two segments, stored from 100 on."""
    return words.claim_volume(conn, BITS, 1, 100, skip)


def test_a_volume_is_claimed_when_all_of_its_segments_have_words(conn: Connection, other: Connection) -> None:
    store(conn, 7, [(AT, an_event())] * 17, bits=BITS)  # two volumes of two segments, and an event
    for done, segment in enumerate((0, 2, 3)):
        assert claim_volume(conn) is None, done
        words.mark_words_ready(conn, 7, segment, [], segment >> 1)
    conn.commit()
    assert claim_volume(conn) == words.Claim(7, 101, None)
    assert claim_volume(other) is None  # it is being worked on
    assert words.find_volumes(conn, 7) == set()
    words.mark_volume_ready(conn, 7, 1)
    conn.commit()
    assert claim_volume(other) is None  # it is done
    assert words.find_volumes(conn, 7) == {1}
    assert words.find_volumes(conn, 8) == set()
    words.mark_words_ready(other, 7, 1, [], 0)
    assert claim_volume(other, (7, 100)) is None
    assert claim_volume(other, (8, 100), (7, 0), (7, 101)) == words.Claim(7, 100, None)


def test_a_volume_that_still_grows_is_not_claimed(conn: Connection) -> None:
    """Given a segment that has its words, and another of its volume that does not exist yet."""
    store(conn, 7, [(AT, an_event())] * 4, bits=BITS)
    words.mark_words_ready(conn, 7, 0, [], 0)
    assert claim_volume(conn) is None
    store(conn, 7, [(AT, an_event())] * 4, bits=BITS)
    assert claim_volume(conn) is None
    words.mark_words_ready(conn, 7, 1, [], 0)
    assert claim_volume(conn) == words.Claim(7, 100, None)


def test_a_volume_that_was_written_in_the_meantime_is_not_claimed(
    conn: Connection, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(conn, 7, [(AT, an_event())] * 8, bits=BITS)
    for segment in (0, 1):
        words.mark_words_ready(conn, 7, segment, [], 0)
    conn.commit()
    lock = words._lock

    def late(connection: Connection, claim: words.Claim) -> bool:
        words.mark_volume_ready(other, 7, 0)
        other.commit()
        return lock(connection, claim)

    monkeypatch.setattr(words, "_lock", late)
    assert claim_volume(conn) is None


def test_ingest_and_claims_do_not_wait_for_each_other(conn: Connection, other: Connection) -> None:
    """Given a part that is being indexed, then events are added to its very segment all the same."""
    store(conn, 7, [(AT, an_event())] * 7, bits=BITS)
    conn.commit()
    assert words.claim_part(conn, BITS, 1) is not None
    other.execute("SET LOCAL lock_timeout = '1s'")
    store(other, 7, [(AT + 1, an_event())], bits=BITS)
    other.commit()


def test_bodies_come_in_the_order_of_seq(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = store(conn, 7, [(AT - n, an_event(metadata={"n": f"ü{n}"})) for n in range(5)], bits=BITS)
    bodies = [one.body for one in stored[1:4]]
    for piece_bytes, pieces in ((words.PIECE_BYTES, 1), (1, 3)):
        monkeypatch.setattr(words, "PIECE_BYTES", piece_bytes)
        found = list(words.read_bodies(conn, 7, range(2, 5)))
        assert b"\n".join(found).decode().split("\n") == bodies
        assert len(found) == pieces


def test_a_segment_with_a_hole_is_refused(conn: Connection) -> None:
    """Positions stand for seqs. A hole cannot be, and if it is, the index must not be built as if it were not."""
    store(conn, 7, [(AT, an_event())] * 3, bits=BITS)
    with pytest.raises(LookupError, match="has 3 events"):
        list(words.read_bodies(conn, 7, range(1, 5)))


def test_blocks_are_found_by_prefix(conn: Connection) -> None:
    for key in (0, 1, 2):
        names = [b"b", b"bb", b"d", b"dx"] if key else [b"c", b"d"]
        words.write_blocks(conn, 7, key, [(name, b"%d%s" % (key, name)) for name in names])

    def find(prefix: bytes, *keys: int) -> list[bytes]:
        return sorted(payload for _, payload in words.find_blocks(conn, 7, keys, prefix))

    assert find(b"a", 1) == []
    assert find(b"b", 1) == [b"1b", b"1bb"]
    assert find(b"c", 1) == [b"1bb"]
    assert find(b"d", 1) == [b"1d", b"1dx"]
    assert find(b"zz", 1) == [b"1dx"]
    assert find(b"d", 0, 2) == [b"0d", b"2d", b"2dx"]
    assert len(list(words.find_blocks(conn, 7, [0, 1, 2], b"", most=1))) == 3
    assert len(list(words.find_blocks(conn, 7, [0, 1, 2], b"d", most=1))) == 5
    assert len(list(words.find_blocks(conn, 7, [0, 1, 2], b"", most=3))) == 8
    assert find(b"d", 3) == []
    assert list(words.find_blocks(conn, 8, [0, 1, 2], b"d")) == []
    assert {key for key, _ in words.find_blocks(conn, 7, [0, 2], b"d")} == {0, 2}


def test_blocks_beyond_a_bound_are_fetched_as_they_are_taken(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given more than are held at once, then all are found, and who has enough before leaves nothing behind."""
    names = [b"w%02d" % n for n in range(40)]
    words.write_blocks(conn, 7, 0, [(name, name) for name in names])
    everything = sorted(words.find_blocks(conn, 7, [0], b"w"))
    for bound in (1, 7, 39, 40, 41):
        monkeypatch.setattr(words, "FETCH_BLOCKS", bound)
        assert sorted(words.find_blocks(conn, 7, [0], b"w")) == everything == [(0, name) for name in names]
    monkeypatch.setattr(words, "FETCH_BLOCKS", 7)
    for _ in range(2):
        found = words.find_blocks(conn, 7, [0], b"w")
        assert next(found)[0] == 0
        found.close()  # type: ignore[attr-defined]
    assert conn.execute("SELECT count(*) FROM pg_cursors").fetchone() == (0,)


def test_a_word_as_a_whole_is_in_one_block(conn: Connection) -> None:
    for key in (0, 1):
        words.write_blocks(conn, 7, key, [(name, b"%d%s" % (key, name)) for name in (b"Ab", b"b", b"bb")])
    found = sorted(words.find_exact_blocks(conn, 7, [1, 0, 5], [b"b", b"Aa", b"ba", b"z"]))
    assert found == sorted(
        (key, word, b"%d%s" % (key, first))
        for key in (0, 1)
        for word, first in ((b"b", b"b"), (b"ba", b"b"), (b"z", b"bb"))
    )


def test_the_blocks_of_segments_are_read_in_the_order_of_their_first_words(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {4: [b"a", b"c", b"d", b"x"], 5: [], 6: [b"b", b"c", b"z"], 7: [b"a"]}
    for key, first_words in names.items():
        words.write_blocks(conn, 7, key, [(name, b"%d%s" % (key, name)) for name in first_words])
    expected = [(0, b"4a"), (2, b"6b"), (0, b"4c"), (2, b"6c"), (0, b"4d"), (0, b"4x"), (2, b"6z")]
    for bound in (1, 2, 3, 100):
        monkeypatch.setattr(words, "RUN_BLOCKS", bound)
        assert list(words.read_blocks(conn, 7, range(4, 7))) == expected


def test_blocks_lie_in_the_table_itself(conn: Connection) -> None:
    """Given blocks as they are built, of words that do not compress, then no look-up takes the way over TOAST."""
    built = list(blocks.build([[b"%032x" % (n * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128)] for n in range(4000)]))
    assert len(built) > 10
    words.write_blocks(conn, 7, 0, ((block.first_word, block.payload) for block in built))
    row = conn.execute(
        "SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE relname = 'word_blocks' AND reltoastrelid <> 0"
    ).fetchone()
    assert row in (None, (0,))
    assert [payload for _, payload in words.find_blocks(conn, 7, [0], built[5].first_word)] == [built[5].payload]
