"""A transaction is one plain function, run whole in one thread, and every wait around it has a bound.

psycopg's asynchronous connections do not run on Trio, so this module runs its synchronous ones in threads: a call
takes a slot, a thread, a pooled connection, and does BEGIN, work, COMMIT there. Beside it stand the modules that make
connections (``connections``), wait for notifications (``listening``), judge a server (``checks``), and end what is
overdue (``watchdog``); nobody but them knows psycopg's connections or its pool.

Three things end a call that does not end by itself, the inner ones first:

* the server, by ``statement_timeout``, ``lock_timeout`` and ``idle_in_transaction_session_timeout``, set on every
  connection through libpq's ``options`` so that they hold with any plain URL;
* the kernel, by TCP keepalives and ``tcp_user_timeout``, for a peer that vanished;
* the watchdog, which shuts down the socket of an overdue call.

Dead connections are never repaired and never handed out: an idle one whose socket has something to say is closed
before use, since an idle server says nothing but goodbye. So a crash of PostgreSQL costs the calls that were in
flight, and those are run again while their ``hold`` lasts.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import psycopg
import structlog
import trio
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow
from psycopg_pool import PoolTimeout

from logstitch.errors import DatabaseUnavailable
from logstitch.store.checks import DatabaseCheck, check_server, unreachable
from logstitch.store.connections import (
    CONNECT_TIMEOUT,
    TIMEOUT,
    Pool,
    PooledConnection,
    adapters,
    connection_string,
    is_silent,
    presentable,
)
from logstitch.store.listening import POLL_EVERY, Listener, Wakeups
from logstitch.store.sqlstates import LINK_LOST, Retry, judge
from logstitch.store.watchdog import Call, Watchdog

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
CUT_GRACE = 0.5
"""Seconds beyond its timeout after which a call's socket is shut down; the server's own timeout comes first."""
CONFLICT_TRIES = 3
"""Runs of one transaction that keeps losing against others (40001, 40P01)."""
HOLD_FIRST, HOLD_LAST = 0.05, 0.5
"""Seconds between two tries within a hold, doubling from the first to the last."""
RECONNECT_EVERY = 0.1
"""Seconds between two attempts to connect while calls wait; an attempt at a server that is down costs microseconds."""
CLOSE_TIMEOUT = 5.0
"""Seconds for the pool to end its threads; one that is connecting needs up to CONNECT_TIMEOUT."""
MAX_LIFETIME = 3600.0
"""Seconds after which a connection is replaced, so that none keeps a backend's bloated caches for ever."""
CHECK_WAIT = 1.0
"""Seconds that the readiness check waits for its connection; probes are given up after a second or two."""
CHECK_TIMEOUT = 2.0
"""Seconds for the readiness check's query."""
QUIET = 10.0
"""Seconds without a failure after which trouble is over: longer than a request is held, so that a server on which only
reads work is one trouble, not one for each write."""


@dataclass(frozen=True, slots=True)
class DatabaseStatistics:
    """Numbers for metrics. The first six describe this moment, the others only grow.

    * ``slots``: calls that may be in flight at the same time, ``pool_size``.
    * ``size``: connections that exist or are being made (one more than ``pool_size`` is for the readiness check).
    * ``idle``: connections that wait in the pool.
    * ``waiting``: callers that wait for a slot.
    * ``in_flight``: calls that have a thread.
    * ``listening``: True while the LISTEN connection is up.
    * ``requests``: calls of ``transact``, and the readiness check once a second; ``errors``: those of both that ended
      as :class:`DatabaseUnavailable`.
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


class Database:
    """A pool of connections and the rules for using them; made by :func:`open_database`."""

    def __init__(self, pool: Pool, conninfo: str, pool_size: int, max_waiting: int) -> None:
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
        self._watchdog = Watchdog()
        self._listener = Listener(conninfo, self._guarded)
        self._closed = False
        self._troubles: set[str] = set()
        self._trouble_began = self._trouble_last = 0.0
        self._checked_ready = True
        self._why_no_connection = ""
        self._waiting = 0
        self._requests = 0
        self._errors = 0
        self._retried = 0

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

        try:
            check = await self._transact(
                self._check_slot, CHECK_WAIT, check_server, CHECK_TIMEOUT, 0.0, read_only=False
            )
        except DatabaseUnavailable as error:
            check = unreachable(self._why_no_connection or error.message)
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
        return self._listener.subscribe(channel, poll_every)

    def statistics(self) -> DatabaseStatistics:
        """The numbers of this moment; callable at any time from the Trio thread, also while the server is away."""
        pool = self._pool.get_stats()
        return DatabaseStatistics(
            slots=self._pool_size,
            size=pool["pool_size"],
            idle=pool["pool_available"],
            waiting=self._waiting,
            in_flight=len(self._watchdog),
            listening=self._listener.connected,
            requests=self._requests,
            errors=self._errors,
            retried=self._retried,
            cut=self._watchdog.cut,
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
            call = Call()
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
        call: Call,
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
        try:
            with self._watchdog.over(call):
                return await trio.to_thread.run_sync(
                    self._in_thread, call, work, timeout, read_only, wait_until, limiter=self._limiter
                )
        finally:
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
        self, call: Call, work: Callable[[Connection], T], timeout: float, read_only: bool, wait_until: float
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

    def _take(self, wait_until: float) -> PooledConnection:
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
            if is_silent(conn):
                return conn
            conn.close()
            self._pool.putconn(conn)

    # -- tasks -----------------------------------------------------------------------------------------------------

    async def _guarded(self, function: Callable[[Call], T]) -> T:
        """Run ``function`` in a thread as a call that the watchdog can cut, outside of the pool."""
        call = Call()
        with self._watchdog.over(call):
            return await trio.to_thread.run_sync(function, call, limiter=self._limiter)

    async def _close(self) -> None:
        """Refuse new calls, cut those still in flight (of tasks that outlive the database), end the pool's threads."""
        self._closed = True
        self._listener.close()
        self._watchdog.cut_overdue(float("inf"))
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
    pool = Pool(
        conninfo,
        connection_class=PooledConnection,
        kwargs={"autocommit": True, "context": adapters(), "heard": lambda why: heard[0](why)},
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
            nursery.start_soon(database._watchdog.run)
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
