"""Where the service's event loop spends its CPU time: a sampler that is put around the service from outside.

    BENCH_PROFILE=FILE python -m ops.bench.profiling -m logstitch serve …

Samples from SIGUSR1 to SIGUSR2, then writes FILE. A timer on the CPU clock of the main thread interrupts it, so each
sample is CPU that this thread used, whatever other threads do meanwhile; cProfile would double the cost of small
functions, and from Python 3.12 on it mixes the threads' stacks. What a function in C takes counts for the line that
called it. Other threads (one runs the transactions) are told apart by their CPU only. Linux only.
"""

from __future__ import annotations

import ctypes
import json
import linecache
import os
import runpy
import signal
import site
import sys
import sysconfig
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

INTERVAL_NS = 1_000_000
"""Of CPU time between two samples. The kernel rounds it up to its tick, 4 or 10 ms: give it time."""
_CHECKOUT = str(Path(__file__).resolve().parents[2])
_DEEPEST = 200
_TOP = 40

# -- in the service ------------------------------------------------------------------------------------------------

_CLOCK_THREAD_CPUTIME_ID = 3
_SIGEV_THREAD_ID = 4


class _SigEvent(ctypes.Structure):
    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("thread", ctypes.c_int),
        ("padding", ctypes.c_char * 44),
    )


class _TimerSpec(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_long) for name in ("every_s", "every_ns", "first_s", "first_ns"))


class Sampler:
    """Counts where the main thread is, each time it has used some more CPU."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._own: Counter[tuple[str, str, int]] = Counter()  # (file, function, line) on top of the stack
        self._within: Counter[tuple[str, str]] = Counter()  # (file, function) anywhere on it
        self._threads: dict[int, float] = {}
        self._timer = ctypes.c_void_p()
        self._libc = ctypes.CDLL(None, use_errno=True)

    def install(self) -> None:
        """From now on obey the two signals. To be called in the main thread."""
        event = _SigEvent(None, signal.SIGPROF, _SIGEV_THREAD_ID, threading.get_native_id())
        if self._libc.timer_create(_CLOCK_THREAD_CPUTIME_ID, ctypes.byref(event), ctypes.byref(self._timer)):
            raise OSError(ctypes.get_errno(), "timer_create")
        signal.signal(signal.SIGPROF, self._sample)
        signal.signal(signal.SIGUSR1, self._begin)
        signal.signal(signal.SIGUSR2, self._end)

    def _set_timer(self, interval_ns: int) -> None:
        spec = _TimerSpec(0, interval_ns, 0, interval_ns)
        if self._libc.timer_settime(self._timer, 0, ctypes.byref(spec), None):
            raise OSError(ctypes.get_errno(), "timer_settime")

    def _begin(self, number: int, frame: FrameType | None) -> None:
        self._threads = _thread_cpu()
        self._set_timer(INTERVAL_NS)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._set_timer(0)
        names = {thread.native_id: thread.name for thread in threading.enumerate()}
        used: defaultdict[str, float] = defaultdict(float)
        for native_id, seconds in _thread_cpu().items():
            name = names.get(native_id, "other").rstrip("0123456789 -_")
            used["main" if native_id == os.getpid() else name] += seconds - self._threads.get(native_id, 0.0)
        found = {
            "threads": dict(used),
            "own": [[*place, n] for place, n in self._own.most_common()],
            "within": [[*place, n] for place, n in self._within.most_common()],
        }
        self._out.write_text(json.dumps(found), encoding="utf-8")

    def _sample(self, number: int, frame: FrameType | None) -> None:
        if frame is None:
            return
        code = frame.f_code
        self._own[code.co_filename, code.co_qualname, frame.f_lineno] += 1
        seen = set()
        depth = 0
        while frame is not None and depth < _DEEPEST:
            seen.add((frame.f_code.co_filename, frame.f_code.co_qualname))
            frame, depth = frame.f_back, depth + 1
        self._within.update(seen)


def _thread_cpu() -> dict[int, float]:
    return {thread.id: thread.user_time + thread.system_time for thread in psutil.Process().threads()}


def main() -> None:
    """Install the sampler, then run what the arguments name as Python itself would: ``-m MODULE …`` or ``FILE …``."""
    Sampler(Path(os.environ["BENCH_PROFILE"])).install()
    if sys.argv[1] == "-m":
        sys.argv = sys.argv[2:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = sys.argv[1:]
        runpy.run_path(sys.argv[0], run_name="__main__")


# -- in the benchmark ----------------------------------------------------------------------------------------------


def markdown(found: Mapping[str, Any], load: str, events: int, seconds: float) -> str:
    """The profile as tables. ``seconds``: how long ``events`` took under it."""
    threads: dict[str, float] = found["threads"]
    main_us = threads.get("main", 0.0) * 1e6 / max(events, 1)
    total = sum(n for *_, n in found["own"]) or 1
    lines = [f"# Profile of the service, {load}", ""]
    lines += [f"{events:,} events in {seconds:.1f} s ({events / seconds:,.0f}/s), {total:,} samples", ""]
    lines += ["| thread | CPU s | µs an event |", "| --- | ---: | ---: |"]
    for name, used in sorted(threads.items(), key=lambda item: -item[1]):
        if used > 0:
            lines.append(f"| {name} | {used:.2f} | {used * 1e6 / max(events, 1):.1f} |")

    def row(*columns: str, n: int) -> str:
        return f"| {n / total:.1%} | {main_us * n / total:.1f} | {' | '.join(columns)} |"

    head = "| share | µs an event | {} |"
    modules: Counter[str] = Counter()
    functions: Counter[tuple[str, str]] = Counter()
    hottest: dict[tuple[str, str], tuple[int, int]] = {}
    for file, function, line, n in found["own"]:
        module = _module(file)
        modules[module if module.startswith("logstitch.") else module.partition(".")[0]] += n
        functions[file, function] += n
        hottest.setdefault((file, function), (line, n))
    lines += ["", "## By module (main thread, own time)", "", head.format("module"), "| ---: | ---: | --- |"]
    lines += [row(name, n=n) for name, n in modules.most_common(_TOP)]
    lines += ["", "## By function (own time, what it calls in C included)", ""]
    lines += [head.format("function | its hottest line"), "| ---: | ---: | --- | --- |"]
    for (file, function), n in functions.most_common(_TOP):
        line, hits = hottest[file, function]
        text = linecache.getline(file, line).strip().replace("|", "\\|")[:80]
        lines.append(row(f"{_module(file)}: {function}", f"{hits / n:.0%} `{text}`", n=n))
    lines += ["", "## With everything they call (functions of the service)", ""]
    lines += [head.format("function"), "| ---: | ---: | --- |"]
    ours = [(file, function, n) for file, function, n in found["within"] if _module(file).startswith("logstitch")]
    lines += [row(f"{_module(file)}: {function}", n=n) for file, function, n in ours[:_TOP]]
    return "\n".join([*lines, ""])


def _module(file: str) -> str:
    """``logstitch.http.api``, ``trio._core._run``, ``python hmac`` for the standard library."""
    if file.startswith(f"{_CHECKOUT}{os.sep}logstitch"):
        return ".".join(Path(file).relative_to(_CHECKOUT).with_suffix("").parts)
    for packages in site.getsitepackages():
        if file.startswith(packages):
            return ".".join(Path(file).relative_to(packages).with_suffix("").parts)
    if file.startswith(sysconfig.get_path("stdlib")):
        return f"python {Path(file).stem}"
    # "<string>" and the like: methods that dataclasses and attrs have generated
    return f"generated {file.rpartition(' ')[2].strip('<>')}" if file.startswith("<") else Path(file).name


if __name__ == "__main__":
    main()
