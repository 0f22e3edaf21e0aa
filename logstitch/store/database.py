"""A transaction is one plain function, run whole in one thread, and every wait around it has a bound.

psycopg's asynchronous connections do not run on Trio, so this module runs its synchronous ones in threads: a call
takes a slot, a thread, a pooled connection, and does BEGIN, work, COMMIT there. Nothing else in the package knows
psycopg's connections or its pool.

Three things end a call that does not end by itself, the inner ones first:

* the server, by ``statement_timeout``, ``lock_timeout`` and ``idle_in_transaction_session_timeout``, set on every
  connection through libpq's ``options`` so that they hold with any plain URL;
* the kernel, by TCP keepalives and ``tcp_user_timeout``, for a peer that vanished;
* the watchdog, which shuts down the socket of an overdue call: psycopg has no client-side timeout, and a link that
  swallows packets, or a stopped server, would otherwise hold the thread for ever.

Dead connections are never repaired and never handed out: an idle one whose socket has something to say is closed
before use, since an idle server says nothing but goodbye. So a crash of PostgreSQL costs the calls that were in
flight, and those are run again while their ``hold`` lasts.
"""

from __future__ import annotations

import logging
import os
import random
import re
import select
import socket
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import psycopg
import structlog
import trio
from psycopg import sql
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow
from psycopg.types.string import TextLoader
from psycopg_pool import ConnectionPool, PoolTimeout

from logstitch.errors import ConfigurationError, DatabaseUnavailable
from logstitch.store.sqlstates import LINK_LOST, Retry, judge

log: structlog.typing.FilteringBoundLogger = structlog.get_logger("logstitch.store.database")

T = TypeVar("T")
Connection = psycopg.Connection[TupleRow]
"""What a work function gets."""

POOL_SIZE = 8
"""Connections for transactions; beyond a few per core, PostgreSQL answers slower, not more."""
MAX_WAITING = 256
"""Callers that may wait for a slot; at 5 ms a transaction 8 connections serve six times as many in POOL_WAIT."""
POOL_WAIT = 2.0
"""Seconds that a call waits for a slot and a connection."""
TIMEOUT = 5.0
"""Seconds that a transaction may take by default."""
CUT_GRACE = 0.5
"""Seconds beyond its timeout after which a call's socket is shut down; the server's own timeout comes first."""
WATCH_EVERY = 0.1
"""Seconds between two looks of the watchdog while calls are in flight."""
CONFLICT_TRIES = 3
"""Runs of one transaction that keeps losing against others (40001, 40P01)."""
HOLD_FIRST, HOLD_LAST = 0.05, 0.5
"""Seconds between two tries within a hold, doubling from the first to the last."""
RECONNECT_EVERY = 0.1
"""Seconds between two attempts to connect while calls wait; an attempt at a server that is down costs microseconds."""
CONNECT_TIMEOUT = 2
"""Seconds for one attempt to connect; libpq takes no less."""
LOCK_TIMEOUT = 3.0
"""Seconds that a statement waits for a lock: under TIMEOUT, so that the answer says lock and not just slow."""
IDLE_IN_TRANSACTION = 10.0
"""Seconds after which the server rolls back a transaction whose client says nothing more: its locks block others."""
CLOSE_TIMEOUT = 5.0
"""Seconds for the pool to end its threads; one that is connecting needs up to CONNECT_TIMEOUT."""
MAX_LIFETIME = 3600.0
"""Seconds after which a connection is replaced, so that none keeps a backend's bloated caches for ever."""
OLDEST_SERVER = 150000
"""The least ``server_version_num``: PostgreSQL 15."""
CHECK_WAIT = 1.0
"""Seconds that the readiness check waits for its connection; probes are given up after a second or two."""
CHECK_TIMEOUT = 2.0
"""Seconds for the readiness check's query."""
POLL_EVERY = 1.0
"""Seconds without a notification after which a listener is told to look for itself."""
WAKEUP_BUFFER = 64
"""Notifications kept for a slow listener; what is beyond is replaced by one "look for yourself"."""
QUIET = 10.0
"""Seconds without a failure after which trouble is over: longer than a request is held, so that a server on which only
reads work is one trouble, not one for each write."""
LISTEN_PAUSE_FIRST, LISTEN_PAUSE_LAST = 0.1, 2.0
"""Seconds between two attempts of the listener to connect; polling goes on meanwhile."""

_CHANNEL = re.compile(r"[a-z_][a-z0-9_]{0,62}")

_CHECK = """
SELECT current_setting('server_version_num')::int, current_setting('server_version'), current_setting('fsync'),
       current_setting('synchronous_commit'), current_setting('full_page_writes'),
       current_setting('transaction_read_only'), extract(epoch FROM pg_postmaster_start_time())::float8
"""

# reserved_connections came with PostgreSQL 16.
_CONNECTIONS = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
       - coalesce(current_setting('reserved_connections', true)::int, 0)
"""


@dataclass(frozen=True, slots=True)
class DatabaseCheck:
    """What a readiness check found out about the server. ``None`` where it could not be asked.

    ``synchronous_commit`` is False only for ``off``: ``local`` and the remote levels all wait for the local disk.
    ``problems`` make the service not ready, each a sentence that names the setting; ``warnings`` do not.
    """

    reachable: bool
    server_version: str | None
    fsync: bool | None
    synchronous_commit: bool | None
    full_page_writes: bool | None
    read_only: bool | None
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    started_at: float | None = None
    """Unix time at which the server was started."""

    @property
    def ready(self) -> bool:
        """True when an acknowledged commit can be trusted to this server."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class DatabaseStatistics:
    """Numbers for metrics. The first six describe this moment, the others only grow.

    * ``slots``: calls that may be in flight at the same time, ``pool_size``.
    * ``size``: connections that exist or are being made (one more than ``pool_size`` is for the readiness check).
    * ``idle``: connections that wait in the pool.
    * ``waiting``: callers that wait for a slot.
    * ``in_flight``: calls that have a thread.
    * ``listening``: True while the LISTEN connection is up.
    * ``requests``: calls of ``transact``; ``errors``: those that ended as :class:`DatabaseUnavailable`.
    * ``retried``: times that a work function was run again; ``cut``: calls whose socket the watchdog shut down.
    * ``connections``: attempts to connect; ``connection_errors``: those that failed.
    * ``notifications_lost``: notifications that a slow listener got as one "look for yourself".
    """

    slots: int
    size: int
    idle: int
    waiting: int
    in_flight: int
    listening: bool
    requests: int
    errors: int
    retried: int
    cut: int
    connections: int
    connection_errors: int
    notifications_lost: int


class _Call:
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
            with socket.socket(fileno=os.dup(self._fd)) as twin, suppress(OSError):
                twin.shutdown(socket.SHUT_RDWR)
            return True


class _PooledConnection(psycopg.Connection[TupleRow]):
    """A connection that tells why it could not be made.

    The pool only logs such errors, and "no connection within 2 s" does not tell an operator that the password is
    wrong.
    """

    @classmethod
    def connect(  # type: ignore[override]  # the pool passes what it was given, and that includes `heard`
        cls, conninfo: str = "", *, heard: Callable[[str], None], **kwargs: Any
    ) -> Self:
        try:
            conn = super().connect(conninfo, **kwargs)
        except psycopg.Error as error:
            heard(str(error))
            raise
        heard("")
        return conn


class _Pool(ConnectionPool[_PooledConnection]):
    """psycopg's pool, without its memory of callers who have given up."""

    def forget_waiters(self) -> None:
        """Drop the places in the queue whose owners are gone.

        The pool itself drops them only as connections come back to it. While the server is away none does, and every
        attempt leaves one more place behind: tens of megabytes an hour.
        """
        with self._lock:
            alive = [place for place in self._waiting if place.error is None]
            self._waiting.clear()
            self._waiting.extend(alive)


class Database:
    """A pool of connections and the rules for using them; made by :func:`open_database`."""

    def __init__(self, pool: _Pool, conninfo: str, pool_size: int, max_waiting: int) -> None:
        self._pool = pool
        self._conninfo = conninfo
        self._pool_size = pool_size
        self._slots = trio.Semaphore(pool_size)
        # Readiness must be told apart from load: the check never queues behind transactions.
        self._check_slot = trio.Semaphore(1)
        self._max_waiting = max_waiting
        # Trio's default limiter is shared with DNS look-ups. This one never waits, the slots see to that: one thread
        # for every slot, one for the check, one for the listener.
        self._limiter = trio.CapacityLimiter(pool_size + 2)
        self._calls: set[_Call] = set()
        self._busy = trio.Event()
        self._listener = _Listener(self)
        self._closed = False
        self._troubles: set[str] = set()
        self._trouble_began = self._trouble_last = 0.0
        self._checked_ready = True
        self._why_no_connection = ""
        self._waiting = 0
        self._requests = 0
        self._errors = 0
        self._retried = 0
        self._cut = 0

    async def transact(
        self,
        work: Callable[[Connection], T],
        *,
        timeout: float = TIMEOUT,  # kept by server and watchdog, which a cancel scope could not do
        hold: float = 0.0,
        read_only: bool = False,
    ) -> T:
        """Run ``work(connection)`` within BEGIN … COMMIT in a thread and return what it returned, after the commit.

        ``work`` is a plain function. It may use savepoints (``with connection.transaction()``), ``SET LOCAL`` and
        COPY; it must not commit, roll back, change session settings or keep the connection. Its exceptions roll back
        and propagate. It runs at READ COMMITTED, or with ``read_only`` at REPEATABLE READ READ ONLY (one snapshot).

        ``timeout``: seconds for each statement (by the server) and for the whole transaction (by the watchdog, at
        ``timeout + CUT_GRACE``). Until it has a connection, a call waits POOL_WAIT at most.

        ``hold``: seconds during which a transient failure (server gone, restarting, out of connections, read-only or
        full; no connection in time; link cut) is not raised: the work is run again in a new transaction until it
        succeeds or the hold is over. So a short crash of the server is not seen, and a call may take up to
        ``hold + POOL_WAIT + timeout + CUT_GRACE``. Independently of ``hold``, work that lost a deadlock or a
        serialization conflict is run up to CONFLICT_TRIES times.

        **Work must expect to be run again.** What it does outside of the transaction must bear repetition. And with a
        ``hold``, when the link is lost during COMMIT nobody knows whether it happened, so the work runs again after
        what may have been its own success. It must find that out by itself: first take the lock that its earlier run
        held (that run may not be over yet on the server), then look for something only it can have written.

        Cancelling the caller takes effect while it waits for a slot or between two tries. A transaction that has its
        thread runs to its end, which the bounds above put at most ``POOL_WAIT + timeout + CUT_GRACE`` away; if it
        commits, its result is still returned, without a checkpoint in between.

        Raises :class:`DatabaseUnavailable` (whether the work was committed is unknown if the link was lost), what
        ``work`` raises, and psycopg errors that :mod:`~logstitch.store.sqlstates` does not know: those are defects.
        """
        return await self._transact(self._slots, POOL_WAIT, work, timeout, hold, read_only)

    async def check(self) -> DatabaseCheck:
        """Ask the server whether a commit that it acknowledges will survive; never raises for a server that is away.

        It has a slot and a connection of its own, so a service that is merely busy stays ready.
        """

        def ask(conn: Connection) -> tuple[int, str, str, str, str, str, float]:
            row = conn.execute(_CHECK).fetchone()
            assert row is not None  # noqa: S101  # a SELECT without FROM has one row
            return row

        try:
            row = await self._transact(self._check_slot, CHECK_WAIT, ask, CHECK_TIMEOUT, 0.0, read_only=False)
        except DatabaseUnavailable as error:
            self._checked_ready = False
            why = self._why_no_connection or error.message
            return DatabaseCheck(False, None, None, None, None, None, (f"PostgreSQL cannot be reached: {why}",))
        check = _judge_settings(*row)
        self._checked_ready = check.ready
        return check

    def listen(self, channel: str, *, poll_every: float = POLL_EVERY) -> Wakeups:
        """Listen to NOTIFY on ``channel`` (a name from our own code: lower case, digits, ``_``; few and fixed).

        ::

            with database.listen("rules") as wakeups:
                async for payload in wakeups:   # str, or None: look for yourself
                    ...

        ``None`` comes after ``poll_every`` seconds of silence, after the connection was (re)made, and instead of what
        did not fit the buffer. A notification may be lost or come twice: it wakes, the poll is the truth. The
        iteration never raises for a server that is away, and ends when the database is closed.
        """
        if not _CHANNEL.fullmatch(channel):
            raise ValueError(f"not a channel name: {channel!r}")
        return self._listener.subscribe(channel, poll_every)

    def statistics(self) -> DatabaseStatistics:
        """The numbers of this moment; callable at any time from the Trio thread, also while the server is away."""
        pool = self._pool.get_stats()
        return DatabaseStatistics(
            slots=self._pool_size,
            size=pool["pool_size"],
            idle=pool["pool_available"],
            waiting=self._waiting,
            in_flight=len(self._calls),
            listening=self._listener.connected,
            requests=self._requests,
            errors=self._errors,
            retried=self._retried,
            cut=self._cut,
            connections=pool.get("connections_num", 0),
            connection_errors=pool.get("connections_errors", 0),
            notifications_lost=self._listener.lost,
        )

    # -- one call, in Trio -----------------------------------------------------------------------------------------

    async def _transact(
        self,
        slots: trio.Semaphore,
        pool_wait: float,
        work: Callable[[Connection], T],
        timeout: float,
        hold: float,
        read_only: bool,
    ) -> T:
        self._requests += 1
        held_until = trio.current_time() + hold
        pause, tries = HOLD_FIRST, 1
        while True:
            call = _Call()
            try:
                result = await self._attempt(call, slots, pool_wait, work, timeout, read_only)
            except psycopg.Error as error:
                # A connection that is still good raised it: a defect in the work (a COPY left open, say).
                verdict = LINK_LOST if call.cut else judge(error)
                if verdict is None or (error.sqlstate is None and not call.lost):
                    raise
                if read_only and error.sqlstate == "25006":
                    raise  # the work wrote where it had promised not to
                again = (
                    tries < CONFLICT_TRIES
                    if verdict.retry is Retry.CONFLICT
                    else verdict.retry is Retry.HELD and trio.current_time() < held_until
                )
                if verdict.retry is not Retry.CONFLICT:
                    self._trouble_last = trio.current_time()
                if not again or self._closed:
                    self._errors += 1
                    self._log_trouble(verdict.message, error)
                    raise verdict.error() from error
            except DatabaseUnavailable:
                self._errors += 1
                raise
            else:
                self._log_recovered()
                return result
            if verdict.retry is Retry.CONFLICT:
                tries += 1
                await trio.sleep(random.uniform(0, HOLD_FIRST))  # noqa: S311  # apart, or they meet again
            else:
                left = max(0.0, held_until - trio.current_time())
                await trio.sleep(min(left, pause * random.uniform(0.5, 1)))  # noqa: S311
                pause = min(pause * 2, HOLD_LAST)
            self._retried += 1

    async def _attempt(
        self,
        call: _Call,
        slots: trio.Semaphore,
        pool_wait: float,
        work: Callable[[Connection], T],
        timeout: float,
        read_only: bool,
    ) -> T:
        if self._closed:
            raise DatabaseUnavailable("The database connection is closed.")
        wait_until = time.monotonic() + pool_wait
        if slots is self._slots and slots.value == 0 and self._waiting >= self._max_waiting:
            raise DatabaseUnavailable("Too many requests wait for the database.")
        self._waiting += 1
        try:
            with trio.move_on_after(pool_wait) as waiting:
                await slots.acquire()
        finally:
            self._waiting -= 1
        if waiting.cancelled_caught:
            raise PoolTimeout("no slot in time")
        self._calls.add(call)
        self._busy.set()
        try:
            return await trio.to_thread.run_sync(
                self._in_thread, call, work, timeout, read_only, wait_until, limiter=self._limiter
            )
        finally:
            self._calls.discard(call)
            slots.release()

    def _log_trouble(self, message: str, error: psycopg.Error) -> None:
        # Each kind once an outage, not once a call: an outage under load would write thousands of lines a second.
        if not self._troubles:
            self._trouble_began = trio.current_time()
        if message not in self._troubles:
            self._troubles.add(message)
            log.warning(
                "database.trouble",
                message=message,
                # Never the error's own text, which may quote a row.
                reason=self._why_no_connection or type(error).__name__,
                sqlstate=error.sqlstate,
            )

    def _log_recovered(self) -> None:
        # One success proves little: reads succeed on a full disk, and so does the check on a read-only server.
        if self._troubles and self._checked_ready and trio.current_time() - self._trouble_last >= QUIET:
            self._troubles.clear()
            log.warning("database.recovered", trouble_seconds=round(self._trouble_last - self._trouble_began, 1))

    # -- one call, in its thread -----------------------------------------------------------------------------------

    def _in_thread(
        self, call: _Call, work: Callable[[Connection], T], timeout: float, read_only: bool, wait_until: float
    ) -> T:
        conn = self._take(wait_until)
        try:
            try:
                call.attach(conn, time.monotonic() + timeout + CUT_GRACE)
            except OSError:  # nothing is run that the watchdog could not end
                raise DatabaseUnavailable("The service is out of file descriptors.") from None
            try:
                return _run_transaction(conn, work, timeout, read_only)
            finally:
                call.detach()
        finally:
            call.lost = conn.closed
            if conn.info.transaction_status is not TransactionStatus.IDLE:
                conn.close()
            self._pool.putconn(conn)
            if call.cut:
                # The link is bad without having said so; the idle connections share it. Each would cost a timeout.
                self._pool.drain()

    def _take(self, wait_until: float) -> _PooledConnection:
        """A live connection from the pool, or ``PoolTimeout``.

        It asks in short rounds because of how the pool reconnects: left to itself it backs off from 1 s, doubling,
        and a server that is back would go unnoticed for that long. With ``reconnect_timeout=0`` it gives up at once
        instead, and every new request makes it try again. (No place in a queue is lost by asking again: there are no
        more askers than connections.)
        """
        while True:
            left = max(wait_until - time.monotonic(), 0.001)  # even a late one gets what lies ready
            try:
                conn = self._pool.getconn(timeout=min(left, RECONNECT_EVERY))
            except PoolTimeout:
                self._pool.forget_waiters()
                if time.monotonic() >= wait_until:
                    raise
                continue
            if _is_silent(conn):
                return conn
            conn.close()
            self._pool.putconn(conn)

    # -- tasks -----------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Shut down the sockets of overdue calls. Parked while nothing is in flight."""
        while True:
            await self._busy.wait()
            while self._calls:
                await trio.sleep(WATCH_EVERY)
                self._cut_overdue(time.monotonic())
            self._busy = trio.Event()

    def _cut_overdue(self, now: float) -> None:
        for call in self._calls:
            if call.cut_if_overdue(now):
                self._cut += 1
                log.warning("database.call_cut")

    async def _guarded(self, function: Callable[[_Call], T]) -> T:
        """Run ``function`` in a thread as a call that the watchdog can cut, outside of the pool."""
        call = _Call()
        self._calls.add(call)
        self._busy.set()
        try:
            return await trio.to_thread.run_sync(function, call, limiter=self._limiter)
        finally:
            self._calls.discard(call)

    async def _close(self) -> None:
        """Refuse new calls, cut those still in flight (of tasks that outlive the database), end the pool's threads."""
        self._closed = True
        self._listener.close()
        self._cut_overdue(float("inf"))
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT):
            await trio.to_thread.run_sync(
                self._pool.close, CONNECT_TIMEOUT, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True
            )

    def _heard(self, why: str) -> None:
        """Remember why the last attempt to connect failed (called in the pool's threads), fit to be shown."""
        self._why_no_connection = presentable(why, self._conninfo)


def _run_transaction(conn: Connection, work: Callable[[Connection], T], timeout: float, read_only: bool) -> T:
    # One round trip for both. The isolation level is named but READ WRITE is not: that would override an operator's
    # default_transaction_read_only. prepare=False keeps it a simple query, which may hold two statements.
    begin = (
        b"BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY" if read_only else b"BEGIN ISOLATION LEVEL READ COMMITTED"
    )
    conn.execute(b"%b; SET LOCAL statement_timeout = %d" % (begin, max(1, round(timeout * 1000))), prepare=False)
    try:
        result = work(conn)
        status = conn.info.transaction_status
        if status not in (TransactionStatus.INTRANS, TransactionStatus.UNKNOWN):
            # COMMIT of a failed transaction is a ROLLBACK that reports success: the caller would acknowledge nothing.
            raise RuntimeError(f"the work left its transaction {status.name}: nothing was committed")
        if (tag := conn.execute("COMMIT", prepare=False).statusmessage) != "COMMIT":
            raise RuntimeError(f"the server answered COMMIT with {tag}")
        return result
    except BaseException:
        if conn.info.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
            # If this fails too, the connection is closed by whoever gives it back; the first error is the one to see.
            with suppress(psycopg.Error):
                conn.rollback()
        raise


def _is_silent(conn: psycopg.Connection[Any]) -> bool:
    """False when an idle connection is dead, told without a round trip.

    A server has nothing to say to an idle session but its end (a FATAL message, EOF, reset). The rare exception, a
    changed setting being reported, costs one good connection.
    """
    if conn.closed:
        return False
    poller = select.poll()
    poller.register(conn.fileno(), select.POLLIN)
    return not poller.poll(0)


def _judge_settings(
    number: int,
    version: str,
    fsync: str,
    synchronous_commit: str,
    full_page_writes: str,
    read_only: str,
    started_at: float,
) -> DatabaseCheck:
    problems, warnings = [], []
    if number < OLDEST_SERVER:
        problems.append(f"server_version is {version}: PostgreSQL 15 or later is needed")
    if fsync == "off":
        problems.append("fsync is off: a crash of the machine loses acknowledged events")
    if synchronous_commit == "off":
        problems.append("synchronous_commit is off: a crash of the server loses acknowledged events")
    if read_only == "on":
        problems.append("transaction_read_only is on: the server is a standby or default_transaction_read_only is set")
    if full_page_writes == "off":
        warnings.append("full_page_writes is off: safe only on storage that never tears an 8 KiB page")
    return DatabaseCheck(
        reachable=True,
        server_version=version,
        fsync=fsync != "off",
        synchronous_commit=synchronous_commit != "off",
        full_page_writes=full_page_writes != "off",
        read_only=read_only == "on",
        problems=tuple(problems),
        warnings=tuple(warnings),
        started_at=started_at,
    )


# -- wake-ups ------------------------------------------------------------------------------------------------------


class Wakeups:
    """An endless iteration over what one channel was notified of; see :meth:`Database.listen`.

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

    def _offer(self, payload: str | None) -> bool:
        """Hand over one wake-up; False when there is no room and it became a "look for yourself"."""
        try:
            self._send.send_nowait(payload)
        except trio.WouldBlock:
            self._missed = True
            return False
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        return True

    def _end(self) -> None:
        """No more will come; what is buffered is still delivered."""
        self._send.close()


class _Listener:
    """One connection that listens to every channel somebody subscribed to.

    Only connecting and LISTEN run in a thread. Waiting is Trio's, on the socket itself, so there is no thread to
    interrupt and closing is a plain cancellation.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._wakeups: weakref.WeakSet[Wakeups] = weakref.WeakSet()
        self._wanted = trio.Event()
        self._waiting: trio.CancelScope | None = None
        self._closed = False
        self.connected = False
        self.lost = 0

    def subscribe(self, channel: str, poll_every: float) -> Wakeups:
        wakeups = Wakeups(channel, poll_every, self._wakeups.discard)
        if self._closed:
            wakeups._end()
            return wakeups
        self._wakeups.add(wakeups)
        self._wanted.set()
        if self._waiting is not None:
            self._waiting.cancel()
        return wakeups

    def close(self) -> None:
        self._closed = True
        for wakeups in list(self._wakeups):
            wakeups._end()

    async def run(self) -> None:
        pause = LISTEN_PAUSE_FIRST
        await self._wanted.wait()
        while True:
            try:
                conn = await self._database._guarded(self._connect)
                try:
                    pause = LISTEN_PAUSE_FIRST
                    await self._follow(conn)
                finally:
                    self.connected = False
                    conn.close()
            except psycopg.Error as error:
                log.info("database.listener_lost", error=type(error).__name__, sqlstate=error.sqlstate)
            await trio.sleep(pause)
            pause = min(pause * 2, LISTEN_PAUSE_LAST)

    def _connect(self, call: _Call) -> psycopg.Connection[Any]:
        return psycopg.connect(self._database._conninfo, autocommit=True)

    async def _follow(self, conn: psycopg.Connection[Any]) -> None:
        heard: set[str] = set()
        while True:
            if new := {wakeups.channel for wakeups in self._wakeups} - heard:
                await self._database._guarded(lambda call, new=new: _listen(call, conn, new))  # type: ignore[misc]
                heard |= new
                self.connected = True
                # Only now is nothing missed any more; whatever happened before must be looked for.
                for wakeups in [w for w in self._wakeups if w.channel in new]:
                    wakeups._offer(None)
            # Polls the socket once and never waits, so it needs no thread.
            for notification in conn.notifies(timeout=0):
                for wakeups in [w for w in self._wakeups if w.channel == notification.channel]:
                    self.lost += not wakeups._offer(notification.payload)
            with trio.CancelScope() as self._waiting:
                if not ({wakeups.channel for wakeups in self._wakeups} - heard):
                    await trio.lowlevel.wait_readable(conn.fileno())
            self._waiting = None


def _listen(call: _Call, conn: psycopg.Connection[Any], channels: set[str]) -> None:
    call.attach(conn, time.monotonic() + CONNECT_TIMEOUT)
    try:
        for channel in sorted(channels):
            conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
    finally:
        call.detach()


# -- opening -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def open_database(
    url: str, *, pool_size: int = POOL_SIZE, max_waiting: int = MAX_WAITING, application_name: str = "logstitch"
) -> AsyncGenerator[Database]:
    """A :class:`Database` on the PostgreSQL at ``url`` (URI or keyword form of libpq), closed at the end.

    It yields at once, whether or not there is a server: calls raise :class:`DatabaseUnavailable` until there is.
    Whatever the URL itself says about timeouts, keepalives or ``options`` wins over what is set here. Closing takes
    at most CLOSE_TIMEOUT, and only if a connection is just being attempted.

    Raises :class:`ConfigurationError`, without the URL in it, when that cannot be read.
    """
    conninfo = connection_string(url, application_name=application_name)
    # The pool writes a line for each failed attempt, ten a second in an outage. We write one for each outage.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    heard: list[Callable[[str], None]] = []
    pool = _Pool(
        conninfo,
        connection_class=_PooledConnection,
        kwargs={"autocommit": True, "context": _adapters(), "heard": lambda why: heard[0](why)},
        min_size=1,
        max_size=pool_size + 1,
        open=False,
        timeout=POOL_WAIT,
        max_lifetime=MAX_LIFETIME,
        reconnect_timeout=0,  # see Database._take
        name=application_name,
    )
    database = Database(pool, conninfo, pool_size, max_waiting)
    heard.append(database._heard)
    pool.open()
    body_error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database._watch)
            nursery.start_soon(database._listener.run)
            try:
                yield database
            except BaseException as error:
                body_error = error
                raise
            finally:
                await database._close()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The nursery is an inner matter: what the body raised alone is not handed on wrapped in a group.
        if body_error is None or list(group.exceptions) != [body_error]:
            raise
    if body_error is not None:
        raise body_error


def connection_string(url: str, *, application_name: str, statement_timeout: float = TIMEOUT) -> str:
    """``url`` with our timeouts (in seconds), keepalives and formats beneath whatever it says itself.

    Raises :class:`ConfigurationError` when it cannot be read; libpq's own message would quote the password.
    """
    try:
        given = conninfo_to_dict(url)
        for port in str(given.get("port") or "5432").split(","):
            if port and not 0 < int(port) < 65536:
                raise ValueError
    except (psycopg.Error, ValueError):
        raise ConfigurationError(
            "The database URL cannot be read. Expected: postgresql://user:password@host:5432/database"
        ) from None
    settings = {
        "statement_timeout": round(statement_timeout * 1000),
        "lock_timeout": round(LOCK_TIMEOUT * 1000),
        "idle_in_transaction_session_timeout": round(IDLE_IN_TRANSACTION * 1000),
        "timezone": "UTC",
        "datestyle": "ISO",  # the only style psycopg reads
    }
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    ours: dict[str, Any] = {
        "application_name": application_name,
        "client_encoding": "utf8",
        "connect_timeout": CONNECT_TIMEOUT,
        "keepalives": 1,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
    }
    # The last -c of a setting wins, so the operator's options stand behind ours.
    return make_conninfo("", **{**ours, **given, "options": f"{options} {given.get('options') or ''}".rstrip()})


def connections_for_us(url: str) -> int:
    """How many connections the server at ``url`` has for roles that are no superusers; synchronous.

    Raises :class:`DatabaseUnavailable`.
    """
    try:
        with psycopg.connect(connection_string(url, application_name="logstitch"), autocommit=True) as conn:
            row = conn.execute(_CONNECTIONS).fetchone()
    except psycopg.Error as error:
        raise (judge(error) or LINK_LOST).error() from None
    return int(row[0]) if row else 0


def presentable(why: str, conninfo: str) -> str:
    """The first line of a libpq message, without the password should it be in there."""
    line = why.strip().partition("\n")[0]
    password = conninfo_to_dict(conninfo).get("password")
    return line.replace(str(password), "…") if password else line


def _adapters() -> AdaptersMap:
    """psycopg's adapters, with ``json`` and ``jsonb`` loaded as the text they are: we store and splice bytes.

    Times load as UTC datetimes and ``uuid`` as ``uuid.UUID``. COPY in text form (``copy.write_row``) dumps by the
    Python type; with ``FORMAT BINARY`` call ``copy.set_types`` first, the server converts nothing there.
    """
    adapters = AdaptersMap(psycopg.adapters)
    adapters.register_loader("json", TextLoader)
    adapters.register_loader("jsonb", TextLoader)
    return adapters
