"""A real PostgreSQL for the tests: one server a session, a database of its own for each test.

A database is cloned from a template that was migrated once, which costs tens of milliseconds; nothing is faked and
nothing is shared between tests. The server's files are in memory where there is enough of it, so it can keep
``fsync`` on (a service that finds it off is rightly not ready) without being slow.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from logstitch.store.cluster.home import ROLE, SUPERUSER, Home, prepare_home
from logstitch.store.cluster.installation import Installation
from logstitch.store.cluster.making import LOCALE, make_cluster

DEBIAN_15 = Installation(Path("/usr/lib/postgresql/15"), "15")
"""Where Debian puts the oldest version that the service supports."""

ROOMY = 2 * 1024**3
START_SECONDS = 30.0


def scratch_directory() -> Path:
    """A new directory for a server: in memory where that has room, else where temporary files go."""
    memory = Path("/dev/shm")  # noqa: S108 - mkdtemp below it is as safe as anywhere
    in_memory = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOMY
    return Path(tempfile.mkdtemp(prefix="logstitch-test-", dir=memory if in_memory else None))


@dataclass(slots=True)
class Databases:
    """Makes and drops databases on one server.

    Attributes:
        admin_url: a role that may create databases.
        role: who owns the databases and connects in the tests; None for the role of ``admin_url``.
    """

    admin_url: str
    role: str | None = None
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def url(self, name: str) -> str:
        """The URL of the database ``name`` for the tests' role."""
        parts = urlsplit(self.admin_url)
        netloc = parts.netloc if self.role is None else f"{self.role}@{parts.netloc.rpartition('@')[2]}"
        url = urlunsplit(parts._replace(netloc=netloc, path=f"/{name}"))
        # urlunsplit drops the empty host of a socket URL together with its slashes.
        return url if "://" in url else url.replace(":/", f"://{netloc}/", 1)

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute(statement)

    def create(self, template: str = "template1") -> str:
        """Make a database from ``template`` and return its name."""
        name = f"logstitch_test_{os.getpid()}_{next(self._numbers)}"
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        if self.role is not None:
            statement += sql.SQL(" OWNER {}").format(sql.Identifier(self.role))
        self._execute(statement)
        return name

    def drop(self, name: str) -> None:
        """Drop the database ``name``, whoever is still connected to it."""
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    @contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """The URL of a new database that is dropped afterwards."""
        name = self.create(template)
        try:
            yield self.url(name)
        finally:
            self.drop(name)

    def migrated_template(self, migrate: Callable[[str], object]) -> str:
        """Make a database, have ``migrate`` called with its URL, and return its name for use as a template."""
        name = self.create()
        migrate(self.url(name))
        return name


@contextmanager
def running_server(installation: Installation, settings: Mapping[str, str] | None = None) -> Iterator[Databases]:
    """Run a server of ``installation`` in a directory of its own; stop it and remove that afterwards."""
    directory = scratch_directory()
    try:
        home = prepare_home(directory, installation)
        # The builtin locale came with version 17.
        make_cluster(home, home.cluster, *(LOCALE if int(installation.major) >= 17 else ("--locale=C",)))
        url = home.url(SUPERUSER, "postgres")
        server = start_server(home, {"shared_buffers": "64MB", **(settings or {})}, url, preexec_fn=_die_with_us)
        try:
            yield Databases(url, ROLE)
        finally:
            server.send_signal(signal.SIGINT)  # fast; with its files going away, nothing more is needed
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.send_signal(signal.SIGQUIT)
                server.wait(10)
    finally:
        shutil.rmtree(directory)


def start_server(
    home: Home, settings: Mapping[str, str], url: str, *, preexec_fn: Callable[[], None] | None = None
) -> subprocess.Popen[bytes]:
    """Start a server as a direct child; back when it takes connections at ``url``.

    Raises ``RuntimeError``, with what it said, where it ends instead or takes longer than ``START_SECONDS``.
    """
    with home.log.open("ab") as output:
        server = subprocess.Popen(
            home.command(settings),
            stdout=output,
            stderr=output,
            preexec_fn=preexec_fn,
            **home.account.spawn_options(),
        )
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(url, connect_timeout=5).close()
            return server
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                server.kill()
                server.wait()
                raise RuntimeError(f"PostgreSQL does not start: {home.log.read_text('utf-8', 'replace')}") from None
            time.sleep(0.02)


def _die_with_us() -> None:
    """In the child: have Linux stop the server at once when the tests are killed. (The service's own must survive.)"""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGQUIT)
