"""A project's events are cut into segments of 16,384, and a filter is answered segment by segment, best ones first.
Thirty-two segments are a volume, which knows for each word and each facet in which of them it is.

Segment n holds seq 16,384 n + 1 to 16,384 (n + 1). Lexemes of the inverted index begin with the project and the
segment, so a look-up costs what a few segments hold and not what the project holds. How far apart a segment's events
lie in time is known (``Span``), so a reader can tell which segments may still hold something better than what it has.

What is in few segments, or in none, would still be asked for in every one, so the costliest page would grow with the
project. One look into a volume leaves out the segments that do not have it. Volumes are made of closed segments only,
when all of theirs have their words: a project of ten million events has 19 of them and at most 31 closed segments more.

Everything here is arithmetic on places in the order (occurred_at, id); ``search.pages`` walks with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple
from uuid import UUID

SEGMENT_BITS: Final = 14
SEGMENT_EVENTS: Final = 1 << SEGMENT_BITS

SLOW_STEP: Final = 0.1
"""Seconds of one step after which steps shrink again: the time budget is checked between steps only."""

PART_BITS: Final = 11
"""A segment that is still open is indexed for words in parts of 2,048 events. What is in none is scanned, at about 5 µs
an event."""

VOLUME_BITS: Final = 5
"""Closed segments are taken together by 32."""
FIRST_VOLUME_KEY: Final = 1 << 30
"""Volumes' blocks are stored by this and the volume's number: more segments than that would be 17 trillion events."""

LEAST_ID: Final = UUID(int=0)
GREATEST_ID: Final = UUID(int=2**128 - 1)


def segment_of(seq: int, bits: int = SEGMENT_BITS) -> int:
    """The segment that the event with this ``seq`` (from 1) belongs to."""
    return (seq - 1) >> bits


@dataclass(frozen=True, slots=True)
class Layout:
    """How events are cut: a segment has 2 to the power of ``bits`` of them, a part 2 to that of ``part_bits``, and a
    volume has 2 to the power of ``volume_bits`` segments."""

    bits: int = SEGMENT_BITS
    part_bits: int = PART_BITS
    volume_bits: int = VOLUME_BITS

    def seqs(self, segment: int) -> range:
        """The seqs of a segment's events."""
        return range((segment << self.bits) + 1, (segment + 1 << self.bits) + 1)

    def unit(self, segment: int) -> Unit:
        """The segment as a whole."""
        return Unit(segment, segment, self.seqs(segment))

    def parts(self, segment: int) -> list[Unit]:
        """The segment's parts, in order. Their keys are negative, and no two segments have one in common."""
        seqs, size = self.seqs(segment), 1 << self.part_bits
        starts = range(seqs.start, seqs.stop, size)
        first = segment << (self.bits - self.part_bits)
        return [Unit(~(first + n), segment, range(start, start + size)) for n, start in enumerate(starts)]

    def volume(self, segment: int) -> int:
        """The volume that a segment belongs to."""
        return segment >> self.volume_bits

    def segments(self, volume: int) -> range:
        """The segments of a volume."""
        return range(volume << self.volume_bits, volume + 1 << self.volume_bits)

    def volume_key(self, volume: int) -> int:
        """By what the volume's blocks are stored: no segment and no part has the same."""
        return FIRST_VOLUME_KEY + volume


@dataclass(frozen=True, slots=True)
class Unit:
    """What has word blocks of its own: a closed segment, or a part of an open one. They are stored by ``key``."""

    key: int
    segment: int
    seqs: range


def lexeme_prefix(project_no: int, segment: int) -> bytes:
    """What stands before every facet of a segment's events in the inverted index: ``<project hex>.<segment hex>:``."""
    return b"%x.%x:" % (project_no, segment)


# -- places in the order -------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """A place in the order of events. ``ms`` is occurred_at in milliseconds since the epoch."""

    ms: int
    id: UUID

    def following(self) -> Place:
        """The next place there is, whether or not it holds an event."""
        return Place(self.ms, UUID(int=self.id.int + 1)) if self.id < GREATEST_ID else Place(self.ms + 1, LEAST_ID)

    def preceding(self) -> Place:
        """The place just before."""
        return Place(self.ms, UUID(int=self.id.int - 1)) if self.id > LEAST_ID else Place(self.ms - 1, GREATEST_ID)


@dataclass(frozen=True, slots=True)
class Window:
    """The places from ``low`` up to, and without, ``high``, read in the given order."""

    low: Place
    high: Place
    newest_first: bool

    @classmethod
    def of(cls, start_ms: int, end_ms: int, *, newest_first: bool) -> Window:
        """All places within the milliseconds from ``start_ms`` to ``end_ms``, both inclusive."""
        return cls(Place(start_ms, LEAST_ID), Place(end_ms + 1, LEAST_ID), newest_first)

    @property
    def empty(self) -> bool:
        return self.low >= self.high

    def after(self, place: Place) -> Window:
        """What is still to be read when everything up to and including ``place`` has been."""
        if self.newest_first:
            return Window(self.low, min(self.high, place), True)
        return Window(max(self.low, place.following()), self.high, False)

    def before(self, place: Place) -> Window:
        """What would be read before ``place``."""
        if self.newest_first:
            return Window(max(self.low, place.following()), self.high, True)
        return Window(self.low, min(self.high, place), False)

    def last_read(self) -> Place:
        """The place to give to ``after`` to come back to this window from one that begins earlier."""
        return self.high if self.newest_first else self.low.preceding()

    def __contains__(self, place: Place) -> bool:
        return self.low <= place < self.high


@dataclass(frozen=True, slots=True)
class Span:
    """A segment and the milliseconds of its oldest and newest event. ``words_ready``: its word blocks are complete."""

    segment: int
    oldest_ms: int
    newest_ms: int
    words_ready: bool

    def may_hold(self, window: Window) -> bool:
        """Whether an event of the segment may lie in the window."""
        return self.newest_ms >= window.low.ms and (
            self.oldest_ms < window.high.ms or (self.oldest_ms == window.high.ms and window.high.id > LEAST_ID)
        )

    def begins(self, window: Window) -> Window:
        """The window from the first place that the segment's events may have."""
        edge = Place(self.newest_ms + 1, LEAST_ID) if window.newest_first else Place(self.oldest_ms - 1, GREATEST_ID)
        return window.after(edge)


def best_first(spans: Iterable[Span], window: Window) -> list[Span]:
    """Those of the spans that may hold something, in the order in which their first events would be read."""
    fitting = [span for span in spans if span.may_hold(window)]
    if window.newest_first:
        return sorted(fitting, key=lambda span: (-span.newest_ms, -span.segment))
    return sorted(fitting, key=lambda span: (span.oldest_ms, span.segment))


# -- steps ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Steps:
    """How many segments to look at together: four times as many each time, while that is quick.

    A frequent value fills the page from the first segment or two; a rare one is soon looked for in many at once.
    """

    most: int
    size: int = 1

    def took(self, seconds: float) -> None:
        """Learn how long the last step took."""
        self.size = max(1, self.size // 2) if seconds > SLOW_STEP else min(self.most, self.size * 4)


# -- what to ask the inverted index --------------------------------------------------------------------------------


def tsquery(project_no: int, segments: Sequence[int], facets: Sequence[Sequence[bytes]]) -> str:
    """The text of a ``tsquery`` for the events of the segments that have one of each group of facets.

    Every lexeme is quoted, and within quotes only the quote and the backslash mean something; both are doubled
    (PostgreSQL documentation, "Text Search Types").
    """
    if not segments or not facets or not all(facets):
        raise ValueError("a query of nothing")
    return " | ".join(_in_segment(lexeme_prefix(project_no, segment).decode(), facets) for segment in segments)


def _in_segment(prefix: str, facets: Sequence[Sequence[bytes]]) -> str:
    groups = (" | ".join(_quote(prefix + facet.decode()) for facet in group) for group in facets)
    return " & ".join(f"({group})" for group in groups)


def _quote(lexeme: str) -> str:
    return "'" + lexeme.replace("\\", "\\\\").replace("'", "''") + "'"


# -- globs ---------------------------------------------------------------------------------------------------------


def is_glob(action: str) -> bool:
    """Whether the ``action`` filter is a pattern: ``*`` stands for any run of characters, dots included."""
    return "*" in action


def like_pattern(glob: str) -> str:
    """The same pattern for SQL's LIKE: everything but ``*`` stands for itself."""
    return re.sub(r"([\\%_])", r"\\\1", glob).replace("*", "%")
