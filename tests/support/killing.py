"""The kill harness: clients that write down what they send and what was acknowledged, while processes are killed.

Every client sends batches of events with unique idempotency keys and repeats a batch, with the same keys, until it is
acknowledged. Meanwhile the service, PostgreSQL, both, or single backends get SIGKILL at random moments. At the end the
account is closed against the tables:

* lost: acknowledged under an id that is not stored with that very event;
* doubled: more than one event stored under one key;
* unknown: stored, and never sent.

Run ``python -m tests.support.killing --seconds 600`` for longer than the suite does, or ``--mutant NAME`` to see a
broken service found out.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any

import httpx
import orjson
import psutil
import psycopg
import trio

from logstitch.store.cluster.home import Home, prepare_home
from logstitch.store.cluster.installation import installed_wheel
from logstitch.store.cluster.making import LOCALE, make_cluster
from tests.support.mutants import MUTANTS
from tests.support.ports import free_port
from tests.support.postgres import scratch_directory, start_server
from tests.support.service import CHECKOUT, Keys, environment, initialize

CLIENTS = 8
FAULTS = ("service", "postgres", "both", "backend")
PAUSE = (0.3, 1.5)
"""Seconds of load between two faults."""
SETTLE_SECONDS = 30.0
"""For every batch to be acknowledged after the last fault."""
FIRST_SECONDS = 20.0
"""For the first acknowledgement after a start."""
_LETTERS = str.maketrans("0123456789", "ghijklmnop")
"""One hex digest in two thousand holds what may be the number of a credit card, and redaction takes it out."""


# -- the processes -------------------------------------------------------------------------------------------------


class Server:
    """PostgreSQL as a direct child, killed with everything that it started."""

    def __init__(self, home: Home, settings: Mapping[str, str]) -> None:
        self._home = home
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self.url = home.url()

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        self._process = start_server(self._home, self._settings, self.url)

    def kill(self) -> None:
        """SIGKILL to the postmaster and every process of its, and reap."""
        if self._process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self._process.pid)
            parent.suspend()  # or it would start new children while the old ones are counted
            victims = [*parent.children(recursive=True), parent]
            for victim in victims:
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.kill()
            psutil.wait_procs(victims, timeout=10)
        self._process.wait(10)
        self._process = None

    def kill_backend(self, rng: random.Random) -> bool:
        """SIGKILL to one process that serves a client; the postmaster then ends all and recovers.

        Returns whether there was one.
        """
        assert self._process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self._process.pid).children()
            if backends := [child for child in children if "[local]" in " ".join(child.cmdline())]:
                rng.choice(backends).kill()
                return True
        return False


class Process:
    """The service as a direct child on a fixed address."""

    def __init__(self, url: str, mutant: str | None) -> None:
        self._url = url
        self._command = ["-m", "logstitch"] if mutant is None else ["-m", "tests.support.mutants", mutant]
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"127.0.0.1:{free_port()}"
        self.ops_address = f"127.0.0.1:{free_port()}"
        self.log = Path(scratch_directory()) / "service.log"

    def start(self) -> None:
        """Start it; it is up when it answers."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, *self._command, "serve", "--bind", self.address, "--ops-bind", self.ops_address],
                env=environment({"LOGSTITCH_DATABASE_URL": self._url, "LOGSTITCH_LOG_LEVEL": "warning"}),
                cwd=CHECKOUT,
                stdout=output,
                stderr=output,
            )

    def kill(self) -> None:
        """SIGKILL, and reap."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(30)


# -- the account ---------------------------------------------------------------------------------------------------


@dataclass
class Ledger:
    """What was meant, what was acknowledged, what is stored. Keys are idempotency keys."""

    seed: int
    intents: dict[str, dict[str, Any]] = field(default_factory=dict)
    acknowledged: dict[str, str] = field(default_factory=dict)
    contradicted: int = 0
    """Keys that were acknowledged twice, with different ids."""
    refusals: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    recoveries: dict[str, list[float]] = field(default_factory=dict)
    """Seconds from when what was killed ran again to the first acknowledgement."""
    not_recovered: int = 0
    """Faults after which nothing was acknowledged for ``FIRST_SECONDS``."""
    stored: int = 0
    lost: int = 0
    doubled: int = 0
    unknown: int = 0
    unsettled: int = 0
    unproven: str = ""

    @property
    def violated(self) -> bool:
        """Whether a promise was broken."""
        return bool(self.lost or self.doubled or self.unknown or self.contradicted or self.unproven)

    def close(self, rows: list[tuple[str, str]]) -> None:
        """Compare with the tables: (id, body) of every stored event."""
        by_key: dict[str, list[dict[str, Any]]] = {}
        for _, text in rows:
            body = orjson.loads(text)
            by_key.setdefault(body["idempotency_key"], []).append(body)
        self.stored = len(rows)
        self.doubled = sum(len(bodies) - 1 for bodies in by_key.values())
        self.unknown = sum(1 for key in by_key if key not in self.intents)
        self.unsettled = len(self.intents) - len(self.acknowledged)
        self.lost = 0
        for key, event_id in self.acknowledged.items():
            bodies = [body for body in by_key.get(key, ()) if body["id"] == event_id]
            sent = self.intents[key]
            if not any({name: body.get(name) for name in sent} == sent for body in bodies):
                self.lost += 1

    def __str__(self) -> str:
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items())) or "none"
        recovered = ", ".join(
            f"{name} median {sorted(times)[len(times) // 2]:.2f} s, worst {max(times):.2f} s"
            for name, times in sorted(self.recoveries.items())
        )
        return (
            f"seed {self.seed}: sent {len(self.intents)}, acked {len(self.acknowledged)}, stored {self.stored}, "
            f"lost {self.lost}, duplicated {self.doubled}, unknown {self.unknown}, contradicted {self.contradicted}, "
            f"unsettled {self.unsettled}\n"
            f"  kills: {faults}\n  first 201 after restart: {recovered}\n  refusals: {dict(self.refusals)}"
            + (f"\n  not recovered: {self.not_recovered}" if self.not_recovered else "")
            + (f"\n  verify: {self.unproven}" if self.unproven else "")
        )


# -- the run -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def scene(mutant: str | None = None) -> Iterator[tuple[Server, Process, Keys]]:
    """A PostgreSQL and a service, both direct children, and the keys of the database."""
    directory = scratch_directory()
    try:
        home = prepare_home(directory, installed_wheel())
        make_cluster(home, home.cluster, *LOCALE)
        settings = {"shared_buffers": "64MB"} | ({"synchronous_commit": "off"} if mutant == "async_commit" else {})
        server = Server(home, settings)
        server.start()
        try:
            keys = initialize(server.url)
            process = Process(server.url, mutant)
            process.start()
            try:
                yield server, process, keys
            finally:
                process.kill()
                rmtree(process.log.parent, ignore_errors=True)
        finally:
            server.kill()
    finally:
        # A process that was killed may not be gone yet and write a last file: the verdict is not about that.
        rmtree(directory, ignore_errors=True)


async def run(
    server: Server,
    process: Process,
    keys: Keys,
    *,
    seconds: float,
    seed: int,
    faults: tuple[str, ...] = FAULTS,
    least: int = 0,
    settle_seconds: float = SETTLE_SECONDS,
) -> Ledger:
    """Load and kill for ``seconds``, and ``least`` times whatever that takes; then let the clients finish and close the
    account."""
    ledger = Ledger(seed)
    rng = random.Random(seed)
    stopping = trio.Event()
    acknowledged = trio.Condition()
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(
        base_url=f"http://{process.address}",
        headers={"Authorization": f"Bearer {keys.project_key}"},
        trust_env=False,
        timeout=15,
        limits=limits,
    ) as client:
        with trio.CancelScope() as patience:
            async with trio.open_nursery() as nursery:
                for number in range(CLIENTS):
                    seeded = random.Random(rng.random())
                    nursery.start_soon(_client, client, number, seeded, ledger, stopping, acknowledged)
                assert await _until_first(acknowledged), "the service stores nothing"

                async def hurt() -> None:
                    await trio.sleep(rng.uniform(*PAUSE))
                    fault = rng.choice(faults)
                    with trio.CancelScope(shield=True):  # what is killed is started again before the end
                        if not await _inflict(fault, server, process, rng):
                            return
                    ledger.faults[fault] += 1
                    since = trio.current_time()
                    if await _until_first(acknowledged):
                        ledger.recoveries.setdefault(fault, []).append(trio.current_time() - since)
                    else:
                        ledger.not_recovered += 1

                with trio.move_on_after(seconds):
                    while True:
                        await hurt()
                while ledger.faults.total() < least:
                    await hurt()
                patience.deadline = trio.current_time() + settle_seconds
                stopping.set()
    with psycopg.connect(server.url) as conn:
        ledger.close(conn.execute("SELECT id::text, body FROM events").fetchall())
    done = await trio.run_process(
        [sys.executable, "-m", "logstitch", "verify"],
        env=environment({"LOGSTITCH_DATABASE_URL": server.url}),
        cwd=CHECKOUT,
        check=False,
        capture_stdout=True,
        capture_stderr=True,
    )
    if done.returncode:
        ledger.unproven = done.stderr.decode(errors="replace")[-500:]
    return ledger


async def _until_first(acknowledged: trio.Condition) -> bool:
    """Whether something was acknowledged within ``FIRST_SECONDS``."""
    with trio.move_on_after(FIRST_SECONDS):
        async with acknowledged:
            await acknowledged.wait()
            return True
    return False


async def _inflict(fault: str, server: Server, process: Process, rng: random.Random) -> bool:
    """Kill, and start again; whether there was something to kill."""

    def act() -> bool:
        if fault == "backend":
            return server.kill_backend(rng)
        if fault in ("service", "both"):
            process.kill()
        if fault in ("postgres", "both"):
            server.kill()
            server.start()
        if fault in ("service", "both"):
            process.start()
        return True

    return await trio.to_thread.run_sync(act)


async def _client(
    client: httpx.AsyncClient,
    number: int,
    rng: random.Random,
    ledger: Ledger,
    stopping: trio.Event,
    acknowledged: trio.Condition,
) -> None:
    count = 0
    while not stopping.is_set():
        batch: list[dict[str, Any]] = []
        for _ in range(rng.choice((1, 1, 5, 20))):
            count += 1
            key = f"{ledger.seed}-{number}-{count}"
            event = {
                "action": "kill.tested",
                "category": "system",
                "actor": {"id": f"client-{number}", "type": "service"},
                "tenant_id": f"tenant-{rng.randrange(5)}",
                "idempotency_key": key,
                "metadata": {"n": count, "noise": rng.randbytes(20).hex().translate(_LETTERS)},
            }
            ledger.intents[key] = event
            batch.append(event)
        body = orjson.dumps(batch)
        for _ in range(rng.choice((1, 1, 1, 2))):  # some acknowledged batches are sent again, as after a lost answer
            ids: list[str] = await _send(client, body, rng, ledger)
            for sent, event_id in zip(batch, ids, strict=True):
                if ledger.acknowledged.setdefault(str(sent["idempotency_key"]), event_id) != event_id:
                    ledger.contradicted += 1
        async with acknowledged:
            acknowledged.notify_all()


async def _send(client: httpx.AsyncClient, body: bytes, rng: random.Random, ledger: Ledger) -> list[str]:
    """Send until it is acknowledged. Whatever is not a 201 or a transient refusal is a defect and ends the run."""
    headers = {"Content-Type": "application/json"}
    while True:
        try:
            response = await client.post("/api/v1/events", content=body, headers=headers)
        except httpx.TransportError as error:
            ledger.refusals[type(error).__name__] += 1
        else:
            if response.status_code == 201:
                return list(response.json()["ids"])
            if response.status_code != 503:
                raise AssertionError(f"answered {response.status_code}: {response.text[:500]}")
            ledger.refusals["503"] += 1
        await trio.sleep(rng.uniform(0.01, 0.1))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.killing", description="Kill the service under load.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--mutant", choices=sorted(MUTANTS))
    parser.add_argument("--faults", default=",".join(FAULTS), help="comma-separated: " + ", ".join(FAULTS))
    options = parser.parse_args()
    with scene(options.mutant) as (server, process, keys):
        faults = tuple(options.faults.split(","))
        ledger = trio.run(
            partial(run, server, process, keys, seconds=options.seconds, seed=options.seed, faults=faults)
        )
        if ledger.violated:
            print(process.log.read_text(errors="replace")[-3000:], file=sys.stderr)
    print(ledger)
    return 1 if ledger.violated else 0


if __name__ == "__main__":
    sys.exit(main())
