"""Work on a table of notes: what a test of transactions commits, and looks for afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg

from logstitch.store.database import Connection
from tests.support.own_server import SOON


def insert(n: int, label: str = "") -> Callable[[Connection], int]:
    """Idempotent, as work under a hold must be."""

    def work(conn: Connection) -> int:
        conn.execute("INSERT INTO notes VALUES (%s, %s) ON CONFLICT DO NOTHING", (n, label))
        return n

    return work


def stored(url: str) -> list[int]:
    with psycopg.connect(url) as conn:
        return [n for (n,) in conn.execute("SELECT n FROM notes ORDER BY n")]


def backend_pid(conn: Connection) -> int:
    return conn.info.backend_pid


class Gate:
    """Work that waits inside its transaction until it is let go."""

    def __init__(self, work: Callable[[Connection], object]) -> None:
        self.entered = threading.Event()
        self.go = threading.Event()
        self.runs = 0
        self._work = work

    def __call__(self, conn: Connection) -> object:
        self.runs += 1
        result = self._work(conn)
        self.entered.set()
        assert self.go.wait(SOON)
        return result
