"""``logstitch serve`` as an operator meets it: the first start, the drain, what it says when it cannot."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
import trio

from logstitch.app import stop_signals
from logstitch.store.cluster.process import processes_in
from tests.support.own_server import own_server
from tests.support.service import CHECKOUT, Keys, Service, environment, initialize, running_service, wait_until
from tests.support.stored import AT, an_event, store

EVENT = {"action": "user.login", "category": "auth", "actor": {"id": "u1", "type": "user"}, "tenant_id": "acme"}


@pytest.fixture
def data() -> Iterator[Path]:
    """A data directory that also the account of the database server can enter; a server left in it is killed."""
    with tempfile.TemporaryDirectory(prefix="logstitch-data-") as name:
        Path(name).chmod(0o755)
        yield Path(name) / "data"
        # A service that is killed leaves its server running, which would write into what is being removed.
        servers = [psutil.Process(pid) for pid in processes_in(Path(name, "data", "postgres").resolve())]
        for server in servers:
            with suppress(psutil.NoSuchProcess):
                server.kill()
        psutil.wait_procs(servers, timeout=10)


def count_of(page: str, metric: str) -> float:
    """The value of a metric without labels."""
    found = re.search(rf"^{metric} (\S+)$", page, re.MULTILINE)
    return float(found[1]) if found else 0.0


NOBODY = Keys("", "", "", "")


def command(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(
        [sys.executable, "-m", "logstitch", *arguments],
        env=environment(settings),
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_first_start_prints_keys_and_a_curl_line_that_works_as_pasted(data: Path) -> None:
    with running_service("--data", str(data)) as service:
        lines = re.findall(r"^  (curl .*?[^\\])$", service.log_text(), re.MULTILINE | re.DOTALL)
        assert len(lines) == 2
        sent, listed = (
            subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, timeout=30) for line in lines
        )
        (event_id,) = json.loads(sent.stdout)["ids"]
        assert [event["id"] for event in json.loads(listed.stdout)["events"]] == [event_id]
        assert service.stop() == 0
    # The second start finds the database as it was left, and prints no keys.
    with running_service("--data", str(data), keys=service.keys) as again, again.client() as client:
        assert "mk_" not in again.log_text()
        assert [event["id"] for event in client.get("/api/v1/events").json()["events"]] == [event_id]


def test_init_prints_json_once_and_then_exits_3(blank_database_url: str) -> None:
    first = command("init", "--json", "--database-url", blank_database_url)
    assert first.returncode == 0
    assert set(json.loads(first.stdout)) == {"organization_id", "project_id", "master_key", "project_key"}
    again = command("init", "--json", "--database-url", blank_database_url)
    assert (again.returncode, again.stdout) == (3, "")
    assert "already" in again.stderr


def test_administration_needs_no_key(blank_database_url: str) -> None:
    def run(*arguments: str) -> dict[str, str]:
        done = command(*arguments, "--json", LOGSTITCH_DATABASE_URL=blank_database_url)
        assert done.returncode == 0, done.stderr
        answer: dict[str, str] = json.loads(done.stdout)
        return answer

    run("init")
    organization = run("org", "create", "Acme", "--plan", "free")
    project = run("project", "create", "shop", "--organization", organization["organization_id"])
    key = run(
        "key", "create", "ci", "--project", project["project_id"], "--organization", organization["organization_id"]
    )
    with running_service(database_url=blank_database_url, keys=NOBODY) as service:
        with service.client(key["key"]) as client:
            assert client.post("/api/v1/events", json=EVENT).status_code == 201
        revoked = run("key", "revoke", key["id"], "--organization", organization["organization_id"])
        assert revoked["id"] == key["id"]
        assert revoked["revoked_at"]
        with service.client(key["key"]) as client:
            wait_until(lambda: client.post("/api/v1/events", json=EVENT).status_code == 401, seconds=2)


def test_changes_answer_in_json_too(blank_database_url: str) -> None:
    def run(*arguments: str) -> dict[str, Any]:
        done = command(*arguments, "--json", LOGSTITCH_DATABASE_URL=blank_database_url)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    organization = run("init")["organization_id"]
    key = run("key", "create", "ci")

    assert run("org", "plan", organization, "free") == {"organization_id": organization, "plan": "free"}
    revoked = run("key", "revoke", key["id"])
    assert (revoked["id"], revoked["name"]) == (key["id"], "ci")
    assert key["key"].startswith(revoked["prefix"])
    rotated = run("key", "rotate-viewer-secret")
    assert rotated["rotated_at"] < rotated["former_tokens_hold_until"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", rotated["rotated_at"]), "as the API writes it"
    assert run("key", "rotate-viewer-secret", "--revoke-former")["former_tokens_hold_until"] is None


def test_commands_work_beside_a_running_service(data: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(data)
    with running_service("--data", str(data)) as service:
        for path in (str(data), str(tmp_path / "link"), os.path.relpath(data, CHECKOUT)):
            done = command("migrate", "--data", path)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "The schema is up to date.\n")
            listed = command("project", "list", "--json", "--data", path)
            assert [project["project_id"] for project in json.loads(listed.stdout)] == [service.project_id]
        with service.client() as client:
            assert client.post("/api/v1/events", json=EVENT).status_code == 201


def test_migrate_logs_to_standard_error_and_as_json(data: Path) -> None:
    done = command("migrate", "--data", str(data))
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("Applied: 1")
    assert not (data / "postgres" / "postmaster.pid").exists()


def test_tables_show_whole_ids_however_narrow_the_terminal(database_url: str) -> None:
    keys = initialize(database_url)

    def shown(*arguments: str) -> str:
        done = command(*arguments, LOGSTITCH_DATABASE_URL=database_url, COLUMNS="20")
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = json.loads(shown("key", "list", "--json"))
    table = shown("key", "list")
    assert len(listed) == 2
    for key in listed:
        assert key["id"] in table
        assert key["prefix"] in table
    assert keys.project_id in table
    assert keys.project_id in shown("project", "list")
    assert keys.organization_id in shown("org", "list")


def test_more_connections_than_the_embedded_server_has_are_refused_at_the_start(data: Path) -> None:
    done = command("serve", "--data", str(data), "--workers", "7", "--bind", "127.0.0.1:0", LOGSTITCH_POOL_SIZE="12")
    assert done.returncode == 78  # EX_CONFIG of sysexits.h: the same at every start
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("logstitch: 7 workers with 12 + 2 connections each may need 98")
    assert "PostgreSQL has 97" in last
    assert "--pool-size" in last
    assert "Traceback" not in done.stderr
    assert not (data / "postgres" / "postmaster.pid").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["serve", "--database-url", "nonsense"], 78, "database URL"),
        (["serve", "--database-url", "nonsense", "--workers", "2", "--ops-bind", "127.0.0.1:0"], 78, "database URL"),
        (["serve", "--bind", "nowhere"], 78, "nowhere"),
        (["serve", "--webhook-allow", "everything"], 78, "LOGSTITCH_WEBHOOK_ALLOW"),
        (["serve", "--data", "/dev/null/x"], 78, "--data"),
        (["serve", "--log-level", "loud"], 2, "log-level"),
        (["serve", "--workers", "many"], 2, "--workers"),
        (["migrate", "--database-url", "nonsense"], 1, "database URL"),
        (["key", "create", "x", "--project", "no-uuid"], 2, "UUID"),
        (["loadtest", "--url", "http://127.0.0.1:1", "--key", "pk_x", "--batch", "101"], 2, "--batch"),
    ],
)
def test_a_bad_setting_is_named_in_one_line(arguments: list[str], status: int, says: str) -> None:
    done = command(*arguments)
    assert done.returncode == status
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_said_at_once(database_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = command("serve", "--bind", address, "--database-url", database_url)
    assert done.returncode == 1  # and not 78: it may be free again at the next start
    assert address in done.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["serve"], ["init"], ["org"], ["project"], ["key"], ["loadtest"], ["verify"]]
)
def test_help_helps(arguments: list[str]) -> None:
    done = command(*arguments, "--help")
    assert done.returncode == 0
    assert " ".join(["Usage: logstitch", *arguments]) in done.stdout


def test_without_a_database_it_lives_is_not_ready_and_heals() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"postgresql://logstitch@127.0.0.1:{closed.getsockname()[1]}/x"
        process = subprocess.Popen(
            [sys.executable, "-m", "logstitch", "serve", "--bind", "127.0.0.1:0", "--ops-bind", "127.0.0.1:0"],
            env=environment({"LOGSTITCH_DATABASE_URL": nowhere}),
            cwd=CHECKOUT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr is not None
            addresses: dict[str, str] = {}
            for line in process.stderr:
                record = json.loads(line) if line.startswith("{") else {}
                if record.get("event") == "service.listening":
                    addresses = record
                    break
            with httpx.Client(base_url=f"http://{addresses['ops']}", trust_env=False, timeout=10) as ops:
                assert ops.get("/health/live").status_code == 200
                wait_until(lambda: "cannot be reached" in ops.get("/health/ready").text)
                assert ops.get("/health/ready").status_code == 503
            refused = httpx.get(f"http://{addresses['public']}/api/v1/events", trust_env=False)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
            assert refused.headers["Retry-After"]
        finally:
            process.kill()
            process.wait(10)
            assert process.stderr is not None
            process.stderr.close()


def recover_for_ever(data: Path) -> Path:
    """Make a cluster in ``data`` that is ready only once it is promoted: a standby that takes no connections."""
    assert command("migrate", "--data", str(data)).returncode == 0
    cluster = data / "postgres"
    with (cluster / "postgresql.conf").open("a") as settings:
        settings.write("hot_standby = off\n")
    (cluster / "standby.signal").touch()
    return cluster


def test_while_its_own_server_recovers_it_lives_is_not_ready_and_then_serves(data: Path) -> None:
    cluster = recover_for_ever(data)
    public, private = (data.parent / name for name in ("public.sock", "ops.sock"))
    output = data.parent / "output"
    with output.open("wb") as stdout:
        process = subprocess.Popen(
            [sys.executable, "-m", "logstitch", "serve", f"--bind=unix:{public}", f"--ops-bind=unix:{private}"],
            env=environment({"LOGSTITCH_DATA": str(data), "LOGSTITCH_DRAIN_NOTICE": "0"}),
            cwd=CHECKOUT,
            stdout=stdout,
            stderr=subprocess.STDOUT,
        )

    def get(path: Path, target: str) -> httpx.Response:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=5) as client:
            return client.get(f"http://localhost{target}")

    try:
        wait_until((data / "postgres" / "postmaster.pid").exists, seconds=30)
        refused = get(public, "/api/v1/events")
        assert (refused.status_code, refused.json()["error"]["message"]) == (503, "The service is starting.")
        assert get(private, "/health/live").status_code == 200
        wait_until(lambda: "Its log says: LOG:  waiting for WAL" in get(private, "/health/ready").text)
        ready = get(private, "/health/ready")
        assert ready.status_code == 503
        assert ready.json()["error"]["details"][0]["field"] == "database"
        assert get(private, "/health/actors").json()["children"] == []
        assert "logstitch_http_requests_total" in get(private, "/metrics").text

        (cluster / "promote").touch()
        os.kill(int((cluster / "postmaster.pid").read_text().split()[0]), signal.SIGUSR1)
        wait_until(lambda: get(private, "/health/ready").status_code == 200, seconds=30)
        wait_until(lambda: "Health and metrics" in output.read_text())
        # And what it prints can be pasted, although there is neither a host nor a port.
        lines = re.findall(r"^  (curl .*?[^\\])$", output.read_text(), re.MULTILINE | re.DOTALL)
        sent, listed = (
            subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, timeout=30) for line in lines
        )
        (event_id,) = json.loads(sent.stdout)["ids"]
        assert [event["id"] for event in json.loads(listed.stdout)["events"]] == [event_id]
        assert "http:///" not in output.read_text()
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait(10)


@contextmanager
def starting(data: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The service of the embedded server in ``data``, on free ports."""
    process = subprocess.Popen(
        [sys.executable, "-m", "logstitch", "serve", "--bind=127.0.0.1:0", "--ops-bind=127.0.0.1:0", *arguments],
        env=environment({"LOGSTITCH_DATA": str(data)}),
        cwd=CHECKOUT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=10)


def test_a_signal_while_its_own_server_recovers_stops_both(data: Path) -> None:
    cluster = recover_for_ever(data)
    for number, arguments in ((signal.SIGTERM, []), (signal.SIGINT, ["--workers=2"])):
        with starting(data, *arguments) as service:
            wait_until(lambda: "standby" in (status_of(cluster) or ""), seconds=30)
            postmaster = int((cluster / "postmaster.pid").read_text().split()[0])

            service.send_signal(number)

            assert service.wait(10) == 0
            assert not Path(f"/proc/{postmaster}").exists()
            assert not (cluster / "postmaster.pid").exists()
            assert "Traceback" not in service.communicate()[1]


def status_of(cluster: Path) -> str | None:
    """What the server says of itself to those who wait for its start: starting, standby, ready."""
    with suppress(OSError, IndexError):
        return (cluster / "postmaster.pid").read_text().splitlines()[7].strip()
    return None


def test_a_signal_in_the_middle_of_the_first_start_leaves_nothing_that_runs(data: Path) -> None:
    with starting(data) as service:
        wait_until((data / "postgres.new").exists, seconds=30)

        service.send_signal(signal.SIGTERM)
        service.send_signal(signal.SIGTERM)  # once more is no more

        assert service.wait(30) == 0
    assert not (data / "postgres" / "postmaster.pid").exists()
    assert command("migrate", "--data", str(data)).returncode == 0


def test_the_first_keys_are_shown_although_the_database_went_away_while_it_was_prepared(
    blank_database_url: str,
) -> None:
    script = """
import sys
from logstitch import app, cli
from logstitch.errors import DatabaseUnavailable

def away(name):
    make, failures = getattr(app, name), [DatabaseUnavailable("The database is restarting.")]
    def once(*arguments, **named):
        if failures:
            raise failures.pop()
        return make(*arguments, **named)
    setattr(app, name, once)

away("service_secret")
away("ensure_secret")
cli.main()
"""
    with running_service(
        command=("-c", script), keys=NOBODY, extra={"LOGSTITCH_DATABASE_URL": blank_database_url}
    ) as service:
        assert service.log_text().count("service.database_away") == 2
        assert "project_key" in service.log_text()


def test_errors_that_nobody_foresaw_end_neither_the_readiness_look_nor_a_metric(database_url: str) -> None:
    def told(look: str) -> int:
        lines = [json.loads(line) for line in service.log_text().splitlines() if line.startswith("{")]
        return sum(line["event"] == "service.look_failed" and line["look"] == look for line in lines)

    keys = initialize(database_url)
    with psycopg.connect(database_url, autocommit=True) as conn:
        # What a damaged index of the catalogue raises, instead of the settings; and a table that is not there.
        conn.execute("CREATE SCHEMA damaged")
        conn.execute(
            "CREATE FUNCTION damaged.current_setting(text) RETURNS text LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE 'damaged' USING ERRCODE = 'XX002'; END $$"
        )
        conn.execute("ALTER TABLE word_blocks RENAME TO no_word_blocks")
        path = f'ALTER DATABASE "{conn.info.dbname}" SET search_path = '
        conn.execute((path + "damaged, pg_catalog, public").encode())
        with running_service(database_url=database_url, keys=keys) as service, service.ops() as ops:
            wait_until(lambda: told("database") == told("words_backlog") == 1)
            for _ in range(3):  # looks at the database
                calls = count_of(ops.get("/metrics").text, "logstitch_database_calls_total")
                wait_until(
                    lambda calls=calls: count_of(ops.get("/metrics").text, "logstitch_database_calls_total") > calls
                )
            assert told("database") == 1
            assert ops.get("/health/live").status_code == 200
            assert "IndexCorrupted" in ops.get("/health/ready").text
            with service.client() as client:
                assert client.post("/api/v1/events", json=EVENT).status_code == 201

            conn.execute((path + '"$user", public').encode())
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            wait_until(lambda: ops.get("/health/ready").status_code == 200)
            assert service.stop() == 0


def test_a_setting_that_is_a_risk_is_told_once_for_each_change(tmp_path: Path) -> None:
    def told() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in service.log_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == "database.risk"]

    with own_server() as server:
        server.start(full_page_writes="off")
        with running_service(database_url=server.url) as service, service.ops() as ops:
            wait_until(lambda: len(told()) == 1)
            calls = count_of(ops.get("/metrics").text, "logstitch_database_calls_total")
            wait_until(lambda: count_of(ops.get("/metrics").text, "logstitch_database_calls_total") > calls + 2)
            assert ops.get("/health/ready").status_code == 200
            server.kill()
            wait_until(lambda: ops.get("/health/ready").status_code == 503)
            server.start(full_page_writes="on")
            wait_until(lambda: len(told()) == 2, seconds=20)
            assert service.stop() == 0
    assert [line["level"] for line in told()] == ["warning", "warning"]
    assert told()[0]["risks"][0].startswith("full_page_writes is off")
    assert told()[1]["risks"] == []


@pytest.mark.parametrize("setting", ["synchronous_commit"])
def test_a_server_that_may_lose_commits_is_not_ready_and_says_why(database_url: str, setting: str) -> None:
    with running_service(database_url=database_url) as service, service.ops() as ops:
        wait_until(lambda: ops.get("/health/ready").status_code == 200)
        with psycopg.connect(database_url, autocommit=True) as conn:
            database = conn.info.dbname
            conn.execute(f'ALTER DATABASE "{database}" SET {setting} = off'.encode())
            conn.execute(
                b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                b" WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        wait_until(lambda: ops.get("/health/ready").status_code == 503)
        assert setting in ops.get("/health/ready").text


def test_a_change_of_readiness_is_logged_once(database_url: str) -> None:
    def changes() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in service.log_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] in ("service.ready", "service.not_ready")]

    def set_default(conn: psycopg.Connection[Any], value: str) -> None:
        conn.execute(f'ALTER DATABASE "{conn.info.dbname}" SET default_transaction_read_only = {value}'.encode())
        conn.execute(
            b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            b" WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    with (
        running_service(database_url=database_url) as service,
        service.ops() as ops,
        psycopg.connect(database_url, autocommit=True) as conn,
    ):
        wait_until(lambda: len(changes()) == 1)
        set_default(conn, "on")
        wait_until(lambda: len(changes()) == 2)
        for _ in range(3):  # looks at the database
            calls = count_of(ops.get("/metrics").text, "logstitch_database_calls_total")
            wait_until(lambda calls=calls: count_of(ops.get("/metrics").text, "logstitch_database_calls_total") > calls)
        conn.execute("SET transaction_read_only = off")
        conn.execute("SET default_transaction_read_only = off")
        set_default(conn, "off")
        wait_until(lambda: len(changes()) == 3)
        assert service.stop() == 0
        wait_until(lambda: len(changes()) == 4)
        assert [(line["event"], line["level"]) for line in changes()] == [
            ("service.ready", "info"),
            ("service.not_ready", "warning"),
            ("service.ready", "info"),
            ("service.not_ready", "info"),
        ]
        assert changes()[1]["reasons"][0].startswith("database: transaction_read_only is on")
        assert changes()[3]["reasons"] == ["process: The process is shutting down."]


def test_an_embedded_server_that_cannot_start_says_why(data: Path) -> None:
    with running_service("--data", str(data), workers=2) as service, service.ops(1) as ops:
        wait_until(lambda: ops.get("/health/ready").status_code == 200)
        began = count_of(ops.get("/metrics").text, "logstitch_database_start_time_seconds")
        settings = data / "postgres" / "postgresql.conf"
        before = settings.read_text()
        settings.write_text(before + "max_wal_size = plenty\n")
        os.kill(int((data / "postgres" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        wait_until(lambda: "Its log says: FATAL:" in ops.get("/health/ready").text, seconds=20)
        assert "postgresql.conf" in ops.get("/health/ready").text
        settings.write_text(before)
        wait_until(lambda: ops.get("/health/ready").status_code == 200, seconds=20)
        assert count_of(ops.get("/metrics").text, "logstitch_database_start_time_seconds") > began
        assert service.stop() == 0


def test_what_waits_for_the_word_index_is_counted(database_url: str) -> None:
    keys = initialize(database_url)
    with psycopg.connect(database_url) as conn:
        # One full part, and the lock of whoever is about to index it.
        conn.execute("SELECT pg_advisory_lock(hashtextextended('word_blocks 1 0', 0))")
        store(conn, 1, [(AT, an_event())] * 2100)
        conn.commit()
        with running_service(database_url=database_url, keys=keys) as service, service.ops() as ops:
            wait_until(lambda: count_of(ops.get("/metrics").text, "logstitch_words_backlog_events") == 2048)


# -- the end -------------------------------------------------------------------------------------------------------


def test_sigterm_under_load_loses_nothing_and_cuts_no_answer(service: Service) -> None:
    acknowledged: list[str] = []
    cut: list[str] = []
    stop = threading.Event()

    def load(number: int) -> None:
        with service.client() as client:
            while not stop.is_set():
                try:
                    response = client.post("/api/v1/events", json=[EVENT] * 10)
                except httpx.RemoteProtocolError as error:
                    # Closing an idle connection is no cut answer; anything after the status line is.
                    if "without sending" not in str(error):
                        cut.append(str(error))
                    return
                except httpx.TransportError:
                    return
                if response.status_code == 201:
                    acknowledged.extend(response.json()["ids"])

    slow = socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2])))
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    request = b"GET /api/v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    slow.sendall(request * 20)  # answers of megabytes that nobody reads
    threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(acknowledged) > 200)
    began = time.monotonic()
    status = service.stop()
    took = time.monotonic() - began
    stop.set()
    for thread in threads:
        thread.join(20)
    slow.close()
    assert status == 0
    assert took < 30
    assert cut == []
    with running_service(database_url=service.database_url, keys=service.keys) as again, again.client() as client:
        stored: set[str] = set()
        cursor: str | None = None
        while True:
            page = client.get("/api/v1/events", params={"limit": 100} | ({"cursor": cursor} if cursor else {})).json()
            stored |= {event["id"] for event in page["events"]}
            cursor = page["cursor"]
            if cursor is None:
                break
    assert set(acknowledged) <= stored


def test_ready_turns_red_before_the_listener_closes(database_url: str) -> None:
    with running_service("--drain-notice", "3", database_url=database_url) as service, service.ops() as ops:
        wait_until(lambda: ops.get("/health/ready").status_code == 200)
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: ops.get("/health/ready").status_code == 503, seconds=2)
        assert ops.get("/health/live").status_code == 200
        with service.client() as client:  # a new connection is still let in
            assert client.post("/api/v1/events", json=EVENT).status_code == 201
        assert service.process.wait(30) == 0


def test_a_second_signal_cuts_the_drain_short_and_the_status_says_so(database_url: str) -> None:
    with running_service("--drain-notice", "0", "--drain-seconds", "60", database_url=database_url) as service:
        half = socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2])))
        half.sendall(
            b"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + service.project_key.encode()
            + b"\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"
        )  # fmt: skip
        with service.ops() as ops:
            wait_until(lambda: "in_flight 1" in ops.get("/metrics").text)
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "service.draining" in service.log_text())
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(10) == 1
        half.close()


def test_the_bound_on_the_drain_does_not_reach_beyond_it(database_url: str) -> None:
    # What comes after it, such as the stop of an embedded server, has bounds of its own.
    script = """
import threading
from logstitch import cli
try:
    cli.main()
finally:
    timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    print("timers:", sum(not timer.finished.is_set() for timer in timers), flush=True)
"""
    with running_service("--drain-notice", "0", command=("-c", script), database_url=database_url) as service:
        assert service.stop() == 0
        wait_until(lambda: "timers: " in service.log_text())
        assert "timers: 0\n" in service.log_text()


async def test_signals_are_heard_one_by_one_and_then_never_again() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with stop_signals() as signals, trio.fail_after(10):
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
                os.kill(os.getpid(), number)
                assert await anext(signals) == number
        assert {signal.getsignal(number) for number in before} == {signal.SIG_IGN}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_second_signal_cuts_the_drain_of_workers_short_and_the_database_is_stopped(data: Path) -> None:
    settings = ("--data", str(data), "--drain-notice", "0", "--drain-seconds", "60", "--pool-size", "3")
    with (
        running_service(*settings, workers=2) as service,
        socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2]))) as half,
    ):
        for worker in (0, 1):
            with service.ops(worker) as ops:
                assert "logstitch_database_slots 3.0" in ops.get("/metrics").text
        half.sendall(
            b"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + service.project_key.encode()
            + b"\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"
        )  # fmt: skip

        def in_flight() -> bool:
            for worker in (0, 1):
                with service.ops(worker) as ops:
                    if "in_flight 1" in ops.get("/metrics").text:
                        return True
            return False

        wait_until(in_flight)
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: service.log_text().count("service.draining") == 2)
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(15) == 1
        assert "service.cut_short" in service.log_text()
    assert not (data / "postgres" / "postmaster.pid").exists()


def test_signals_that_come_after_the_drain_do_not_kill_it_while_it_stops_the_database(data: Path) -> None:
    with running_service("--data", str(data), "--drain-notice", "0") as service, service.ops() as ops:
        wait_until(lambda: ops.get("/health/ready").status_code == 200)
        postmaster = int((data / "postgres" / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGSTOP)  # its stop takes until we say so
        try:
            service.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "service.stopped" in service.log_text())
            service.process.send_signal(signal.SIGTERM)
            service.process.send_signal(signal.SIGINT)
        finally:
            os.kill(postmaster, signal.SIGCONT)
        assert service.process.wait(20) == 0
    assert not (data / "postgres" / "postmaster.pid").exists()
