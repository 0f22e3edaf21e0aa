"""Notifications wake, polling is the truth: one connection that listens to every channel somebody subscribed to."""

from __future__ import annotations

import re
import time
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, TypeVar

import psycopg
import structlog
import trio
from psycopg import sql

from logstitch.store.connections import CONNECT_TIMEOUT
from logstitch.store.watchdog import Call

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

T = TypeVar("T")

POLL_EVERY = 1.0
"""Seconds without a notification after which a listener is told to look for itself."""
WAKEUP_BUFFER = 64
"""Notifications kept for a slow listener; what is beyond is replaced by one "look for yourself"."""
LISTEN_PAUSE_FIRST, LISTEN_PAUSE_LAST = 0.1, 2.0
"""Seconds between two attempts of the listener to connect; polling goes on meanwhile."""

_CHANNEL = re.compile(r"[a-z_][a-z0-9_]{0,62}")


class Guarded(Protocol):
    """Runs a function in a thread, as a call that the watchdog can cut."""

    async def __call__(self, function: Callable[[Call], T]) -> T: ...


class Wakeups:
    """An endless iteration over what one channel was notified of; see :meth:`.database.Database.listen`.

    Use it in ``with``, by one task. Left behind unclosed, it is forgotten with the object.
    """

    def __init__(self, channel: str, poll_every: float, forget: Callable[[Wakeups], None]) -> None:
        self.channel = channel
        self._poll_every = poll_every
        self._forget = forget
        self._send, self._receive = trio.open_memory_channel[str | None](WAKEUP_BUFFER)
        self._missed = False

    def __enter__(self) -> Wakeups:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> Wakeups:
        return self

    async def __anext__(self) -> str | None:
        if self._missed:
            self._missed = False
            await trio.lowlevel.checkpoint()
            return None
        with trio.move_on_after(self._poll_every):
            try:
                return await self._receive.receive()
            except (trio.EndOfChannel, trio.ClosedResourceError):
                raise StopAsyncIteration from None
        return None

    def close(self) -> None:
        """End the iteration. Repeating it does nothing."""
        self._forget(self)
        self._receive.close()
        self._send.close()

    def offer(self, payload: str | None) -> bool:
        """Hand over one wake-up; False when there is no room and it became a "look for yourself"."""
        try:
            self._send.send_nowait(payload)
        except trio.WouldBlock:
            self._missed = True
            return False
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        return True

    def end(self) -> None:
        """No more will come; what is buffered is still delivered."""
        self._send.close()


class Listener:
    """One connection that listens to every channel somebody subscribed to.

    Only connecting and LISTEN run in a thread. Waiting is Trio's, on the socket itself, so there is no thread to
    interrupt and closing is a plain cancellation.
    """

    def __init__(self, conninfo: str, guarded: Guarded) -> None:
        self._conninfo = conninfo
        self._guarded = guarded
        self._wakeups: weakref.WeakSet[Wakeups] = weakref.WeakSet()
        self._wanted = trio.Event()
        self._waiting: trio.CancelScope | None = None
        self._closed = False
        self.connected = False
        """Whether the connection is up."""
        self.lost = 0
        """Notifications that met a full buffer."""

    def subscribe(self, channel: str, poll_every: float) -> Wakeups:
        """What :meth:`.database.Database.listen` says. Raises ``ValueError`` for what is no channel's name."""
        if not _CHANNEL.fullmatch(channel):
            raise ValueError(f"not a channel name: {channel!r}")
        wakeups = Wakeups(channel, poll_every, self._wakeups.discard)
        if self._closed:
            wakeups.end()
            return wakeups
        self._wakeups.add(wakeups)
        self._wanted.set()
        if self._waiting is not None:
            self._waiting.cancel()
        return wakeups

    def close(self) -> None:
        """End every iteration, and those that are yet to come."""
        self._closed = True
        for wakeups in list(self._wakeups):
            wakeups.end()

    async def run(self) -> None:
        """Connect, listen, and connect again, once somebody has subscribed."""
        pause = LISTEN_PAUSE_FIRST
        await self._wanted.wait()
        while True:
            try:
                conn = await self._guarded(self._connect)
                try:
                    pause = LISTEN_PAUSE_FIRST
                    await self._follow(conn)
                finally:
                    self.connected = False
                    conn.close()
            except (psycopg.Error, OSError) as error:  # the latter when no descriptor is left for the watchdog's twin
                log.info(
                    "database.listener_lost", error=type(error).__name__, sqlstate=getattr(error, "sqlstate", None)
                )
            await trio.sleep(pause)
            pause = min(pause * 2, LISTEN_PAUSE_LAST)

    def _connect(self, call: Call) -> psycopg.Connection[Any]:
        return psycopg.connect(self._conninfo, autocommit=True)

    async def _follow(self, conn: psycopg.Connection[Any]) -> None:
        heard: set[str] = set()
        while True:
            if new := {wakeups.channel for wakeups in self._wakeups} - heard:
                await self._guarded(lambda call, new=new: _listen(call, conn, new))  # type: ignore[misc]
                heard |= new
                self.connected = True
                # Only now is nothing missed any more; whatever happened before must be looked for.
                for wakeups in [w for w in self._wakeups if w.channel in new]:
                    wakeups.offer(None)
            # Polls the socket once and never waits, so it needs no thread.
            for notification in conn.notifies(timeout=0):
                for wakeups in [w for w in self._wakeups if w.channel == notification.channel]:
                    self.lost += not wakeups.offer(notification.payload)
            with trio.CancelScope() as self._waiting:
                if not ({wakeups.channel for wakeups in self._wakeups} - heard):
                    await trio.lowlevel.wait_readable(conn.fileno())
            self._waiting = None


def _listen(call: Call, conn: psycopg.Connection[Any], channels: set[str]) -> None:
    call.attach(conn, time.monotonic() + CONNECT_TIMEOUT)
    try:
        for channel in sorted(channels):
            conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
    finally:
        call.detach()
