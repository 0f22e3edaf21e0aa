"""What may be done with work that comes in slices (``engine.slices``): all of it, or only as long as it is quick.

Events are redacted together, since that costs less an event, and one by one where it takes long, so that what is slow
about one is not counted against others: what cannot be examined in the time that it may take is replaced.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Final, TypeVar

from logstitch.redaction.budget import OverBudget

T = TypeVar("T")

TOGETHER_SECONDS: Final = 0.1
"""CPU time after which what is redacted together is redacted one by one. Far less than what the engine gives a
request."""


def result_of(work: Generator[None, None, T]) -> T:
    """Do all of it, without a turn for others."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            result: T = done.value
            return result


def if_quick(work: Generator[None, None, T]) -> Generator[None, None, T | None]:
    """The same work, in the same slices, given up when it takes long or raises ``OverBudget``: then it returns None."""
    used = 0.0
    while used < TOGETHER_SECONDS:
        began = time.thread_time()
        try:
            next(work)
        except StopIteration as done:
            result: T = done.value
            return result
        except OverBudget:
            return None
        used += time.thread_time() - began
        yield
    work.close()
    return None
