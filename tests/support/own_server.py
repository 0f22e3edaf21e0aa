"""A PostgreSQL of a test's own, to be hurt: killed, stopped, and started again."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil
import trio

from logstitch.store.cluster.home import SUPERUSER, Home, prepare_home
from logstitch.store.cluster.installation import installed_wheel
from logstitch.store.cluster.making import make_cluster
from tests.support.ports import free_port
from tests.support.postgres import scratch_directory, start_server

SOON = 10.0
"""Seconds that a wait in these tests may take at most; what is waited for comes within milliseconds."""


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until ``condition()`` is true; fail after ``SOON``."""
    with trio.fail_after(SOON):
        while not condition():  # noqa: ASYNC110  # what is waited for happens in threads and other processes
            await trio.sleep(0.005)


class Server:
    """A PostgreSQL to be killed, stopped and started, on one port of 127.0.0.1 for all its life."""

    def __init__(self, home: Home) -> None:
        self.port = free_port()
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql://{SUPERUSER}@127.0.0.1:{self.port}/postgres"

    def start(self, **settings: str) -> None:
        """Start it; back when it takes connections."""
        if self._process is not None and self._process.poll() is None:
            return
        own = {"listen_addresses": "127.0.0.1", "port": str(self.port)}
        self._process = start_server(self._home, own | settings, self.url)

    def processes(self) -> list[psutil.Process]:
        assert self._process is not None
        postmaster = psutil.Process(self._process.pid)
        return [postmaster, *postmaster.children(recursive=True)]

    def signal_all(self, number: int) -> None:
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL every process at once, as the kernel's memory killer or a power cut does."""
        victims = self.processes()
        # The postmaster first: it must not tidy up after its children.
        for process in victims:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        # Orphans hold on to the shared memory until they are gone, and a new server refuses to start beside them.
        _, alive = psutil.wait_procs(victims[1:], timeout=10)
        assert not alive

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.signal_all(signal.SIGCONT)
            self._process.send_signal(signal.SIGINT)
            self._process.wait(20)


@contextmanager
def own_server() -> Iterator[Server]:
    """One that is not started yet; stopped and removed afterwards."""
    directory = scratch_directory()
    try:
        home = prepare_home(directory, installed_wheel())
        make_cluster(home, home.cluster)
        server = Server(home)
        yield server
        server.stop()
    finally:
        shutil.rmtree(directory)
