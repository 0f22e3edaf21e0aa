"""Word blocks: what is built is found again, by word and by prefix, whatever the shape of the words and the events."""

from __future__ import annotations

import io
import random
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch.search import blocks
from logstitch.search.blocks import (
    BLOCK_BYTES,
    Block,
    Merge,
    build,
    lookup,
    read_blocks,
    serve,
    write_blocks,
    write_bodies,
)
from logstitch.search.segments import SEGMENT_EVENTS
from logstitch.search.terms import Facet, entries, facet, query_words, words

WORDS = st.text("abé日𝒳01", min_size=1, max_size=4).map(str.encode)
SEGMENT = st.lists(st.lists(WORDS, max_size=6, unique=True), max_size=40)


def find(built: Sequence[Block], prefix: bytes) -> set[int]:
    """What the store and a reader do together: from the last block that does not begin after the prefix."""
    first_words = [block.first_word for block in built]
    first = max(0, bisect_right(first_words, prefix) - 1)
    last = bisect_right(first_words, prefix + b"\xff")
    return set[int]().union(*(lookup(block.payload, prefix) for block in built[first:last]))


def holding(events: Sequence[Sequence[bytes]], prefix: bytes) -> set[int]:
    return {position for position, event in enumerate(events) if any(word.startswith(prefix) for word in event)}


def find_exactly(built: Sequence[Block], word: bytes) -> set[int]:
    """The same for a word as a whole, which is in one block if it is in any."""
    first_words = [block.first_word for block in built]
    first = bisect_right(first_words, word) - 1
    return lookup(built[first].payload, word + b"\0") if first >= 0 else set()


@given(events=SEGMENT, prefix=WORDS)
def test_a_prefix_finds_the_events_that_hold_it(events: list[list[bytes]], prefix: bytes) -> None:
    assert find(list(build(events)), prefix) == holding(events, prefix)


@given(events=SEGMENT, prefix=WORDS, room=st.integers(20, 60), run=st.integers(1, 30))
def test_blocks_of_any_size_and_runs_of_any_length_say_the_same(
    events: list[list[bytes]], prefix: bytes, room: int, run: int
) -> None:
    """Given blocks of a word or two and runs that go to a file, then prefixes that span blocks find the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_ROOM", room)
        patch.setattr(blocks, "RUN_POSTINGS", run)
        patch.setattr(blocks, "MERGE_WORDS", 3)
        built = list(build(events))
    assert [block.first_word for block in built] == sorted({block.first_word for block in built})
    assert find(built, prefix) == holding(events, prefix)


@given(events=SEGMENT, prefix=WORDS, room=st.integers(20, 60), among=st.frozensets(st.integers(0, 40)))
def test_a_look_among_some_positions_finds_no_others(
    events: list[list[bytes]], prefix: bytes, room: int, among: frozenset[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_ROOM", room)
        for block in build(events):
            assert lookup(block.payload, prefix, among) == lookup(block.payload, prefix) & among


def a_full_segment() -> list[list[bytes]]:
    """Words of every frequency, from one event to all, in 16,384 events."""
    chance = random.Random(2)
    return [
        [
            b"always",
            *([b"mostly"] if chance.random() < 0.9 else []),
            *([b"often"] if chance.random() < 0.1 else []),
            *([b"atthelimit"] if 100 <= n < 1124 else []),
            *([b"belowlimit"] if 100 <= n < 1123 else []),
            b"some%d" % chance.randrange(300),
            b"%016x" % chance.getrandbits(64),
        ]
        for n in range(SEGMENT_EVENTS)
    ]


def test_a_full_segment() -> None:
    events = a_full_segment()
    built = list(build(events))
    assert max(len(block.payload) for block in built) <= BLOCK_BYTES
    frequent = [block.first_word for block in built if block.payload[0] == 2]
    assert frequent == [b"always", b"atthelimit", b"mostly", b"often"]
    prefixes = [
        b"always",
        b"mostly",
        b"often",
        b"atthelimit",
        b"belowlimit",
        b"o",
        b"a",
        b"some1",
        b"some",
        b"7",
        b"zz",
    ]
    for prefix in [*prefixes, events[77][-1], events[-1][-1], events[0][-1][:5]]:
        assert find(built, prefix) == holding(events, prefix), prefix


def test_bitmaps_are_looked_into_among_few_positions_and_among_many() -> None:
    events = a_full_segment()
    for block in build(events):
        if block.payload[0] == 2:
            everywhere = lookup(block.payload, block.first_word)
            for among in (set(range(0, 16_384, 100)), set(range(5000))):
                assert lookup(block.payload, block.first_word, among) == everywhere & among


def test_an_empty_segment_has_no_blocks() -> None:
    assert list(build([[], []])) == []


def test_positions_beyond_a_segment_are_refused() -> None:
    with pytest.raises(ValueError, match="16,384"):
        list(build([[]] * (SEGMENT_EVENTS + 1)))


def test_a_block_of_another_version_is_refused() -> None:
    (block,) = build([[b"word"]])
    with pytest.raises(ValueError, match="unknown kind 9"):
        lookup(b"\x09" + block.payload[1:], b"word")


# -- facets --------------------------------------------------------------------------------------------------------

VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=5)
FACETS = st.builds(facet, st.sampled_from(Facet), VALUES | st.sampled_from(["a", "ab", "é" * 100, "\U0010ffff"]))


@given(
    events=st.lists(st.lists(WORDS | FACETS, max_size=6, unique=True), max_size=40),
    wanted=FACETS,
    room=st.integers(20, 60),
)
def test_a_facet_is_found_as_a_whole(events: list[list[bytes]], wanted: bytes, room: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_ROOM", room)
        built = list(build(events))
    for lexeme in {wanted, *(one for event in events for one in event)}:
        assert find_exactly(built, lexeme) == {n for n, event in enumerate(events) if lexeme in event}


def test_no_word_begins_like_a_facet() -> None:
    """Given every character there is, alone and folded, then no word begins with a capital of ASCII."""
    text = " ".join(chr(code) for code in range(1, sys.maxunicode + 1) if not 0xD800 <= code < 0xE000)
    assert all(word[:1] not in {kind.value for kind in Facet} for word in word_list(text))


def word_list(text: str) -> list[bytes]:
    return [word for start in range(0, len(text), 4000) for word in query_words(text[start : start + 4000])]


def test_two_rows_of_blocks_fit_a_page_even_with_the_longest_facets() -> None:
    """A row has 24 bytes of header, 8 for numbers, up to 8 for lengths, its first word and its block; a page 8,168."""
    longest = 0
    for length in range(41, 201):
        built = list(build([[facet(Facet.TARGET_ID, f"{n:0{length}}")] for n in range(100)]))
        longest = max(longest, *(len(block.first_word) + len(block.payload) for block in built))
    assert 3900 < longest <= 8168 // 2 - 4 - 40


# -- volumes -------------------------------------------------------------------------------------------------------

VOLUME = st.lists(st.lists(st.lists(WORDS | FACETS, max_size=4, unique=True), max_size=6), max_size=6)


def in_order(segments: Sequence[Sequence[Block]]) -> list[tuple[int, bytes]]:
    """The blocks of all segments in the order of their first words, with the number of the segment."""
    every = [(block.first_word, n, block.payload) for n, built in enumerate(segments) for block in built]
    return [(n, payload) for _, n, payload in sorted(every)]


@given(volume=VOLUME, room=st.integers(20, 60), cuts=st.lists(st.integers(0, 30)))
def test_a_volume_tells_which_of_its_segments_hold_a_word(
    volume: list[list[list[bytes]]], room: int, cuts: list[int]
) -> None:
    """Given segments as if each were one event of a larger segment, then the merged blocks find the same as those built
    of these, however many blocks are merged together."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_ROOM", room)
        given_blocks = in_order([list(build(events)) for events in volume])
        merge, merged = Merge(), list[Block]()
        bounds = sorted({cut for cut in cuts if cut < len(given_blocks)})
        for start, stop in zip([0, *bounds], [*bounds, len(given_blocks)], strict=True):
            for position, payload in given_blocks[start:stop]:
                merge.add(position, payload)
            merged += merge.take(last=stop == len(given_blocks))
    assert [block.first_word for block in merged] == sorted({block.first_word for block in merged})
    as_events = [sorted({word for event in events for word in event}) for events in volume]
    for word in {word for event in as_events for word in event}:
        assert find(merged, word) == holding(as_events, word)
        assert find_exactly(merged, word) == {n for n, event in enumerate(as_events) if word in event}
    assert find(merged, b"\xf4\x90") == set()


def test_blocks_out_of_order_are_not_merged() -> None:
    """What was taken for complete would not have been."""
    merge = Merge()
    merge.add(0, next(build([[b"b"]])).payload)
    with pytest.raises(ValueError, match="in the order of their first words"):
        merge.add(1, next(build([[b"a"]])).payload)


def test_a_block_of_another_version_is_not_merged() -> None:
    with pytest.raises(ValueError, match="unknown kind 9"):
        Merge().add(0, b"\x09" + next(build([[b"b"]])).payload[1:])


# -- over pipes ----------------------------------------------------------------------------------------------------


def test_the_layout_is_as_documented() -> None:
    (block,) = build([[b"b", b"ab"], [b"b"], [b"b"]])
    assert block.first_word == b"ab"
    assert block.payload == (
        b"\x01\x02\x00\x06\x00"  # kind, 2 words, 6 bytes
        b"\0ab\0b\0"
        b"\x02\x00\x08\x00"  # the lists end after 2 and 8 bytes
        b"\x00\x00"
        b"\x00\x00\x01\x00\x02\x00"
    )


BODIES = [
    b'{"action":"a.b","actor":{"id":"1","name":"Ada","type":"user"},"category":"auth","tenant_id":"T"}',
    '{"action":"a.c","actor":{"id":"2","name":"Zoë","type":"user"},"category":"auth","tenant_id":"T"}'.encode(),
]


def test_an_event_has_its_words_and_its_facets_in_the_index() -> None:
    found = entries(BODIES[0])
    assert sorted(found) == sorted([*words(BODIES[0]), b"Aa.b", b"Cauth", b"TT", b"U1", b"Vuser"])
    assert len(found) == len(set(found))


def test_bodies_go_in_and_blocks_come_out() -> None:
    """Two segments, one after the other, over one pair of streams."""
    requests, answers = io.BytesIO(), io.BytesIO()
    write_bodies(requests, BODIES)
    write_bodies(requests, BODIES[:1])
    requests.seek(0)
    serve(requests, answers)
    answers.seek(0)
    assert list(read_blocks(answers)) == list(build(map(entries, BODIES)))
    assert list(read_blocks(answers)) == list(build(map(entries, BODIES[:1])))
    with pytest.raises(EOFError):
        list(read_blocks(answers))


def test_blocks_of_segments_go_in_and_those_of_volumes_come_out() -> None:
    """Two volumes over one pair of streams, the first in two pieces, with a segment between them."""
    given_blocks = in_order([list(build([[b"a", b"b"]])), list(build([[b"b", b"c"]]))])
    requests, answers = io.BytesIO(), io.BytesIO()
    write_blocks(requests, given_blocks[:1], last=False)
    write_blocks(requests, given_blocks[1:], last=True)
    write_bodies(requests, BODIES)
    write_blocks(requests, given_blocks, last=True)
    requests.seek(0)
    serve(requests, answers)
    answers.seek(0)
    first = [*read_blocks(answers), *read_blocks(answers)]
    assert [find(first, word) for word in (b"a", b"b", b"c")] == [{0}, {0, 1}, {1}]
    assert list(read_blocks(answers)) == list(build(map(entries, BODIES)))
    second = list(read_blocks(answers))
    assert [find(second, word) for word in (b"a", b"b", b"c")] == [{0}, {0, 1}, {1}]


@pytest.mark.parametrize("left", [1, 4, 10, 60])
def test_a_request_that_breaks_off_is_not_answered(left: int) -> None:
    requests, answers = io.BytesIO(), io.BytesIO()
    write_bodies(requests, BODIES)
    serve(io.BytesIO(requests.getvalue()[:left]), answers)
    assert answers.getvalue() == b""


def test_an_answer_that_breaks_off_is_told_from_a_whole_one() -> None:
    requests, answers = io.BytesIO(), io.BytesIO()
    write_bodies(requests, BODIES)
    serve(io.BytesIO(requests.getvalue()), answers)
    whole = answers.getvalue()
    for end in range(len(whole)):
        with pytest.raises(EOFError):
            list(read_blocks(io.BytesIO(whole[:end])))


PEAK = """
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""  # not getrusage: its maximum includes what the parent had when it forked


def peak_kilobytes(script: str) -> int:
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux")
    done = subprocess.run(
        [sys.executable, "-c", script + PEAK], check=True, capture_output=True, cwd=Path(__file__).parents[2]
    )
    return int(done.stdout)


@pytest.mark.slow
def test_memory_stays_bounded_for_a_volume() -> None:
    """Given a volume of which no two segments share a word, then the process that merges it stays below 60 MB."""
    assert (
        peak_kilobytes("""
import random
from logstitch.search.blocks import MERGE_BLOCKS, Merge, build
chance = random.Random(1)
merge, count = Merge(), 0
def run(n):  # sorted already, in blocks of 200 words that share nothing
    for first in range(0, 50_000, 200):
        words = [b"%06d%02d" % (first + k, n) for k in range(200)]
        yield words[0], n, next(build([words])).payload
import heapq
for number, (_, n, payload) in enumerate(heapq.merge(*(run(n) for n in range(32))), 1):
    merge.add(n, payload)
    if number % MERGE_BLOCKS == 0:
        count += sum(1 for _ in merge.take())
count += sum(1 for _ in merge.take(last=True))
assert count > 5_000
""")
        < 60 * 1024
    )


@pytest.mark.slow
def test_memory_stays_bounded_for_the_largest_events() -> None:
    """Given a segment with 40 times the words of a common one, then the process that builds it stays below 120 MB."""
    assert (
        peak_kilobytes("""
import random
from logstitch.search.blocks import build
chance = random.Random(1)
segment = ([b"%010x" % chance.getrandbits(40) for _ in range(1500)] for _ in range(2000))
count = sum(len(block.payload) for block in build(segment))
""")
        < 120 * 1024
    )
