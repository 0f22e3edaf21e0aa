"""The kill harness of alerts: two services on one database, clients that send events through both, and processes that
are killed and stopped at random, while rules change.

At the end, when all that is stored was looked at, the alerts must be exactly those that the rules say of the stored
events: none lost, none twice, none invented; and each was put into the outbox once.

Run ``python -m tests.support.alert_killing --seconds 600`` for longer than the suite does, or ``--mutant NAME`` to see
a broken service found out.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from shutil import rmtree
from typing import Any, TypeVar

import httpx
import orjson
import psycopg
import trio

from logstitch.detection.rules import GroupBy
from logstitch.ids import UlidMint, as_uuid
from logstitch.recording.alert_rules import Decision, rule_change, rules_at
from logstitch.store.cluster.home import prepare_home
from logstitch.store.cluster.installation import installed_wheel
from logstitch.store.cluster.making import LOCALE, make_cluster
from logstitch.store.database import Connection
from logstitch.times import to_ms
from tests.support.alert_model import Expected, expected_alerts
from tests.support.alert_mutants import MUTANTS
from tests.support.evaluation import ADA, Chronicle, create, rule, set_fields, stored_alerts, stored_facts
from tests.support.killing import Process, Server
from tests.support.postgres import scratch_directory
from tests.support.service import Keys, initialize
from tests.support.webhooks import make_webhook

T = TypeVar("T")

CLIENTS = 6
FAULTS = ("service", "postgres", "both", "backend", "pause")
PAUSE = (0.5, 2.0)
"""Seconds of load between two faults."""
STOPPED = 11.0
"""Seconds for which a service is stopped: longer than a lease."""
SETTLE_SECONDS = 60.0
"""For all to be looked at after the last fault; a lease has to run out, and what was missed to be read."""
ACTIONS = (
    "auth.failed",
    "auth.failed",
    "user.role.updated",
    "report.exported",
    "doc.deleted",
    "user.login",
    "page.seen",
)
URL = "https://127.0.0.1:9/hook"
"""Of a webhook that no delivery can reach: private addresses are forbidden."""


class Service(Process):
    """One of the two, which may be broken, and stopped for a while."""

    def __init__(self, url: str, mutant: str | None) -> None:
        super().__init__(url, None)
        if mutant is not None:
            self._command = ["-m", "tests.support.alert_mutants", mutant]

    def signal(self, number: int) -> None:
        """SIGSTOP or SIGCONT."""
        assert self._process is not None
        self._process.send_signal(number)


@dataclass
class Scene:
    """A PostgreSQL, two services, and the keys of the database."""

    server: Server
    services: Sequence[Service]
    keys: Keys

    def transact(self, work: Callable[[Connection], T]) -> T:
        """Run work until it was committed, however often the server is killed; it must bear repetition."""
        while True:
            try:
                with psycopg.connect(self.server.url, connect_timeout=5) as conn:
                    return work(conn)
            except psycopg.OperationalError:
                trio.from_thread.check_cancelled()
                time.sleep(0.02)  # in a thread; a server that is down refuses at once


@dataclass
class Account:
    """What was sent and stored, and what became of it."""

    seed: int
    sent: int = 0
    acknowledged: int = 0
    stored: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    rule_changes: int = 0
    settled: bool = False
    expected: list[Expected] = field(default_factory=list)
    there: list[Expected] = field(default_factory=list)
    announced: Counter[int] = field(default_factory=Counter)
    """How many deliveries each alert has, and how many alerts have so many."""

    @property
    def lost(self) -> list[Expected]:
        return sorted((Counter(self.expected) - Counter(self.there)).elements())

    @property
    def twice(self) -> list[Expected]:
        return sorted(alert for alert, count in Counter(self.there).items() if count > 1)

    @property
    def invented(self) -> list[Expected]:
        return sorted(set(self.there) - set(self.expected))

    @property
    def violated(self) -> bool:
        """Whether a promise was broken."""
        return bool(not self.settled or self.lost or self.twice or self.invented or set(self.announced) - {1})

    def __str__(self) -> str:
        rules = Counter(alert.rule_id for alert in self.there)
        return (
            f"seed {self.seed}: sent {self.sent}, acked {self.acknowledged}, stored {self.stored}, "
            f"rule changes {self.rule_changes}, {'settled' if self.settled else 'NOT SETTLED'}\n"
            f"  alerts: expected {len(self.expected)}, there {len(self.there)}, lost {len(self.lost)}, "
            f"twice {len(self.twice)}, invented {len(self.invented)}; by rule {dict(rules)}\n"
            f"  deliveries of an alert: {dict(self.announced)}\n"
            f"  faults: {', '.join(f'{name} {count}' for name, count in sorted(self.faults.items())) or 'none'}"
            + "".join(f"\n  lost {alert}" for alert in self.lost[:5])
            + "".join(f"\n  invented {alert}" for alert in self.invented[:5])
        )


@contextlib.contextmanager
def scene(mutant: str | None = None) -> Iterator[Scene]:
    """All of them as direct children."""
    directory = scratch_directory()
    try:
        home = prepare_home(directory, installed_wheel())
        make_cluster(home, home.cluster, *LOCALE)
        server = Server(home, {"shared_buffers": "64MB"})
        server.start()
        try:
            keys = initialize(server.url)
            services = [Service(server.url, mutant) for _ in range(2)]
            try:
                for service in services:
                    service.start()
                yield Scene(server, services, keys)
            finally:
                for service in services:
                    service.kill()
                    rmtree(service.log.parent, ignore_errors=True)
        finally:
            server.kill()
    finally:
        rmtree(directory, ignore_errors=True)


async def run(
    stage: Scene,
    *,
    seconds: float,
    seed: int,
    faults: Sequence[str] = FAULTS,
    settle_seconds: float = SETTLE_SECONDS,
) -> Account:
    """Send, change rules, kill and stop for ``seconds``; then wait until all was looked at, and close the account."""
    account = Account(seed)
    rng = random.Random(seed)
    chronicle = Chronicle()
    no = await _in_thread(stage, _prepare)
    stopping = trio.Event()
    with trio.move_on_after(seconds + settle_seconds):
        async with trio.open_nursery() as nursery:
            for number in range(CLIENTS):
                nursery.start_soon(_client, stage, number, random.Random(rng.random()), account, stopping)
            nursery.start_soon(_change_rules, stage, no, random.Random(rng.random()), account, chronicle, stopping)
            await _until(lambda: account.acknowledged > 0)
            with trio.move_on_after(seconds):
                while faults:
                    await trio.sleep(rng.uniform(*PAUSE))
                    # Stopping takes longest: twice would leave no time for the others.
                    fault = rng.choice([one for one in faults if one != "pause" or not account.faults["pause"]])
                    with trio.CancelScope(shield=True):  # what is killed is started again before the end
                        hurt = await trio.to_thread.run_sync(_inflict, fault, stage, rng)
                    account.faults[fault] += hurt
                await trio.sleep_forever()
            stopping.set()
        while not account.settled:
            account.settled = await _in_thread(stage, partial(_is_settled, no=no))
            await trio.sleep(0.1)
    await _in_thread(stage, partial(_close, account=account, no=no, chronicle=chronicle))
    return account


async def _in_thread(stage: Scene, work: Callable[[Connection], T]) -> T:
    return await trio.to_thread.run_sync(stage.transact, work)


async def _until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not condition():  # noqa: ASYNC110  (what is waited for happens in other processes)
            await trio.sleep(0.02)


def _prepare(conn: Connection) -> int:
    row = conn.execute("SELECT project_no FROM projects").fetchone()
    assert row is not None
    make_webhook(conn, row[0], url=URL)
    return int(row[0])


def _is_settled(conn: Connection, no: int) -> bool:
    row = conn.execute(
        "SELECT e.seq = h.seq FROM evaluators e JOIN project_heads h USING (project_no) WHERE project_no = %s", (no,)
    ).fetchone()
    return row is not None and bool(row[0])


def _close(conn: Connection, account: Account, no: int, chronicle: Chronicle) -> None:
    facts = stored_facts(conn, no)
    account.stored = len(facts)
    account.expected = expected_alerts(facts, chronicle.at)
    account.there = stored_alerts(conn, no)
    rows = conn.execute(
        "SELECT (SELECT count(*) FROM deliveries d WHERE d.project_no = a.project_no AND d.alert_id = a.alert_id)"
        " FROM alerts a WHERE project_no = %s",
        (no,),
    )
    account.announced = Counter(count for (count,) in rows)


def _inflict(fault: str, stage: Scene, rng: random.Random) -> bool:
    """Kill and start again, or stop for a while; whether there was something to hurt."""
    service = rng.choice(stage.services)
    if fault == "pause":
        service.signal(signal.SIGSTOP)
        try:
            trio.from_thread.run(trio.sleep, STOPPED)
        finally:
            service.signal(signal.SIGCONT)
        return True
    if fault == "backend":
        return stage.server.kill_backend(rng)
    if fault in ("service", "both"):
        service.kill()
    if fault in ("postgres", "both"):
        stage.server.kill()
        stage.server.start()
    if fault in ("service", "both"):
        service.start()
    return True


async def _change_rules(
    stage: Scene, no: int, rng: random.Random, account: Account, chronicle: Chronicle, stopping: trio.Event
) -> None:
    """A rule of every kind to begin with, and then a change now and then."""
    mine = [
        rule(action_pattern="auth.*", threshold=3, cooldown_seconds=2),
        rule(action_pattern="page.seen", threshold=1, cooldown_seconds=0),
        rule(action_pattern="*", threshold=40, cooldown_seconds=1, group_by=GroupBy.TENANT_ID),
    ]
    now = int(datetime.now(UTC).timestamp() * 1000)
    for one in mine:
        await _change_rule(stage, no, create(one, now), account, chronicle)
    await _change_rule(stage, no, set_fields("suspicious_ip_change", {"enabled": True}), account, chronicle)
    while not stopping.is_set():
        fields: dict[str, Any] = rng.choice(
            (
                {"threshold": rng.randrange(1, 60)},
                {"cooldown_seconds": rng.randrange(5)},
                {"enabled": rng.random() < 0.8},
                {"action_pattern": rng.choice(("*", "auth.*", "page.seen", "*.deleted"))},
            )
        )
        await _change_rule(stage, no, set_fields(rng.choice(mine).id, fields), account, chronicle)
        with trio.move_on_after(rng.uniform(0.2, 2)):
            await stopping.wait()


async def _change_rule(stage: Scene, no: int, decide: Decision, account: Account, chronicle: Chronicle) -> None:
    now = datetime.now(UTC)
    event_id = UlidMint().one(to_ms(now))  # as the change itself writes the time into it
    change = rule_change(no, decide, by=ADA, event_id=event_id, now=lambda: now)

    def work(conn: Connection) -> None:
        change.run(conn)
        # Not the newest: it may have been committed by a try that nobody heard of, and others may have followed.
        row = conn.execute(
            "SELECT seq FROM events WHERE project_no = %s AND id = %s", (no, as_uuid(event_id))
        ).fetchone()
        if row is not None:
            chronicle.note(row[0], rules_at(conn, no, row[0]))

    await _in_thread(stage, work)
    account.rule_changes += 1


async def _client(stage: Scene, number: int, rng: random.Random, account: Account, stopping: trio.Event) -> None:
    headers = {"Authorization": f"Bearer {stage.keys.project_key}", "Content-Type": "application/json"}
    count = 0
    async with httpx.AsyncClient(headers=headers, trust_env=False, timeout=4) as client:
        while not stopping.is_set():
            batch: list[dict[str, Any]] = []
            for _ in range(rng.choice((1, 1, 3, 10))):
                count += 1
                batch.append(
                    {
                        "action": rng.choice(ACTIONS),
                        "category": "system",
                        "actor": {"id": f"actor-{rng.randrange(12)}", "type": "user"},
                        "tenant_id": f"tenant-{rng.randrange(3)}",
                        "context": {"ip_address": f"203.0.113.{rng.randrange(6)}"},
                        "idempotency_key": f"{account.seed}-{number}-{count}",
                    }
                )
            account.sent += len(batch)
            await _send(stage, client, orjson.dumps(batch), rng)
            account.acknowledged += len(batch)
            await trio.sleep(rng.uniform(0, 0.05))


async def _send(stage: Scene, client: httpx.AsyncClient, body: bytes, rng: random.Random) -> None:
    """Send until it is acknowledged, to either service."""
    while True:
        with contextlib.suppress(httpx.TransportError):
            response = await client.post(f"http://{rng.choice(stage.services).address}/api/v1/events", content=body)
            if response.status_code == 201:
                return
            if response.status_code != 503:
                raise AssertionError(f"answered {response.status_code}: {response.text[:500]}")
        await trio.sleep(rng.uniform(0.01, 0.1))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.alert_killing", description="Kill under alerts.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--mutant", choices=sorted(MUTANTS))
    parser.add_argument("--faults", default=",".join(FAULTS), help="comma-separated: " + ", ".join(FAULTS))
    options = parser.parse_args()
    with scene(options.mutant) as stage:
        faults = [fault for fault in options.faults.split(",") if fault]
        account = trio.run(partial(run, stage, seconds=options.seconds, seed=options.seed, faults=faults))
        if account.violated:
            for service in stage.services:
                print(service.log.read_text(errors="replace")[-3000:], file=sys.stderr)
    print(account)
    return 1 if account.violated else 0


if __name__ == "__main__":
    sys.exit(main())
