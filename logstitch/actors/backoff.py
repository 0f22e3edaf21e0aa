"""How long to wait before the next try, as a pure value: no clock, no sleep, no chance but the one handed in."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with jitter that forgets failures after a long enough healthy run. All times in seconds.

    Jitter only ever shortens a wait, so ``cap`` is a bound, and many actors that fell together (a database went away)
    do not come back together.
    """

    first: float = 0.5
    """The wait after one failure, before jitter."""
    factor: float = 2.0
    """What each further failure in a row multiplies the wait by."""
    cap: float = 30.0
    """The longest wait."""
    jitter: float = 0.5
    """The share of the wait that chance may take away, 0 to 1."""
    reset_after: float = 60.0
    """A run at least this long ends the row of failures."""
    failures: int = 0
    """Failures in a row so far."""

    def failed(self, *, ran_for: float) -> Backoff:
        """The backoff after a run of ``ran_for`` seconds that ended in failure."""
        return replace(self, failures=1 if ran_for >= self.reset_after else self.failures + 1)

    def delay(self, chance: float) -> float:
        """How long to wait now. ``chance`` is uniform in [0, 1); 0 gives the longest wait. No failure, no wait."""
        if self.failures == 0:
            return 0.0
        try:
            wait = min(self.cap, self.first * self.factor ** (self.failures - 1))
        except OverflowError:  # an actor that has failed for days: the power no longer fits a float
            wait = self.cap
        return wait * (1.0 - self.jitter * chance)
