"""What the benchmarks of the whole service stand on: a PostgreSQL of their own, with a fresh database for each turn.

Everything is in one directory, which is removed whatever happens, and no process outlives the run.
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg
import trio
from psycopg import sql

from logstitch import logs
from logstitch.errors import LogStitchError
from logstitch.search.segments import SEGMENT_EVENTS
from logstitch.store.embedded import EmbeddedPostgres, open_embedded_postgres
from ops.bench.contestants import CHECKOUT

OUT = Path(__file__).with_name("out")


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def names(text: str) -> tuple[str, ...]:
    """A list of names on the command line."""
    return tuple(filter(None, text.split(",")))


@dataclass(slots=True)
class Server:
    """The PostgreSQL that all share, and the template that each turn's database is made from."""

    postgres: EmbeddedPostgres
    key: str = ""
    master_key: str = ""
    template: str = "bench_template"
    _numbers: Iterator[int] = field(default_factory=count)

    @property
    def postmaster(self) -> int:
        """Its process id."""
        if self.postgres.pid is None:
            raise RuntimeError("PostgreSQL ended during the run")
        return self.postgres.pid

    def url(self, database: str, *, admin: bool = False) -> str:
        """How to reach a database of it."""
        whole = self.postgres.admin_url if admin else self.postgres.url
        return whole.replace(f"{urlsplit(whole).path}?", f"/{database}?", 1)

    def make_template(self) -> None:
        """An initialized database: schema, first project, first key."""
        self._create(self.template, "template1")
        command = [sys.executable, "-m", "logstitch", "init", "--json", "--database-url", self.url(self.template)]
        done = subprocess.run(command, cwd=CHECKOUT, check=True, stdout=subprocess.PIPE)
        made = json.loads(done.stdout)
        self.key, self.master_key = made["project_key"], made["master_key"]

    @contextmanager
    def database(self) -> Iterator[str]:
        """The name of a fresh database, with everything written before it on disk, so that no turn pays for another."""
        name = f"bench_{next(self._numbers)}"
        self._create(name, self.template)
        self.execute(sql.SQL("CHECKPOINT"))
        try:
            yield name
        finally:
            self.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _create(self, name: str, template: str) -> None:
        self.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER logstitch").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )

    def execute(self, statement: sql.SQL | sql.Composed, database: str = "postgres") -> Any:
        """Run a statement as the superuser; the first column of the first row, if there is one."""
        with psycopg.connect(self.url(database, admin=True), autocommit=True) as connection:
            cursor = connection.execute(statement)
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None

    def rows(self, database: str, table: str) -> int:
        """How many rows a table has; none if there is no such table."""
        if self.execute(sql.SQL("SELECT to_regclass({})").format(sql.Literal(table)), database) is None:
            return 0
        return int(self.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table)), database))

    def looked_at(self, database: str) -> int:
        """Up to which event the evaluator has looked."""
        return int(self.execute(sql.SQL("SELECT coalesce(max(seq), 0) FROM evaluators"), database))

    def unindexed(self, database: str) -> int:
        """Events of closed segments whose words are not in the search index yet."""
        return int(
            self.execute(
                sql.SQL(
                    "SELECT {0} * count(*) FROM segments s JOIN project_heads h USING (project_no) "
                    "WHERE NOT s.words_ready AND h.seq >= {0} * (s.segment + 1)"
                ).format(sql.Literal(SEGMENT_EVENTS)),
                database,
            )
        )


def with_server(work: Callable[[Server, Path], int], parent: Path | None) -> int:
    """Do ``work``, in a thread, with a server and a directory below ``parent``; both are gone when this returns.

    Returns the exit status: that of the work, or 1 where it was cut short.
    """
    directory = Path(tempfile.mkdtemp(prefix="logstitch-bench-", dir=parent))
    # PostgreSQL may run as another account, which must be able to pass through.
    directory.chmod(0o711)
    status = 1
    logs.configure(logging.WARNING)

    async def bench() -> None:
        nonlocal status
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey_signals, nursery.cancel_scope)
            async with open_embedded_postgres(directory / "data") as postgres:
                status = await trio.to_thread.run_sync(work, Server(postgres), directory, abandon_on_cancel=True)
            nursery.cancel_scope.cancel()

    try:
        trio.run(bench)
    except* (RuntimeError, LogStitchError) as errors:
        say("\n".join(map(str, errors.exceptions)))
    finally:
        for child in psutil.Process().children(recursive=True):  # there are some only if the run was cut short
            child.kill()
        shutil.rmtree(directory, ignore_errors=True)
    return status


async def _obey_signals(everything: trio.CancelScope) -> None:
    """PostgreSQL outlives whoever is killed: end in order when told to end."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)
    everything.cancel()
