"""The schema moves forward once, whoever asks for it and however often."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from logstitch.errors import ConfigurationError, DatabaseUnavailable
from logstitch.store import migrations
from logstitch.store.migrations import migrate, read_migrations


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "migrations"
    path.mkdir()
    write(path, "0001_first.sql", "CREATE TABLE first (n integer); INSERT INTO first VALUES (1);")
    write(path, "0002_second.sql", "ALTER TABLE first ADD label text DEFAULT '100%';")
    return path


def write(directory: Path, name: str, script: str) -> None:
    (directory / name).write_text(script, encoding="utf-8")


def rows(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as conn:
        return conn.execute(query.encode()).fetchall()


def applied(url: str) -> list[object]:
    return [number for (number,) in rows(url, "SELECT number FROM schema_migrations ORDER BY number")]


def test_an_empty_database_gets_every_migration(blank_database_url: str, directory: Path) -> None:
    assert migrate(blank_database_url, directory=directory) == [1, 2]

    assert rows(blank_database_url, "SELECT n, label FROM first") == [(1, "100%")]
    assert rows(blank_database_url, "SELECT number, name, length(checksum) FROM schema_migrations ORDER BY 1") == [
        (1, "first", 64),
        (2, "second", 64),
    ]


def test_migrating_again_changes_nothing(blank_database_url: str, directory: Path) -> None:
    migrate(blank_database_url, directory=directory)

    assert migrate(blank_database_url, directory=directory) == []
    assert rows(blank_database_url, "SELECT n FROM first") == [(1,)]


def test_only_what_is_missing_is_applied(blank_database_url: str, directory: Path) -> None:
    migrate(blank_database_url, directory=directory)
    write(directory, "0003_third.sql", "CREATE TABLE third ();")

    assert migrate(blank_database_url, directory=directory) == [3]
    assert applied(blank_database_url) == [1, 2, 3]


def test_the_packages_own_migrations_apply_to_the_oldest_server(postgres15_url: str) -> None:
    numbers = [migration.number for migration in read_migrations()]

    assert migrate(postgres15_url) == numbers
    assert applied(postgres15_url) == numbers


def test_the_packages_own_migrations_apply(blank_database_url: str) -> None:
    numbers = [migration.number for migration in read_migrations()]

    assert migrate(blank_database_url) == numbers
    assert applied(blank_database_url) == numbers


def test_a_failing_migration_leaves_no_trace_and_keeps_the_ones_before(
    blank_database_url: str, directory: Path
) -> None:
    write(directory, "0003_broken.sql", "CREATE TABLE half (); SELECT missing FROM first;")

    with pytest.raises(ConfigurationError, match=r'0003_broken\.sql failed: column "missing" does not exist'):
        migrate(blank_database_url, directory=directory)

    assert applied(blank_database_url) == [1, 2]
    assert rows(blank_database_url, "SELECT to_regclass('half')") == [(None,)]


def test_a_migration_may_not_end_its_own_transaction(blank_database_url: str, directory: Path) -> None:
    write(directory, "0003_commits.sql", "CREATE TABLE third (); COMMIT;")

    with pytest.raises(ConfigurationError, match="ends its own transaction"):
        migrate(blank_database_url, directory=directory)

    assert applied(blank_database_url) == [1, 2]


def test_a_newer_database_is_refused(blank_database_url: str, directory: Path) -> None:
    migrate(blank_database_url, directory=directory)
    (directory / "0002_second.sql").unlink()

    with pytest.raises(ConfigurationError, match="newer than this version: it has migration 0002"):
        migrate(blank_database_url, directory=directory)


def test_an_edited_migration_is_refused(blank_database_url: str, directory: Path) -> None:
    migrate(blank_database_url, directory=directory)
    write(directory, "0001_first.sql", "CREATE TABLE first (n bigint);")

    with pytest.raises(ConfigurationError, match=r"0001_first\.sql is not the one that was applied"):
        migrate(blank_database_url, directory=directory)


def test_a_hole_in_the_past_is_refused(blank_database_url: str, directory: Path) -> None:
    migrate(blank_database_url, directory=directory)
    with psycopg.connect(blank_database_url) as conn:
        conn.execute("DELETE FROM schema_migrations WHERE number = 1")

    with pytest.raises(ConfigurationError, match=r"0001_first\.sql was never applied, though 0002 was"):
        migrate(blank_database_url, directory=directory)


def test_other_line_ends_are_the_same_migration(blank_database_url: str, directory: Path) -> None:
    write(directory, "0001_first.sql", "CREATE TABLE first (\nn integer\n);")
    migrate(blank_database_url, directory=directory)
    (directory / "0001_first.sql").write_bytes(b"CREATE TABLE first (\r\nn integer\r\n);")

    assert migrate(blank_database_url, directory=directory) == []


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["0001_a.sql", "0003_c.sql"], r"0003_c\.sql: expected number 0002"),
        (["0001_a.sql", "0001_b.sql"], r"0001_b\.sql: expected number 0002"),
        (["0001_a.sql", "two.sql"], r"two\.sql: expected a name like"),
    ],
)
def test_misnumbered_files_are_refused(tmp_path: Path, names: list[str], complaint: str) -> None:
    for name in names:
        write(tmp_path, name, "SELECT 1")

    with pytest.raises(ConfigurationError, match=complaint):
        read_migrations(tmp_path)


def test_two_processes_at_once_apply_each_migration_once(blank_database_url: str, directory: Path) -> None:
    """Both start while a third holds the lock, so both have decided to migrate before either may."""
    write(directory, "0003_once.sql", "INSERT INTO first VALUES (3);")
    script = (
        "import sys, pathlib; from logstitch.store.migrations import migrate; "
        "print(migrate(sys.argv[1], directory=pathlib.Path(sys.argv[2])))"
    )
    with psycopg.connect(blank_database_url, autocommit=True) as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", (migrations.ADVISORY_LOCK,))
        both = [
            subprocess.Popen(
                [sys.executable, "-c", script, blank_database_url, str(directory)], stdout=subprocess.PIPE, text=True
            )
            for _ in range(2)
        ]
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = " + (
            "(SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        while holder.execute(waiting).fetchone() != (2,):
            assert all(process.poll() is None for process in both), "ended without waiting for the lock"

    said = sorted(process.communicate(timeout=30)[0].strip() for process in both)
    assert said == ["[1, 2, 3]", "[]"]
    assert rows(blank_database_url, "SELECT n FROM first ORDER BY n") == [(1,), (3,)]


def test_a_lock_that_is_never_given_back_is_not_waited_for_for_ever(
    blank_database_url: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "LOCK_WAIT", 0.05)
    with psycopg.connect(blank_database_url, autocommit=True) as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", (migrations.ADVISORY_LOCK,))

        with pytest.raises(DatabaseUnavailable, match="Another process has been migrating"):
            migrate(blank_database_url, directory=directory)


def test_an_old_server_is_refused(blank_database_url: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "OLDEST_SERVER", 990000)

    with pytest.raises(ConfigurationError, match="15 or later is needed"):
        migrate(blank_database_url, directory=directory)


def test_errors_do_not_show_the_password(blank_database_url: str, directory: Path) -> None:
    unreachable = "postgresql://someone:hunter2@127.0.0.1:1/database"
    unreadable = "postgresql://someone:hunter2@host:port/database"
    # libpq quotes the name of the database in its message, so this one has the password in it.
    no_such_database = make_conninfo(blank_database_url, dbname="hunter2", password="hunter2")

    for url, kind in [
        (unreachable, DatabaseUnavailable),
        (unreadable, ConfigurationError),
        (no_such_database, DatabaseUnavailable),
    ]:
        with pytest.raises(kind) as caught:
            migrate(url, directory=directory)
        assert "hunter2" not in str(caught.value)
        assert caught.value.__suppress_context__
