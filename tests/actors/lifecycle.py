"""One check of every way an actor's life can go, which each actor of the service passes.

An actor's own tests say what it does; these say that it starts, ends and comes back as its supervisor expects. To put
an actor through them, give its test module one test::

    @pytest.mark.parametrize("check", LIFECYCLE)
    async def test_lifecycle(check: Check, ...) -> None:
        await check(Subject(factory=lambda: Ingest(database, ...), question=lambda: SubmitEvents(...)))

The checks run on whatever clock the test has. They wait on events with a bound of ``Subject.seconds``, so they also
suit actors that use threads and sockets, where Trio's autojump clock does not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from logstitch.actors.backoff import Backoff
from logstitch.actors.health import ActorState
from logstitch.actors.mailbox import Address, Ask, Mailbox
from logstitch.actors.supervisor import Actor, Crash, Supervisor, open_supervisor
from logstitch.errors import ActorDown, LogStitchError, MailboxFull, Unavailable

PATH = "subject"


@dataclass(frozen=True, slots=True)
class Subject:
    """The actor under check."""

    factory: Callable[[], Actor]
    question: Callable[[], Ask[Any]]
    """Makes a message that a healthy actor answers. A refusal counts as an answer, unless it is ``Unavailable``."""
    seconds: float = 5.0
    """Bound of every wait."""


Check = Callable[[Subject], Awaitable[None]]


class Sabotage(Exception):
    """The failure that a check causes."""


@dataclass
class Log:
    """What happened during a check."""

    crashes: list[Crash] = field(default_factory=list)
    crashed: trio.Event = field(default_factory=trio.Event)
    ends: list[str] = field(default_factory=list)
    """How each run ended: ``returned``, or the type name of what came out."""
    answers: list[str] = field(default_factory=list)
    """How each ask ended: ``answered``, or the type name of the error."""

    def crash(self, crash: Crash) -> None:
        """What the supervisor reports to."""
        self.crashes.append(crash)
        self.crashed.set()


@dataclass
class Watched:
    """The actor, with what a check does to its run: hold it back, make it fail, note how it ended."""

    actor: Actor
    log: Log
    gate: trio.Event | None = None
    """The run begins when this is set."""
    fuse: trio.Event | None = None
    """The run fails when this is set."""

    async def run(self, mailbox: Mailbox) -> None:
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.fuse is None:
                await self.actor.run(mailbox)
            else:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._fail)
                    await self.actor.run(mailbox)
                    nursery.cancel_scope.cancel()
        except BaseException as error:
            self.log.ends.append(type(error).__name__)
            raise
        self.log.ends.append("returned")

    async def _fail(self) -> None:
        assert self.fuse is not None
        await self.fuse.wait()
        raise Sabotage


@asynccontextmanager
async def supervisor_of(subject: Subject, log: Log) -> AsyncIterator[Supervisor]:
    """A supervisor with short, sure backoffs, all within the check's bound."""
    with trio.fail_after(4 * subject.seconds):
        async with open_supervisor(
            backoff=Backoff(first=0.02, cap=0.1, jitter=0.0), on_crash=log.crash, drain_seconds=subject.seconds
        ) as supervisor:
            yield supervisor


async def ask(subject: Subject, address: Address, log: Log) -> None:
    """Ask once and note how it ended."""
    try:
        await address.ask(subject.question(), timeout=subject.seconds)
    except Unavailable as error:
        log.answers.append(type(error).__name__)
    except LogStitchError:
        log.answers.append("answered")
    else:
        log.answers.append("answered")


async def check_clean_stop(subject: Subject) -> None:
    """Given an actor at rest, when it is stopped, then it returns by itself and takes no more messages."""
    log = Log()
    async with supervisor_of(subject, log) as supervisor:
        address = supervisor.start(PATH, lambda: Watched(subject.factory(), log), capacity=4)
        await ask(subject, address, log)
        await supervisor.stop(PATH, deadline_seconds=subject.seconds)
        await ask(subject, address, log)
    assert log.answers == ["answered", "ActorDown"]
    assert log.ends in (["returned"], ["EndOfChannel"])
    assert log.crashes == []
    assert address.health().state is ActorState.STOPPED


async def check_crash(subject: Subject) -> None:
    """Given work in flight, when the actor crashes, then no asker is left waiting, and the next run answers again."""
    log = Log()
    fuse = trio.Event()
    fuses = [fuse]

    def factory() -> Actor:
        return Watched(subject.factory(), log, fuse=fuses.pop() if fuses else None)

    async with supervisor_of(subject, log) as supervisor:
        address = supervisor.start(PATH, factory, capacity=8)
        await ask(subject, address, log)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask, subject, address, log)
            await wait_all_tasks_blocked()
            fuse.set()
            await log.crashed.wait()
        await ask(subject, address, log)
    # Those in flight may have been answered or refused, as it happened; those still queued were answered later.
    assert log.answers[0] == log.answers[-1] == "answered"
    assert set(log.answers) <= {"answered", "ActorDown"}
    assert [crash.error for crash in log.crashes] == ["Sabotage"]
    assert address.health().restarts == 1


async def check_crash_loop(subject: Subject) -> None:
    """Given an actor that fails to start, when it can at last, then it answers what has queued meanwhile."""
    log = Log()
    failures = [Sabotage(), Sabotage(), Sabotage()]

    def factory() -> Actor:
        if failures:
            raise failures.pop()
        return Watched(subject.factory(), log)

    async with supervisor_of(subject, log) as supervisor:
        address = supervisor.start(PATH, factory, capacity=4)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask, subject, address, log)
    assert log.answers == ["answered"] * 3
    assert [crash.error for crash in log.crashes] == ["Sabotage"] * 3
    assert [crash.delay for crash in log.crashes] == [0.02, 0.04, 0.08]


async def check_cancel(subject: Subject) -> None:
    """Given work in flight, when everything is cancelled, then the actor ends in time, and it is no crash."""
    log = Log()
    async with trio.open_nursery() as askers:
        with trio.CancelScope() as scope:
            async with supervisor_of(subject, log) as supervisor:
                address = supervisor.start(PATH, lambda: Watched(subject.factory(), log), capacity=4)
                await ask(subject, address, log)
                askers.start_soon(ask, subject, address, log)
                await wait_all_tasks_blocked()
                scope.cancel()
                await trio.sleep_forever()
    assert scope.cancelled_caught
    assert log.answers in (["answered", "answered"], ["answered", "ActorDown"])
    assert log.ends in (["Cancelled"], ["BaseExceptionGroup"])
    assert log.crashes == []


async def check_full_mailbox(subject: Subject) -> None:
    """Given a full mailbox, when one more is posted, then it is refused at once and counted, and no other suffers."""
    log = Log()
    gate = trio.Event()
    async with supervisor_of(subject, log) as supervisor:
        address = supervisor.start(PATH, lambda: Watched(subject.factory(), log, gate=gate), capacity=3)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask, subject, address, log)
            await wait_all_tasks_blocked()
            with pytest.raises(MailboxFull):
                await address.ask(subject.question(), timeout=subject.seconds)
            health = address.health()
            assert (health.depth, health.peak, health.rejected) == (3, 3, 1)
            gate.set()
        await ask(subject, address, log)
    assert log.answers == ["answered"] * 4
    assert log.crashes == []


async def check_drain(subject: Subject) -> None:
    """Given a queue, when the actor is stopped, then it takes nothing new, answers what it has, and ends."""
    log = Log()
    gate = trio.Event()
    async with supervisor_of(subject, log) as supervisor:
        address = supervisor.start(PATH, lambda: Watched(subject.factory(), log, gate=gate), capacity=4)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask, subject, address, log)
            await wait_all_tasks_blocked()
            supervisor.retire(PATH)
            assert address.health().state is ActorState.STOPPING
            with pytest.raises(ActorDown):
                await address.ask(subject.question(), timeout=subject.seconds)
            gate.set()
            await supervisor.stop(PATH, deadline_seconds=subject.seconds)
        assert supervisor.addresses() == {}
    assert log.answers == ["answered"] * 3
    assert log.ends in (["returned"], ["EndOfChannel"])
    assert log.crashes == []


LIFECYCLE: list[Any] = [
    pytest.param(check, id=check.__name__.removeprefix("check_"))
    for check in (check_clean_stop, check_crash, check_crash_loop, check_cancel, check_full_mailbox, check_drain)
]
"""For ``pytest.mark.parametrize("check", LIFECYCLE)``."""
