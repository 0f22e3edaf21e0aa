"""What claims of anonymous streams cost those who send events to the same project.

    ops/bench/run claims [--rounds 5] [--seconds 8] [--events 800] [--every 2] [--quick]

In every round the same service has two turns, in an order that turns around from round to round: with single events
sent to a project by 32 connections, and with the same while streams are claimed for that project, one every so many
seconds, each of so many events (800 is what one that keeps to its quota has). Each turn has a fresh database, with the
streams in it, and a fresh process. The goal: the p99 of the answers is within 10 % of what it is without claims.

The report goes to standard output and, with the raw numbers as JSON, to ops/bench/out/. Exit status 1 where something
that was acknowledged is not stored, or a stream is claimed in part.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import orjson
import psycopg

from logstitch.ids import UlidMint
from logstitch.loadtest.plan import synthetic_event
from logstitch.store import streams as store
from logstitch.streams import token_digest
from logstitch.times import from_ms
from ops.bench.contestants import running, this_service
from ops.bench.load import CONNECTIONS, Load, client_name, make_loads, run_load
from ops.bench.measure import describe_machine
from ops.bench.server import OUT, Server, say, with_server

GOAL = 1.10
FIRST_CLAIM_SECONDS = 0.5
"""After the load has begun."""
CLAIM_SECONDS = 300.0
"""How long a claim may take whose answer came too late, and whose status is asked for."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn. ``claims``: how long each took, in seconds; ``stored``: events of the project that came by the load and
    by claims, those that tell of claims left out."""

    claiming: bool
    round: int
    rate: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    events: int
    stored: int
    claims: list[float]


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for; times in seconds."""

    rounds: int
    seconds: float
    warm_up: float
    events: int
    every: float

    @property
    def streams(self) -> int:
        """Claims that may begin while the load is on."""
        return 1 + int((self.seconds - FIRST_CLAIM_SECONDS) / self.every)


@dataclass
class Claimant:
    """Claims one stream after the other until the load ends; ``took`` are the seconds of each."""

    url: str
    key: str
    project_id: str
    every: float
    took: list[float] = field(default_factory=list)

    @contextmanager
    def at_work(self, tokens: Sequence[str]) -> Iterator[None]:
        """Claim meanwhile. What has begun is waited for, and what went wrong is raised at the end."""
        stop, failures = threading.Event(), list[BaseException]()

        def work() -> None:
            try:
                self._work(tokens, stop)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        if failures:
            raise RuntimeError("a claim failed") from failures[0]

    def _work(self, tokens: Sequence[str], stop: threading.Event) -> None:
        due = time.monotonic() + FIRST_CLAIM_SECONDS
        headers = {"Authorization": f"Bearer {self.key}"}
        with httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=30) as client:
            for token in tokens:
                if stop.wait(max(0.0, due - time.monotonic())):
                    return
                began = time.monotonic()
                due = began + self.every
                self._claim(client, token)
                self.took.append(time.monotonic() - began)

    def _claim(self, client: httpx.Client, token: str) -> None:
        answer = client.post("/api/v1/streams/claim", json={"token": token, "project_id": self.project_id})
        if answer.status_code != 503:
            answer.raise_for_status()
            return
        # Of a huge one the answer comes too late, and its status tells.
        deadline = time.monotonic() + CLAIM_SECONDS
        while client.get(f"/api/v1/streams/{token}/info").raise_for_status().json()["status"] != "claimed":
            if time.monotonic() > deadline:
                raise RuntimeError("a claim did not come to its end")
            time.sleep(0.1)


def make_streams(url: str, count: int, events: int) -> list[str]:
    """Streams of so many events, whatever a quota says; returns their tokens."""
    rng, mint, tokens = random.Random(count), UlidMint(), [str(uuid4()) for _ in range(count)]
    now_ms = time.time_ns() // 1_000_000
    with psycopg.connect(url) as conn:
        for token in tokens:
            digest = token_digest(token)
            (no,) = store.insert_streams(conn, [store.NewStream(digest, bytes(32), from_ms(now_ms - events))])
            size = 0
            for first in range(0, events, 5_000):
                rows = []
                for n in range(first, min(events, first + 5_000)):
                    at_ms = now_ms - events + n
                    body = {k: v for k, v in synthetic_event(rng, n).items() if k != "idempotency_key"}
                    text = orjson.dumps(body, option=orjson.OPT_SORT_KEYS).decode()
                    event_id = UUID(bytes=mint.mint(1, at_ms)[0])
                    rows.append(store.NewEvent(no, n + 1, event_id, at_ms, at_ms, text, None, None, None, len(text)))
                store.insert_events(conn, rows)
                size += sum(row.size for row in rows)
            conn.execute(
                "UPDATE streams SET event_count = %s, bytes = %s, last_event_at = now() WHERE digest = %s",
                [events, size, digest],
            )
            store.add_to_totals(conn, streams=1, bytes=size)
    return tokens


def play_turn(server: Server, load: Load, number: int, options: Options, directory: Path, *, claiming: bool) -> Turn:
    """One turn, on a fresh database."""
    log = directory / "service.log"
    with server.database() as database:
        url = server.url(database)
        tokens = make_streams(url, options.streams, options.events)
        with running(this_service(("-m", "logstitch")), url, log) as on:
            with httpx.Client(base_url=on.url, trust_env=False) as client:
                answer = client.get("/api/v1/projects", headers={"Authorization": f"Bearer {server.master_key}"})
                project_id = answer.raise_for_status().json()["projects"][0]["id"]
            run_load(on.url, server.key, load, prefix="w", seconds=options.warm_up)
            before = server.rows(database, "events")
            claimant = Claimant(on.url, server.master_key, project_id, options.every)
            with claimant.at_work(tokens if claiming else ()):
                sent = run_load(on.url, server.key, load, prefix="m", seconds=options.seconds)
            stored = server.rows(database, "events") - before - len(claimant.took)
    return Turn(
        claiming=claiming,
        round=number,
        rate=sent.acknowledged * load.batch / sent.seconds,
        p50_ms=sent.p50_ms,
        p99_ms=sent.p99_ms,
        max_ms=sent.max_ms,
        events=sent.acknowledged * load.batch + len(claimant.took) * options.events,
        stored=stored,
        claims=claimant.took,
    )


def report(turns: Sequence[Turn], options: Options) -> list[str]:
    """For people: medians, and the ratio of each round's pair."""
    lines = [
        f"| claims of {options.events:,} events | events/s | p50 ms | p99 ms | longest ms | a claim takes |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for claiming in (False, True):
        group = [turn for turn in turns if turn.claiming is claiming]

        def middle(what: str, group: Sequence[Turn] = group) -> float:
            return float(statistics.median(getattr(turn, what) for turn in group))

        took = [seconds for turn in group for seconds in turn.claims]
        lines.append(
            f"| {f'one every {options.every:g} s' if claiming else 'none'} | {middle('rate'):,.0f} | "
            f"{middle('p50_ms'):.1f} | {middle('p99_ms'):.1f} | {middle('max_ms'):.1f} | "
            f"{f'{statistics.median(took):.2f} s' if took else ''} |"
        )
    pairs: dict[int, dict[bool, Turn]] = {}
    for turn in turns:
        pairs.setdefault(turn.round, {})[turn.claiming] = turn
    p99 = statistics.median(pair[True].p99_ms / pair[False].p99_ms for pair in pairs.values())
    verdict = "met" if p99 <= GOAL else "NOT MET"
    return [*lines, "", f"p99 beside claims is {p99:.2f} times that without, goal at most {GOAL:.2f}: {verdict}."]


def play(server: Server, options: Options, directory: Path) -> int:
    """All rounds, and the report."""
    server.make_template()
    machine = describe_machine(directory) | {"client": f"{client_name()}, 1 thread, {CONNECTIONS} connections"}
    (load,) = (load for load in make_loads(directory) if load.batch == 1)
    turns: list[Turn] = []
    for number in range(options.rounds):
        for claiming in (False, True) if number % 2 == 0 else (True, False):
            turn = play_turn(server, load, number, options, directory, claiming=claiming)
            turns.append(turn)
            say(
                f"round {number + 1} of {options.rounds}  {len(turn.claims):3} claims {turn.rate:9,.0f} events/s, "
                f"p50 {turn.p50_ms:.1f} ms, p99 {turn.p99_ms:.1f} ms, longest {turn.max_ms:.1f} ms"
            )
    print("\n".join(report(turns, options)))
    OUT.mkdir(exist_ok=True)
    place = OUT / f"claims-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    raw: dict[str, Any] = {"machine": machine, "options": asdict(options), "turns": [asdict(turn) for turn in turns]}
    place.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    say(f"Written to {place}")
    return 0 if all(turn.events <= turn.stored for turn in turns) else 1


def main() -> int:
    """Parse, start PostgreSQL, measure."""
    parser = argparse.ArgumentParser(
        prog="ops/bench/run claims", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, help="5 unless given")
    parser.add_argument("--seconds", type=float, help="of load in each turn; 8 unless given")
    parser.add_argument("--events", type=int, default=800, help="of each stream; 800 unless given")
    parser.add_argument("--every", type=float, default=2.0, help="seconds from claim to claim; 2 unless given")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 2 seconds: whether it works, not how fast")
    parser.add_argument("--directory", type=Path, help="where PostgreSQL's files go: the disk to measure on")
    given = parser.parse_args()
    options = Options(
        rounds=given.rounds or (2 if given.quick else 5),
        seconds=given.seconds or (2.0 if given.quick else 8.0),
        warm_up=0.5 if given.quick else 1.5,
        events=given.events,
        every=given.every,
    )
    return with_server(lambda server, directory: play(server, options, directory), given.directory)


if __name__ == "__main__":
    sys.exit(main())
