"""A child process for work that would hold the interpreter's lock: with a low priority, and never left behind.

It is a fresh interpreter that runs a line of Python, with pipes for input and output. It is told nothing of the
service's settings, is out of reach of Ctrl-C at the terminal, and ends when the service is gone, however that ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import logstitch

NICE: Final = 10
"""Added to the niceness of a child: where processors are short, ingest goes first."""

# Appended, not put first: the directory may be one with many packages, which must not hide the standard library's.
_PRELUDE: Final = """
import os, signal, sys, threading, time
sys.path.append(sys.argv[1])
os.nice(int(sys.argv[2]))

def live_no_longer_than(parent):
    while os.getppid() == parent:
        signal.alarm(60)  # ends the process if this thread gets no turn
        time.sleep(0.5)
    os._exit(1)

threading.Thread(target=live_no_longer_than, args=(int(sys.argv[3]),), daemon=True).start()
"""


def command(code: str) -> list[str]:
    """The command line of a child that runs ``code``, which may import the package."""
    checkout = str(Path(logstitch.__file__).parents[1])
    return [sys.executable, "-P", "-c", _PRELUDE + code, checkout, str(NICE), str(os.getpid())]


def options() -> dict[str, Any]:
    """Options for ``subprocess.Popen`` and its like.

    Standard error goes nowhere: a traceback quotes what its exception is about, and that may be an event.
    """
    return {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
        "env": {name: value for name, value in os.environ.items() if not name.startswith("LOGSTITCH_")},
        # Out of reach of Ctrl-C, but in the service's session: Linux shares processors between sessions first, and
        # minds niceness only within each (sched(7), autogroup), so that a session of its own would undo the priority.
        "process_group": 0,
    }
