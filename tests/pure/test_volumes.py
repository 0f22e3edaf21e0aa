"""Volumes: a segment is left out only when it cannot hold what is wanted, and asking costs less than it saves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch.search import blocks, volumes
from logstitch.search.blocks import Block, build
from logstitch.search.segments import Layout, Span
from logstitch.search.volumes import Pace, Volumes

LAYOUT = Layout(3, 1, 2)
"""Volumes of 4 segments."""
LEXEMES = st.sampled_from([b"AA", b"Aa", b"Aab", b"Ab", b"Ca", b"Cb"])
WORDS = st.text("abc", min_size=1, max_size=3).map(str.encode)
SEGMENT = st.frozensets(LEXEMES | WORDS, max_size=8)


class Stored:
    """The blocks of volumes, as the store finds them; what was asked is kept."""

    def __init__(self, segments: Sequence[frozenset[bytes]]) -> None:
        self.blocks: dict[int, list[Block]] = {}
        size = len(LAYOUT.segments(0))
        for volume in range(len(segments) // size):
            # A volume's blocks are those of a segment whose events are the volume's segments.
            self.blocks[LAYOUT.volume_key(volume)] = list(build(segments[volume * size : (volume + 1) * size]))
        self.asked: list[list[int]] = []

    def word_blocks(self, keys: Sequence[int], prefix: bytes, most: int | None = None) -> Iterator[tuple[int, bytes]]:
        self.asked.append([key - LAYOUT.volume_key(0) for key in keys])
        for key in keys:
            found = self.blocks[key]
            for block in [block for block in found if block.first_word <= prefix][-1:]:
                yield key, block.payload
            for block in islice((block for block in found if prefix < block.first_word < prefix + b"\xff"), most):
                yield key, block.payload

    def exact_blocks(self, keys: Sequence[int], wanted: Sequence[bytes]) -> Iterator[tuple[int, bytes, bytes]]:
        self.asked.append([key - LAYOUT.volume_key(0) for key in keys])
        for key in keys:
            for one in wanted:
                for block in [block for block in self.blocks[key] if block.first_word <= one][-1:]:
                    yield key, one, block.payload


def spans(count: int) -> list[Span]:
    return [Span(segment, 0, 0, True) for segment in range(count)]


def left_by(found: Volumes, segments: int) -> list[int]:
    """The segments that remain when every volume was asked."""
    every = spans(segments)
    for at, span in enumerate(every):
        while found.can_tell(span.segment):
            found.look(every[at:])
    return [span.segment for span in every if found.may_hold(span.segment)]


@given(
    segments=st.lists(SEGMENT, min_size=4, max_size=20),
    facets=st.lists(st.lists(LEXEMES, min_size=1, max_size=3, unique=True), max_size=2),
    words=st.lists(WORDS, max_size=2),
    ready=st.frozensets(st.integers(0, 4)),
    room=st.integers(20, 60),
)
def test_the_segments_that_remain_are_those_that_may_hold_it(
    segments: list[frozenset[bytes]],
    facets: list[list[bytes]],
    words: list[bytes],
    ready: frozenset[int],
    room: int,
) -> None:
    """Given no pause, then of ready volumes those with every word and one of each group, and all other segments."""
    ready = ready & frozenset(range(len(segments) // 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_ROOM", room)
        patch.setattr(volumes, "LONGEST_PAUSE", 0)
        patch.setattr(volumes, "MOST_BLOCKS", 1000)
        found = Volumes(Stored(segments), LAYOUT, facets, words, ready)
        left = left_by(found, len(segments))
    assert left == [
        number
        for number, segment in enumerate(segments)
        if number // 4 not in ready
        or (
            all(segment.intersection(group) for group in facets)
            and all(any(one.startswith(word) for one in segment) for word in words)
        )
    ]


@given(
    segments=st.lists(SEGMENT, min_size=4, max_size=20),
    words=st.lists(WORDS, min_size=1, max_size=2),
    room=st.integers(20, 60),
    most=st.integers(1, 4),
)
def test_where_too_many_blocks_would_be_read_no_segment_is_left_out_wrongly(
    segments: list[frozenset[bytes]], words: list[bytes], room: int, most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_ROOM", room)
        patch.setattr(volumes, "MOST_BLOCKS", most)
        found = Volumes(Stored(segments), LAYOUT, (), words, frozenset(range(len(segments) // 4)))
        left = left_by(found, len(segments))
    for number, segment in enumerate(segments):
        if all(any(one.startswith(word) for one in segment) for word in words):
            assert number in left


def test_a_facet_is_looked_for_as_a_whole_and_a_word_by_its_beginning() -> None:
    segments = [frozenset([b"AA", b"Aab", b"aab"]), frozenset([b"Aa"]), frozenset([b"aa"]), frozenset([b"a"])]
    assert left_by(Volumes(Stored(segments), LAYOUT, [[b"Aa"]], [], [0]), 4) == [1]
    assert left_by(Volumes(Stored(segments), LAYOUT, [[b"Aab", b"Aa"]], [], [0]), 4) == [0, 1]
    assert left_by(Volumes(Stored(segments), LAYOUT, [], [b"aa"], [0]), 4) == [0, 2]


def test_where_too_many_blocks_have_a_prefix_all_segments_may_hold_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a prefix that fills more blocks than are read, then none is left out for what stands in the other ones."""
    monkeypatch.setattr(blocks, "_ROOM", 20)
    monkeypatch.setattr(volumes, "LONGEST_PAUSE", 0)
    monkeypatch.setattr(volumes, "MOST_BLOCKS", 2)
    segments = [frozenset(b"%s%d%02d" % (b"ab"[n // 4 : n // 4 + 1], n, k) for k in range(9)) for n in range(8)]
    assert left_by(Volumes(Stored(segments), LAYOUT, [], [b"a"], range(2)), 8) == [0, 1, 2, 3]
    assert left_by(Volumes(Stored(segments), LAYOUT, [], [b"b"], range(2)), 8) == [4, 5, 6, 7]
    assert left_by(Volumes(Stored(segments), LAYOUT, [], [b"b7"], range(2)), 8) == [4, 5, 6, 7]
    assert left_by(Volumes(Stored(segments), LAYOUT, [], [b"b708"], range(2)), 8) == [7]


def test_volumes_are_asked_more_together_each_time() -> None:
    stored = Stored([frozenset([b"Aa"])] * 4 * 30)
    found = Volumes(stored, LAYOUT, [[b"Ab"]], [], range(30))
    assert left_by(found, 120) == []
    assert [len(keys) for keys in stored.asked] == [1, 4, 16, 9]
    assert sorted(volume for keys in stored.asked for volume in keys) == list(range(30))


def test_what_is_in_most_segments_is_asked_for_less_and_less() -> None:
    stored = Stored([frozenset([b"Aa"])] * 4 * 30)
    found = Volumes(stored, LAYOUT, [[b"Aa"]], [], range(30))
    assert left_by(found, 120) == list(range(120))
    assert stored.asked == [[0], [2], [5], [10], [19]]


def test_a_word_is_not_looked_for_where_another_is_not() -> None:
    stored = Stored([frozenset([b"a", b"bb"]), *[frozenset([b"a"])] * 7])
    found = Volumes(stored, LAYOUT, [], [b"a", b"bb"], range(2))
    assert left_by(found, 8) == [0]
    assert stored.asked == [[0], [0], [1]]  # the longer word first, and then the other in the first volume only


def test_a_pattern_that_stands_for_many_actions_asks_few_volumes_at_once() -> None:
    stored = Stored([frozenset([b"Aa"])] * 4 * 10)
    many = [b"Ax%d" % n for n in range(volumes.MOST_EXACT // 2)]
    assert left_by(Volumes(stored, LAYOUT, [many], [], range(10)), 40) == []
    assert max(map(len, stored.asked)) == 2


def test_the_pace() -> None:
    pace = Pace(most=32)
    seen = []
    for kept in (0, 32, 0, 0, 0, 100, 100, 100, 0):
        pace.learned(kept, 128)
        seen.append((pace.size, pace.pause))
        pace.pause = 0
    assert seen == [(4, 0), (16, 0), (32, 0), (32, 0), (32, 0), (1, 1), (1, 2), (1, 4), (4, 0)]
