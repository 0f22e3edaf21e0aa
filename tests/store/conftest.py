"""Connections to the test's database, and a server that a test may hurt, whole again for the next one."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import psycopg
import pytest

from logstitch.store.database import Connection
from tests.support.own_server import Server, own_server


@pytest.fixture
def conn(database_url: str) -> Iterator[Connection]:
    """A connection to the test's database."""
    with psycopg.connect(database_url) as connection:
        yield connection


@pytest.fixture
def other(database_url: str) -> Iterator[Connection]:
    """A second one, that races with the first."""
    with psycopg.connect(database_url) as connection:
        yield connection


@pytest.fixture
def watcher(database_url: str) -> Iterator[Connection]:
    """A third one, that sees who waits for whom."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def url(blank_database_url: str) -> str:
    """A database with nothing but a table of notes (see ``tests.support.notes``)."""
    with psycopg.connect(blank_database_url) as conn:
        conn.execute("CREATE TABLE notes (n integer PRIMARY KEY, label text)")
    return blank_database_url


@pytest.fixture(scope="session")
def _own_server() -> Iterator[Server]:
    with own_server() as server:
        yield server


@pytest.fixture
def server(_own_server: Server) -> Iterator[Server]:
    _own_server.start()
    with psycopg.connect(_own_server.url) as conn:
        conn.execute("DROP TABLE IF EXISTS notes; CREATE TABLE notes (n integer PRIMARY KEY, label text)")
    yield _own_server
    if _own_server._process is not None and _own_server._process.poll() is None:
        _own_server.signal_all(signal.SIGCONT)
