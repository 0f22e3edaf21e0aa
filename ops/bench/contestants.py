"""The processes that take events, each started fresh for a turn and ended after it."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from logstitch.loadtest.plan import synthetic_event
from ops.bench.load import SEED

CHECKOUT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
STOP_SECONDS = 40.0


@dataclass(frozen=True, slots=True)
class Contestant:
    """How to start one. In ``environment`` a ``{url}`` stands for the database's URL; ``ready`` finds its address in
    what it writes; ``table`` is where its events end up."""

    name: str
    title: str
    table: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready: re.Pattern[str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Running:
    """A started one."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path


def this_service(launcher: Sequence[str]) -> Contestant:
    """The service itself, as `logstitch serve` runs it; ``launcher`` is what Python is to run in place of it."""
    options = ["--bind=127.0.0.1:0", "--ops-bind=127.0.0.1:0", "--drain-notice=0"]
    return Contestant(
        name="service",
        title="this service",
        table="events",
        command=[sys.executable, *launcher, "serve", *options],
        environment={"LOGSTITCH_DATABASE_URL": "{url}"},
        ready=re.compile(r"serves on (http://\S+)"),
    )


def baseline(table: str, *, redacts: bool) -> Contestant:
    """The plain service, with its own table (``plain``) or with this service's (``events``)."""
    options = ["--loop=uvloop", "--http=httptools", "--no-access-log", "--host=127.0.0.1", "--port=0"]
    own = table == "plain"
    return Contestant(
        name=f"fastapi-{table}",
        title=f"FastAPI + uvicorn + asyncpg, {'a plain table' if own else 'the same table'}",
        table="plain_events" if own else "events",
        command=[sys.executable, "-m", "uvicorn", "ops.bench.baseline:app", *options],
        environment={
            "BASELINE_DATABASE_URL": "{url}",
            "BASELINE_TABLE": table,
            "BASELINE_REDACTS": "yes" if redacts else "no",
        },
        ready=re.compile(r"Uvicorn running on (http://\S+)"),
    )


@contextmanager
def running(contestant: Contestant, database_url: str, log: Path, **extra: str) -> Iterator[Running]:
    """Start it, wait until it answers, and end it with SIGTERM afterwards.

    Raises ``RuntimeError`` when it does not start, or does not end well.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LOGSTITCH_", "BASELINE_"))}
    own = {name: value.format(url=database_url) for name, value in contestant.environment.items()}
    # A file, not a pipe: nobody has to read along, and a service's log goes to a file in earnest, too.
    with log.open("wb") as output:
        process = subprocess.Popen(
            contestant.command,
            env={**clean, **own, **extra},
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Running(process, _address(contestant, process, log), log)
        process.send_signal(signal.SIGTERM)
        status = process.wait(STOP_SECONDS)
        if status not in (0, -signal.SIGTERM):
            raise RuntimeError(f"{contestant.name} ended with {status}:\n{_end_of(log)}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _address(contestant: Contestant, process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if found := contestant.ready.search(log.read_text(errors="replace")):
            return found[1]
        time.sleep(0.05)
    raise RuntimeError(f"{contestant.name} did not start:\n{_end_of(log)}")


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:])


# -- duties --------------------------------------------------------------------------------------------------------


def check_duties(url: str, key: str) -> dict[str, bool]:
    """Whether it does what the comparison rests on. Leaves three events behind."""
    path = f"{url}/api/v1/events"
    event: dict[str, Any] = synthetic_event(random.Random(SEED), 0) | {"idempotency_key": "duty-1"}
    other = synthetic_event(random.Random(SEED + 1), 1)
    card = other | {"metadata": {"note": "paid with 4111 1111 1111 1111"}}
    bad = {name: value for name, value in other.items() if name != "actor"}

    with httpx.Client(trust_env=False, timeout=30) as client:

        def send(body: object, credential: str = key) -> httpx.Response:
            return client.post(path, json=body, headers={"Authorization": f"Bearer {credential}"})

        first, again = send(event), send(event)
        stored = first.status_code == 201 and len(first.json()["ids"]) == 1
        return {
            "stores an event": stored,
            "refuses an unknown key": send(event, "pk_" + "0" * 40).status_code == 401,
            "refuses a bad batch": send([other, bad]).status_code == 400,
            "answers a replay with the first id": stored and again.json()["ids"] == first.json()["ids"],
            "refuses another event under the key": send(other | {"idempotency_key": "duty-1"}).status_code == 409,
            "stores a batch": len(send([other]).json()["ids"]) == 1,
            "redacts a card number": send(card).json()["redacted_count"] == 1,
        }
