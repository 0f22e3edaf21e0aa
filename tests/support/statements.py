"""One transaction, statement by statement: something happens before, or right after, the one that a test names.

``at_statement(StreamClaim, 5, hurt)`` counts what the connection is asked to do from the beginning of
``StreamClaim.run`` to the end of the commit, and calls ``hurt(connection)`` before number 5. Numbers begin with 0; the
last one is the COMMIT, and the number behind it stands for the moment after it, of which the service has not heard.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

Hurt = Callable[["psycopg.Connection[Any]"], None]


@dataclass
class Statements:
    """What was run: the texts of the first whole run, and whether ``hurt`` was called."""

    texts: list[str] = field(default_factory=list)
    hurt: bool = False
    runs: int = 0


class Unheard(psycopg.OperationalError):
    """The commit was done, and the link was lost before the service heard of it."""


@contextmanager
def at_statement(work: type[Any], number: int | None, hurt: Hurt) -> Iterator[Statements]:
    """Call ``hurt`` once, before statement ``number`` of the first transaction whose work is ``work.run``."""
    seen = Statements()
    here = threading.local()
    run, execute, copy = work.run, psycopg.Connection.execute, psycopg.Cursor.copy

    def step(conn: psycopg.Connection[Any], text: str) -> bool:
        """Whether this is the moment."""
        if getattr(here, "conn", None) is not conn or seen.hurt:
            return False
        seen.texts.append(text)
        if len(seen.texts) - 1 != number:
            return False
        seen.hurt = True
        return True

    def counted_run(self: Any, conn: psycopg.Connection[Any]) -> Any:
        seen.runs += 1
        here.conn = conn
        try:
            return run(self, conn)
        except BaseException:
            here.conn = None
            raise

    def counted_execute(self: psycopg.Connection[Any], query: Any, *arguments: Any, **options: Any) -> Any:
        if step(self, str(query)):
            hurt(self)
        done = execute(self, query, *arguments, **options)
        if query == "COMMIT" and getattr(here, "conn", None) is self:
            here.conn = None
            if not seen.hurt and number == len(seen.texts):
                seen.hurt = True
                hurt(self)
                self.close()
                raise Unheard("the link was lost")
        return done

    def counted_copy(self: psycopg.Cursor[Any], *arguments: Any, **options: Any) -> Any:
        if step(self.connection, "COPY"):
            hurt(self.connection)
        return copy(self, *arguments, **options)

    work.run = counted_run
    psycopg.Connection.execute = counted_execute  # type: ignore[method-assign]
    psycopg.Cursor.copy = counted_copy  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        work.run = run
        psycopg.Connection.execute = execute  # type: ignore[method-assign]
        psycopg.Cursor.copy = copy  # type: ignore[method-assign]


def kill_backend(conn: psycopg.Connection[Any]) -> None:
    """End the server's side of the connection, as an operator or a failover does."""
    pid = conn.info.backend_pid
    with psycopg.connect(conn.info.dsn, password=conn.info.password, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
