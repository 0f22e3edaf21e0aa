"""A look into a volume tells which of its segments may hold what is wanted, so the others are not looked into at all.

A segment may hold it when it has a word for every prefix and, of every group of facets, one member: not necessarily in
one event, which is for the look into the segment to tell. Volumes are asked several at a time, as a search comes to
them, and more each time. What is in most segments of a volume anyway is not asked for in the next ones, for what a look
costs would come on top of all the looks into segments.

A prefix of a letter or two is in hundreds of blocks, and in nearly every segment: no more than a few are read, and
where there are more, all segments of the volume are taken to hold it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, Protocol

from logstitch.search.blocks import lookup
from logstitch.search.segments import Layout, Span

MOST_VOLUMES: Final = 32
"""Volumes asked in one query: 17 million events, and at most a block of each for a facet, 128 KB."""
MOST_EXACT: Final = 2048
"""Blocks of one query for facets, 8 MB: a pattern for an action may stand for many."""
MOST_BLOCKS: Final = 8
"""Blocks of one volume that are read for one prefix: 1,000 words begin with it then, or are taken to."""
LONGEST_PAUSE: Final = 64
"""Volumes taken as they are, at most, before the next one is asked."""


class Blocks(Protocol):
    """Where the blocks of segments, parts and volumes are read from."""

    def word_blocks(self, keys: Sequence[int], prefix: bytes, most: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Key and payload of the blocks, under these keys, that may hold words with the prefix.

        ``most``: no more than this and one under each key; where there are as many, there may have been more.
        """
        ...

    def exact_blocks(self, keys: Sequence[int], wanted: Sequence[bytes]) -> Iterator[tuple[int, bytes, bytes]]:
        """Key, facet and payload of the one block under each key that may hold the facet."""
        ...


@dataclass(slots=True)
class Pace:
    """How many volumes to ask together, and how many to take as they are before that.

    Four times as many each time, as long as that leaves out most segments; else one, after a pause that doubles.
    """

    most: int
    size: int = 1
    pause: int = 0
    last_pause: int = 0

    def learned(self, kept: int, segments: int) -> None:
        """Learn how many of the segments that were asked about may hold what is wanted."""
        if kept * 2 > segments:
            self.size = 1
            self.pause = self.last_pause = min(LONGEST_PAUSE, max(1, self.last_pause * 2))
        else:
            self.size = min(self.most, self.size * 4)
            self.last_pause = 0


@dataclass(slots=True)
class Volumes:
    """What is known of a project's volumes in one search.

    ``facets``: lexemes, one of each group must be present. ``words``: each must begin a word. ``ready``: the volumes
    that have their blocks.
    """

    source: Blocks
    layout: Layout
    facets: Sequence[Sequence[bytes]]
    words: Sequence[bytes]
    ready: Collection[int]
    pace: Pace = field(init=False)
    known: dict[int, Collection[int]] = field(init=False, default_factory=dict)
    """By volume, the positions of the segments that may hold what is wanted."""

    def __post_init__(self) -> None:
        lexemes = sum(map(len, self.facets)) or 1
        self.pace = Pace(max(1, min(MOST_VOLUMES, MOST_EXACT // lexemes)))

    def can_tell(self, segment: int) -> bool:
        """Whether a look into its volume would tell more about the segment than is known."""
        volume = self.layout.volume(segment)
        return volume in self.ready and volume not in self.known

    def may_hold(self, segment: int) -> bool:
        """Whether the segment may hold what is wanted, as far as is known."""
        volume = self.layout.volume(segment)
        return volume not in self.known or segment - self.layout.segments(volume).start in self.known[volume]

    def look(self, spans: Iterable[Span]) -> None:
        """Look into the next volumes of these spans, the first of which is in one that can tell something."""
        everything = range(1 << self.layout.volume_bits)
        volumes: dict[int, None] = {}
        for span in spans:
            if self.can_tell(span.segment):
                if self.pace.pause:
                    self.pace.pause -= 1
                    self.known[self.layout.volume(span.segment)] = everything
                    return
                volumes[self.layout.volume(span.segment)] = None
                if len(volumes) == self.pace.size:
                    break
        found = self._by_facets({volume: everything for volume in volumes})
        found = self._by_words(found)
        for volume in volumes:
            self.known[volume] = found.get(volume, ())
        self.pace.learned(sum(map(len, found.values())), len(volumes) * len(everything))

    def _by_facets(self, found: dict[int, Collection[int]]) -> dict[int, Collection[int]]:
        if not self.facets:
            return found
        present: dict[tuple[int, bytes], set[int]] = {}
        for key, lexeme, payload in self.source.exact_blocks(self._keys(found), list(chain(*self.facets))):
            present[key, lexeme] = lookup(payload, lexeme + b"\0")
        left: dict[int, Collection[int]] = {}
        for volume in found:
            key = self.layout.volume_key(volume)
            groups = (set[int]().union(*(present.get((key, one), ()) for one in group)) for group in self.facets)
            if positions := set.intersection(*groups):
                left[volume] = positions
        return left

    def _by_words(self, found: dict[int, Collection[int]]) -> dict[int, Collection[int]]:
        # The longest word is most likely the rarest: what it leaves out, the others need not be looked up for.
        for word in sorted(self.words, key=len, reverse=True):
            if not found:
                break
            counts: dict[int, int] = {}
            present: dict[int, set[int]] = {}
            for key, payload in self.source.word_blocks(self._keys(found), word, MOST_BLOCKS):
                counts[key] = counts.get(key, 0) + 1
                present.setdefault(key, set()).update(lookup(payload, word))
            left: dict[int, Collection[int]] = {}
            for volume, positions in found.items():
                key = self.layout.volume_key(volume)
                if counts.get(key, 0) >= MOST_BLOCKS:
                    left[volume] = positions
                elif both := present.get(key, set()).intersection(positions):
                    left[volume] = both
            found = left
        return found

    def _keys(self, volumes: Iterable[int]) -> list[int]:
        return [self.layout.volume_key(volume) for volume in volumes]
