"""What ten times the load that the service can take does to it: goodput, refusals, the wait of the accepted, memory.

    ops/bench/run overload [--factor 10] [--seconds 20] [--loads batch,single] [--unpinned] [--quick]

For each load: a fresh service; the peak, found by 32 connections that send the next request with each answer; then
requests at ``factor`` times that rate, whether or not earlier ones are answered (an open loop), over at most ``factor``
times the connections; then the peak again, to see that nothing lasting has happened. Nobody waits as long as
Retry-After asks: these are the worst of clients. Where there are two processors or more, the client has the last one
to itself, so that its ten-fold work takes nothing from the service, in the peak neither; with ``--unpinned`` all of
them share all processors.

Printed beside the goals; exit status 1 when a promise is broken: something acknowledged is not stored, something else
than 201 and 503 is answered, or a 503 has no Retry-After. Raw numbers go to ops/bench/out/ as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import psutil
import uvloop

from ops.bench.contestants import CHECKOUT, running, this_service
from ops.bench.load import CONNECTIONS, KEY_MARK, Load, make_loads
from ops.bench.measure import describe_machine
from ops.bench.server import OUT, Server, names, say, with_server

GOODPUT_GOAL = 0.7
P99_GOAL_MS = 2000.0
FLAT = 1.1
"""How much more memory the second half of the overload may take than the first, and still be called flat."""
PATIENCE_SECONDS = 12.0
"""After the last request, for its answer: every request is answered within ten seconds."""
TICK_SECONDS = 0.001
"""Between two looks of the open loop at what is due."""
SAMPLE_SECONDS = 0.1
CORES = sorted(os.sched_getaffinity(0))
CLIENTS_CORE = str(CORES[-1])


@dataclass(frozen=True, slots=True)
class Seen:
    """What the client saw. ``rate``: requests due a second, 0 for a closed loop. ``unsent``: due while every
    connection had a request open. ``open``: requests without an answer at the end. ``broken``: connections lost with a
    request open. ``accepted`` and its milliseconds are of 201, ``bare_refusals`` 503 without Retry-After."""

    rate: float
    seconds: float
    due: int
    unsent: int
    statuses: dict[str, int]
    bare_refusals: int
    broken: int
    open: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    refused_p99_ms: float

    @property
    def accepted(self) -> int:
        """Requests that were answered 201."""
        return self.statuses.get("201", 0)

    @property
    def refused(self) -> int:
        """Requests that were answered 503."""
        return self.statuses.get("503", 0)

    @property
    def accepted_a_second(self) -> float:
        """The goodput, in requests."""
        return self.accepted / self.seconds

    @property
    def others(self) -> dict[str, int]:
        """Answers that there should be none of."""
        return {status: count for status, count in self.statuses.items() if status not in ("201", "503")}


@dataclass(frozen=True, slots=True)
class Result:
    """One load, from peak to peak. Memory is the service's resident set in MiB. ``stored`` and ``acknowledged`` are
    events of all three phases; requests that broke may be stored or not."""

    load: str
    batch: int
    factor: float
    peak: Seen
    overload: Seen
    after: Seen
    memory_before: float
    memory_first_half: float
    memory_second_half: float
    memory_after: float
    stored: int
    acknowledged: int
    unknown: int

    @property
    def kept(self) -> bool:
        """No promise was broken."""
        phases = (self.peak, self.overload, self.after)
        exact = self.acknowledged <= self.stored <= self.acknowledged + self.unknown
        return exact and not any(phase.others or phase.bare_refusals for phase in phases)

    def lines(self) -> list[str]:
        """For people, with what was aimed at."""
        peak, overload, after = self.peak, self.overload, self.after
        share = overload.accepted_a_second / peak.accepted_a_second if peak.accepted else 0.0
        flat = self.memory_second_half <= FLAT * self.memory_first_half

        def goal(met: bool, text: str) -> str:
            return f"goal {text}: {'met' if met else 'NOT MET'}"

        sent = overload.due - overload.unsent
        return [
            f"## {self.load} ({self.batch} events a request), {self.factor:g} times the peak",
            f"peak              {peak.accepted_a_second:,.0f} requests/s, {peak.accepted_a_second * self.batch:,.0f} "
            f"events/s, p99 {peak.p99_ms:,.0f} ms",
            f"offered           {overload.rate:,.0f} requests/s for {overload.seconds:.1f} s: {overload.due:,} due, "
            f"{sent:,} sent ({sent / overload.seconds:,.0f}/s), {overload.unsent:,} found every connection busy",
            f"goodput           {overload.accepted_a_second:,.0f} requests/s, {share:.0%} of the peak; "
            + goal(share >= GOODPUT_GOAL, f"at least {GOODPUT_GOAL:.0%}"),
            f"the rest          {overload.refused:,} times 503 ({overload.bare_refusals} without Retry-After, p99 "
            f"{overload.refused_p99_ms:,.0f} ms), others {overload.others or 'none'}, broken {overload.broken}, "
            f"unanswered {overload.open}; "
            + goal(not (overload.others or overload.bare_refusals or overload.broken or overload.open), "all answered"),
            f"accepted          p50 {overload.p50_ms:,.0f} ms, p99 {overload.p99_ms:,.0f} ms, longest "
            f"{overload.max_ms:,.0f} ms; " + goal(overload.p99_ms <= P99_GOAL_MS, f"p99 at most {P99_GOAL_MS:,.0f} ms"),
            f"memory            before {self.memory_before:.0f} MiB, highest in the first half "
            f"{self.memory_first_half:.0f}, in the second {self.memory_second_half:.0f}, after "
            f"{self.memory_after:.0f}; " + goal(flat, "flat"),
            f"afterwards        {after.accepted_a_second:,.0f} requests/s, p99 {after.p99_ms:,.0f} ms, "
            f"{after.refused} refused",
            f"ledger            acknowledged {self.acknowledged:,}, stored {self.stored:,}, unknown {self.unknown:,}; "
            + ("every promise kept" if self.kept else "A PROMISE IS BROKEN"),
            "",
        ]


# -- measuring -----------------------------------------------------------------------------------------------------


class MemoryWatch(threading.Thread):
    """Samples the resident set of a process until it is stopped."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process(pid)
        self._stopping = threading.Event()
        self.samples: list[float] = []

    def now(self) -> float:
        """MiB."""
        return float(self._process.memory_info().rss) / 2**20

    def run(self) -> None:
        while not self._stopping.wait(SAMPLE_SECONDS):
            self.samples.append(self.now())

    def stop(self) -> tuple[float, float]:
        """The highest of each half."""
        self._stopping.set()
        self.join()
        half = max(1, len(self.samples) // 2)
        return max(self.samples[:half], default=0.0), max(self.samples[half:], default=0.0)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for; times in seconds."""

    factor: float
    seconds: float
    peak_seconds: float
    loads: tuple[str, ...]
    pinned: bool


def send(
    url: str, key: str, load: Load, pinned: bool, *, prefix: str, seconds: float, rate: float, connections: int
) -> Seen:
    """Have a process of its own send ``load``; its keys begin with ``prefix``."""
    arguments = [f"{url}/api/v1/events", str(load.bodies), key, prefix, str(seconds), str(rate), str(connections)]
    command = [sys.executable, "-m", "ops.bench.overload", "--client", *arguments, CLIENTS_CORE if pinned else ""]
    done = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, check=True)
    return Seen(**json.loads(done.stdout))


def measure(server: Server, load: Load, options: Options, directory: Path) -> Result:
    """Peak, overload, and peak again."""
    contestant = this_service(("-m", "logstitch"))
    with (
        server.database() as database,
        running(contestant, server.url(database), directory / f"{load.name}.log") as started,
    ):
        sending = partial(send, started.url, server.key, load, options.pinned)
        sending(prefix="w", seconds=options.peak_seconds / 4, rate=0, connections=CONNECTIONS)
        before = server.rows(database, "events")
        peak = sending(prefix="p", seconds=options.peak_seconds, rate=0, connections=CONNECTIONS)
        say(f"{load.name}: a peak of {peak.accepted_a_second:,.0f} requests/s; now {options.factor:g} times that ...")
        memory = MemoryWatch(started.process.pid)
        memory_before = memory.now()
        memory.start()
        overload = sending(
            prefix="o",
            seconds=options.seconds,
            rate=options.factor * peak.accepted_a_second,
            connections=int(options.factor * CONNECTIONS),
        )
        first_half, second_half = memory.stop()
        after = sending(prefix="a", seconds=options.peak_seconds / 2, rate=0, connections=CONNECTIONS)
        stored = server.rows(database, "events") - before
        phases = (peak, overload, after)
        return Result(
            load=load.name,
            batch=load.batch,
            factor=options.factor,
            peak=peak,
            overload=overload,
            after=after,
            memory_before=memory_before,
            memory_first_half=first_half,
            memory_second_half=second_half,
            memory_after=memory.now(),
            stored=stored,
            acknowledged=sum(phase.accepted for phase in phases) * load.batch,
            unknown=sum(phase.broken + phase.open for phase in phases) * load.batch,
        )


def play(server: Server, options: Options, directory: Path) -> int:
    """Every load, and the report."""
    server.make_template()
    machine = describe_machine(directory)
    results = []
    for load in make_loads(directory):
        if load.name in options.loads:
            results.append(measure(server, load, options, directory))
            print("\n".join(results[-1].lines()), flush=True)
    OUT.mkdir(exist_ok=True)
    place = OUT / f"overload-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    raw = {"machine": machine, "options": asdict(options), "results": [asdict(result) for result in results]}
    place.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    say(f"Written to {place}")
    return 0 if all(result.kept for result in results) else 1


# -- the client ----------------------------------------------------------------------------------------------------


class Client:
    """Sends prepared bodies over connections that are opened as they are needed, and counts what comes back."""

    def __init__(self, target: str, bodies: list[bytes], key: str, prefix: str, connections: int) -> None:
        parts = urlsplit(target)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self._head = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        ).encode()
        self._bodies, self._prefix, self._most = bodies, prefix, connections
        self._number = 0
        self._connections = 0
        self._idle: list[Exchange] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._last_answer_at = 0.0
        self.closed_loop = False
        self.unanswered = 0
        self.statuses: Counter[str] = Counter()
        self.bare_refusals = self.broken = self.unsent = self.due = 0
        self.accepted_ms: list[float] = []
        self.refused_ms: list[float] = []

    def request(self) -> bytes:
        """The next one, whose idempotency keys are its own."""
        self._number += 1
        body = self._bodies[self._number % len(self._bodies)].replace(
            KEY_MARK, f"{self._prefix}-{self._number:x}".encode()
        )
        return self._head % len(body) + body

    def send_one(self) -> None:
        """Over a connection that is free, or a new one where there may be one more."""
        self.due += 1
        if self._idle:
            self._idle.pop().send()
        elif self._connections < self._most:
            self._connections += 1
            opening = asyncio.get_running_loop().create_task(self._open())
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)
        else:
            self.unsent += 1

    async def _open(self) -> None:
        try:
            _, exchange = await asyncio.get_running_loop().create_connection(
                lambda: Exchange(self), self.host, self.port
            )
        except OSError:
            self._connections -= 1
            self.broken += 1
            return
        exchange.send()

    def answered(self, exchange: Exchange, status: str, milliseconds: float, *, advised: bool) -> None:
        """One answer has come, and ``exchange`` is free."""
        self._last_answer_at = time.perf_counter()
        self.statuses[status] += 1
        if status == "201":
            self.accepted_ms.append(milliseconds)
        elif status == "503":
            self.refused_ms.append(milliseconds)
            self.bare_refusals += not advised
        if not exchange.closing:
            self._idle.append(exchange)
        if self.closed_loop:
            self.send_one()

    def lost(self, exchange: Exchange, *, unanswered: bool) -> None:
        """A connection is gone."""
        self._connections -= 1
        self.broken += unanswered
        if exchange in self._idle:
            self._idle.remove(exchange)
        if unanswered and self.closed_loop:
            self.send_one()

    async def run(self, seconds: float, rate: float) -> Seen:
        """Send for so long: ``rate`` requests a second, or with 0 the next one with each answer."""
        began = time.perf_counter()
        if rate:
            while (elapsed := time.perf_counter() - began) < seconds:
                while self.due < elapsed * rate:
                    self.send_one()
                await asyncio.sleep(TICK_SECONDS)
        else:
            self.closed_loop = True
            for _ in range(self._most):
                self.send_one()
            await asyncio.sleep(seconds)
            self.closed_loop = False
        sending = time.perf_counter() - began
        while (self.unanswered or self._opening) and time.perf_counter() - began < sending + PATIENCE_SECONDS:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return Seen(
            rate=rate,
            # Up to the last answer: what was accepted after the last request took its time as well.
            seconds=max(sending, self._last_answer_at - began),
            due=self.due,
            unsent=self.unsent,
            statuses=dict(self.statuses),
            bare_refusals=self.bare_refusals,
            broken=self.broken,
            open=self.unanswered,
            p50_ms=percentile(self.accepted_ms, 0.5),
            p99_ms=percentile(self.accepted_ms, 0.99),
            max_ms=percentile(self.accepted_ms, 1),
            refused_p99_ms=percentile(self.refused_ms, 0.99),
        )


class Exchange(asyncio.Protocol):
    """One connection, with at most one request open."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._sent_at: float | None = None
        self.closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self) -> None:
        """Send the client's next request."""
        if self._transport is None:
            raise RuntimeError("not connected")
        self._client.unanswered += 1
        self._sent_at = time.perf_counter()
        self._transport.write(self._client.request())

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        lines = head.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        if len(rest) < length or self._sent_at is None:
            return
        took, self._sent_at = time.perf_counter() - self._sent_at, None
        self._received = rest[length:]
        self._client.unanswered -= 1
        self.closing = b"connection: close" in lines
        if self.closing and self._transport is not None:
            self._transport.close()
        advised = any(line.startswith(b"retry-after:") for line in lines)
        self._client.answered(self, lines[0].split()[1].decode(), took * 1000, advised=advised)

    def connection_lost(self, error: Exception | None) -> None:
        unanswered = self._sent_at is not None
        self._client.unanswered -= unanswered
        self._client.lost(self, unanswered=unanswered)


def percentile(values: list[float], share: float) -> float:
    """The value that this share of all does not exceed; 0 where there are none."""
    values.sort()
    return round(values[min(int(share * len(values)), len(values) - 1)], 1) if values else 0.0


def run_client(
    target: str, bodies: str, key: str, prefix: str, seconds: str, rate: str, connections: str, core: str
) -> int:
    """What the child process does."""
    if core:
        os.sched_setaffinity(0, {int(core)})
    client = Client(target, Path(bodies).read_bytes().splitlines(), key, prefix, int(connections))
    seen = uvloop.run(client.run(float(seconds), float(rate)))
    print(json.dumps(asdict(seen)))
    return 0


# -- the command ---------------------------------------------------------------------------------------------------


def main() -> int:
    """Parse, start PostgreSQL, measure."""
    if sys.argv[1:2] == ["--client"]:
        return run_client(*sys.argv[2:])
    parser = argparse.ArgumentParser(
        prog="ops/bench/run overload", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--factor", type=float, default=10.0, help="how many times the peak; 10 unless given")
    parser.add_argument("--seconds", type=float, help="of overload for each load; 20 unless given")
    parser.add_argument("--peak-seconds", type=float, help="to find the peak in; 8 unless given")
    parser.add_argument("--loads", type=names, default=("batch", "single"), help="batch, single, or both")
    parser.add_argument("--unpinned", action="store_true", help="the client shares the service's processors")
    parser.add_argument("--quick", action="store_true", help="4 seconds of overload: whether it works")
    parser.add_argument("--directory", type=Path, help="where PostgreSQL's files go: the disk to measure on")
    given = parser.parse_args()
    options = Options(
        factor=given.factor,
        seconds=given.seconds or (4.0 if given.quick else 20.0),
        peak_seconds=given.peak_seconds or (2.0 if given.quick else 8.0),
        loads=given.loads,
        pinned=len(CORES) > 1 and not given.unpinned,
    )
    if options.pinned:  # inherited by the service and by PostgreSQL
        os.sched_setaffinity(0, CORES[:-1])
    return with_server(lambda server, directory: play(server, options, directory), given.directory)


if __name__ == "__main__":
    sys.exit(main())
