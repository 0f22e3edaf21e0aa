"""The schema only moves forward, one numbered file at a time, and every process sees the same one.

``logstitch/store/sql/migrations/NNNN_name.sql`` are numbered from 0001 without a gap. Each runs in a transaction of
its own that also records its number and checksum in ``schema_migrations``, so a crash leaves a whole number of them
done. A session-level advisory lock makes of several processes one after the other: the later ones find nothing to do.

What does not fit together is refused rather than guessed at: a database newer than the code (an old version started by
mistake would write what the new one does not expect), a file that changed after it was applied, a server too old.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

import psycopg
from psycopg.pq import TransactionStatus

from logstitch.errors import ConfigurationError, DatabaseUnavailable
from logstitch.store.checks import OLDEST_SERVER
from logstitch.store.connections import connection_string, presentable
from logstitch.store.database import Connection
from logstitch.store.sqlstates import judge

ADVISORY_LOCK = 0x6C6F677374697463
"""The lock's key, ``logstitc`` in ASCII; advisory locks are per database, so it only meets its like."""
LOCK_WAIT = 60.0
"""Seconds to wait while another process migrates."""
STATEMENT_TIMEOUT = 600.0
"""Seconds for one statement: rewriting a large table takes long, for ever is a mistake."""
TABLE_LOCK_TIMEOUT = 10.0
"""Seconds for a migration to get a lock on a table: while it waits, everybody else on that table waits behind it."""

_FILE = re.compile(r"(?P<number>\d{4})_(?P<name>[a-z0-9_]+)\.sql")

_CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""
_HAS_TABLE = "SELECT to_regclass('schema_migrations') IS NOT NULL"
_APPLIED = "SELECT number, name, checksum FROM schema_migrations ORDER BY number"
_RECORD = "INSERT INTO schema_migrations (number, name, checksum) VALUES (%s, %s, %s)"


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: ``checksum`` is the hex SHA-256 of ``script``, line ends normalized (a checkout may change them)."""

    number: int
    name: str
    script: str
    checksum: str

    @property
    def file(self) -> str:
        return f"{self.number:04}_{self.name}.sql"


def read_migrations(directory: Traversable | None = None) -> list[Migration]:
    """The migrations in ``directory`` (default: the package's), in order.

    Raises :class:`ConfigurationError` for a file that is not named ``NNNN_name.sql``, or a gap or repetition.
    """
    directory = directory or resources.files("logstitch.store") / "sql" / "migrations"
    migrations = []
    for file in sorted(directory.iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".sql"):
            continue
        if (match := _FILE.fullmatch(file.name)) is None:
            raise ConfigurationError(f"migration {file.name}: expected a name like 0001_events.sql")
        script = file.read_text(encoding="utf-8").replace("\r\n", "\n")
        checksum = hashlib.sha256(script.encode()).hexdigest()
        migrations.append(Migration(int(match["number"]), match["name"], script, checksum))
        if migrations[-1].number != len(migrations):
            raise ConfigurationError(f"migration {file.name}: expected number {len(migrations):04}")
    return migrations


def migrate(url: str, *, directory: Traversable | None = None) -> list[int]:
    """Bring the database at ``url`` to this version; the numbers that were newly applied, none if it was there.

    Synchronous: call it in a thread. Safe to call from several processes at once. A migration that fails leaves the
    ones before it applied and itself without a trace.

    Raises :class:`ConfigurationError` for what a person has to mend, and
    :class:`DatabaseUnavailable` for what may pass by itself (no server, locks). Neither shows the URL's password.
    """
    migrations = read_migrations(directory)
    with _connect(url) as conn:
        _set_lock_timeout(conn, LOCK_WAIT)
        try:
            conn.execute("SELECT pg_advisory_lock(%s)", (ADVISORY_LOCK,))
        except psycopg.errors.LockNotAvailable:
            raise DatabaseUnavailable(f"Another process has been migrating for over {LOCK_WAIT:.0f} s.") from None
        try:
            _set_lock_timeout(conn, TABLE_LOCK_TIMEOUT)
            if not _has_table(conn):
                conn.execute(_CREATE_TABLE)
            applied = _applied(conn)
            if (problem := _find_problem(migrations, applied)) is not None:
                raise ConfigurationError(problem)
            pending = [migration for migration in migrations if migration.number not in applied]
            for migration in pending:
                _apply(conn, migration)
            return [migration.number for migration in pending]
        finally:
            if not conn.closed:  # a lost connection has already given the lock back
                conn.execute("SELECT pg_advisory_unlock(%s)", (ADVISORY_LOCK,))


def _find_problem(migrations: list[Migration], applied: Mapping[int, tuple[str, str]]) -> str | None:
    """Why ``applied`` (number → name and checksum) cannot be the past of ``migrations``; ``None`` when it can."""
    known = {migration.number: migration for migration in migrations}
    newest = max(applied, default=0)
    if newest > len(migrations):
        return (
            f"The database is newer than this version: it has migration {newest:04}, this version knows "
            f"{len(migrations):04}. Start the newer version again, or restore a backup from before the upgrade."
        )
    for number in range(1, newest + 1):
        if number not in applied:
            return f"Migration {known[number].file} was never applied, though {newest:04} was."
        if applied[number][1] != known[number].checksum:
            return (
                f"Migration {known[number].file} is not the one that was applied to this database "
                f"(as {number:04}_{applied[number][0]}.sql): its checksum differs."
            )
    return None


def _apply(conn: Connection, migration: Migration) -> None:
    try:
        with conn.transaction():
            # No parameters, so a simple query: any number of statements, and a % means nothing.
            conn.execute(migration.script.encode())
            if conn.info.transaction_status is not TransactionStatus.INTRANS:
                raise ConfigurationError(f"Migration {migration.file} ends its own transaction.")
            conn.execute(_RECORD, (migration.number, migration.name, migration.checksum))
    except psycopg.Error as error:
        if judge(error) is not None:
            raise
        raise ConfigurationError(
            f"Migration {migration.file} failed: {error.diag.message_primary} (SQLSTATE {error.sqlstate})"
        ) from error


@contextmanager
def _connect(url: str) -> Iterator[Connection]:
    """A connection outside of any pool, its errors made ours."""
    conninfo = connection_string(url, application_name="logstitch migrate", statement_timeout=STATEMENT_TIMEOUT)
    try:
        with psycopg.connect(conninfo, autocommit=True) as conn:
            if conn.info.server_version < OLDEST_SERVER:
                raise ConfigurationError(
                    f"The database server is PostgreSQL {conn.info.parameter_status('server_version')}; "
                    "15 or later is needed."
                )
            yield conn
    except psycopg.Error as error:
        if (verdict := judge(error)) is not None:
            # Only a failed connection has no SQLSTATE; what libpq says of it ("password authentication failed") is
            # what the person at the terminal needs. `from None`: its text is not scrubbed, ours is.
            why = "" if error.sqlstate else f" {presentable(str(error), conninfo)}"
            raise DatabaseUnavailable(verdict.message + why, retry_after=verdict.retry_after) from None
        why = error.diag.message_primary or presentable(str(error), conninfo)
        raise ConfigurationError(f"The database refused: {why} (SQLSTATE {error.sqlstate})") from None


def _set_lock_timeout(conn: Connection, seconds: float) -> None:
    conn.execute("SELECT set_config('lock_timeout', %s, false)", (f"{round(seconds * 1000)}ms",))


def _has_table(conn: Connection) -> bool:
    row = conn.execute(_HAS_TABLE).fetchone()
    return row is not None and bool(row[0])


def _applied(conn: Connection) -> dict[int, tuple[str, str]]:
    return {number: (name, checksum) for number, name, checksum in conn.execute(_APPLIED)}
