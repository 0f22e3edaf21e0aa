"""``logstitch serve`` as an operator meets it: the first start, the drain, what it says when it cannot."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.support.service import CHECKOUT, Keys, Service, environment, running_service, wait_until

EVENT = {"action": "user.login", "category": "auth", "actor": {"id": "u1", "type": "user"}, "tenant_id": "acme"}


@pytest.fixture
def data() -> Iterator[Path]:
    """A data directory that also the account of the database server can enter."""
    with tempfile.TemporaryDirectory(prefix="logstitch-data-") as name:
        Path(name).chmod(0o755)
        yield Path(name) / "data"


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
        revoked = command(
            "key", "revoke", key["id"], "--organization", organization["organization_id"],
            LOGSTITCH_DATABASE_URL=blank_database_url,
        )  # fmt: skip
        assert revoked.returncode == 0
        with service.client(key["key"]) as client:
            wait_until(lambda: client.post("/api/v1/events", json=EVENT).status_code == 401, seconds=2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["serve", "--database-url", "nonsense"], "database URL"),
        (["serve", "--bind", "nowhere"], "nowhere"),
        (["serve", "--log-level", "loud"], "log-level"),
        (["key", "create", "x", "--project", "no-uuid"], "UUID"),
        (["loadtest", "--url", "http://127.0.0.1:1", "--key", "pk_x", "--batch", "101"], "--batch"),
    ],
)
def test_a_bad_setting_is_named_in_one_line(arguments: list[str], says: str) -> None:
    done = command(*arguments)
    assert done.returncode != 0
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_said_at_once(blank_database_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = command("serve", "--bind", address, "--database-url", blank_database_url)
    assert done.returncode == 1
    assert address in done.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["serve"], ["init"], ["org"], ["project"], ["key"], ["loadtest"], ["verify"]]
)
def test_help_helps(arguments: list[str]) -> None:
    done = command(*arguments, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_without_a_database_it_lives_is_not_ready_and_heals(blank_database_url: str) -> None:
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


@pytest.mark.parametrize("setting", ["synchronous_commit"])
def test_a_server_that_may_lose_commits_is_not_ready_and_says_why(blank_database_url: str, setting: str) -> None:
    with running_service(database_url=blank_database_url) as service, service.ops() as ops:
        wait_until(lambda: ops.get("/health/ready").status_code == 200)
        with psycopg.connect(blank_database_url, autocommit=True) as conn:
            database = conn.info.dbname
            conn.execute(f'ALTER DATABASE "{database}" SET {setting} = off'.encode())
            conn.execute(
                b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                b" WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        wait_until(lambda: ops.get("/health/ready").status_code == 503)
        assert setting in ops.get("/health/ready").text


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


def test_ready_turns_red_before_the_listener_closes(blank_database_url: str) -> None:
    with running_service("--drain-notice", "3", database_url=blank_database_url) as service, service.ops() as ops:
        wait_until(lambda: ops.get("/health/ready").status_code == 200)
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: ops.get("/health/ready").status_code == 503, seconds=2)
        assert ops.get("/health/live").status_code == 200
        with service.client() as client:  # a new connection is still let in
            assert client.post("/api/v1/events", json=EVENT).status_code == 201
        assert service.process.wait(30) == 0


def test_a_second_signal_cuts_the_drain_short_and_the_status_says_so(blank_database_url: str) -> None:
    with running_service("--drain-notice", "0", "--drain-seconds", "60", database_url=blank_database_url) as service:
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
