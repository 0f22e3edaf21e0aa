"""The loops of actors that answer several questions at the same time, each in a task of its own.

``answer_together`` is for short ones: in the order they come, so many at once. ``Places`` is for loops of other kinds,
whose questions wait for what they share. ``answer_in_turn`` is for those that take seconds each, and ``Queue``, which
holds no clock, says whose turn it is: one of a key at a time, few in all, and few that wait. Who may not wait there, or
has waited so long that there would not be the time for an answer, is refused at once and told to come back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import trio

from logstitch.actors.mailbox import Envelope, Mailbox
from logstitch.errors import LogStitchError, Unavailable

AT_ONCE: Final = 2
"""Questions at work, of different keys."""
MOST_WAITING: Final = 2
"""Questions of one key that may wait."""
MOST_WAITING_ALL: Final = 8
"""The same of all keys together."""
RETRY_SECONDS: Final = 3
"""When whoever is refused may try again."""
MOST_AHEAD: Final = 64
"""Questions of ``answer_together`` that may wait while those behind them are answered at once: at the few milliseconds
that such a question takes, a moment's work."""
MOST_LOOK_UPS: Final = 1024
"""Requests that wait for the look-up of a credential, as many as a full mailbox. Anybody can make up credentials, and
while the database is away each look-up is held; those that are believed are answered all the same."""
MOST_MANAGED: Final = 256
"""Requests to make, list and change what credentials rest on, at the same time. They are not among the former, who are
strangers."""

M = TypeVar("M")


class Asker(Protocol):
    """What the rule has to know of a question. ``Envelope`` is one."""

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the answer any more."""

    @property
    def posted_at(self) -> float:
        """Since when it waits, on the clock of ``Queue.begin``."""

    def refuse(self, error: Exception) -> None:
        """Answer with an error."""


A = TypeVar("A", bound=Asker)


class Places:
    """So many questions at work, each in a task of its own, beside a loop that answers others at once.

    More are refused, so that a loop that never waits does not pile them up; ``doing`` says in a refusal what the others
    are at: ``keys are being looked up``.
    """

    def __init__(self, tasks: trio.Nursery, most: int, *, doing: str) -> None:
        self._tasks = tasks
        self._most = most
        self._doing = doing
        self._taken = 0

    def give(self, answer: Callable[[Envelope[Any]], Awaitable[None]], envelope: Envelope[Any]) -> None:
        """Have the question answered by ``answer``. It is refused where no place is left, with what ``answer`` raises
        of ``LogStitchError``, and, if nobody waits for it any more, without being asked."""
        if envelope.abandoned:
            envelope.refuse(Unavailable("Nobody waits for this any more."))
        elif self._taken >= self._most:
            envelope.refuse(Unavailable(f"As many {self._doing} as may be. Try again in a moment."))
        else:
            self._taken += 1
            self._tasks.start_soon(self._work, answer, envelope)

    async def _work(self, answer: Callable[[Envelope[Any]], Awaitable[None]], envelope: Envelope[Any]) -> None:
        try:
            await answer(envelope)
        except LogStitchError as error:
            envelope.refuse(error)
        finally:
            self._taken -= 1


@dataclass(frozen=True, slots=True)
class Limits:
    """How much there may be at once, see the constants. ``wait_seconds`` is how long a question may have waited."""

    wait_seconds: float
    at_once: int = AT_ONCE
    most_waiting: int = MOST_WAITING
    most_waiting_all: int = MOST_WAITING_ALL


class Queue(Generic[A]):
    """Questions that wait, and the keys of those that are at work. ``doing`` says in a refusal what the others are at:
    ``rules are being tried``."""

    def __init__(self, limits: Limits, *, doing: str) -> None:
        self._limits = limits
        self._doing = doing
        self._waiting: deque[tuple[int, A]] = deque()  # the longest waiting first
        self._at_work: set[int] = set()

    def add(self, key: int, asker: A) -> None:
        """Let it wait, or refuse it where as many wait as may. Those that were abandoned meanwhile make room."""
        gone = [one for _, one in self._waiting if one.abandoned]
        self._waiting = deque((its, one) for its, one in self._waiting if not one.abandoned)
        for one in gone:
            one.refuse(Unavailable("Nobody waits for this any more."))
        of_key = sum(its == key for its, _ in self._waiting)
        if of_key >= self._limits.most_waiting or len(self._waiting) >= self._limits.most_waiting_all:
            asker.refuse(
                Unavailable(f"As many {self._doing} as may be. Try again in a moment.", retry_after=RETRY_SECONDS)
            )
        else:
            self._waiting.append((key, asker))

    def begin(self, now: float) -> list[A]:
        """Those whose turn has come, which are at work from now on: the longest waiting of keys with none at work."""
        begun = []
        while len(self._at_work) < self._limits.at_once:
            turn = next((one for one in self._waiting if one[0] not in self._at_work), None)
            if turn is None:
                break
            self._waiting.remove(turn)
            key, asker = turn
            if asker.abandoned or now - asker.posted_at > self._limits.wait_seconds:
                asker.refuse(Unavailable(f"Other {self._doing}. Try again in a moment.", retry_after=RETRY_SECONDS))
                continue
            self._at_work.add(key)
            begun.append(asker)
        return begun

    def end(self, key: int) -> None:
        """The one of this key that was at work no longer is."""
        self._at_work.discard(key)


async def answer_together(
    mailbox: Mailbox,
    answer: Callable[[Envelope[Any]], Awaitable[None]],
    *,
    at_once: int,
    at_hand: Callable[[Envelope[Any]], bool] | None = None,
) -> None:
    """Have the questions of a mailbox answered by ``answer``, ``at_once`` at a time, until it is closed and empty.

    ``at_hand`` answers what needs no wait, and says whether it did; that goes on while up to ``MOST_AHEAD`` others wait
    for their turn. Behind them the mailbox fills. A question is refused with what ``answer`` raises of
    ``LogStitchError``; anything else ends the actor.
    """
    wait, waiting = trio.open_memory_channel[Envelope[Any]](0 if at_hand is None else MOST_AHEAD)

    async def work() -> None:
        async for envelope in waiting:
            try:
                await answer(envelope)
            except LogStitchError as error:
                envelope.refuse(error)

    async with trio.open_nursery() as at_work, wait:
        for _ in range(at_once):
            at_work.start_soon(work)
        async for envelope in mailbox:
            if at_hand is None or not at_hand(envelope):
                await wait.send(envelope)


async def answer_in_turn(
    mailbox: Mailbox,
    answer: Callable[[Envelope[M], Mailbox], Awaitable[None]],
    key: Callable[[M], int],
    limits: Limits,
    *,
    doing: str,
) -> None:
    """Have the questions of a mailbox answered by ``answer``, each in a task of its own, until it is closed and empty.

    What ``answer`` raises, the question is refused with.
    """
    queue = Queue[Envelope[M]](limits, doing=doing)
    async with trio.open_nursery() as at_work:

        def begin() -> None:
            for envelope in queue.begin(trio.current_time()):
                at_work.start_soon(work, envelope)

        async def work(envelope: Envelope[M]) -> None:
            try:
                await answer(envelope, mailbox)
            except Exception as error:
                # A defect shows where the question came from. There is no state here that a restart would mend.
                envelope.refuse(error)
            finally:
                queue.end(key(envelope.message))
            begin()

        async for envelope in mailbox:
            queue.add(key(envelope.message), envelope)
            begin()
