"""Each actor is one task kept alive: crashed ones come back after a backoff, and every stop has a deadline.

A run of an actor ends in one of four ways, and only its supervisor says which:

* it returns (or lets ``EndOfChannel`` out) with its mailbox closed and all its work done: stopped;
* it raises, or returns too early: crashed. Asks in flight are refused at once, the queue stays for the next run;
* it has work and makes no progress for 30 s: stuck, cancelled, and then as if crashed;
* it is cancelled: by a stop whose deadline has passed, or because the whole supervisor is. That is never a crash.

Deadlines sit on the cancel scope of the actor they bound and nowhere else. So a stop holds although whoever asked for
it was itself cancelled, and nothing in here needs a shield: a cancelled supervisor ends as soon as its actors let it.
"""

from __future__ import annotations

import contextvars
import math
import traceback
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from random import SystemRandom
from typing import Protocol, final

import structlog
import trio

from logstitch.actors.backoff import Backoff
from logstitch.actors.health import ActorHealth, ActorState
from logstitch.actors.mailbox import Address, Box, Mailbox
from logstitch.errors import Draining

STUCK_AFTER = 30.0
"""Seconds with work and without progress after which an actor is stuck: three times the longest a request is held."""
WATCH_EVERY = 1.0
"""Longest time in seconds between two looks at the actors. What is known to fall due earlier is looked at on time."""
DRAIN_SECONDS = 20.0
"""Time in seconds for all actors to drain when the supervisor is left; the process has 30 to be gone."""
IDLE_STOP_SECONDS = 10.0
"""Deadline in seconds of a stop that nobody waits for: the actor has no work, it only puts its things away."""
CANCEL_GRACE = 5.0
"""Seconds a cancelled actor may take to end before it is reported; a shield in its cleanup has its own deadline."""

RETURNED = "ReturnedEarly"
"""``last_error`` of a run that returned while its mailbox was open, or with messages or asks left."""
STUCK = "Stuck"
"""``last_error`` of a run that had work and made no progress."""

DEFAULT_BACKOFF = Backoff()
DEFAULT_CHANCE = SystemRandom().random

log = structlog.get_logger("logstitch.actors")


class Actor(Protocol):
    """What a supervisor runs. It is made anew for each run and keeps its state to itself."""

    async def run(self, mailbox: Mailbox) -> None:
        """Read ``mailbox`` to its end and answer every ask; then return, or let ``trio.EndOfChannel`` out.

        To return or raise anything before that is a crash: what concerns one message is refused with ``refuse``, and
        only what leaves the actor's own state in doubt is raised. Work that receives and answers nothing for half a
        minute says ``mailbox.progress()`` meanwhile. Cleanup that awaits does so under a shield with a deadline.
        """


@dataclass(frozen=True, slots=True)
class Crash:
    """How a run of an actor failed. Errors are named by type only: their text may carry what must not be logged."""

    path: str
    error: str
    """Type name; of a group, those of its leaves. ``ReturnedEarly`` and ``Stuck`` for those failures."""
    frames: tuple[str, ...]
    """Where it was raised, outermost first: ``file:line function``."""
    dropped: int
    """Messages that were in flight: asks refused, tells lost."""
    failures: int
    """Failures in a row, this one included."""
    delay: float
    """Seconds until the next run, if there is one."""


def log_crash(crash: Crash) -> None:
    """What is done with a crash unless the supervisor was given something else: one line at level error."""
    log.error(
        "actor crashed",
        path=crash.path,
        error=crash.error,
        frames=crash.frames,
        dropped=crash.dropped,
        failures=crash.failures,
        delay=round(crash.delay, 3),
    )


@final
class _Child:
    """One actor's task across its runs."""

    def __init__(
        self,
        box: Box,
        factory: Callable[[], Actor],
        *,
        idle_after: float,
        slots: trio.Semaphore | None,
        predecessors: tuple[_Child, ...],
        backoff: Backoff,
        chance: Callable[[], float],
        on_crash: Callable[[Crash], None],
        stuck_after: float,
    ) -> None:
        self.box = box
        self.address = Address(box)
        self.done = trio.Event()
        self.predecessors = predecessors
        self._factory = factory
        self._idle_after = idle_after
        self._slots = slots
        self._backoff = backoff
        self._chance = chance
        self._on_crash = on_crash
        self._stuck_after = stuck_after
        self._mailbox = Mailbox(box)
        self._closed = trio.Event()
        self._life = trio.CancelScope()  # ends the task; a stop sets its deadline
        self._run_scope = trio.CancelScope()  # ends one run; cancelled when it is stuck
        self._run_began = 0.0
        self._delay = 0.0

    # -- from outside, synchronous --

    def retire(self, deadline: float) -> None:
        """Close the mailbox, and cancel the actor if it has not drained by ``deadline`` (Trio's clock)."""
        self.box.close()
        self._closed.set()
        self._life.deadline = min(self._life.deadline, deadline)

    def look(self, now: float) -> float:
        """Act on what is due, and tell when the next look is due at the latest."""
        box = self.box
        due = math.inf
        if box.state is ActorState.RUNNING:
            due = box.stalled_since() + self._stuck_after
            if due <= now:
                # Its askers hear of it now, and not when it has ended: it may take its time over that.
                box.state = ActorState.STUCK
                self._crashed(STUCK, ())
                self._run_scope.cancel()
                due = math.inf
        if not box.pending and not box.closed:
            idle_at = box.last_progress + self._idle_after
            if idle_at <= now:
                # No task runs between the look at the queue and its closing: whoever posts next meets a closed
                # address, and not a queue that nobody will read.
                self.retire(now + IDLE_STOP_SECONDS)
            else:
                due = min(due, idle_at)
        return due

    # -- the task --

    async def live(self) -> None:
        """Run the actor again and again until its mailbox is closed and drained, or the deadline of a stop."""
        slot_held = False
        try:
            with self._life:
                # Two actors of one path never run at once: they own the same state.
                for predecessor in self.predecessors:
                    await predecessor.done.wait()
                self.predecessors = ()
                if self._slots is not None:
                    await self._slots.acquire()
                    slot_held = True
                await self._keep_running()
        finally:
            if slot_held and self._slots is not None:
                self._slots.release()
            lost = self.box.end()
            self.done.set()
            if lost:
                log.warning("actor ended with messages left", path=self.box.name, lost=lost)

    async def _keep_running(self) -> None:
        box = self.box
        while not await self._ran_to_its_end():
            box.state = ActorState.BACKING_OFF
            if not box.closed:
                # A stop cuts the backoff short: what is queued is drained by a run that begins now.
                with trio.move_on_after(self._delay):
                    await self._closed.wait()
            elif box.depth:
                await trio.sleep(self._delay)
            if box.closed and not box.depth:
                return
            box.restarts += 1
        box.settle_tells()  # it need not have come back for more: there is no more

    async def _ran_to_its_end(self) -> bool:
        """Run the actor once. True if all its work is done; False if this was a crash, which has been dealt with."""
        box = self.box
        self._run_began = box.last_progress = trio.current_time()
        try:
            with trio.CancelScope() as self._run_scope:
                actor = self._factory()
                box.state = ActorState.RUNNING
                await actor.run(self._mailbox)
        except Exception as error:
            if self._at_its_end() and all(isinstance(leaf, trio.EndOfChannel) for leaf in _leaves(error)):
                return True
            self._raised(error)
            return False
        except BaseExceptionGroup as group:
            # Cancelled, and its cleanup failed on top: the failure is reported, the cancellation goes its way.
            failure, rest = group.split(Exception)
            if failure is not None:
                self._raised(failure)
            raise rest or group from None
        if box.state is ActorState.STUCK:
            return False
        if self._at_its_end():
            return True
        self._crashed(RETURNED, ())
        return False

    def _at_its_end(self) -> bool:
        return self.box.closed and self.box.depth == 0 and self.box.asks_in_flight == 0

    def _raised(self, error: Exception) -> None:
        if self.box.state is ActorState.STUCK:  # has been dealt with as a crash already; this is its cleanup failing
            log.warning("stuck actor raised", path=self.box.name, error=_name(error), frames=_frames(error))
        else:
            self._crashed(_name(error), _frames(error))

    def _crashed(self, error: str, frames: tuple[str, ...]) -> None:
        box = self.box
        box.last_error = error
        self._backoff = self._backoff.failed(ran_for=trio.current_time() - self._run_began)
        self._delay = self._backoff.delay(self._chance())
        dropped = box.drop_in_flight()
        self._on_crash(Crash(box.name, error, frames, dropped, self._backoff.failures, self._delay))


@final
class Supervisor:
    """Starts actors, keeps them alive, stops them, and tells how they are. Made by ``open_supervisor``.

    A path is a name, or a group and a name: ``keyring``, ``alerts/7``. Groups are stopped one after another, in the
    reverse of the order in which they were first seen, the actors of one group together. So what is started first
    (whom others send to) is stopped last, and when each of a thousand projects was first used plays no part.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        backoff: Backoff,
        chance: Callable[[], float],
        on_crash: Callable[[Crash], None],
        stuck_after: float,
    ) -> None:
        self._nursery = nursery
        self._backoff = backoff
        self._chance = chance
        self._on_crash = on_crash
        self._stuck_after = stuck_after
        self._children: dict[str, _Child] = {}  # the newest of each path
        self._groups: dict[str, dict[_Child, None]] = {}  # all that have not ended, those with a successor included
        self._leaving = False

    def start(
        self,
        path: str,
        factory: Callable[[], Actor],
        *,
        capacity: int,
        idle_after: float = math.inf,
        slots: trio.Semaphore | None = None,
    ) -> Address:
        """Start an actor and return its address, which takes messages from now on.

        ``factory`` makes a new actor for each run. ``capacity`` is how many messages may wait. The actor is stopped
        once it has had no work for ``idle_after`` seconds. It runs only while it holds one of ``slots``, if given.
        Where an actor of this path is still stopping, the new one runs when that one has ended.

        Raises:
          Draining: the supervisor is being left and has come to this group.
          ValueError: an actor of this path takes messages already, or the capacity is not positive.
        """
        siblings = self._group(path.rpartition("/")[0] or path)
        current = self._children.get(path)
        if current is not None and not current.box.closed:
            raise ValueError(f"{path} is started already")
        child = _Child(
            Box(path, capacity),
            factory,
            idle_after=idle_after,
            slots=slots,
            predecessors=() if current is None else (current, *current.predecessors),
            backoff=self._backoff,
            chance=self._chance,
            on_crash=self._on_crash,
            stuck_after=self._stuck_after,
        )
        self._children[path] = child
        siblings[child] = None
        # In a context of its own: the first request of a project starts its actor, and must not lend it its request id
        # for every log line of the actor's life.
        start = partial(self._nursery.start_soon, self._live, child, siblings, name=f"actor {path}")
        contextvars.Context().run(start)
        return child.address

    async def stop(self, path: str, *, deadline_seconds: float) -> None:
        """Close the actor's mailbox, let it drain, cancel it after ``deadline_seconds``, and wait until it has ended.

        The deadline holds even if the caller is cancelled meanwhile. Asks that are left get ``ActorDown``. An actor
        that ignores its cancellation is reported and not waited for any longer. An unknown path has ended already.
        """
        child = self._children.get(path)
        if child is not None:
            deadline = trio.current_time() + deadline_seconds
            child.retire(deadline)
            await _ended((child, *child.predecessors), deadline)

    def retire(self, path: str) -> None:
        """Begin a stop and do not wait for it: for an actor without work, which has 10 s to put its things away."""
        child = self._children.get(path)
        if child is not None:
            child.retire(trio.current_time() + IDLE_STOP_SECONDS)

    def reserve(self, group: str) -> None:
        """Take a group's place in the order of stopping before its first actor starts."""
        self._group(group)

    def addresses(self) -> dict[str, Address]:
        """The address of every actor that has not ended, by path."""
        return {path: child.address for path, child in self._children.items()}

    def health(self) -> list[ActorHealth]:
        """How every actor that has not ended is, in the order of their start."""
        return [child.box.health() for child in self._children.values()]

    def _group(self, name: str) -> dict[_Child, None]:
        if self._leaving and name not in self._groups:
            raise Draining("The service is shutting down.")
        return self._groups.setdefault(name, {})

    async def _live(self, child: _Child, siblings: dict[_Child, None]) -> None:
        try:
            await child.live()
        finally:
            del siblings[child]
            path = child.box.name
            if self._children[path] is child:
                # Stopped before it ran, it may have ended before its predecessor. The next one waits for that.
                survivor = next((other for other in child.predecessors if not other.done.is_set()), None)
                if survivor is None:
                    del self._children[path]
                else:
                    self._children[path] = survivor

    async def _watch(self) -> None:
        while True:
            now = trio.current_time()
            due = min([now + WATCH_EVERY, *(child.look(now) for child in list(self._children.values()))])
            await trio.sleep_until(due)
            if trio.current_time() > due + WATCH_EVERY:
                # This task itself was held up, so the process was stopped or its loop blocked. No actor had its
                # chance; without this, all that had work would be restarted at once.
                for child in self._children.values():
                    child.box.last_progress = trio.current_time()

    async def _leave(self, seconds: float) -> None:
        """Stop group by group. Each gets an even share of the time that is left; what it does not use, others have."""
        self._leaving = True
        end = trio.current_time() + seconds
        while self._groups:
            now = trio.current_time()
            deadline = now + max(0.0, end - now) / len(self._groups)
            _, children = self._groups.popitem()
            for child in children:
                child.retire(deadline)
            await _ended(tuple(children), deadline)


@asynccontextmanager
async def open_supervisor(
    *,
    backoff: Backoff = DEFAULT_BACKOFF,
    chance: Callable[[], float] = DEFAULT_CHANCE,
    on_crash: Callable[[Crash], None] = log_crash,
    drain_seconds: float = DRAIN_SECONDS,
    stuck_after: float = STUCK_AFTER,
) -> AsyncIterator[Supervisor]:
    """Open a supervisor; leaving it stops its actors: close, drain, deadline, cancel, in reverse order of start.

    ``chance`` draws the jitter of backoffs, uniform in [0, 1). ``drain_seconds`` is for all actors together. An
    exception out of the block is raised after the drain; if the block is cancelled, the actors are cancelled too and
    nothing is drained. An actor that ignores its cancellation holds up the exit, as any task does: a process that must
    be gone in time needs a limit of its own.
    """
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery, backoff=backoff, chance=chance, on_crash=on_crash, stuck_after=stuck_after)
        nursery.start_soon(supervisor._watch, name="supervisor's watch")
        try:
            yield supervisor
        except Exception as error:
            failure = error  # raised from inside, the nursery would wrap it in a group and cancel instead of drain
        await supervisor._leave(drain_seconds)
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _ended(children: Collection[_Child], deadline: float) -> None:
    """Wait until they have ended; report those that have not some time after they were cancelled."""
    with trio.move_on_at(deadline + CANCEL_GRACE):
        for child in children:
            await child.done.wait()
    late = [child.box.name for child in children if not child.done.is_set()]
    if late:
        log.error("actors ignore their cancellation", paths=late)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions that were raised, without the groups that nurseries have wrapped them in."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _name(error: Exception) -> str:
    """Type names of the leaves, each once, in the order they were raised."""
    return ", ".join(dict.fromkeys(type(leaf).__name__ for leaf in _leaves(error)))


def _frames(error: Exception) -> tuple[str, ...]:
    """Where the first leaf was raised, outermost frame first. No source lines and no values."""
    leaf = next(_leaves(error))
    return tuple(
        f"{frame.f_code.co_filename}:{line} {frame.f_code.co_qualname}"
        for frame, line in traceback.walk_tb(leaf.__traceback__)
    )
