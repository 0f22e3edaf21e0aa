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
from logstitch.search.blocks import BLOCK_BYTES, Block, build, lookup, read_blocks, serve, write_bodies
from logstitch.search.segments import SEGMENT_EVENTS
from logstitch.search.terms import words

WORDS = st.text("abé日𝒳01", min_size=1, max_size=4).map(str.encode)
SEGMENT = st.lists(st.lists(WORDS, max_size=6, unique=True), max_size=40)


def find(built: Sequence[Block], prefix: bytes) -> set[int]:
    """What the store and a reader do together: from the last block that does not begin after the prefix."""
    first_words = [block.first_word for block in built]
    first = max(0, bisect_right(first_words, prefix) - 1)
    last = bisect_right(first_words, prefix + blocks.AFTER)
    return set[int]().union(*(lookup(block.payload, prefix) for block in built[first:last]))


def holding(events: Sequence[Sequence[bytes]], prefix: bytes) -> set[int]:
    return {position for position, event in enumerate(events) if any(word.startswith(prefix) for word in event)}


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


def test_an_empty_segment_has_no_blocks() -> None:
    assert list(build([[], []])) == []


def test_positions_beyond_a_segment_are_refused() -> None:
    with pytest.raises(ValueError, match="16,384"):
        list(build([[]] * (SEGMENT_EVENTS + 1)))


def test_a_block_of_another_version_is_refused() -> None:
    (block,) = build([[b"word"]])
    with pytest.raises(ValueError, match="unknown kind 9"):
        lookup(b"\x09" + block.payload[1:], b"word")


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


BODIES = [b'{"action":"a.b","actor":{"name":"Ada"}}', '{"action":"a.c","actor":{"name":"Zoë"}}'.encode()]


def test_bodies_go_in_and_blocks_come_out() -> None:
    """Two segments, one after the other, over one pair of streams."""
    requests, answers = io.BytesIO(), io.BytesIO()
    write_bodies(requests, BODIES)
    write_bodies(requests, BODIES[:1])
    requests.seek(0)
    serve(requests, answers)
    answers.seek(0)
    assert list(read_blocks(answers)) == list(build(map(words, BODIES)))
    assert list(read_blocks(answers)) == list(build(map(words, BODIES[:1])))
    with pytest.raises(EOFError):
        list(read_blocks(answers))


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


@pytest.mark.slow
def test_memory_stays_bounded_for_the_largest_events() -> None:
    """Given a segment with 40 times the words of a common one, then the process that builds it stays below 120 MB."""
    script = """
import random
from logstitch.search.blocks import build
chance = random.Random(1)
segment = ([b"%010x" % chance.getrandbits(40) for _ in range(1500)] for _ in range(2000))
count = sum(len(block.payload) for block in build(segment))
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""  # not getrusage: its maximum includes what the parent had when it forked
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux")
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, cwd=Path(__file__).parents[2]
    )
    assert int(done.stdout) < 120 * 1024
