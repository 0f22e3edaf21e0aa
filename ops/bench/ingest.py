"""How fast events are taken in, side by side with what they could be compared with, in turns on one machine.

    ops/bench/run [--rounds 5] [--seconds 6] [--quick] [--only NAME,…] [--loads single,batch] [--profile]

In every round each contestant has its turn, in an order that turns around from round to round: raw COPY of the rows
that this service would write; a plain FastAPI service with a table of its own; the same one with this service's table;
this service. All use one embedded PostgreSQL, with a fresh database and a freshly started process each turn, after a
checkpoint and a warm-up. After each turn rows are counted: what is stored must be what was acknowledged.

The report goes to standard output and, with the raw numbers as JSON, to ops/bench/out/.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from psycopg import sql

from ops.bench import profiling
from ops.bench.contestants import CHECKOUT, Contestant, baseline, check_duties, running, this_service
from ops.bench.load import CONNECTIONS, Load, client_name, make_loads, run_load
from ops.bench.measure import CpuMeter, describe_machine, memory_of
from ops.bench.report import COPY, Turn, markdown, ratios
from ops.bench.server import OUT, Server, names, say, with_server

SETTLE_SECONDS = 1.0
"""After the load, before memory is looked at once more."""
COPY_ROWS_A_SECOND = 40_000
"""For how many rows to prepare; a turn of COPY ends with them, or with its time."""
MAX_COPY_ROWS = 300_000


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for; times in seconds."""

    rounds: int
    seconds: float
    warm_up: float
    loads: tuple[str, ...]
    only: tuple[str, ...]
    launcher: tuple[str, ...]
    baseline_redacts: bool


# -- turns ---------------------------------------------------------------------------------------------------------


class Copier:
    """The process that copies raw rows."""

    def __init__(self, rows: int) -> None:
        say(f"preparing {rows:,} rows for COPY ...")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ops.bench.copying", str(-(-rows // 1000))],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._answer()

    def turn(self, server: Server, number: int, seconds: float) -> Turn:
        """Copy into a fresh database."""
        with server.database() as database:
            before = server.rows(database, "events")
            self._ask({"open": server.url(database)})
            meter = CpuMeter(self._process.pid, server.postmaster, database)
            found = self._ask({"seconds": seconds})
            cpu = meter.read()
            stored = server.rows(database, "events") - before
        return Turn(COPY, COPY, number, int(found["rows"]), found["seconds"], stored, cpu, 0.0)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        if self._process.stdin is None:
            raise RuntimeError("the copying process has no input")
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError("the copying process ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


def http_turn(
    server: Server, contestant: Contestant, load: Load, number: int, options: Options, directory: Path
) -> Turn:
    """One contestant under one load, from a fresh start to the count of its rows."""
    log = directory / f"{contestant.name}.log"
    with server.database() as database, running(contestant, server.url(database), log) as started:
        run_load(started.url, server.key, load, prefix="w", seconds=options.warm_up)
        before = server.rows(database, contestant.table)
        meter = CpuMeter(started.process.pid, server.postmaster, database)
        sent = run_load(started.url, server.key, load, prefix="m", seconds=options.seconds)
        cpu = meter.read()
        stored = server.rows(database, contestant.table) - before
        unindexed = server.unindexed(database) if contestant.name == "service" else None
        time.sleep(SETTLE_SECONDS)
        memory = memory_of(started.process.pid)
    return Turn(
        contestant=contestant.name,
        load=load.name,
        round=number,
        events=sent.acknowledged * load.batch,
        seconds=sent.seconds,
        stored=stored,
        cpu=cpu,
        client_cpu=sent.client_cpu_seconds,
        batch=load.batch,
        sent=sent,
        memory=memory,
        unindexed=unindexed,
    )


def play(server: Server, options: Options, directory: Path) -> int:
    """All rounds, and the report. Returns the exit status: 1 if rows and acknowledgements differ anywhere."""
    machine = describe_machine(directory)
    machine["postgres"] = str(server.execute(sql.SQL("SHOW server_version"))) + ", embedded, fsync on"
    machine["client"] = f"{client_name()}, 1 thread, {CONNECTIONS} connections"
    server.make_template()
    loads = [load for load in make_loads(directory) if load.name in options.loads]
    everybody = [
        baseline("plain", redacts=options.baseline_redacts),
        baseline("events", redacts=options.baseline_redacts),
        this_service(options.launcher),
    ]
    contestants = [one for one in everybody if not options.only or one.name in options.only]
    copier = None
    settings: dict[str, Any] = {"rounds": options.rounds, "seconds_a_turn": options.seconds}
    duties = {}
    for contestant in contestants:
        say(f"probing {contestant.name} ...")
        log = directory / f"{contestant.name}.log"
        with server.database() as database, running(contestant, server.url(database), log) as started:
            duties[contestant.name] = check_duties(started.url, server.key)
    turns: list[Turn] = []
    try:
        if not options.only or COPY in options.only:
            copier = Copier(min(int(options.seconds * COPY_ROWS_A_SECOND), MAX_COPY_ROWS))
            settings["copied_row_bytes"] = copier.about["row_bytes"]
        for number in range(options.rounds):
            todo: list[Any] = [partial(copier.turn, server, number, options.seconds)] if copier else []
            todo += [
                partial(http_turn, server, contestant, load, number, options, directory)
                for load in loads
                for contestant in contestants
            ]
            for run in todo if number % 2 == 0 else reversed(todo):
                turn: Turn = run()
                turns.append(turn)
                say(f"round {number + 1} of {options.rounds}  {turn.summary()}")
    finally:
        if copier:
            copier.close()
    titles = {COPY: "raw COPY"} | {one.name: one.title for one in contestants}
    names = [load.name for load in loads]
    found = ratios(turns, "service", [COPY, "fastapi-events", "fastapi-plain"], names)
    report = markdown(turns, found, titles, duties, machine, settings, names)
    OUT.mkdir(exist_ok=True)
    stem = f"ingest-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    (OUT / f"{stem}.md").write_text(report, encoding="utf-8")
    raw = {
        "machine": machine,
        "settings": settings,
        "duties": duties,
        "turns": [turn.to_json() for turn in turns],
        "ratios": [asdict(ratio) for ratio in found],
    }
    (OUT / f"{stem}.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    print(report)
    say(f"Written to {OUT / stem}.md and .json")
    return 0 if all(turn.exact for turn in turns) else 1


def profile(server: Server, options: Options, directory: Path) -> int:
    """Where this service's time goes, one load after the other."""
    server.make_template()
    launcher = ["-m", "ops.bench.profiling", *options.launcher]
    for load in make_loads(directory):
        if load.name not in options.loads:
            continue
        out, log = directory / f"{load.name}.profile", directory / "profiled.log"
        contestant = this_service(launcher)
        with (
            server.database() as database,
            running(contestant, server.url(database), log, BENCH_PROFILE=str(out)) as started,
        ):
            run_load(started.url, server.key, load, prefix="w", seconds=options.warm_up)
            started.process.send_signal(signal.SIGUSR1)
            sent = run_load(started.url, server.key, load, prefix="m", seconds=options.seconds)
            started.process.send_signal(signal.SIGUSR2)
        events = sent.acknowledged * load.batch
        report = profiling.markdown(json.loads(out.read_text()), load.name, events, sent.seconds)
        OUT.mkdir(exist_ok=True)
        place = OUT / f"profile-{load.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.md"
        place.write_text(report, encoding="utf-8")
        print(report)
        say(f"Written to {place}")
    return 0


# -- the command ---------------------------------------------------------------------------------------------------


def main() -> int:
    """Parse, start PostgreSQL, measure."""
    parser = argparse.ArgumentParser(
        prog="ops/bench/run ingest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, help="5 unless given")
    parser.add_argument("--seconds", type=float, help="of load in each turn; 6 unless given, 20 to profile")
    parser.add_argument("--warm-up", type=float, help="seconds of load before each turn; 1.5 unless given")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 2 seconds: whether it works, not how fast")
    parser.add_argument("--loads", type=names, default=("single", "batch"), help="single, batch, or both")
    parser.add_argument("--only", type=names, default=(), help="of: copy, fastapi-plain, fastapi-events, service")
    parser.add_argument("--profile", action="store_true", help="instead: where this service's time goes")
    parser.add_argument("--no-redaction", action="store_true", help="the FastAPI service leaves redaction out")
    parser.add_argument("--directory", type=Path, help="where PostgreSQL's files go: the disk to measure on")
    parser.add_argument("--launcher", default="-m logstitch", help="what Python runs as this service")
    given = parser.parse_args()
    options = Options(
        rounds=given.rounds or (2 if given.quick else 5),
        seconds=given.seconds or (2.0 if given.quick else 20.0 if given.profile else 6.0),
        warm_up=given.warm_up or (0.5 if given.quick else 1.5),
        loads=given.loads,
        only=given.only,
        launcher=tuple(shlex.split(given.launcher)),
        baseline_redacts=not given.no_redaction,
    )
    work = profile if given.profile else play
    return with_server(lambda server, directory: work(server, options, directory), given.directory)


if __name__ == "__main__":
    sys.exit(main())
