"""Work in slices: the same result in one go, and given up only where it takes long."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch.redaction.turns import TOGETHER_SECONDS, if_quick, result_of


class Work:
    """Slices that take so many 1024ths of a second of CPU time each: sums of those are exact."""

    def __init__(self, times: list[int]) -> None:
        self.now = 0.0
        self._times = times

    def slices(self) -> Generator[None, None, str]:
        for each in self._times:
            self.now += each / 1024
            yield
        return "done"


@given(st.lists(st.integers(0, 60), max_size=20))
def test_work_is_given_up_when_it_takes_long_and_not_before(times: list[int]) -> None:
    work = Work(times)
    turns = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.thread_time", lambda: work.now)
        running = if_quick(work.slices())
        while True:
            try:
                next(running)
            except StopIteration as done:
                result = done.value
                break
            turns += 1
            work.now += 1  # of others, in between

    used = [sum(times[: n + 1]) for n in range(len(times))]
    reached = next((n + 1 for n, ticks in enumerate(used) if ticks / 1024 >= TOGETHER_SECONDS), None)
    assert (result, turns) == (("done", len(times)) if reached is None else (None, reached))


@given(st.lists(st.integers(0, 60), max_size=20))
def test_all_of_it_in_one_go(times: list[int]) -> None:
    assert result_of(Work(times).slices()) == "done"
