"""What the server says: kept short, and read for the reason why it does not run. It holds no data: see ``FIXED``."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from logstitch.store.cluster.process import running_url

LOG_BYTES = 4 * 1024 * 1024
"""The log is set aside at this size, once: two files of it are the most that the data directory holds."""

_SAID = re.compile(
    r"^(?:[-0-9]+ [:.0-9]+ [A-Z]+ \[\d+\] )?(?P<line>(?:(?P<level>[A-Z0-9]+): +)?(?P<text>.+))$", re.MULTILINE
)
"""A line of the server's log; its prefix is ``log_line_prefix`` of ``FIXED``."""

_TO_A_CLIENT = ("the database system is ", "terminating ", "sorry, ", "remaining connection ")
"""What the server tells a client before it hangs up, at level FATAL too, and does not die of itself."""


def why_not_running(data: Path) -> str | None:
    """The line of the server's log that best says why it ended or does not start; None while it runs in ``data``.

    Like the whole log it holds no data, see ``FIXED``. Synchronous.
    """
    if running_url(data) is not None:
        return None
    try:
        with (data / "postgres.log").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4000))
            said = list(_SAID.finditer(file.read().decode("utf-8", "replace")))[-12:]
    except OSError:
        return None
    starts = [number for number, line in enumerate(said) if line["text"].startswith("starting PostgreSQL ")]
    said = said[starts[-1] :] if starts else said
    deadly = [x for x in said if x["level"] in ("FATAL", "PANIC") and not x["text"].startswith(_TO_A_CLIENT)]
    best = (deadly or said)[-1:]
    return best[0]["line"][:300] if best else None


def bound_log(path: Path, limit: int) -> None:
    """Set the log aside as ``….1`` when it has reached ``limit`` bytes; without room for that it is just emptied.

    The server appends to a descriptor it was started with, so the file is copied and emptied, not renamed; this way
    it works for an adopted server too. What is written in between is lost. Raises ``OSError`` where it cannot be
    emptied either.
    """
    with suppress(FileNotFoundError):
        if path.stat().st_size < limit:
            return
        aside = path.with_name(path.name + ".1")
        try:
            shutil.copyfile(path, aside)
        except OSError:
            with suppress(OSError):
                aside.unlink(missing_ok=True)  # half a copy, on a disk that is full
        os.truncate(path, 0)


def last_words(path: Path) -> str:
    """The end of the server's log, for an error message."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 2000))
        return " / ".join(file.read().decode("utf-8", "replace").strip().split("\n")[-4:])
    return "it left no log."
