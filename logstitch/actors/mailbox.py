"""One bounded channel with two faces: callers hold the ``Address``, the actor reads the ``Mailbox``.

Posting never blocks: a full mailbox is the caller's news at once, not a queue behind the queue. An ask parks the
calling task itself, without a nursery or a second channel, and the first of three wakes it: the answer, its deadline,
or the news that the actor crashed. All of it runs on Trio's thread and between checkpoints, so there are no locks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, final

import trio

from logstitch.actors.health import ActorHealth, ActorState
from logstitch.errors import ActorDown, AskTimeout, MailboxFull

R = TypeVar("R")
"""What an ask is answered with."""
M_co = TypeVar("M_co", covariant=True)
"""The type of an envelope's message."""


class Ask(Generic[R]):
    """Base of the messages that want an answer of type ``R``; the actor answers every one it receives.

    Messages are frozen dataclasses named in the imperative: ``class Commit(Ask[list[str]])``. Invariant in ``R``:
    so mypy holds ``Envelope[Commit].reply`` to exactly that type.
    """

    __slots__ = ()


class Asks(Protocol):
    """What a handler may hold of one actor. ``Address`` is one; a test's fake is another."""

    def tell(self, message: object) -> None:
        """See ``Address.tell``."""

    async def ask(self, message: Ask[R], *, timeout: float) -> R:
        """See ``Address.ask``."""
        ...


class KeyedAsks(Protocol):
    """What a handler may hold of actors of which there is one a key (a project's number). ``Directory`` is one."""

    async def ask(self, key: int, message: Ask[R], *, timeout: float) -> R:
        """See ``Directory.ask``."""
        ...


class KeyedTells(Protocol):
    """What an actor may hold of others of which there is one a key, where it wants no answer. ``Directory`` is one."""

    def tell(self, key: int, message: object) -> None:
        """See ``Directory.tell``."""


@final
class Envelope(Generic[M_co]):
    """A message on its way, and the way back to whoever asked.

    Answering is synchronous and holds no checkpoint, so nothing can come between a commit and its answers. It must
    happen on Trio's thread.
    """

    __slots__ = ("_answered", "_asker", "_box", "_error", "_is_ask", "_received", "_value", "message", "posted_at")

    message: M_co
    posted_at: float
    """When it was posted, on Trio's clock."""

    def __init__(self, message: M_co, posted_at: float, box: Box, asker: trio.lowlevel.Task | None) -> None:
        self.message = message
        self.posted_at = posted_at
        self._box = box
        self._asker = asker
        self._is_ask = asker is not None
        self._received = False
        self._answered = False
        self._value: Any = None
        self._error: Exception | None = None

    def __repr__(self) -> str:
        # The type only: a message may hold what must not reach a log.
        return f"<Envelope of {type(self.message).__name__} to {self._box.name}>"

    @property
    def answered(self) -> bool:
        """Whether the actor is done with it: answered, refused, or, for a tell, gone on to the next message."""
        return self._answered

    @property
    def abandoned(self) -> bool:
        """Whether it was an ask and nobody waits for its answer any more (deadline, or the asker was cancelled)."""
        return self._is_ask and self._asker is None and not self._answered

    @trio.lowlevel.enable_ki_protection
    def reply(self: Envelope[Ask[R]], value: R) -> None:
        """Answer with ``value``. Does nothing if it is answered already or the asker is gone."""
        if not self._answered:
            self._value = value
            self._box.settle(self)
            self._wake()

    @trio.lowlevel.enable_ki_protection
    def refuse(self, error: Exception) -> None:
        """Answer with an error, which ``ask`` raises. Does nothing if it is answered already or the asker is gone.

        One error may refuse many asks: each raises it without the traceback of the others.
        """
        if not self._answered:
            self._error = error
            self._box.settle(self)
            self._wake()

    def _wake(self) -> None:
        task, self._asker = self._asker, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def _leave(self, _: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        """Trio's abort function of a parked ask: the asker goes, the message stays and is worked on all the same."""
        self._asker = None
        return trio.lowlevel.Abort.SUCCEEDED


@final
class Box:
    """What the two faces share, and the supervisor's side of it. Not for actors and their callers.

    The channel, the messages nobody is done with, the counts, and where the actor stands in its life.
    """

    __slots__ = (
        "capacity",
        "closed",
        "depth",
        "gauges",
        "handled",
        "last_error",
        "last_progress",
        "name",
        "peak",
        "pending",
        "receiver",
        "rejected",
        "restarts",
        "sender",
        "state",
        "tells",
    )

    def __init__(self, name: str, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        self.name = name
        self.capacity = capacity
        self.sender, self.receiver = trio.open_memory_channel[Envelope[Any]](capacity)
        # Posted and not done with, oldest first: the channel's buffer cannot be looked into, and what was received is
        # not in it any more.
        self.pending: dict[Envelope[Any], None] = {}
        # Received tells that are not over. Nobody answers a tell, so it counts as done when the actor is back for more.
        self.tells: list[Envelope[Any]] = []
        self.depth = 0
        self.peak = 0
        self.handled = 0
        self.rejected = 0
        self.last_progress = trio.current_time()
        self.closed = False
        self.state = ActorState.STARTING
        self.restarts = 0
        self.last_error: str | None = None
        self.gauges: dict[str, float] = {}  # of the run that reported them

    @trio.lowlevel.enable_ki_protection
    def post(self, message: object, asker: trio.lowlevel.Task | None) -> Envelope[Any]:
        if self.closed:
            raise ActorDown(f"{self.name} takes no more messages.")
        # Counted here and not left to the channel's WouldBlock: the channel hands a message to a waiting receiver
        # past its buffer, which would make room for one more until that task runs.
        if self.depth >= self.capacity:
            self.rejected += 1
            raise MailboxFull("As much is waiting as may wait. Try again in a moment.")
        envelope = Envelope(message, trio.current_time(), self, asker)
        self.sender.send_nowait(envelope)
        self.pending[envelope] = None
        self.depth += 1
        if self.depth > self.peak:
            self.peak = self.depth
        return envelope

    def receive(self, envelope: Envelope[Any]) -> None:
        envelope._received = True
        self.depth -= 1
        self.last_progress = trio.current_time()
        if not envelope._is_ask:
            self.tells.append(envelope)

    def settle(self, envelope: Envelope[Any]) -> None:
        envelope._answered = True
        self.pending.pop(envelope, None)
        self.handled += 1
        self.last_progress = trio.current_time()

    def settle_tells(self) -> None:
        for envelope in self.tells:
            if not envelope._answered:
                self.settle(envelope)
        self.tells.clear()

    @property
    def asks_in_flight(self) -> int:
        """Asks received and not answered: what a run that ends now leaves behind."""
        return sum(1 for envelope in self.pending if envelope._received and envelope._is_ask)

    def drop_in_flight(self) -> int:
        """Give up on what was received and is not done; what is queued stays. Returns how many messages that were."""
        self.tells.clear()
        self.gauges.clear()
        return self._drop([e for e in self.pending if e._received], f"{self.name} failed while it worked on this.")

    def end(self) -> int:
        """Close, and give up on everything that is left. Returns how many messages that were."""
        self.close()
        self.state = ActorState.STOPPED
        self.tells.clear()
        self.gauges.clear()
        lost = self._drop(list(self.pending), f"{self.name} ended before it got to this.")
        self.depth = 0
        self.receiver.close()
        return lost

    def close(self) -> None:
        """Take no more messages; those that wait can still be read."""
        self.closed = True
        self.sender.close()

    def stalled_since(self) -> float:
        """When the wait for progress began, on Trio's clock; infinity while there is nothing to do.

        An actor without work makes no progress and is well, so the oldest message's arrival begins the wait, too.
        """
        oldest = next(iter(self.pending), None)
        return math.inf if oldest is None else max(self.last_progress, oldest.posted_at)

    @trio.lowlevel.enable_ki_protection
    def _drop(self, envelopes: list[Envelope[Any]], reason: str) -> int:
        """Their askers get ``ActorDown`` at once. They count as not handled, and it is no progress."""
        for envelope in envelopes:
            envelope._answered = True
            envelope._error = ActorDown(reason)
            del self.pending[envelope]
            envelope._wake()
        return len(envelopes)

    def health(self) -> ActorHealth:
        now = trio.current_time()
        oldest = next(iter(self.pending), None)
        closing = self.closed and self.state not in (ActorState.STUCK, ActorState.STOPPED)
        return ActorHealth(
            path=self.name,
            state=ActorState.STOPPING if closing else self.state,
            restarts=self.restarts,
            last_error=self.last_error,
            depth=self.depth,
            capacity=self.capacity,
            peak=self.peak,
            oldest_age=0.0 if oldest is None else now - oldest.posted_at,
            handled=self.handled,
            rejected=self.rejected,
            last_progress_age=now - self.last_progress,
            in_flight=len(self.pending) - self.depth,
            gauges=dict(self.gauges),
        )


@final
class Address:
    """What callers hold: post to the actor, and see how it is. Survives the actor's restarts."""

    __slots__ = ("_box",)

    def __init__(self, box: Box) -> None:
        self._box = box

    def __repr__(self) -> str:
        return f"<Address of {self.name}>"

    @property
    def name(self) -> str:
        """The actor's path."""
        return self._box.name

    @property
    def closed(self) -> bool:
        """Whether the actor takes no more messages."""
        return self._box.closed

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is being worked on."""
        return not self._box.pending

    def tell(self, message: object) -> None:
        """Post ``message`` and want no answer. A tell the actor crashes on is lost: what must not be lost is asked.

        Raises:
          MailboxFull: as much is waiting as may wait.
          ActorDown: the actor takes no more messages.
        """
        self._box.post(message, None)

    async def ask(self, message: Ask[R], *, timeout: float) -> R:
        """Post ``message`` and wait at most ``timeout`` seconds for its answer.

        Cancelling the caller does not take the message back: the actor still works on it.

        Raises:
          MailboxFull: as much is waiting as may wait. At once.
          ActorDown: the actor takes no more messages, crashed with this one in flight, or ended with it in the
            queue. A message still queued when the actor crashes stays there for the next run.
          AskTimeout: no answer in time. Whether the actor acted is unknown.
          Exception: whatever the actor refused it with.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if timeout <= 0:
            raise AskTimeout(f"{self.name} was not asked: no time is left.")  # work that nobody could wait for
        envelope = self._box.post(message, trio.lowlevel.current_task())
        with trio.CancelScope(deadline=envelope.posted_at + timeout) as scope:
            # No checkpoint lies between posting and this, so the answer cannot come before the task is parked. Once
            # the answer has rescheduled the task, neither deadline nor cancellation can take it away.
            await trio.lowlevel.wait_task_rescheduled(envelope._leave)
        if scope.cancelled_caught:
            raise AskTimeout(f"{self.name} did not answer in time.")
        if envelope._error is not None:
            raise envelope._error.with_traceback(None)
        answer: R = envelope._value
        return answer

    def health(self) -> ActorHealth:
        """How the actor is now."""
        return self._box.health()


@final
class Mailbox:
    """What the actor reads. As an async iterator it yields envelopes until it is closed and drained.

    A tell counts as in flight until it is replied to or the actor waits for the next message.
    """

    __slots__ = ("_box",)

    def __init__(self, box: Box) -> None:
        self._box = box

    def __repr__(self) -> str:
        return f"<Mailbox of {self._box.name}>"

    def __aiter__(self) -> Mailbox:
        return self

    async def __anext__(self) -> Envelope[Any]:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    @property
    def name(self) -> str:
        """The actor's path."""
        return self._box.name

    @property
    def closed(self) -> bool:
        """Whether no more messages will be posted; those that wait are still to be read."""
        return self._box.closed

    @property
    def depth(self) -> int:
        """Messages posted and not received."""
        return self._box.depth

    async def receive(self) -> Envelope[Any]:
        """Wait for the next message.

        Raises:
          trio.EndOfChannel: closed and drained. An actor may let it end its run.
        """
        box = self._box
        box.settle_tells()
        envelope = await box.receiver.receive()
        box.receive(envelope)
        return envelope

    def receive_nowait(self) -> Envelope[Any]:
        """The next message, if one is there.

        Raises:
          trio.WouldBlock: nothing is waiting.
          trio.EndOfChannel: closed and drained.
        """
        envelope = self._box.receiver.receive_nowait()
        self._box.receive(envelope)
        return envelope

    async def take(
        self, limit: int, *, weight: Callable[[Any], int] = lambda _: 0, enough: int = 1
    ) -> list[Envelope[Any]]:
        """Wait for one message, then take what else is queued: 1 to ``limit`` messages, in the order they came, and no
        more behind those that together have ``enough`` of a ``weight``.

        Raises:
          trio.EndOfChannel: closed and drained. An actor may let it end its run.
        """
        envelopes = [await self.receive()]
        taken = weight(envelopes[0].message)
        try:
            while len(envelopes) < limit and taken < enough:
                envelopes.append(self.receive_nowait())
                taken += weight(envelopes[-1].message)
        except (trio.WouldBlock, trio.EndOfChannel):
            pass
        return envelopes

    def progress(self) -> None:
        """Say that work gets on, where nothing is received or answered for long: else the actor counts as stuck."""
        self._box.last_progress = trio.current_time()

    def report(self, **gauges: float) -> None:
        """Have the actor's health show these numbers, until they are reported anew or this run ends."""
        self._box.gauges.update(gauges)

    def close(self) -> None:
        """Take no more messages. Those that wait can still be read; then reading ends."""
        self._box.close()


def open_mailbox(name: str, capacity: int) -> tuple[Address, Mailbox]:
    """Both faces of a new mailbox that holds at most ``capacity`` waiting messages. To be called inside Trio."""
    box = Box(name, capacity)
    return Address(box), Mailbox(box)
