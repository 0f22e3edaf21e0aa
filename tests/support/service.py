"""The real service as a real process: started, waited for, killed, drained."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psycopg

from logstitch.store.bootstrap import bootstrap
from logstitch.store.migrations import migrate

CHECKOUT = Path(__file__).parents[2]
_SERVES = re.compile(r"serves on (http://\S+)")
_OPS = re.compile(r"Health and metrics are on (http://[^/\s]+)")
_FIRST = re.compile(r"^\s+(organization_id|project_id|master_key|project_key)\s+(\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Keys:
    """What an empty database begins with."""

    organization_id: str
    project_id: str
    master_key: str
    project_key: str


@dataclass(slots=True)
class Service:
    """A running ``logstitch serve``. ``url`` and ``ops_url`` are the first worker's; ``keys`` of the database."""

    process: subprocess.Popen[bytes]
    url: str
    ops_urls: list[str]
    keys: Keys
    database_url: str = ""
    output: list[str] = field(default_factory=list)

    @property
    def ops_url(self) -> str:
        return self.ops_urls[0]

    @property
    def project_key(self) -> str:
        return self.keys.project_key

    @property
    def master_key(self) -> str:
        return self.keys.master_key

    @property
    def project_id(self) -> str:
        return self.keys.project_id

    def client(self, key: str | None = None) -> httpx.Client:
        """A client that carries the project key, or another."""
        headers = {"Authorization": f"Bearer {key or self.project_key}"}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=30)

    def ops(self, worker: int = 0) -> httpx.Client:
        """A client of a worker's operations address."""
        return httpx.Client(base_url=self.ops_urls[worker], trust_env=False, timeout=30)

    def kill(self) -> None:
        """SIGKILL, and reap."""
        self.process.kill()
        self.process.wait(10)

    def stop(self, timeout: float = 30) -> int:
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def announcements(self) -> list[str]:
        """The operations addresses of every worker that came up so far."""
        return _ready(self.output)

    def log_text(self) -> str:
        """Everything that it wrote so far."""
        return "".join(self.output)


def initialize(database_url: str) -> Keys:
    """What ``logstitch init`` does on an empty database, without the second that a process takes to start."""
    migrate(database_url)
    with psycopg.connect(database_url) as conn:
        first = bootstrap(conn, now=datetime.now(UTC))
    assert first is not None, "the database has an organization"
    return Keys(str(first.organization_id), str(first.project_id), first.master_key, first.project_key)


def environment(extra: dict[str, str]) -> dict[str, str]:
    """This process's environment without any setting of the service, and with these."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LOGSTITCH_")}
    return {**clean, "PYTHONPATH": str(CHECKOUT), **extra}


@contextmanager
def running_service(
    *arguments: str,
    database_url: str | None = None,
    keys: Keys | None = None,
    bind: str = "127.0.0.1:0",
    workers: int = 1,
    seconds: float = 60,
    command: Sequence[str] = ("-m", "logstitch"),
    extra: dict[str, str] | None = None,
) -> Iterator[Service]:
    """Start the service on free ports and wait until it takes requests; kill it at the end if it still runs.

    With ``database_url`` and no ``keys`` the database is initialized first. With neither, ``--data`` must be among the
    arguments, and the keys are those that the service prints.
    """
    if database_url is not None and keys is None:
        keys = initialize(database_url)
    process = subprocess.Popen(
        [sys.executable, *command, "serve", "--bind", bind, "--ops-bind", "127.0.0.1:0", *arguments]
        + ([f"--workers={workers}"] if workers > 1 else []),
        env=environment({**({"LOGSTITCH_DATABASE_URL": database_url} if database_url else {}), **(extra or {})}),
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    output: list[str] = []
    changed = threading.Condition()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with changed:
                output.append(line.decode(errors="replace"))
                changed.notify_all()
        with changed:
            output.append("")
            changed.notify_all()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        with changed:
            changed.wait_for(lambda: process.poll() is not None or len(_ready(output)) >= workers, timeout=seconds)
        ops_urls = _ready(output)
        if len(ops_urls) < workers:
            raise AssertionError("the service did not start:\n" + "".join(output))
        text = "".join(output)
        serves = _SERVES.search(text)
        assert serves is not None
        found = keys or Keys(**dict(_FIRST.findall(text)))
        yield Service(process, serves[1], ops_urls, found, database_url or "", output)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        reader.join(10)
        if process.stdout is not None:
            process.stdout.close()


def _ready(output: list[str]) -> list[str]:
    return _OPS.findall("".join(output))


def wait_until(condition: object, *, seconds: float = 10) -> None:
    """Wait until ``condition()`` is true; fail after ``seconds``."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("the condition did not come true in time")
        time.sleep(0.02)
