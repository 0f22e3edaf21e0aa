"""What detection costs those who send events: ingest with no alert rule at work, and with 31 of them.

    ops/bench/run alerts [--rounds 5] [--seconds 6] [--loads single,batch,half-single,half-batch] [--quick]

In every round the same service has two turns, in an order that turns around from round to round: with all built-in
rules disabled, and with the six built-ins and 25 custom rules enabled, some of which match every event. Each turn has a
fresh database and a fresh process, a warm-up, and the same load; afterwards it is measured how long the evaluator needs
to look at what is left. The goal: the p99 of the answers is within 5 % of what it is without rules.

Two loads are as much as the service can do, so that whatever detection takes of the processor is missing elsewhere: the
p99 grows as the rate falls. Two are about half of that, sent for twice as long: there it shows whether detection is in
anybody's way.

The report goes to standard output and, with the raw numbers as JSON, to ops/bench/out/. Exit status 1 where something
that was acknowledged is not stored, or was not looked at.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from logstitch.detection.rules import BUILTINS
from ops.bench.contestants import running, this_service
from ops.bench.load import CONNECTIONS, Load, client_name, make_loads, run_load
from ops.bench.measure import CpuMeter, describe_machine
from ops.bench.server import OUT, Server, names, say, with_server

GOAL = 1.05
THINK_MS = {"single": 64, "batch": 640}
"""By load, what makes half of it on a machine like that of the README: a wait of twice what a request takes then."""
LOADS = ("single", "batch", "half-single", "half-batch")
CATCH_UP_SECONDS = 60.0
PATTERNS = (
    *("auth.failed*", "*.deleted", "*.updated", "*", "user.*", "*.created", "invoice.*", "*.role.*", "project.*"),
    *("*.api_key.*", "*.exported", "session.*", "*.viewed", "billing.*.failed", "admin.*", "*.member.*", "report.*"),
    *("*.password.*", "team.*", "*.invited", "webhook.*", "*.login", "document.*", "*.shared", "*.archived"),
)
"""Of the custom rules: one of all events, some of many, most of none."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn. ``looked_at``: events that the evaluator came to; ``behind_seconds``: how long it needed after the last
    answer; ``cpu_seconds`` are the service's, without its child processes'."""

    rules: int
    load: str
    round: int
    rate: float
    p50_ms: float
    p99_ms: float
    cpu_seconds: float
    events: int
    stored: int
    looked_at: int
    behind_seconds: float
    alerts: int


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for; times in seconds."""

    rounds: int
    seconds: float
    warm_up: float
    loads: tuple[str, ...]


def loads_of(directory: Path) -> list[Load]:
    """All that there are, in the order of ``LOADS``."""
    whole = make_loads(directory)
    return whole + [replace(load, name=f"half-{load.name}", think_ms=THINK_MS[load.name]) for load in whole]


def set_up(url: str, key: str, *, watching: bool) -> int:
    """Enable all rules, or none; how many hold then."""
    with httpx.Client(trust_env=False, timeout=30, headers={"Authorization": f"Bearer {key}"}) as client:
        rules = f"{url}/api/v1/alerts/rules"
        for builtin in BUILTINS:
            client.patch(f"{rules}/{builtin.id}", json={"enabled": watching}).raise_for_status()
        if not watching:
            return 0
        for number, pattern in enumerate(PATTERNS):
            rule = {
                "name": f"Custom {number}",
                "action_pattern": pattern,
                "threshold": 100,
                "window_seconds": 300,
                "group_by": "actor_id" if number % 2 else "tenant_id",
                "severity": "low",
            }
            client.post(rules, json=rule).raise_for_status()
        return len(BUILTINS) + len(PATTERNS)


def play_turn(server: Server, load: Load, number: int, options: Options, directory: Path, *, watching: bool) -> Turn:
    """One turn, from a fresh database to the end of what is to be looked at."""
    log = directory / "service.log"
    with server.database() as database, running(this_service(("-m", "logstitch")), server.url(database), log) as on:
        rules = set_up(on.url, server.master_key, watching=watching)
        run_load(on.url, server.key, load, prefix="w", seconds=options.warm_up)
        before = server.rows(database, "events")
        meter = CpuMeter(on.process.pid, server.postmaster, database)
        seconds = options.seconds * (2 if load.think_ms else 1)
        sent = run_load(on.url, server.key, load, prefix="m", seconds=seconds)
        cpu = meter.read()
        ended = time.monotonic()
        stored = server.rows(database, "events")
        while (looked_at := server.looked_at(database)) < stored and time.monotonic() < ended + CATCH_UP_SECONDS:
            time.sleep(0.1)
        behind = time.monotonic() - ended
        return Turn(
            rules=rules,
            load=load.name,
            round=number,
            rate=sent.acknowledged * load.batch / sent.seconds,
            p50_ms=sent.p50_ms,
            p99_ms=sent.p99_ms,
            cpu_seconds=cpu.own,
            events=sent.acknowledged * load.batch,
            stored=stored - before,
            looked_at=looked_at - before,
            behind_seconds=behind,
            alerts=server.rows(database, "alerts"),
        )


def report(turns: Sequence[Turn], loads: Sequence[str]) -> list[str]:
    """For people: medians, and the ratio of each round's pair."""
    lines = [
        "| load | rules | events/s | p50 ms | p99 ms | CPU µs an event | behind at the end | alerts |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for load in loads:
        pairs: dict[int, dict[bool, Turn]] = {}
        for turn in turns:
            if turn.load == load:
                pairs.setdefault(turn.round, {})[bool(turn.rules)] = turn
        for watching in (False, True):
            group = [pair[watching] for pair in pairs.values()]

            def middle(what: str, group: Sequence[Turn] = group) -> float:
                return float(statistics.median(getattr(turn, what) for turn in group))

            cpu = statistics.median(1e6 * turn.cpu_seconds / turn.events for turn in group)
            lines.append(
                f"| {load} | {group[0].rules} | {middle('rate'):,.0f} | {middle('p50_ms'):.1f} | "
                f"{middle('p99_ms'):.1f} | {cpu:.1f} | {middle('behind_seconds'):.1f} s | {middle('alerts'):,.0f} |"
            )
        p99 = statistics.median(pair[True].p99_ms / pair[False].p99_ms for pair in pairs.values())
        rate = statistics.median(pair[True].rate / pair[False].rate for pair in pairs.values())
        lines.append("")
        lines.append(
            f"{load}: p99 with rules is {p99:.2f} times that without, goal at most {GOAL}: "
            f"{'met' if p99 <= GOAL else 'NOT MET'}; {rate:.2f} times the events a second."
        )
        lines.append("")
    return lines


def play(server: Server, options: Options, directory: Path) -> int:
    """All rounds, and the report."""
    server.make_template()
    machine = describe_machine(directory) | {"client": f"{client_name()}, 1 thread, {CONNECTIONS} connections"}
    turns: list[Turn] = []
    for number in range(options.rounds):
        for load in loads_of(directory):
            if load.name not in options.loads:
                continue
            for watching in (False, True) if number % 2 == 0 else (True, False):
                turn = play_turn(server, load, number, options, directory, watching=watching)
                turns.append(turn)
                say(
                    f"round {number + 1} of {options.rounds}  {turn.load:12}{turn.rules:3} rules {turn.rate:9,.0f} "
                    f"events/s, p99 {turn.p99_ms:.1f} ms, {turn.behind_seconds:.1f} s behind"
                )
    print("\n".join(report(turns, options.loads)))
    OUT.mkdir(exist_ok=True)
    place = OUT / f"alerts-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    raw: dict[str, Any] = {"machine": machine, "options": asdict(options), "turns": [asdict(turn) for turn in turns]}
    place.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    say(f"Written to {place}")
    return 0 if all(turn.events <= turn.stored <= turn.looked_at for turn in turns) else 1


def main() -> int:
    """Parse, start PostgreSQL, measure."""
    parser = argparse.ArgumentParser(
        prog="ops/bench/run alerts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, help="5 unless given")
    parser.add_argument("--seconds", type=float, help="of load in each turn; 6 unless given")
    parser.add_argument("--loads", type=names, default=LOADS, help=f"of: {', '.join(LOADS)}")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 2 seconds: whether it works, not how fast")
    parser.add_argument("--directory", type=Path, help="where PostgreSQL's files go: the disk to measure on")
    given = parser.parse_args()
    options = Options(
        rounds=given.rounds or (2 if given.quick else 5),
        seconds=given.seconds or (2.0 if given.quick else 6.0),
        warm_up=0.5 if given.quick else 1.5,
        loads=given.loads,
    )
    return with_server(lambda server, directory: play(server, options, directory), given.directory)


if __name__ == "__main__":
    sys.exit(main())
