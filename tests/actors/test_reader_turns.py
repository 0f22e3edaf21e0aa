"""Whose read is next: projects, and within one its keys and each tenant's viewers, take turns; nobody is forgotten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from logstitch.actors.reader import MOST_WAITING, MOST_WAITING_ALL, MOST_WAITING_OF_TENANT, Limits, Turns
from logstitch.errors import AskTimeout, Unavailable

LIMITS = Limits(slots=4)
KEYS = None


@dataclass(eq=False)
class Asked:
    """A question, and what it was refused with."""

    project: int
    owner: str | None
    abandoned: bool = False
    refusals: list[Exception] = field(default_factory=list)

    def refuse(self, error: Exception) -> None:
        self.refusals.append(error)


def end(turns: Turns[Asked], *ended: Asked) -> list[Asked]:
    """What is begun when these are answered."""
    for one in ended:
        turns.end(one.project, one.owner)
    return turns.begin()


def add(turns: Turns[Asked], *asked: Asked) -> None:
    for one in asked:
        turns.add(one.project, one.owner, one)


def test_a_tenant_that_asks_much_leaves_a_slot_to_another_and_to_the_keys() -> None:
    turns = Turns[Asked](LIMITS)
    many = [Asked(1, "big") for _ in range(8)]
    add(turns, *many)
    assert turns.begin() == many[:1]

    other, key = Asked(1, "small"), Asked(1, KEYS)
    add(turns, other)
    assert turns.begin() == [other]
    add(turns, key)
    assert turns.begin() == [key]


def test_keys_that_ask_much_leave_a_slot_to_viewers() -> None:
    turns = Turns[Asked](LIMITS)
    many = [Asked(1, KEYS) for _ in range(8)]
    viewer = Asked(1, "small")
    add(turns, *many, viewer)

    assert turns.begin() == [many[0], viewer, many[1]]


def test_who_just_had_an_answer_goes_behind_who_waits() -> None:
    turns = Turns[Asked](LIMITS)
    a, b, more_a, c = Asked(1, "a"), Asked(1, "b"), Asked(1, "a"), Asked(1, "c")
    add(turns, a, b, more_a, c)
    assert turns.begin() == [a, b]

    assert end(turns, a) == [c]
    assert end(turns, c) == [more_a]


def test_a_project_that_asks_much_leaves_a_slot_to_another() -> None:
    turns = Turns[Asked](LIMITS)
    many = [Asked(1, owner) for owner in (KEYS, KEYS, KEYS, "a", "a", "b", "c")]
    add(turns, *many)
    assert len(turns.begin()) == 3

    other = Asked(2, "a")  # the same name, and another tenant
    add(turns, other)
    assert turns.begin() == [other]


@pytest.mark.parametrize(
    ("owners", "late", "refused"),
    [
        (["a"] * MOST_WAITING_OF_TENANT, "a", True),
        (["a"] * MOST_WAITING_OF_TENANT, "b", False),
        (["a"] * MOST_WAITING_OF_TENANT, KEYS, False),
        ([f"t{n}" for n in range(MOST_WAITING)], "a", True),
        ([f"t{n}" for n in range(MOST_WAITING)], KEYS, False),
        ([KEYS] * MOST_WAITING, KEYS, True),
        ([KEYS] * MOST_WAITING, "a", False),
    ],
)
def test_so_many_may_wait(owners: list[str | None], late: str | None, refused: bool) -> None:
    turns = Turns[Asked](LIMITS)
    add(turns, *(Asked(1, owner) for owner in owners))
    asked = Asked(1, late)
    add(turns, asked)

    assert bool(asked.refusals) == refused
    for refusal in asked.refusals:
        assert isinstance(refusal, Unavailable)
        assert (str(refusal), refusal.retry_after) == ("As many reads wait as may wait. Try again in a moment.", 1)


def test_so_many_may_wait_of_all_projects() -> None:
    turns = Turns[Asked](LIMITS)
    asked = [Asked(number, KEYS) for number in range(MOST_WAITING_ALL + 1)]
    add(turns, *asked)

    assert [one.project for one in asked if one.refusals] == [MOST_WAITING_ALL]


def test_who_has_gone_makes_room_and_is_not_begun() -> None:
    turns = Turns[Asked](LIMITS)
    gone, *others = (Asked(1, "a") for _ in range(MOST_WAITING_OF_TENANT))
    late = Asked(1, "a")
    add(turns, gone, *others)
    gone.abandoned = others[0].abandoned = True
    add(turns, late)

    assert [type(one.refusals[0]) for one in (gone, others[0])] == [AskTimeout] * 2
    assert late.refusals == []
    others[1].abandoned = True
    assert turns.begin() == [others[2]]
    assert len(others[1].refusals) == 1


class Asking(RuleBasedStateMachine):
    """Questions come, are given up, begin and end in any order. What is right is told from what it did."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns[Asked](LIMITS)
        self.asked: list[Asked] = []
        self.waiting: list[Asked] = []
        self.running: list[Asked] = []
        self.passed: dict[Hashable, Counter[Hashable]] = {}
        """By project, or viewer of one, of which questions wait and none is at work: how often another went before."""

    @rule(project=st.integers(1, 3), owner=st.sampled_from([KEYS, "a", "b", "c"]), count=st.integers(1, 9))
    def ask(self, project: int, owner: str | None, count: int) -> None:
        for _ in range(count):
            asked = Asked(project, owner)
            self.asked.append(asked)
            self.turns.add(project, owner, asked)
            if not asked.refusals:
                self.waiting.append(asked)
        self.begin()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.waiting)).abandoned = True

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.answer(data.draw(st.sampled_from(self.running)))

    def answer(self, one: Asked) -> None:
        self.running.remove(one)
        self.turns.end(one.project, one.owner)
        self.begin()

    def begin(self) -> None:
        begun = self.turns.begin()
        self.waiting = [one for one in self.waiting if not one.refusals]
        for one in begun:
            assert not one.abandoned
            same = [other for other in self.waiting if (other.project, other.owner) == (one.project, one.owner)]
            assert same[0] is one, "the first of an owner's goes first"
            self.waiting.remove(one)
            self.running.append(one)
            self.count_who_was_passed(one)

    def count_who_was_passed(self, begun: Asked) -> None:
        # Viewers of a project can use the same slots, and so can projects. Keys have one of their own.
        projects = {one.project for one in self.waiting} - {one.project for one in self.running}
        for project in projects:
            self.passed.setdefault(project, Counter())[begun.project] += 1
        if begun.owner is not KEYS:
            working = {(one.project, one.owner) for one in self.running}
            for viewer in {(one.project, one.owner) for one in self.waiting if one.owner is not KEYS} - working:
                if viewer[0] == begun.project:
                    self.passed.setdefault(viewer, Counter())[begun.owner] += 1
        waiting = {one.project for one in self.waiting} | {(one.project, one.owner) for one in self.waiting}
        for one in self.passed.keys() - waiting | {begun.project, (begun.project, begun.owner)}:
            self.passed.pop(one, None)

    @invariant()
    def none_goes_before_another_twice(self) -> None:
        assert all(max(others.values()) <= 1 for others in self.passed.values())

    @invariant()
    def it_keeps_within_its_limits(self) -> None:
        assert len(self.running) <= LIMITS.slots
        for project in (1, 2, 3):
            running = Counter(one.owner for one in self.running if one.project == project)
            waiting = Counter(one.owner for one in self.waiting if one.project == project)
            assert running.total() <= LIMITS.of_project
            assert running[KEYS] <= LIMITS.of_keys
            assert running.total() - running[KEYS] <= LIMITS.of_viewers
            assert waiting[KEYS] <= MOST_WAITING
            assert waiting.total() - waiting[KEYS] <= MOST_WAITING
            for owner in ("a", "b", "c"):
                assert running[owner] <= LIMITS.of_tenant
                assert waiting[owner] <= MOST_WAITING_OF_TENANT

    @invariant()
    def no_slot_is_left_empty_that_somebody_could_use(self) -> None:
        if len(self.running) == LIMITS.slots:
            return
        for one in self.waiting:
            running = Counter(other.owner for other in self.running if other.project == one.project)
            viewers = running.total() - running[KEYS]
            if one.owner is KEYS:
                own = running[KEYS] == LIMITS.of_keys
            else:
                own = running[one.owner] == LIMITS.of_tenant or viewers == LIMITS.of_viewers
            assert own or running.total() == LIMITS.of_project

    @invariant()
    def who_is_refused_is_refused_once_and_never_begun(self) -> None:
        for one in self.asked:
            assert len(one.refusals) <= 1
            assert not (one.refusals and one in self.running)

    def teardown(self) -> None:
        """In the end nobody is left."""
        while self.running:
            self.answer(self.running[0])
        assert self.waiting == []


TestAsking = Asking.TestCase
