"""Several processes on one database keep every promise that one makes: idempotency, order, revocation."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from logstitch.app import ACTORS_DRAIN_SECONDS, exit_seconds
from logstitch.config import Settings
from logstitch.workers import stop_seconds
from tests.support.ingest import event
from tests.support.service import CHECKOUT, Service, environment, initialize, running_service, wait_until


@pytest.fixture
def pair(database_url: str) -> Iterator[tuple[Service, Service]]:
    """Two ``serve`` processes on one database."""
    keys = initialize(database_url)
    with (
        running_service(database_url=database_url, keys=keys) as one,
        running_service(database_url=database_url, keys=keys) as other,
    ):
        yield one, other


def test_twins_sent_to_both_processes_at_once_are_one_event(pair: tuple[Service, Service]) -> None:
    def send(number: int) -> tuple[int, Any, int]:
        with pair[number % 2].client() as client:
            response = client.post("/api/v1/events", json=event(idempotency_key="twin"))
            return response.status_code, response.json().get("ids"), int(response.headers["Idempotent-Replays"])

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(send, range(50)))
    assert {status for status, _, _ in answers} == {201}
    assert len({tuple(ids) for _, ids, _ in answers}) == 1
    assert sum(replays for _, _, replays in answers) == 49


def test_twins_with_other_bodies_conflict_across_processes(pair: tuple[Service, Service]) -> None:
    with pair[0].client() as one, pair[1].client() as other:
        assert one.post("/api/v1/events", json=event(idempotency_key="k")).status_code == 201
        refused = other.post("/api/v1/events", json=[event(), event(idempotency_key="k", category="admin")])
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
        assert refused.json()["error"]["details"][0]["field"] == "1.idempotency_key"
        assert len(one.get("/api/v1/events").json()["events"]) == 1


def test_both_processes_write_one_gap_free_order_and_every_page_is_complete(pair: tuple[Service, Service]) -> None:
    def send(number: int) -> list[str]:
        with pair[number % 2].client() as client:
            return [
                event_id
                for _ in range(5)
                for event_id in client.post("/api/v1/events", json=[event()] * (number % 5 + 1)).json()["ids"]
            ]

    with ThreadPoolExecutor(8) as threads:
        acknowledged = {event_id for ids in threads.map(send, range(16)) for event_id in ids}
    with pair[0].client() as client:
        listed: list[str] = []
        parameters = {"limit": "7"}
        while True:
            page = client.get("/api/v1/events", params=parameters).json()
            listed += [found["id"] for found in page["events"]]
            if not page["has_more"]:
                break
            parameters["cursor"] = page["cursor"]
    assert len(listed) == len(acknowledged)
    assert set(listed) == acknowledged
    with psycopg.connect(pair[0].database_url) as conn:
        sequence = [seq for (seq,) in conn.execute("SELECT seq FROM events ORDER BY seq")]
    assert sequence == [*range(1, len(acknowledged) + 1)]


def test_a_key_revoked_at_one_process_is_refused_by_the_other_from_the_answer_on(pair: tuple[Service, Service]) -> None:
    one, other = pair
    with one.client(one.master_key) as admin, other.client() as warm:
        made = admin.post("/api/v1/keys", json={"project_id": one.project_id, "type": "project", "name": "x"}).json()
        stop = threading.Event()

        def keep_in_use() -> None:
            with other.client(made["key"]) as client:
                while not stop.is_set():
                    client.get("/api/v1/events", params={"limit": 1})

        user = threading.Thread(target=keep_in_use)
        user.start()
        try:
            assert admin.delete(f"/api/v1/keys/{made['id']}").status_code == 200
            answer = warm.get("/api/v1/events", headers={"Authorization": f"Bearer {made['key']}"})
        finally:
            stop.set()
            user.join(10)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "key_revoked")


def test_a_key_revoked_while_a_body_arrives_writes_nothing_any_more(pair: tuple[Service, Service]) -> None:
    one, other = pair
    with one.client(one.master_key) as admin:
        made = admin.post("/api/v1/keys", json={"project_id": one.project_id, "type": "project", "name": "x"}).json()
        body = json.dumps(event()).encode()
        host, _, port = other.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as slow:
            head = f"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {made['key']}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            slow.sendall(head.encode() + body[:-1])
            assert admin.delete(f"/api/v1/keys/{made['id']}").status_code == 200
            slow.sendall(body[-1:])
            answer = slow.recv(65536)
        assert b" 401 " in answer.partition(b"\r\n")[0]
        assert b"key_revoked" in answer
        with one.client() as client:
            assert client.get("/api/v1/events").json()["events"] == []


def test_workers_share_the_port_and_one_that_dies_is_replaced(database_url: str) -> None:
    with running_service("--drain-notice", "0", database_url=database_url, workers=2) as service:
        workers = psutil.Process(service.process.pid).children()
        assert len(workers) == 2
        for worker in (0, 1):
            with service.ops(worker) as ops:
                wait_until(lambda ops=ops: ops.get("/health/ready").status_code == 200)
        os.kill(workers[0].pid, signal.SIGKILL)
        acknowledged = 0
        for _ in range(20):  # the other one goes on; only connections of the dead one break
            with service.client() as client:
                try:
                    acknowledged += client.post("/api/v1/events", json=event()).status_code == 201
                except httpx.TransportError:
                    continue
        assert acknowledged >= 10
        wait_until(lambda: len(service.announcements()) == 3, seconds=30)
        assert service.stop() == 0
        assert not any(worker.is_running() and worker.status() != "zombie" for worker in workers)


def test_a_worker_that_cannot_be_started_is_tried_again_and_the_others_go_on(database_url: str) -> None:
    script = """
import errno, trio
from logstitch import cli

forks, open_process = [], trio.lowlevel.open_process

async def fork(*arguments, **named):
    forks.append(1)
    if len(forks) in (3, 4):
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
    if len(forks) == 5:
        raise RuntimeError("can't start new thread")
    return await open_process(*arguments, **named)

trio.lowlevel.open_process = fork
cli.main()
"""
    options = ("--drain-notice", "0")
    with running_service(*options, command=("-c", script), database_url=database_url, workers=2, seconds=60) as service:
        victim, other = psutil.Process(service.process.pid).children()
        victim.kill()
        wait_until(lambda: len(service.announcements()) == 3, seconds=30)
        died = [json.loads(line) for line in service.log_text().splitlines() if '"worker.died"' in line]
        assert [line["status"] for line in died] == [-9, None, None, None]
        assert died[1]["why"] == "Resource temporarily unavailable"
        assert other.is_running()
        assert service.stop() == 0


def test_workers_that_cannot_serve_this_database_are_not_started_again(database_url: str) -> None:
    initialize(database_url)
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("INSERT INTO schema_migrations (number, name, checksum) VALUES (9999, 'later', 'x')")
    done = subprocess.run(
        [sys.executable, "-m", "logstitch", "serve", "--workers=2", "--bind=127.0.0.1:0", "--ops-bind=127.0.0.1:0"],
        env=environment({"LOGSTITCH_DATABASE_URL": database_url}),
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 78
    assert done.stderr.count("logstitch: The database is newer than this version") == 2
    assert "worker.died" not in done.stderr
    refused = [json.loads(line) for line in done.stderr.splitlines() if '"worker.cannot_serve"' in line]
    assert sorted(line["worker"] for line in refused) == [0, 1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("notice", "seconds"), [(0.0, 0.0), (1.0, 10.0), (60.0, 60.0)])
def test_a_worker_has_the_time_that_its_own_drain_may_take(notice: float, seconds: float) -> None:
    settings = Settings(drain_notice=notice, drain_seconds=seconds)
    assert notice + seconds + ACTORS_DRAIN_SECONDS < exit_seconds(settings) < stop_seconds(settings)


def test_workers_keep_the_limit_of_one_address(database_url: str) -> None:
    options = ("--drain-notice", "0", "--connections-per-address", "1")
    with running_service(*options, database_url=database_url, workers=2) as service, ExitStack() as sockets:
        host, _, port = service.url.removeprefix("http://").rpartition(":")
        clients: list[socket.socket] = []

        def is_served() -> bool:
            """503 where the connection before is on the same worker and has not quite come to rest yet."""
            client = sockets.enter_context(socket.create_connection((host, int(port)), timeout=10))
            client.sendall(b"GET /api/v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n")
            if client.recv(12) != b"HTTP/1.1 404":
                client.close()
                return False
            client.setblocking(False)
            clients.append(client)
            return True

        for _ in range(3):  # one more than the two workers together take
            wait_until(is_served)

        def ended(client: socket.socket) -> bool:
            try:
                while client.recv(65536):
                    pass
            except BlockingIOError:
                return False
            except ConnectionResetError:
                pass
            return True

        wait_until(lambda: any(ended(client) for client in clients[:2]))
        assert not ended(clients[2])


def test_workers_end_with_their_parent_however_it_goes(database_url: str) -> None:
    with running_service("--drain-notice", "0", database_url=database_url, workers=2) as service:
        workers = psutil.Process(service.process.pid).children()
        service.kill()
        psutil.wait_procs(workers, timeout=20)
        assert not [worker for worker in workers if worker.is_running()]
