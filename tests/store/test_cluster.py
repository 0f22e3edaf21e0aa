"""The data directory of an own server: its place, and what its log says."""

from __future__ import annotations

from pathlib import Path

import pytest

from logstitch.store.cluster.home import default_data_dir
from logstitch.store.cluster.server_log import bound_log, why_not_running


def test_the_default_data_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_data_dir() == Path("/var/lib/logstitch")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    assert default_data_dir() == Path("/home/ada/.local/share/logstitch")
    monkeypatch.setenv("XDG_DATA_HOME", "/elsewhere")
    assert default_data_dir() == Path("/elsewhere/logstitch")


def test_the_log_tells_why_it_does_not_run(tmp_path: Path) -> None:
    def says(*lines: str) -> str | None:
        (tmp_path / "postgres.log").write_text(
            "".join(f"2026-10-11 12:13:14.{number:03} UTC [42] {line}\n" for number, line in enumerate(lines))
        )
        return why_not_running(tmp_path)

    full = 'FATAL:  could not write to file "pg_wal/xlogtemp.42": No space left on device'
    assert why_not_running(tmp_path) is None  # no log
    assert says() is None
    assert says("LOG:  starting PostgreSQL 18.6", full, "LOG:  database system is shut down") == full
    # Not what clients were told, and not what it died of the time before.
    assert (
        says(
            "LOG:  starting PostgreSQL 18.6",
            full,
            "LOG:  starting PostgreSQL 18.6",
            "FATAL:  the database system is starting up",
            "FATAL:  sorry, too many clients already",
            "LOG:  received fast shutdown request",
        )
        == "LOG:  received fast shutdown request"
    )
    assert len(says("LOG:  " + "x" * 1000) or "") == 300
    (tmp_path / "postgres.log").write_text("no space for a prefix\n")
    assert why_not_running(tmp_path) == "no space for a prefix"


def test_the_log_is_set_aside_once_and_goes_on_in_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "postgres.log"
    with path.open("ab", buffering=0) as server:  # the descriptor that a running server holds
        server.write(b"old " * 10)
        bound_log(path, 41)
        assert not (tmp_path / "postgres.log.1").exists()
        bound_log(path, 40)
        server.write(b"new")
    assert path.read_bytes() == b"new"
    assert (tmp_path / "postgres.log.1").read_bytes() == b"old " * 10
