"""The composition root: what a process is made of, and the order in which its parts live and die.

Nesting is that order. Database ⊃ actors ⊃ HTTP: requests end before the actors that answer them, actors end before
the database that they write to. A shutdown walks it from the inside: say so (ready turns 503), stop accepting, answer
what is in flight, close and drain the mailboxes, close the pool.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import trio

from logstitch import metrics
from logstitch.actors.alerts import Alerts
from logstitch.actors.claimer import Claimer
from logstitch.actors.directory import Directory
from logstitch.actors.dispatcher import Dispatcher
from logstitch.actors.evaluator import Evaluator, Share
from logstitch.actors.health import ActorHealth, ActorState
from logstitch.actors.indexer import Indexer
from logstitch.actors.ingest import Ingest
from logstitch.actors.keyring import KeyRing
from logstitch.actors.laboratory import Laboratory
from logstitch.actors.lookout import Lookout
from logstitch.actors.organizations import Organizations
from logstitch.actors.reader import Reader
from logstitch.actors.reaper import Reaper
from logstitch.actors.redaction import Redaction
from logstitch.actors.streams import StreamIngest
from logstitch.actors.supervisor import Supervisor, open_supervisor
from logstitch.actors.timemachine import TimeMachine
from logstitch.actors.viewers import Viewers
from logstitch.actors.webhooks import Webhooks
from logstitch.config import Settings
from logstitch.egress.addresses import Allow
from logstitch.errors import ConfigurationError, DatabaseUnavailable, Detail
from logstitch.http.api import create_app, create_ops_app, starting_app
from logstitch.http.errors import refusal
from logstitch.http.hosts import parse_names
from logstitch.http.server import ServerLimits
from logstitch.http.server import serve as serve_http
from logstitch.http.services import Services
from logstitch.ids import UlidMint
from logstitch.search.segments import Layout
from logstitch.store.bootstrap import Bootstrap, bootstrap
from logstitch.store.cluster.home import default_data_dir
from logstitch.store.cluster.server_log import why_not_running
from logstitch.store.connections import connections_for_us
from logstitch.store.database import Database, open_database
from logstitch.store.embedded import open_embedded_postgres
from logstitch.store.migrations import migrate
from logstitch.store.projects import service_secret
from logstitch.store.viewer_secrets import ensure_secret
from logstitch.store.words import count_backlog

log = structlog.get_logger(__name__)

ACTORS_DRAIN_SECONDS = 8.0
"""For all actors together to finish what is in their mailboxes."""
CHECK_SECONDS = 1.0
"""Between two looks at the database for the readiness page."""
EXIT_GRACE_SECONDS = 8.0
"""Beyond the drain's own deadlines, for the pool and for what is slow to be cancelled; then the process just exits."""
EXIT_OVERDUE = 75
"""Exit status of a process that did not end in time (EX_TEMPFAIL of sysexits.h)."""
GC_THRESHOLD = 200_000
"""Containers made and not freed before the garbage collector looks for cycles among them."""
SWITCH_SECONDS = 0.0005
"""How long a thread runs on while another one waits for the interpreter's lock."""
LAG_SECONDS = 0.25
"""Between two measurements of how late the event loop is."""
BACKLOG_SECONDS = 15.0
"""Between two counts of what waits for the word index."""
MIGRATE_RETRY_SECONDS = 1.0
"""Between two attempts to prepare a database that is away."""
STOP_WHILE_STARTING_SECONDS = 30.0
"""From a signal while the embedded server starts until the process exits: its stop has 22 s, a first one is made
meanwhile."""
HAND_OVER_SECONDS = 1.0
"""For those who are being told that the service is starting to hear the end of it, once it has started."""

NOT_LOOKED = ("The database was not looked at yet.",)

# Mailbox capacities. A full mailbox is answered 503 at once, so each is what its actor works off well within the 2 s
# that an accepted request may take under overload.
KEYRING_MAILBOX = 1024
ORGANIZATIONS_MAILBOX = 256
READER_MAILBOX = 128
LABORATORY_MAILBOX = 16
REDACTION_MAILBOX = 64
INGEST_MAILBOX = 256
STREAMS_MAILBOX = 64
CLAIMER_MAILBOX = 128
EVALUATOR_MAILBOX = 32
"""Commits that wait to be looked at, of 1,000 events at most: some megabytes, and a second of the heaviest load."""
ALERTS_MAILBOX = 64
TIMEMACHINE_MAILBOX = 16
WEBHOOKS_MAILBOX = 64
VIEWERS_MAILBOX = 1024
DISPATCHER_MAILBOX = INDEXER_MAILBOX = LOOKOUT_MAILBOX = REAPER_MAILBOX = 1
"""Nobody sends these anything: it tells them when to end."""

OnReady = Callable[[Bootstrap | None], None]
"""Called once requests are let in, with the first organization if this process made it."""


@asynccontextmanager
async def open_postgres(settings: Settings) -> AsyncIterator[str]:
    """The URL of the database: the operator's own, or that of the embedded server, which lives as long as this."""
    data = embedded_data(settings)
    if data is None:
        yield settings.database_url or ""
        return
    async with open_embedded_postgres(data) as postgres:
        yield postgres.url


@asynccontextmanager
async def open_postgres_for_service(
    settings: Settings,
    public: Sequence[socket.socket],
    ops: Sequence[Sequence[socket.socket]],
    signals: AsyncIterator[int],
) -> AsyncIterator[str | None]:
    """The same for a service on these sockets, which are answered meanwhile: alive, not ready, and starting.

    The embedded server may recover for minutes, in which a socket that is listened on and not served would hold
    whoever asks. Once it runs the sockets are left alone, still listening, for others to serve on; ``signals``, too.
    One of these before that stops the server, and yields None. Raises ``ConfigurationError`` where the server has too
    few connections for the settings.
    """
    data = embedded_data(settings)
    if data is None:  # away or not, it is no start of ours that takes long
        async with open_postgres(settings) as url:
            yield url
        return
    started, handed_over = trio.Event(), trio.Event()
    serve = partial(
        serve_http, limits=_server_limits(settings), drain=started, drain_seconds=HAND_OVER_SECONDS, refusal=refusal
    )
    ops_app = create_ops_app(Starting(data), _ops_names(settings))

    async def answer() -> None:
        async with trio.open_nursery() as servers:
            servers.start_soon(serve, starting_app(), [sock.dup() for sock in public])
            for sockets in ops:
                servers.start_soon(serve, ops_app, [sock.dup() for sock in sockets])
        handed_over.set()

    life, listening, heard = trio.CancelScope(), trio.CancelScope(), trio.Event()

    async def listen() -> None:
        with listening:
            await anext(signals)
            log.info("service.stopping", phase="starting")
            begin_countdown()
            life.cancel()
        heard.set()

    with _overdue(STOP_WHILE_STARTING_SECONDS) as begin_countdown:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            nursery.start_soon(listen)
            with life:
                async with open_postgres(settings) as url:
                    await trio.to_thread.run_sync(check_connections, settings, url)
                    started.set()
                    await handed_over.wait()
                    # From here on a signal is for whoever serves; one that came until here has cancelled this.
                    listening.cancel()
                    await heard.wait()
                    yield url
            nursery.cancel_scope.cancel()
    if life.cancelled_caught:
        yield None


class Starting:
    """How a process is (``http.services.Health``) while its own database server starts."""

    def __init__(self, data: Path) -> None:
        self._data = data

    def not_ready(self) -> Sequence[Detail]:
        """That it starts, and what the server says of it."""
        words = why_not_running(self._data)
        return [
            Detail("database", "The embedded PostgreSQL is starting." + (f" Its log says: {words}" if words else ""))
        ]

    def actors(self) -> Sequence[ActorHealth]:
        """There are none yet."""
        return ()

    def database(self) -> Mapping[str, float]:
        """Nothing is connected yet."""
        return {}


def _ops_names(settings: Settings) -> Collection[str]:
    return parse_names(settings.ops_host_names, settings.ops_bind)


def embedded_data(settings: Settings) -> Path | None:
    """The data directory of the embedded server; ``None`` with a server of the operator's own."""
    return None if settings.database_url is not None else settings.data or default_data_dir()


def check_connections(settings: Settings, url: str) -> None:
    """Raise ``ConfigurationError`` when the embedded server at ``url`` has too few connections; synchronous.

    Found out under load, it would be requests that fail.
    """
    if (there_are := connections_for_us(url)) < settings.connections:
        raise ConfigurationError(
            f"{settings.workers} workers with {settings.pool_size} + 2 connections each may need "
            f"{settings.connections}, and the embedded PostgreSQL has {there_are}. Lower --workers or --pool-size, or "
            "raise max_connections in its postgresql.conf."
        )


@contextmanager
def stop_signals() -> Iterator[AsyncIterator[int]]:
    """SIGTERM and SIGINT one after the other, instead of what they do. Once this is left they are ignored for good.

    Not ``trio.open_signal_receiver``, which at its end restores what kills: what follows (the actors' farewell, the
    stop of the embedded server) has deadlines of its own and is not to be left half way.
    """
    send, receive = trio.open_memory_channel[int](16)
    token = trio.lowlevel.current_trio_token()

    def offer(number: int) -> None:
        with suppress(trio.WouldBlock):  # sixteen say no more than three
            send.send_nowait(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: token.run_sync_soon(offer, number))
    try:
        yield receive
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)


def exit_seconds(settings: Settings) -> float:
    """From a signal until a process has exited, whatever a task or a thread of its does.

    The stop of an embedded server comes after that, and has deadlines of its own.
    """
    return settings.drain_notice + settings.drain_seconds + ACTORS_DRAIN_SECONDS + EXIT_GRACE_SECONDS


async def run(
    settings: Settings,
    url: str,
    public: Sequence[socket.socket],
    ops: Sequence[socket.socket],
    signals: AsyncIterator[int],
    *,
    on_ready: OnReady,
    embedded: Path | None = None,
) -> int:
    """Serve on these sockets until the first of ``signals``; a second one cuts the drain short.

    ``embedded`` is the data directory of the server at ``url`` where that is our own, whose log tells why it is away.
    Returns the exit status: 0 after a drain that came to its end, 1 after one that was cut short.
    """
    _tune_collector()
    _tune_threads()
    with _overdue(exit_seconds(settings)) as begin_countdown:
        async with (
            open_database(url, pool_size=settings.pool_size) as database,
            open_supervisor(drain_seconds=ACTORS_DRAIN_SECONDS) as supervisor,
        ):
            process = Process(settings, database, supervisor, begin_countdown, embedded)
            return await process.serve(url, public, ops, signals, on_ready)


class Process:
    """One process: its actors, its two HTTP servers, and how it is (``http.services.Health``)."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        supervisor: Supervisor,
        begin_countdown: Callable[[], None],
        embedded: Path | None,
    ) -> None:
        self._settings = settings
        self._database = database
        self._supervisor = supervisor
        self._begin_countdown = begin_countdown
        self._embedded = embedded
        self._draining = False
        self._prepared = trio.Event()
        self._database_problems: tuple[str, ...] = NOT_LOOKED
        self._database_started_at: float | None = None
        self._risks: tuple[str, ...] = ()
        self._told: frozenset[str] | None = None
        self._app: Any = starting_app()

    # -- health ------------------------------------------------------------------------------------------------------

    def not_ready(self) -> Sequence[Detail]:
        """Why no traffic should come here; empty when it may."""
        problems = [Detail("database", problem) for problem in self._database_problems]
        if not self._prepared.is_set():
            problems.append(Detail("database", "The schema is not prepared yet."))
        if self._draining:
            problems.append(Detail("process", "The process is shutting down."))
        stuck = [actor for actor in self.actors() if actor.state is ActorState.STUCK]
        return problems + [Detail(f"actors/{actor.path}", "Work waits and nothing moves.") for actor in stuck]

    def actors(self) -> Sequence[ActorHealth]:
        """How every actor is."""
        return self._supervisor.health()

    def database(self) -> Mapping[str, float]:
        """Numbers of the pool, and since when the server runs if it was ever reached."""
        numbers = {name: float(value) for name, value in asdict(self._database.statistics()).items()}
        return numbers if self._database_started_at is None else {**numbers, "started_at": self._database_started_at}

    # -- life --------------------------------------------------------------------------------------------------------

    async def serve(
        self,
        url: str,
        public: Sequence[socket.socket],
        ops: Sequence[socket.socket],
        signals: AsyncIterator[int],
        on_ready: OnReady,
    ) -> int:
        """Serve until a signal asks for the end, then drain. Returns the exit status."""
        drain = trio.Event()
        serve = partial(
            serve_http,
            limits=_server_limits(self._settings),
            drain=drain,
            drain_seconds=self._settings.drain_seconds,
            refusal=refusal,
        )
        drained = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._obey, signals, drain, nursery.cancel_scope)
            nursery.start_soon(_keep_looking, "database", CHECK_SECONDS, self._look_at_database)
            nursery.start_soon(_measure_lag)
            nursery.start_soon(_keep_looking, "words_backlog", BACKLOG_SECONDS, self._measure_backlog)
            nursery.start_soon(self._prepare, url, on_ready)
            async with trio.open_nursery() as servers:
                ops_app = create_ops_app(self, _ops_names(self._settings))
                ops_server = await servers.start(serve, ops_app, ops)
                server = await servers.start(serve, self._entrance, public)
                log.info("service.listening", public=server.addresses[0], ops=ops_server.addresses[0])
            # Both servers have ended by themselves: everything that was accepted is answered.
            drained = True
            nursery.cancel_scope.cancel()
        log.info("service.stopped", drained=drained)
        return 0 if drained else 1

    async def _obey(self, signals: Any, drain: trio.Event, everything: trio.CancelScope) -> None:
        await anext(signals)
        log.info("service.draining", notice_seconds=self._settings.drain_notice)
        self._draining = True
        self._tell_readiness()
        self._begin_countdown()
        with trio.move_on_after(self._settings.drain_notice):
            await anext(signals)
        drain.set()
        await anext(signals)
        log.warning("service.cut_short")
        everything.cancel()

    async def _entrance(self, scope: Any, receive: Any, send: Any) -> None:
        """The app of this moment: until the database is prepared it answers 503, and the process is alive."""
        await self._app(scope, receive, send)

    async def _look_at_database(self) -> None:
        try:
            check = await self._database.check()
        except Exception as error:
            # Of a kind that nobody foresaw, such as a damaged index of its catalogue. Its text may quote a row.
            self._database_problems = (f"PostgreSQL answers with an error: {type(error).__name__}.",)
            self._tell_readiness()
            raise
        problems = check.problems
        if check.reachable:
            self._database_started_at = check.started_at
            self._tell_risks(check.warnings)
        elif self._embedded is not None and (words := await trio.to_thread.run_sync(why_not_running, self._embedded)):
            problems += (f"The embedded PostgreSQL does not run. Its log says: {words}",)
        self._database_problems = problems
        self._tell_readiness()

    async def _measure_backlog(self) -> None:
        await self._prepared.wait()
        layout = Layout()
        with suppress(DatabaseUnavailable):
            metrics.WORDS_BACKLOG.set(
                await self._database.transact(
                    lambda conn: count_backlog(conn, layout.bits, layout.part_bits), read_only=True
                )
            )

    def _tell_risks(self, risks: tuple[str, ...]) -> None:
        """Log what is no reason to refuse traffic and may cost data all the same, whenever it has changed."""
        if risks != self._risks:
            self._risks = risks
            log.warning("database.risk", risks=risks)

    def _tell_readiness(self) -> None:
        """Log a change of readiness, or of what is not well; the sentences themselves change too often."""
        if self._database_problems is NOT_LOOKED or not (self._prepared.is_set() or self._database_problems):
            return  # a start without trouble
        reasons = self.not_ready()
        fields = frozenset(reason.field for reason in reasons)
        if fields == self._told:
            return
        self._told = fields
        told = [f"{reason.field}: {reason.message}" for reason in reasons[:10]]
        if not reasons:
            log.info("service.ready")
        elif self._draining:
            log.info("service.not_ready", reasons=told)
        else:
            log.warning("service.not_ready", reasons=told)

    async def _prepare(self, url: str, on_ready: OnReady) -> None:
        """Prepare the database, however long it is away, then let requests in."""
        while True:
            try:
                await trio.to_thread.run_sync(migrate, url, abandon_on_cancel=True)
                cursor_key = await self._database.transact(lambda conn: service_secret(conn, "cursor"))
                await self._database.transact(partial(ensure_secret, now=datetime.now(UTC)))
                # Last: the keys that it makes are given once, and would be lost with a failure after it.
                first = await self._database.transact(partial(bootstrap, now=datetime.now(UTC)))
                break
            except DatabaseUnavailable as error:
                log.warning("service.database_away", reason=error.message)
                await trio.sleep(MIGRATE_RETRY_SECONDS)
        self._app = create_app(self._start_actors(cursor_key))
        self._prepared.set()
        self._tell_readiness()
        on_ready(first)

    def _start_actors(self, cursor_key: bytes) -> Services:
        """Start the actors. They stop in reverse order: who sends stops before who is sent to."""
        start, database, mint = self._supervisor.start, self._database, UlidMint()
        allow = Allow.parse(self._settings.webhook_allow)
        start("dispatcher", lambda: Dispatcher(database, allow), capacity=DISPATCHER_MAILBOX)
        redaction = Directory(
            self._supervisor,
            "redaction",
            lambda project_no: Redaction(database, project_no, mint),
            capacity=REDACTION_MAILBOX,
        )
        share = Share(database)
        evaluators = Directory(
            self._supervisor,
            "evaluator",
            lambda project_no: Evaluator(share, project_no),
            capacity=EVALUATOR_MAILBOX,
        )
        ingest = Directory(
            self._supervisor,
            "ingest",
            lambda project_no: Ingest(database, redaction, evaluators, project_no, mint),
            capacity=INGEST_MAILBOX,
        )
        start("lookout", lambda: Lookout(database, evaluators), capacity=LOOKOUT_MAILBOX)
        start("indexer", lambda: Indexer(database), capacity=INDEXER_MAILBOX)
        start("reaper", lambda: Reaper(database), capacity=REAPER_MAILBOX)
        return Services(
            keyring=start("keyring", lambda: KeyRing(database), capacity=KEYRING_MAILBOX),
            organizations=start("organizations", lambda: Organizations(database), capacity=ORGANIZATIONS_MAILBOX),
            events_in=ingest,
            redaction=redaction,
            reader=start("reader", lambda: Reader(database), capacity=READER_MAILBOX),
            laboratory=start("laboratory", lambda: Laboratory(database), capacity=LABORATORY_MAILBOX),
            alerts=start("alerts", lambda: Alerts(database, mint), capacity=ALERTS_MAILBOX),
            timemachine=start("timemachine", lambda: TimeMachine(database), capacity=TIMEMACHINE_MAILBOX),
            webhooks=start("webhooks", lambda: Webhooks(database, mint, allow), capacity=WEBHOOKS_MAILBOX),
            streams=start(
                "streams",
                lambda: StreamIngest(database, mint, per_address=self._settings.streams_per_address),
                capacity=STREAMS_MAILBOX,
            ),
            claimer=start("claimer", lambda: Claimer(database, mint), capacity=CLAIMER_MAILBOX),
            viewers=start("viewers", lambda: Viewers(database, mint), capacity=VIEWERS_MAILBOX),
            cursor_key=cursor_key,
            draining=lambda: self._draining,
        )


def _server_limits(settings: Settings) -> ServerLimits:
    return ServerLimits(max_connections_per_address=settings.connections_per_address)


async def _keep_looking(what: str, every: float, look: Callable[[], Awaitable[None]]) -> None:
    """Look for ever. What goes wrong is told once until it goes well again, and is no end of the process."""
    told = False
    while True:
        try:
            await look()
            told = False
        except Exception as error:
            if not told:
                log.error("service.look_failed", look=what, exc_info=error)
            told = True
        await trio.sleep(every)


async def _measure_lag() -> None:
    """How late a timer fires is how long some task kept the loop to itself."""
    while True:
        due = trio.current_time() + LAG_SECONDS
        await trio.sleep_until(due)
        metrics.LOOP_LAG_SECONDS.observe(trio.current_time() - due)


def _tune_collector() -> None:
    """Have the garbage collector look less often, and never at what was imported.

    A batch makes thousands of containers that die by reference counting alone; at the default threshold of 700 the
    collector walks them again and again, for a tenth of all CPU under load.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)


def _tune_threads() -> None:
    """Have a busy event loop give way to the thread of a transaction sooner.

    A transaction waits for the server a dozen times and after each for the interpreter's lock; at the default of 5 ms
    that was most of the time it took under load.
    """
    sys.setswitchinterval(SWITCH_SECONDS)


@contextmanager
def _overdue(seconds: float) -> Iterator[Callable[[], None]]:
    """What begins the countdown after which the process exits, unless this was left before.

    What is committed is safe without a farewell. By a thread, because the loop itself may be what does not get on.
    """
    timer = threading.Timer(seconds, os._exit, (EXIT_OVERDUE,))
    timer.daemon = True
    try:
        yield timer.start
    finally:
        timer.cancel()
