"""What was dropped from memory though it still mattered, remembered in a fixed space: a Bloom filter of times.

A cell says until when something that was dropped there may matter. Something may still matter if all of its cells say
so; other things share these cells, so the answer can be yes for what never was, but never no for what was dropped. And
since cells hold times, nothing need ever be removed.

B. Bloom, Space/time trade-offs in hash coding with allowable errors, 1970; the cells of one key are made from two
hashes (A. Kirsch, M. Mitzenmacher, Less hashing, same performance, 2006), the halves of Python's, which is keyed.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable
from typing import Final

CELL_BITS: Final = 22
"""4 million cells, 16 MB: of a million things that matter at once, one in seven more seems to."""
_HASHES: Final = range(3)
_FOR_EVER: Final = 2**32 - 1
_HALF: Final = 32


class Forgotten:
    """Times are milliseconds; they are kept as whole seconds, rounded up. The space is taken when first needed."""

    __slots__ = ("_cells", "_mask")

    def __init__(self, cell_bits: int = CELL_BITS) -> None:
        self._mask = (1 << cell_bits) - 1
        self._cells = array("I")

    def remember(self, thing: Hashable, until_ms: int) -> None:
        """It was dropped, and matters to whatever happens before ``until_ms``."""
        if not self._cells:
            self._cells = array("I", [0]) * (self._mask + 1)
        seconds = min(max(1, -(-until_ms // 1000)), _FOR_EVER)
        key = hash(thing)
        step = key >> _HALF
        for n in _HASHES:
            cell = key + n * step & self._mask
            if self._cells[cell] < seconds:
                self._cells[cell] = seconds

    def matters(self, thing: Hashable, at_ms: int) -> bool:
        """Whether it may have been dropped and matter to what happens at that time."""
        if not self._cells:
            return False
        key = hash(thing)
        step = key >> _HALF
        seconds = min([self._cells[key + n * step & self._mask] for n in _HASHES])
        return seconds > 0 and (seconds * 1000 > at_ms or seconds == _FOR_EVER)
