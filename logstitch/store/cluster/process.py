"""The server's processes, whoever started them: found by what they left in the cluster and in ``/proc``."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from logstitch.store.cluster.home import ROLE, socket_url

ORPHAN_SECONDS = 2.0
"""For killed processes to be gone."""

HAS_PROC = os.path.isdir("/proc/self")
"""Linux, where a process can be told from another that was given its number."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What ``postmaster.pid`` says (PostgreSQL: src/include/utils/pidfile.h)."""

    pid: int
    sockets: Path
    ready: bool


def recorded(cluster: Path) -> Recorded | None:
    """What the cluster's file says; ``None`` where there is none, or it is not complete."""
    try:
        lines = (cluster / "postmaster.pid").read_text(encoding="utf-8", errors="surrogateescape").split("\n")
        # Line 1 is the pid, 5 the socket's directory, 8 the state; they are written one after the other.
        return Recorded(int(lines[0]), Path(lines[4]), lines[7].strip() == "ready")
    except (OSError, ValueError, IndexError):
        return None


def running_url(data: Path) -> str | None:
    """The URL of the server that runs in ``data`` right now and takes connections, whoever supervises it; else None.

    For commands that want to work beside a running service.
    """
    # As prepare_home does: the server's command line, by which it is known, has the resolved path.
    cluster = Path(os.path.realpath(data), "postgres")
    found = recorded(cluster)
    if found is None or not found.ready or not is_alive(found.pid, cluster):
        return None
    return socket_url(found.sockets, ROLE, ROLE)


def processes_in(cluster: Path) -> list[int]:
    """The server processes whose working directory is the cluster's, so not an operator's shell. Linux only."""
    found = []
    for entry in Path("/proc").glob("[0-9]*") if HAS_PROC else ():
        with suppress(OSError):  # gone, or somebody else's
            if os.readlink(entry / "cwd") == str(cluster) and (entry / "comm").read_text() == "postgres\n":
                found.append(int(entry.name))
    return found


def is_alive(pid: int, cluster: Path) -> bool:
    """Whether ``pid`` is a living postmaster of this cluster, not just a number that was given out again."""
    if HAS_PROC:
        try:
            # Only a postmaster keeps its command line, its children show what they do instead. Unlike the working
            # directory it may be read without a capability that containers lack. A zombie has none.
            return b"\0-D\0" + os.fsencode(cluster) + b"\0" in Path("/proc", str(pid), "cmdline").read_bytes()
        except OSError:
            return False
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


class Postmaster(Protocol):
    """A server process, started by us or found."""

    @property
    def pid(self) -> int: ...

    async def wait(self) -> object: ...

    def send_signal(self, sig: signal.Signals) -> None: ...


@dataclass(frozen=True, slots=True)
class Adopted:
    """A server that an earlier service started. It is not our child, so there is no exit status to wait for."""

    pid: int
    cluster: Path

    async def wait(self) -> None:
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        except (AttributeError, OSError):  # not Linux, or a sandbox without the call
            while True:
                if not is_alive(self.pid, self.cluster):
                    return
                await trio.sleep(0.1)
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            trio.lowlevel.notify_closing(descriptor)
            os.close(descriptor)

    def send_signal(self, sig: signal.Signals) -> None:
        if is_alive(self.pid, self.cluster):
            with suppress(ProcessLookupError):
                os.kill(self.pid, sig)


def clear_the_way(cluster: Path) -> None:
    """Put away what a killed server left and the next one would not start over. Only its supervisor may do this."""
    # Backends of a killed postmaster notice only when they next wait for their client. While one of them has the
    # shared memory, no new server starts.
    kill_orphans(cluster)
    # The number in a stale postmaster.pid may be another process by now, in containers it often is; PostgreSQL
    # would then take it for a running server and refuse. (That none has the shared memory, it checks on its own.)
    found = recorded(cluster)
    if HAS_PROC and found is not None and not is_alive(found.pid, cluster):
        (cluster / "postmaster.pid").unlink(missing_ok=True)


def kill_orphans(cluster: Path) -> None:
    """End what a killed postmaster left. Synchronous."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    # Until they are gone, not just signalled: they have the shared memory up to their very end.
    while (orphans := processes_in(cluster)) and time.monotonic() < deadline:
        for pid in orphans:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
