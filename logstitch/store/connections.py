"""How a connection is made, by the pool or alone, what to say when that fails, and whether one is still alive."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any, Self

import psycopg
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow
from psycopg.types.string import TextLoader
from psycopg_pool import ConnectionPool

from logstitch.errors import ConfigurationError
from logstitch.store.sqlstates import LINK_LOST, judge

TIMEOUT = 5.0
"""Seconds that a transaction may take by default."""
CONNECT_TIMEOUT = 2
"""Seconds for one attempt to connect; libpq takes no less."""
LOCK_TIMEOUT = 3.0
"""Seconds that a statement waits for a lock: under TIMEOUT, so that the answer says lock and not just slow."""
IDLE_IN_TRANSACTION = 10.0
"""Seconds after which the server rolls back a transaction whose client says nothing more: its locks block others."""

# reserved_connections came with PostgreSQL 16.
_CONNECTIONS = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
       - coalesce(current_setting('reserved_connections', true)::int, 0)
"""


def connection_string(url: str, *, application_name: str, statement_timeout: float = TIMEOUT) -> str:
    """``url`` with our timeouts (in seconds), keepalives and formats beneath whatever it says itself.

    Raises :class:`ConfigurationError` when it cannot be read; libpq's own message would quote the password.
    """
    try:
        given = conninfo_to_dict(url)
        for port in str(given.get("port") or "5432").split(","):
            if port and not 0 < int(port) < 65536:
                raise ValueError
    except (psycopg.Error, ValueError):
        raise ConfigurationError(
            "The database URL cannot be read. Expected: postgresql://user:password@host:5432/database"
        ) from None
    settings = {
        "statement_timeout": round(statement_timeout * 1000),
        "lock_timeout": round(LOCK_TIMEOUT * 1000),
        "idle_in_transaction_session_timeout": round(IDLE_IN_TRANSACTION * 1000),
        "timezone": "UTC",
        "datestyle": "ISO",  # the only style psycopg reads
    }
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    ours: dict[str, Any] = {
        "application_name": application_name,
        "client_encoding": "utf8",
        "connect_timeout": CONNECT_TIMEOUT,
        "keepalives": 1,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
    }
    # The last -c of a setting wins, so the operator's options stand behind ours.
    return make_conninfo("", **{**ours, **given, "options": f"{options} {given.get('options') or ''}".rstrip()})


def connections_for_us(url: str) -> int:
    """How many connections the server at ``url`` has for roles that are no superusers; synchronous.

    Raises :class:`DatabaseUnavailable`.
    """
    try:
        with psycopg.connect(connection_string(url, application_name="logstitch"), autocommit=True) as conn:
            row = conn.execute(_CONNECTIONS).fetchone()
    except psycopg.Error as error:
        raise (judge(error) or LINK_LOST).error() from None
    return int(row[0]) if row else 0


def presentable(why: str, conninfo: str) -> str:
    """The first line of a libpq message, without the password should it be in there."""
    line = why.strip().partition("\n")[0]
    password = conninfo_to_dict(conninfo).get("password")
    return line.replace(str(password), "…") if password else line


def adapters() -> AdaptersMap:
    """psycopg's adapters, with ``json`` and ``jsonb`` loaded as the text they are: we store and splice bytes.

    Times load as UTC datetimes and ``uuid`` as ``uuid.UUID``. COPY in text form (``copy.write_row``) dumps by the
    Python type; with ``FORMAT BINARY`` call ``copy.set_types`` first, the server converts nothing there.
    """
    ours = AdaptersMap(psycopg.adapters)
    ours.register_loader("json", TextLoader)
    ours.register_loader("jsonb", TextLoader)
    return ours


class PooledConnection(psycopg.Connection[TupleRow]):
    """A connection that tells why it could not be made.

    The pool only logs such errors, and "no connection within 2 s" does not tell an operator that the password is
    wrong.
    """

    @classmethod
    def connect(  # type: ignore[override]  # the pool passes what it was given, and that includes `heard`
        cls, conninfo: str = "", *, heard: Callable[[str], None], **kwargs: Any
    ) -> Self:
        try:
            conn = super().connect(conninfo, **kwargs)
        except psycopg.Error as error:
            heard(str(error))
            raise
        heard("")
        return conn


class Pool(ConnectionPool[PooledConnection]):
    """psycopg's pool, without its memory of callers who have given up."""

    def forget_waiters(self) -> None:
        """Drop the places in the queue whose owners are gone.

        The pool itself drops them only as connections come back to it. While the server is away none does, and every
        attempt leaves one more place behind: tens of megabytes an hour.
        """
        with self._lock:
            alive = [place for place in self._waiting if place.error is None]
            self._waiting.clear()
            self._waiting.extend(alive)


def is_silent(conn: psycopg.Connection[Any]) -> bool:
    """False when an idle connection is dead, told without a round trip.

    A server has nothing to say to an idle session but its end (a FATAL message, EOF, reset). The rare exception, a
    changed setting being reported, costs one good connection.
    """
    if conn.closed:
        return False
    poller = select.poll()
    poller.register(conn.fileno(), select.POLLIN)
    return not poller.poll(0)
