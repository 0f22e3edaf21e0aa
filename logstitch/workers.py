"""``serve --workers N``: one parent that holds the sockets and the database server, and N processes that serve.

The parent does no work of its own. A worker that dies is started again, so the parent's rule is the actors' rule one
level up. Every worker has an ops address of its own: the port that was given, and the ones after it.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import structlog
import trio

from logstitch.actors.backoff import Backoff
from logstitch.app import embedded_data, exit_seconds
from logstitch.config import MISCONFIGURED, Settings
from logstitch.http.hosts import parse_names

log = structlog.get_logger(__name__)

STOP_GRACE_SECONDS = 1.0
"""Beyond the time after which a worker exits by itself; then it is killed."""


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What a worker gets from its parent: descriptors of listening sockets, and of a pipe that ends with the parent."""

    public: tuple[int, ...]
    ops: tuple[int, ...]
    lifeline: int

    def arguments(self) -> list[str]:
        """As arguments of the worker command."""
        return [",".join(map(str, self.public)), ",".join(map(str, self.ops)), str(self.lifeline)]

    @classmethod
    def parse(cls, public: str, ops: str, lifeline: str) -> Inheritance:
        """The reverse of ``arguments``."""
        return cls(tuple(map(int, public.split(","))), tuple(map(int, ops.split(","))), int(lifeline))


def stop_seconds(settings: Settings) -> float:
    """From a signal until workers that have not ended are killed. The stop of an embedded server follows."""
    return exit_seconds(settings) + STOP_GRACE_SECONDS


async def run_workers(
    settings: Settings,
    url: str,
    public: Sequence[socket.socket],
    ops: Sequence[Sequence[socket.socket]],
    signals: AsyncIterator[int],
) -> int:
    """Run one worker for each element of ``ops`` until the first of ``signals``. 0 when all of them drained.

    Every further signal is handed on to the workers, of which a second one cuts the drain short. A worker that says
    that it cannot serve is not started again; the end of the last such one is the end of this, with the same status.
    """
    lifeline, held = os.pipe()
    stopping = trio.Event()
    running: set[trio.Process] = set()
    drained: list[bool] = []
    environment = worker_environment(settings, url)

    async def keep_alive(number: int, inherited: Inheritance) -> None:
        backoff = Backoff()
        while not stopping.is_set():
            started = trio.current_time()
            status: int | None = None
            why: str | None = None
            try:
                status = await _run_worker(inherited, environment, stopping, running, stop_seconds(settings))
            except (OSError, RuntimeError) as error:  # no process, memory, descriptor or thread to be had: for now
                why = getattr(error, "strerror", None) or str(error)
            if stopping.is_set():
                drained.append(status == 0)
                return
            if status == MISCONFIGURED:  # it has said why
                log.error("worker.cannot_serve", worker=number)
                return
            backoff = backoff.failed(ran_for=trio.current_time() - started)
            pause = backoff.delay(random.random())  # noqa: S311  (jitter)
            log.error("worker.died", worker=number, status=status, why=why, restart_in=round(pause, 2))
            with trio.move_on_after(pause):
                await stopping.wait()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hand_on, signals, stopping, running)
            async with trio.open_nursery() as workers:
                for number, sockets in enumerate(ops):
                    inherited = Inheritance(_descriptors(public), _descriptors(sockets), lifeline)
                    workers.start_soon(keep_alive, number, inherited)
            nursery.cancel_scope.cancel()
    finally:
        os.close(held)
        os.close(lifeline)
    if not stopping.is_set():  # they all ended by themselves
        return MISCONFIGURED
    return 0 if all(drained) and len(drained) == len(ops) else 1


async def end_with_parent(lifeline: int) -> None:
    """Drain this process when its parent is gone, however it went."""
    async with trio.lowlevel.FdStream(lifeline) as stream:
        await stream.receive_some()
    log.warning("worker.orphaned")
    os.kill(os.getpid(), signal.SIGTERM)


def worker_environment(settings: Settings, url: str) -> dict[str, str]:
    """A worker's settings, by environment: the URL may hold a password, and arguments are for everybody to see."""
    data = embedded_data(settings)
    return {
        **{name: value for name, value in os.environ.items() if name != "LOGSTITCH_DATA"},
        **({} if data is None else {"LOGSTITCH_DATA": str(data.absolute())}),
        "LOGSTITCH_DATABASE_URL": url,
        "LOGSTITCH_POOL_SIZE": str(settings.pool_size),
        "LOGSTITCH_CONNECTIONS_PER_ADDRESS": str(settings.connections_per_address),
        "LOGSTITCH_STREAMS_PER_ADDRESS": str(settings.streams_per_address),
        "LOGSTITCH_WEBHOOK_ALLOW": settings.webhook_allow,
        "LOGSTITCH_OPS_HOST_NAMES": ",".join(sorted(parse_names(settings.ops_host_names, settings.ops_bind))),
        "LOGSTITCH_DRAIN_NOTICE": str(settings.drain_notice),
        "LOGSTITCH_DRAIN_SECONDS": str(settings.drain_seconds),
        "LOGSTITCH_LOG_LEVEL": settings.log_level,
    }


async def _run_worker(
    inherited: Inheritance,
    environment: dict[str, str],
    stopping: trio.Event,
    running: set[trio.Process],
    patience: float,
) -> int:
    """One life of a worker: its exit status. Once ``stopping`` it has ``patience`` seconds for its end."""
    command = [sys.executable, "-m", "logstitch", "worker", *inherited.arguments()]
    process = await trio.lowlevel.open_process(
        command,
        env=environment,
        pass_fds=(*inherited.public, *inherited.ops, inherited.lifeline),
        # Ctrl-C reaches the whole foreground group; the workers hear of it from the parent, once.
        start_new_session=True,
    )
    if stopping.is_set():  # the signal came while it was being started
        process.terminate()
    running.add(process)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_kill_when_late, stopping, process, patience)
        status = await process.wait()
        nursery.cancel_scope.cancel()
    running.discard(process)
    return status


async def _kill_when_late(stopping: trio.Event, process: trio.Process, patience: float) -> None:
    try:
        await stopping.wait()
        await trio.sleep(patience)
    finally:
        if process.poll() is None:
            process.kill()


async def _hand_on(signals: AsyncIterator[int], stopping: trio.Event, running: set[trio.Process]) -> None:
    async for _ in signals:
        stopping.set()
        for process in running:
            process.terminate()


def _descriptors(sockets: Sequence[socket.socket]) -> tuple[int, ...]:
    return tuple(sock.fileno() for sock in sockets)
