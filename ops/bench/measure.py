"""What a turn cost and what the machine is: CPU by who used it, memory, and what a number means nothing without.

CPU is told apart into the contestant's own process, its children (this service builds its word index in one), the
backends that work for it, the rest of PostgreSQL (WAL writer, checkpointer, autovacuum), and everybody else on the
machine, which should be nobody: a turn with much of it says little.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU seconds of one turn. ``machine``: everything that ran on all processors."""

    seconds: float
    own: float
    children: float
    backends: float
    postgres_rest: float
    machine: float

    def others(self, client: float) -> float:
        """Processors' worth of work that was neither the contestant's, nor PostgreSQL's, nor the client's."""
        known = self.own + self.children + self.backends + self.postgres_rest + client
        return max(0.0, self.machine - known) / self.seconds


class CpuMeter:
    """Counts from now on. ``pid`` is the contestant's main process, ``database`` names its database."""

    def __init__(self, pid: int, postmaster: int, database: str) -> None:
        self._process = psutil.Process(pid)
        self._postmaster = psutil.Process(postmaster)
        self._title = f" {database} "
        self._began = time.perf_counter()
        self._machine = _machine_cpu()
        self._own, self._children = self._contestant()
        self._backends, self._server = self._postgres()

    def read(self) -> Cpu:
        """What was used since the meter was made."""
        own, children = self._contestant()
        backends, server = self._postgres()
        # A backend that ended meanwhile is in the postmaster's account of its children, and counts as the rest there.
        at_work = sum(used - self._backends.get(pid, 0.0) for pid, used in backends.items())
        return Cpu(
            seconds=time.perf_counter() - self._began,
            own=own - self._own,
            children=children - self._children,
            backends=at_work,
            postgres_rest=max(0.0, server - self._server - at_work),
            machine=_machine_cpu() - self._machine,
        )

    def _contestant(self) -> tuple[float, float]:
        times = self._process.cpu_times()
        children = times.children_user + times.children_system
        for child in self._process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                children += _used(child)
        return times.user + times.system, children

    def _postgres(self) -> tuple[dict[int, float], float]:
        times = self._postmaster.cpu_times()
        backends: dict[int, float] = {}
        server = times.user + times.system + times.children_user + times.children_system
        for child in self._postmaster.children():
            with suppress(psutil.NoSuchProcess):
                used = _used(child)
                server += used
                # "postgres: <role> <database> [local] COPY"
                if self._title in " ".join(child.cmdline()):
                    backends[child.pid] = used
        return backends, server


def _used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _machine_cpu() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - getattr(times, "guest", 0) - getattr(times, "guest_nice", 0))


@dataclass(frozen=True, slots=True)
class Memory:
    """Of the contestant's main process, in MiB: the highest so far (VmHWM) and now (VmRSS)."""

    peak: float
    steady: float


def memory_of(pid: int) -> Memory:
    """How much memory a process takes."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    peak, steady = (int(fields[name].split()[0]) / 1024 for name in ("VmHWM", "VmRSS"))
    return Memory(round(peak, 1), round(steady, 1))


# -- the machine ---------------------------------------------------------------------------------------------------


def describe_machine(data: Path) -> dict[str, Any]:
    """The machine, and the disk that ``data`` is on."""
    cpus = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpus[0] if cpus else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "file_system": _file_system(data),
        "fdatasync_ms": fdatasync_ms(data),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
        "commit": _commit(),
    }


def fdatasync_ms(directory: Path) -> float:
    """What making 8 KiB durable takes on this disk (median of 100): the floor of every commit."""
    taken = []
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(bytes(8192 * 100))
        os.fsync(file.fileno())
        for place in range(100):
            os.pwrite(file.fileno(), b"x" * 8192, 8192 * place)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - began)
    return round(statistics.median(taken) * 1000, 3)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _file_system(path: Path) -> str:
    mounts = [line.split() for line in _lines("/proc/mounts")]
    over = [(mount[1], mount[2]) for mount in mounts if path.resolve().is_relative_to(mount[1])]
    return max(over, key=lambda mount: len(mount[0]))[1] if over else "unknown"


def _commit() -> str:
    here = Path(__file__).parent
    with suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "-C", str(here), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return "unknown"
