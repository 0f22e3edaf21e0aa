"""The watchdog shuts down the socket of a call that is overdue; nothing else would end its thread.

psycopg has no client-side timeout, and a link that swallows packets, or a stopped server, would otherwise hold the
thread for ever. Whoever talks to the server does so as a :class:`Call` of the watchdog's.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import structlog
import trio

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

WATCH_EVERY = 0.1
"""Seconds between two looks of the watchdog while calls are in flight."""


class Call:
    """One thread that talks to the server, as the watchdog sees it.

    It holds a duplicate of the socket's descriptor: libpq closes its own at the first error, the number is reused by
    whatever opens next, and a shutdown by number would then hit a stranger.
    """

    __slots__ = ("_deadline", "_fd", "_lock", "cut", "lost")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fd = -1
        self._deadline = 0.0
        self.cut = False
        """The watchdog ended this call."""
        self.lost = True
        """The connection was broken when the call ended, or there never was one."""

    def attach(self, conn: psycopg.Connection[Any], deadline: float) -> None:
        """From now on, ``conn`` may be cut once ``deadline`` (of ``time.monotonic``) has passed."""
        with self._lock:
            self._fd, self._deadline = os.dup(conn.fileno()), deadline

    def detach(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def cut_if_overdue(self, now: float) -> bool:
        """Shut the socket down if the call is overdue; True the one time that this happens."""
        with self._lock:
            if self._fd < 0 or self.cut or now < self._deadline:
                return False
            self.cut = True
            # Not close(): only a shutdown wakes a thread that is polling the same socket through another descriptor.
            # And of no further duplicate: out of descriptors is when calls become overdue.
            with suppress(OSError):
                twin = socket.socket(fileno=self._fd)
                try:
                    twin.shutdown(socket.SHUT_RDWR)
                finally:
                    twin.detach()
            return True


class Watchdog:
    """All calls in flight. Its methods belong to the Trio thread, those of a call to the call's own."""

    def __init__(self) -> None:
        self._calls: set[Call] = set()
        self._busy = trio.Event()
        self.cut = 0
        """How many calls were ended by it."""

    def __len__(self) -> int:
        return len(self._calls)

    @contextmanager
    def over(self, call: Call) -> Iterator[None]:
        """Watch ``call`` while the context is open."""
        self._calls.add(call)
        self._busy.set()
        try:
            yield
        finally:
            self._calls.discard(call)

    async def run(self) -> None:
        """Shut down the sockets of overdue calls. Parked while nothing is in flight."""
        while True:
            await self._busy.wait()
            while self._calls:
                await trio.sleep(WATCH_EVERY)
                self.cut_overdue(time.monotonic())
            self._busy = trio.Event()

    def cut_overdue(self, now: float) -> None:
        """Shut down the sockets of the calls that are overdue at ``now`` (of ``time.monotonic``)."""
        for call in self._calls:
            if call.cut_if_overdue(now):
                self.cut += 1
                log.warning("database.call_cut")
