"""The words of one closed segment, sorted and cut into blocks: a look-up reads one block, a prefix a run of them.

Among the words stand the facets (see ``search.terms``), which may hold any character but NUL and are looked up as a
whole. The blocks of a volume are of the same form, made of those of its segments: there, a position is a segment's.

A block begins with a byte that is both its version and its kind, integers are little-endian:

====== ======= =====================================================================================================
offset bytes
====== ======= =====================================================================================================
0      1       kind: 1 = lists, 2 = one word with a bitmap
1      2       n, how many words
3      2       s, how many bytes the words take
5      s       the words in bytewise order, each with a NUL before it, and a last NUL
5+s    2 n     kind 1: for each word, where its list ends within what follows
then           kind 1: the lists, one after the other: ascending positions of 2 bytes each
5+s    2,048   kind 2: bit ``p & 7`` of byte ``p >> 3`` is set when the event at position p holds the word
====== ======= =====================================================================================================

A position is ``seq - 1`` within the segment. Words and facets are UTF-8 without NUL, so none holds a NUL or a byte FF:
``find`` of NUL and prefix is an exact search, the lists of all words with one prefix lie side by side, and everything
that begins with ``p`` sorts before ``p + FF``. All of it is chosen so that a look-up is a handful of calls into C.
"""

from __future__ import annotations

import heapq
import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, chain, compress, groupby, islice
from operator import add, itemgetter
from tempfile import TemporaryFile
from typing import IO, Final

from logstitch.frames import END, read_frame, write_frame
from logstitch.search.segments import SEGMENT_EVENTS
from logstitch.search.terms import MAX_WORD_BYTES, entries

BLOCK_BYTES: Final = 3900
"""Bytes of a block at most: two rows of them fit one page of PostgreSQL, and the least a look-up can read is a page."""
RUN_POSTINGS: Final = 1_500_000
RUN_WORDS: Final = 150_000
"""Built in memory at once, about 40 MB; a segment of common events has half of it. What is more goes to a temporary
file in sorted runs, because one segment of the largest events allowed holds a hundred times as much."""
MERGE_WORDS: Final = 10_000
"""Words taken together when runs are merged."""

MERGE_BLOCKS: Final = 512
"""Blocks of a volume's segments that are merged together: about 2 MB, and 80,000 words."""

_LISTS: Final = 1
_BITMAP: Final = 2
_BITMAP_BYTES: Final = SEGMENT_EVENTS // 8
_HEAD = struct.Struct("<BHH")
_ENTRY_BYTES: Final = 3
"""What a word costs in a block besides its own bytes and its list."""
_ROOM: Final = BLOCK_BYTES - _HEAD.size - 1
_FEW_POSITIONS: Final = 2000
"""So many are sooner looked for in a bitmap one by one than it is turned to positions."""
_BITS: Final = bytes.maketrans(b"01", b"\0\1")
_RECORD = struct.Struct("<BH")


@dataclass(frozen=True, slots=True)
class Block:
    """``payload`` holds the words from ``first_word`` up to the next block's."""

    first_word: bytes
    payload: bytes


def build(words_per_event: Iterable[Collection[bytes]]) -> Iterator[Block]:
    """The blocks of a segment, in order, from the distinct words of its events in the order of their ``seq``.

    Nothing comes out before everything has gone in.
    """
    runs: list[IO[bytes]] = []
    try:
        index: defaultdict[bytes, list[int]] = defaultdict(list)
        postings = 0
        for position, found in enumerate(words_per_event):
            if position >= SEGMENT_EVENTS:
                raise ValueError("a segment has 16,384 events")
            for word in found:
                index[word].append(position)
            postings += len(found)
            if postings >= RUN_POSTINGS or len(index) >= RUN_WORDS:
                runs.append(_write_run(index))
                index.clear()
                postings = 0
        if not runs:
            in_order = sorted(index)
            yield from _cut(in_order, [_packed(index[word]) for word in in_order])
            return
        rest: Iterator[tuple[bytes, bytes]] = ((word, _packed(index[word])) for word in sorted(index))
        # Stable, and the runs stand in the order of their events: the lists of a word join to an ascending one.
        merged = groupby(heapq.merge(*map(_read_run, runs), rest, key=itemgetter(0)), itemgetter(0))
        joined = ((word, b"".join(part for _, part in parts)) for word, parts in merged)
        while batch := list(islice(joined, MERGE_WORDS)):
            yield from _cut([word for word, _ in batch], [part for _, part in batch])
    finally:
        for run in runs:
            run.close()


@dataclass(slots=True)
class Merge:
    """Makes the blocks of a volume from those of its segments.

    They are to be added in the order of their first words, whichever segment they are of. So the words before the last
    first word are known to be complete, and no more is held than a few blocks of each segment.
    """

    _pending: dict[int, list[bytes]] = field(default_factory=dict)
    """By segment, the words that were not taken yet, in order."""
    _reached: bytes = b""

    def add(self, position: int, payload: bytes) -> None:
        """Add the words of one block. ``position``: of its segment within the volume."""
        found = words(payload)
        if found[0] < self._reached:
            raise ValueError("blocks are to be merged in the order of their first words")
        self._reached = found[0]
        self._pending.setdefault(position, []).extend(found)

    def take(self, *, last: bool = False) -> Iterator[Block]:
        """The blocks of the words that are complete. ``last``: nothing more will be added, so all of them are."""
        index: dict[bytes, bytes] = {}
        # Most words are in one segment only: those are taken over by the thousand, in a few calls.
        for position in sorted(self._pending):
            found = self._pending[position]
            stop = len(found) if last else bisect_left(found, self._reached)
            part = _packed([position])
            fresh = dict.fromkeys(found[:stop], part)
            self._pending[position] = found[stop:]
            for word in index.keys() & fresh.keys():
                fresh[word] = index[word] + part
            index.update(fresh)
        in_order = sorted(index)
        yield from _cut(in_order, list(map(index.__getitem__, in_order)))


def words(payload: bytes) -> list[bytes]:
    """The words of a block, in order. Raises ``ValueError`` for a block of another version."""
    kind, _, size = _HEAD.unpack_from(payload)
    if kind not in (_LISTS, _BITMAP):
        raise ValueError(f"block of unknown kind {kind}")
    return payload[_HEAD.size + 1 : _HEAD.size + size - 1].split(b"\0")


def lookup(payload: bytes, prefix: bytes, among: Set[int] | None = None) -> set[int]:
    """The positions of the events that hold a word of this block beginning with ``prefix``; ``among`` these, if given.

    A word itself, and no longer one, is found by the word and a NUL. Words with the prefix may also stand at the head
    of the blocks that follow. Raises ``ValueError`` for a block of another version.
    """
    kind, count, size = _HEAD.unpack_from(payload)
    end = _HEAD.size + size
    mark = b"\0" + prefix
    first = payload.find(mark, _HEAD.size, end)
    if first < 0:
        return set()
    if kind == _BITMAP:
        if among is not None and len(among) < _FEW_POSITIONS:
            return {position for position in among if payload[end + (position >> 3)] >> (position & 7) & 1}
        bits = f"{int.from_bytes(payload[end : end + _BITMAP_BYTES], 'little'):b}"
        found = set(compress(range(len(bits)), reversed(bits.encode().translate(_BITS))))
        return found if among is None else found & among
    if kind != _LISTS:
        raise ValueError(f"block of unknown kind {kind}")
    last = payload.rfind(mark, first, end)
    before = payload.count(b"\0", _HEAD.size, first)
    through = before + payload.count(b"\0", first, last)
    lists = end + 2 * count
    start = int.from_bytes(payload[end + 2 * before - 2 : end + 2 * before], "little") if before else 0
    stop = int.from_bytes(payload[end + 2 * through : end + 2 * through + 2], "little")
    positions = array("H", payload[lists + start : lists + stop])
    if sys.byteorder == "big":
        positions.byteswap()
    return set(positions) if among is None else set(positions) & among


# -- over pipes ----------------------------------------------------------------------------------------------------
#
# The work is done in a process of its own (see actors.indexer), and everything is sent in frames. A request begins with
# what is to be done with the rest of it, and is answered with blocks; the mark ends either.

_BODIES: Final = b"bodies"
_MERGE: Final = b"merge"
_MERGE_LAST: Final = b"merge last"
_POSITION = struct.Struct("<H")


def write_bodies(to_builder: IO[bytes], pieces: Iterable[bytes]) -> None:
    """Send the bodies of one segment's events, in the order of their ``seq``: one or more to a piece, each on a line of
    its own."""
    _write_request(to_builder, chain([_BODIES], pieces))


def write_blocks(to_builder: IO[bytes], blocks: Iterable[tuple[int, bytes]], *, last: bool) -> None:
    """Send some blocks of a volume's segments, or the ``last`` of them: see ``Merge``, for which they are. Those that
    are complete then are to be read before more is sent."""
    pieces = (_POSITION.pack(position) + payload for position, payload in blocks)
    _write_request(to_builder, chain([_MERGE_LAST if last else _MERGE], pieces))


def _write_request(to_builder: IO[bytes], pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        write_frame(to_builder, piece)
    to_builder.write(END)
    to_builder.flush()


def read_blocks(from_builder: IO[bytes]) -> Iterator[Block]:
    """Receive the blocks that answer one request. Raises ``EOFError`` when the builder ends before them."""
    while (first_word := read_frame(from_builder)) is not None:
        payload = read_frame(from_builder)
        if payload is None:
            raise EOFError
        yield Block(first_word, payload)


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Turn bodies into blocks, segment by segment, and blocks into those of volumes, until there are no more requests
    or nobody reads the answers."""
    merge = Merge()
    with suppress(EOFError, BrokenPipeError):
        while True:
            pieces = iter(partial(read_frame, requests), None)
            task = next(pieces)
            if task == _BODIES:
                built = build(entries(body) for piece in pieces for body in piece.split(b"\n"))
            else:
                for piece in pieces:
                    (position,) = _POSITION.unpack_from(piece)
                    merge.add(position, piece[_POSITION.size :])
                built = merge.take(last=task == _MERGE_LAST)
                if task == _MERGE_LAST:
                    merge = Merge()
            for block in built:
                write_frame(answers, block.first_word)
                write_frame(answers, block.payload)
            answers.write(END)
            answers.flush()


# -- details -------------------------------------------------------------------------------------------------------


def _cut(keys: list[bytes], parts: Sequence[bytes]) -> Iterator[Block]:
    """Fill blocks with words and their lists; a word whose list would be no shorter than a bitmap has its own."""
    lengths = list(map(len, parts))
    # Sums instead of a loop over the words: there are 70,000 in a common segment.
    costs: list[int] = list(accumulate(map(add, map(len, keys), lengths), initial=0))
    frequent = [i for i, length in enumerate(lengths) if length >= _BITMAP_BYTES]
    start = 0
    for stop in (*frequent, len(keys)):
        while start < stop:
            # Every word also costs _ENTRY_BYTES, which grows with its index: bisect by a key that has both.
            # A long facet at the head of a block is in its row twice, and still two rows are to fit one page.
            limit = costs[start] + _ENTRY_BYTES * start + _ROOM - max(0, len(keys[start]) - MAX_WORD_BYTES)
            end = bisect_right(range(len(costs)), limit, start + 1, stop + 1, key=lambda i: costs[i] + _ENTRY_BYTES * i)
            end = max(end - 1, start + 1)
            yield _lists_block(keys[start:end], parts[start:end], lengths[start:end])
            start = end
        if stop < len(keys):
            yield _bitmap_block(keys[stop], parts[stop])
            start = stop + 1


def _lists_block(keys: list[bytes], parts: Sequence[bytes], lengths: list[int]) -> Block:
    text = b"\0" + b"\0".join(keys) + b"\0"
    ends = struct.pack(f"<{len(keys)}H", *accumulate(lengths))
    return Block(keys[0], b"".join((_HEAD.pack(_LISTS, len(keys), len(text)), text, ends, *parts)))


def _bitmap_block(word: bytes, part: bytes) -> Block:
    positions = array("H", part)
    if sys.byteorder == "big":
        positions.byteswap()
    if positions[-1] - positions[0] + 1 == len(positions):  # in every event, as what all of one source's events share
        bits = (1 << len(positions)) - 1 << positions[0]
    else:
        digits = bytearray(b"0") * SEGMENT_EVENTS
        one = ord("1")
        for position in positions:
            digits[~position] = one
        bits = int(digits, 2)
    bitmap = bits.to_bytes(_BITMAP_BYTES, "little")
    return Block(word, b"".join((_HEAD.pack(_BITMAP, 1, len(word) + 2), b"\0", word, b"\0", bitmap)))


def _packed(positions: list[int]) -> bytes:
    packed = array("H", positions)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _write_run(index: dict[bytes, list[int]]) -> IO[bytes]:
    run = TemporaryFile(prefix="logstitch-words-")  # noqa: SIM115  # it outlives this function; build closes it
    for word in sorted(index):
        part = _packed(index[word])
        run.write(_RECORD.pack(len(word), len(part)))
        run.write(word)
        run.write(part)
    run.seek(0)
    return run


def _read_run(run: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    while head := run.read(_RECORD.size):
        word_bytes, part_bytes = _RECORD.unpack(head)
        yield run.read(word_bytes), run.read(part_bytes)
