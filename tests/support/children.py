"""Child processes of the test's own process, as the system sees them."""

from __future__ import annotations

import os

import psutil
import trio

from logstitch.children import NICE


def running(word: str) -> list[psutil.Process]:
    """Those that are alive and have ``word`` in their command line."""
    found = []
    for process in psutil.Process().children():
        try:
            if word in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


async def child_at_work(word: str) -> psutil.Process:
    """The one child with ``word`` in its command line, once it runs our code with a low priority.

    Its command line is there a moment after it has started; to lower its priority is the first thing that it does.
    """
    with trio.fail_after(10):
        while not any(process.nice() == os.nice(0) + NICE for process in running(word)):  # noqa: ASYNC110  # no event
            await trio.sleep(0.01)
    (process,) = running(word)
    return process
