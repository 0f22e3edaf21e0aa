"""Whose turn it is: one of a key at a time, few in all, few that wait, and nobody is forgotten."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from logstitch.actors.queueing import Limits, Queue
from logstitch.errors import Unavailable

LIMITS = Limits(wait_seconds=3.0, at_once=2, most_waiting=2, most_waiting_all=5)


@dataclass(eq=False)
class Asked:
    """A question, and what it was refused with."""

    key: int
    posted_at: float = 0.0
    abandoned: bool = False
    refusals: list[Exception] = field(default_factory=list)

    def refuse(self, error: Exception) -> None:
        self.refusals.append(error)


def a_queue(*asked: Asked, limits: Limits = LIMITS) -> Queue[Asked]:
    queue = Queue[Asked](limits, doing="walls are being painted")
    for one in asked:
        queue.add(one.key, one)
    return queue


def test_the_longest_waiting_goes_first_one_of_a_key_at_a_time() -> None:
    first, second, other, third = Asked(1), Asked(1), Asked(2), Asked(3)
    queue = a_queue(first, second, other, third)

    assert queue.begin(0.0) == [first, other]
    queue.end(2)
    assert queue.begin(0.0) == [third]
    queue.end(1)
    assert queue.begin(0.0) == [second]


def test_who_may_not_wait_is_told_when_to_come_back() -> None:
    asked = [Asked(1) for _ in range(3)]
    a_queue(*asked)

    assert [len(one.refusals) for one in asked] == [0, 0, 1]
    (refusal,) = asked[2].refusals
    assert isinstance(refusal, Unavailable)
    assert (str(refusal), refusal.retry_after) == (
        "As many walls are being painted as may be. Try again in a moment.",
        3,
    )


def test_who_has_gone_makes_room() -> None:
    gone, waiting, late = Asked(1), Asked(1), Asked(1)
    queue = a_queue(gone, waiting)
    gone.abandoned = True
    queue.add(1, late)

    assert [len(one.refusals) for one in (gone, waiting, late)] == [1, 0, 0]
    assert queue.begin(0.0) == [waiting]


def test_who_has_waited_for_too_long_is_refused() -> None:
    early, in_time = Asked(1, posted_at=0.0), Asked(2, posted_at=1.0)
    queue = a_queue(early, in_time)

    assert queue.begin(4.0) == [in_time]
    (refusal,) = early.refusals
    assert isinstance(refusal, Unavailable)
    assert (str(refusal), refusal.retry_after) == ("Other walls are being painted. Try again in a moment.", 3)


keys = st.integers(1, 4)


class Asking(RuleBasedStateMachine):
    """Questions come, are given up, begin and end in any order. What the queue holds is told from what it did."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = a_queue()
        self.now = 0.0
        self.asked: list[Asked] = []
        self.begun: list[Asked] = []
        self.at_work: dict[int, Asked] = {}

    @property
    def waiting(self) -> list[Asked]:
        return [one for one in self.asked if not one.refusals and one not in self.begun]

    @rule(key=keys)
    def ask(self, key: int) -> None:
        there = [one for one in self.waiting if not one.abandoned]
        full = len(there) >= LIMITS.most_waiting_all or sum(one.key == key for one in there) >= LIMITS.most_waiting
        asked = Asked(key, self.now)
        self.asked.append(asked)
        self.queue.add(key, asked)
        assert bool(asked.refusals) == full
        assert self.waiting == (there if full else [*there, asked])  # and those that have gone were refused

    @rule()
    def begin(self) -> None:
        before, busy = self.waiting, set(self.at_work)
        begun = self.queue.begin(self.now)
        for one in begun:
            assert not one.abandoned
            assert self.now - one.posted_at <= LIMITS.wait_seconds
            assert one.key not in busy
            busy.add(one.key)
            self.at_work[one.key] = one
        self.begun += begun
        # In the order in which they came, since none of them became free meanwhile; who was refused had a reason.
        assert begun == [one for one in before if one in begun]
        for one in before:
            assert not one.refusals or one.abandoned or self.now - one.posted_at > LIMITS.wait_seconds
        # No work is left undone that could be done, and nobody was passed over by a younger one.
        assert len(busy) == LIMITS.at_once or all(one.key in busy for one in self.waiting)
        for place, one in enumerate(begun):
            older = before[: before.index(one)]
            free = {other.key for other in begun[place:]} | ({1, 2, 3, 4} - busy)
            assert not any(other.key in free for other in older if other in self.waiting)

    @precondition(lambda self: self.at_work)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.at_work)))
        del self.at_work[key]
        self.queue.end(key)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.waiting)).abandoned = True

    @rule(seconds=st.floats(0, 4))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def it_keeps_within_its_limits(self) -> None:
        assert len(self.at_work) <= LIMITS.at_once
        assert len(self.waiting) <= LIMITS.most_waiting_all
        assert all(count <= LIMITS.most_waiting for count in Counter(one.key for one in self.waiting).values())

    @invariant()
    def nobody_is_answered_twice(self) -> None:
        assert all(len(one.refusals) + self.begun.count(one) <= 1 for one in self.asked)

    def teardown(self) -> None:
        """In the end nobody is left."""
        while self.waiting or self.at_work:
            for key in list(self.at_work):
                del self.at_work[key]
                self.queue.end(key)
            self.begin()


TestAsking = Asking.TestCase
