"""A full disk: writes are refused, reads go on where they can, and once there is room it heals by itself."""

from __future__ import annotations

import random
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from logstitch.store.cluster.home import SUPERUSER, socket_url
from logstitch.store.cluster.process import processes_in
from tests.support.service import Service, running_service, wait_until

DISK_BYTES = 1024**3
"""For the cluster, and for a copy of the server's programs where its account cannot reach the installed ones."""


@pytest.fixture
def disk() -> Iterator[Path]:
    """A small file system of this test's own, in memory."""
    # Another mount namespace may still hold the directory for a moment; an empty one that stays does no harm.
    with tempfile.TemporaryDirectory(prefix="logstitch-disk-", ignore_cleanup_errors=True) as name:
        command = ["/bin/mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=755", "tmpfs", name]
        try:
            subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
        except (subprocess.CalledProcessError, OSError) as error:
            pytest.skip(f"no small file system can be made here: {getattr(error, 'stderr', None) or error}")
        try:
            yield Path(name)
        finally:
            # A service that is killed leaves its server running.
            servers = [psutil.Process(pid) for pid in processes_in(Path(name, "data", "postgres").resolve())]
            for server in servers:
                with suppress(psutil.NoSuchProcess):
                    server.kill()
            psutil.wait_procs(servers, timeout=10)
            subprocess.run(["/bin/umount", name], check=True)


def fill(disk: Path) -> Path:
    """Leave no room on the disk; the file that takes it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(64 * 1024))
    with ballast.open("ab", buffering=0) as file, suppress(OSError):  # the last pages
        while True:
            file.write(bytes(4096))
    return ballast


def batch(seed: int, events: int) -> list[dict[str, Any]]:
    """Events of 24 KiB each that do not compress: none fits what is left of the pages that PostgreSQL has already."""
    random_bytes = random.Random(seed)
    return [
        {
            "action": "disk.filled",
            "category": "system",
            "actor": {"id": "u1", "type": "user"},
            "tenant_id": "acme",
            "idempotency_key": f"{seed}-{number}",
            "metadata": {"noise": random_bytes.randbytes(12 * 1024).hex()},
        }
        for number in range(events)
    ]


class Sender(threading.Thread):
    """A client that sends batches until it is stopped, each one again until it is acknowledged."""

    def __init__(self, service: Service, number: int) -> None:
        super().__init__(daemon=True)
        self._service, self._number = service, number
        self._stopping = threading.Event()
        self.acknowledged: dict[str, str] = {}
        """Ids by idempotency key."""
        self.refusals: Counter[str | None] = Counter()
        """By their Retry-After."""
        self.unexpected: list[object] = []

    def run(self) -> None:
        with self._service.client() as client:
            for seed in range(self._number, 1_000_000, 100):
                if self._stopping.is_set():
                    return
                events = batch(seed, 3)
                while (answer := client.post("/api/v1/events", json=events)).status_code == 503:
                    self.refusals[answer.headers.get("retry-after")] += 1
                    time.sleep(0.2)  # as a client does
                if answer.status_code != 201:
                    self.unexpected.append((answer.status_code, answer.text))
                    return
                ids = answer.json()["ids"]
                self.acknowledged |= {event["idempotency_key"]: id for event, id in zip(events, ids, strict=True)}
                time.sleep(0.05)

    def stop(self) -> None:
        """Have the batch that is on its way acknowledged, and send no other."""
        self._stopping.set()
        self.join(30)
        assert not self.is_alive()


@contextmanager
def three_senders(service: Service) -> Iterator[list[Sender]]:
    """Clients whose events are all there afterwards, each of them once."""
    senders = [Sender(service, number) for number in range(3)]
    for sender in senders:
        sender.start()
    wait_until(lambda: all(sender.acknowledged for sender in senders))
    try:
        yield senders
    finally:
        for sender in senders:
            sender.stop()
    acknowledged = {key: id for sender in senders for key, id in sender.acknowledged.items()}
    with service.client() as client:
        stored = {event["idempotency_key"]: event["id"] for event in every_event(client)}
    assert stored == acknowledged
    assert [sender.unexpected for sender in senders] == [[], [], []]
    refusals = Counter[str | None]()
    for sender in senders:
        refusals += sender.refusals
    assert all(seconds is not None and int(seconds) >= 1 for seconds in refusals)


def as_superuser(disk: Path) -> psycopg.Connection[Any]:
    """A connection to the service's own server."""
    url = socket_url(disk / "data" / "run", SUPERUSER, "postgres")
    return psycopg.connect(url, autocommit=True)


def every_event(client: httpx.Client) -> Iterator[dict[str, Any]]:
    """All that can be read, page by page."""
    cursor: dict[str, str] = {}
    while True:
        page = client.get("/api/v1/events", params={"limit": 100, **cursor}).json()
        yield from page["events"]
        if not page["has_more"]:
            return
        cursor = {"cursor": page["cursor"]}


def until_each_is(senders: list[Sender], what: Callable[[Sender], int], *, seconds: float) -> None:
    """Wait until a number has grown for each of the senders."""
    before = [what(sender) for sender in senders]

    def has_grown() -> bool:
        assert [sender.unexpected for sender in senders] == [[], [], []]
        return all(what(sender) > count for sender, count in zip(senders, before, strict=True))

    wait_until(has_grown, seconds=seconds)


@pytest.mark.slow
def test_a_full_disk_refuses_writes_and_reads_go_on(disk: Path) -> None:
    with running_service("--data", str(disk / "data")) as service, three_senders(service) as senders:
        with as_superuser(disk) as conn:  # begin a new segment of its log, which is room enough for what is refused
            conn.execute("SELECT pg_switch_wal()")
        until_each_is(senders, lambda sender: len(sender.acknowledged), seconds=10)
        ballast = fill(disk)
        reading = threading.Event()
        reads: Counter[int | str] = Counter()

        def read() -> None:
            with service.client() as client:
                client.timeout = httpx.Timeout(2)
                while not reading.wait(0.1):
                    try:
                        reads[client.get("/api/v1/events", params={"limit": 1}).status_code] += 1
                    except httpx.ReadTimeout:
                        reads["late"] += 1

        reader = threading.Thread(target=read)
        reader.start()
        try:
            until_each_is(senders, lambda sender: sender.refusals.total(), seconds=30)
        finally:
            reading.set()
            reader.join(10)
        assert set(reads) <= {200, "late"}, reads
        assert reads[200] > 10 * max(1, reads["late"]), reads
        ballast.unlink()
        until_each_is(senders, lambda sender: len(sender.acknowledged), seconds=15)


@pytest.mark.slow
def test_a_disk_without_room_for_the_log_stops_the_server_until_there_is_room(disk: Path) -> None:
    """PostgreSQL itself gives up when it cannot write its log, and again at every start until it can."""
    with running_service("--data", str(disk / "data")) as service, three_senders(service) as senders:
        with as_superuser(disk) as conn:
            ballast = fill(disk)
            with suppress(psycopg.OperationalError):  # it gives up
                while True:  # use up the segments of the log that are there already
                    conn.execute("SELECT pg_switch_wal(), pg_log_standby_snapshot()")
        until_each_is(senders, lambda sender: sender.refusals.total(), seconds=30)
        with service.ops() as ops:
            assert ops.get("/health/live").status_code == 200
            not_ready = ops.get("/health/ready")
            assert not_ready.status_code == 503
            assert "No space left on device" in not_ready.text
        ballast.unlink()
        until_each_is(senders, lambda sender: len(sender.acknowledged), seconds=30)
        with service.ops() as ops:
            wait_until(lambda: ops.get("/health/ready").status_code == 200)
