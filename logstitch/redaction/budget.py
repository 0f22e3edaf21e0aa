"""CPU is counted, so that no rule can hold up the service: what would take too long is replaced, never stored raw.

Three bounds, all on the CPU time of the running thread as the given clock tells it: a *slice* after which others get a
turn, a *value* after which it becomes ``[REDACTED]``, and the whole *request*. What others do in their turns does not
count. A single call into the regex engine cannot be interrupted, so its size is bounded beforehand: RE2 takes time
linear in the text and, at worst, in the size of the program, measured at up to 4 ns for one byte and one instruction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

Clock = Callable[[], float]

SLICE_SECONDS: Final = 0.004
VALUE_SECONDS: Final = 0.08
REQUEST_SECONDS: Final = 2.0
CALL_UNITS: Final = 10_000_000
"""Bytes of text times instructions of a program in one call: 40 ms at worst, 1 to 2 ns a byte as a rule."""
MAX_TEXT: Final = 1024 * 1024
"""Bytes of a text in which something was suspected; a longer one is not examined but replaced."""
MAX_UNICODE_TEXT: Final = 64 * 1024
"""The same for a text that is not ASCII, in characters: folding it costs a hundred times as much."""
LOOK_UNITS: Final = 250_000
"""Of such units, what may lie between two looks at the clock: 1 ms at worst. Only a single call may take more."""
_UNITS_OF_A_CALL: Final = LOOK_UNITS // 32
"""What a call costs besides its text: a look at the clock costs as much as a match of a short text."""
_BUILTIN_PROGRAM: Final = 8
"""Instructions that a call counts for unless it says otherwise: the built-ins were seen to take 1 to 2 ns a byte."""
STEPS_A_LOOK: Final = 512
"""Keys, items and places in the tree of paths between two looks at the clock, at up to 1 us each."""


EVENT_GROWTH: Final = 64 * 1024
"""Characters that redaction may add to an event; to a larger one, as many as it has bytes."""
REQUEST_GROWTH: Final = 512 * 1024
"""The same for all events of a request together."""


class OverBudget(Exception):
    """A value, or the request, has taken the CPU time that it may take."""


class Overgrown(Exception):
    """What rules make of an event is far longer than it was."""


class Allowance:
    """How much longer redaction may make some events: by ``least`` characters, or by as many as they have bytes.

    ``sizes`` tells these, and is asked once, when it matters.
    """

    __slots__ = ("_least", "_sizes", "left")

    def __init__(self, least: int, sizes: Callable[[], int]) -> None:
        self._least = least
        self._sizes: Callable[[], int] | None = sizes
        self.left = least
        """May be set back to what it was, when what was added is taken away again."""

    def takes(self, more: int) -> bool:
        """Whether so many characters may be added; if so, they count."""
        if more <= 0:
            return True
        if more > self.left and self._sizes is not None:
            self.left += max(0, self._sizes() - self._least)
            self._sizes = None
        if more > self.left:
            return False
        self.left -= more
        return True


class Budget:
    """What one request has used. ``resume`` after each time that others had a turn."""

    __slots__ = ("_clock", "_left", "_paused", "_since", "_units", "_value_until", "steps", "tired")

    def __init__(self, clock: Clock, seconds: float = REQUEST_SECONDS) -> None:
        self._clock = clock
        self._left = seconds
        self._since = self._paused = clock()
        self._value_until = float("inf")
        self._units = 0
        self.tired = False
        """Whether the last look at the clock in ``count`` found that it is the turn of others."""
        self.steps = 0
        """Steps through events and paths since the last look at the clock; ``due`` is to be asked at 512."""

    def due(self) -> bool:
        """Whether others should get a turn. Raises ``OverBudget`` when the request has used all that it may."""
        self.steps = 0
        self.tired = False
        used = self._clock() - self._since
        if used > self._left:
            raise OverBudget
        return used >= SLICE_SECONDS

    def pause(self) -> None:
        """Before others get their turn."""
        self._paused = self._clock()
        self._left -= self._paused - self._since

    def resume(self) -> None:
        """After others had their turn, which is not counted."""
        self._since = self._clock()
        self._value_until += self._since - self._paused

    def begin_value(self) -> None:
        """From here on the time of one value is counted."""
        self._units = 0
        self._value_until = self._clock() + VALUE_SECONDS

    def count(self, size: int, program: int = _BUILTIN_PROGRAM) -> None:
        """For one call of the regex engine on ``size`` bytes with a program of so many instructions. Raises
        ``OverBudget``."""
        units = size * program + _UNITS_OF_A_CALL
        self._units += units
        if self._units > LOOK_UNITS:
            # What is about to be done counts towards the next look.
            self._units = units
            now = self._clock()
            if now > self._value_until:
                raise OverBudget
            self.tired = now - self._since >= SLICE_SECONDS
