"""Load for an HTTP contestant: 32 connections, realistic events, idempotency keys that never come twice.

The load generator must cost as little as possible, since it shares the machine with what it measures. That is wrk,
where it is installed; else a small asyncio client in a process of its own, which takes several times the CPU (compare
runs made with the same one only). Both send for the given time and then wait for every answer, so that the number of
acknowledged events is exact and can be compared with the rows that are stored.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from asyncio import StreamReader, StreamWriter
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import orjson

from logstitch.loadtest.plan import synthetic_event

CONNECTIONS = 32
KEY_MARK = b"\x01"
"""Stands in a prepared body where each request puts what makes its keys its own. JSON text cannot hold it otherwise."""
SEED = 20260101
SINGLE_BODIES = 1_000
BATCH_BODIES = 20
PATIENCE_SECONDS = 10
"""How long one answer may take before it counts as broken; the service answers every request within that."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one kind of load sends: ``batch`` events a request, as an object if it is one, else as an array. Before each
    request a connection waits for ``think_ms`` on average; without that, the service has as much to do as it can."""

    name: str
    batch: int
    bodies: Path
    think_ms: int = 0


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a client saw. ``seconds``: from the first request to the last answer. ``refused``: answers of 4xx and 5xx.
    ``broken``: connections that failed and answers that did not come in time. ``unanswered``: requests that were still
    open at the end."""

    requests: int
    refused: int
    broken: int
    unanswered: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    client_cpu_seconds: float

    @property
    def acknowledged(self) -> int:
        """Requests that were answered with success."""
        return self.requests - self.refused


def make_loads(directory: Path) -> list[Load]:
    """Write the bodies of both kinds of load into ``directory``."""
    rng = random.Random(SEED)
    loads = []
    for name, batch, count in (("single", 1, SINGLE_BODIES), ("batch", 100, BATCH_BODIES)):
        path = directory / f"{name}.bodies"
        with path.open("wb") as file:
            for body in range(count):
                texts = [
                    # the place in the batch tells its events apart
                    b'%b,"idempotency_key":"%b-%d"}'
                    % (orjson.dumps(synthetic_event(rng, body * batch + place))[:-1], KEY_MARK, place)
                    for place in range(batch)
                ]
                file.write((texts[0] if batch == 1 else b"[%b]" % b",".join(texts)) + b"\n")
        loads.append(Load(name, batch, path))
    return loads


def client_name() -> str:
    """Which load generator this machine has."""
    wrk = shutil.which("wrk")
    if wrk is None:
        return "asyncio client of ops/bench/load.py (wrk is not installed)"
    # wrk prints its version with its usage, and fails while doing so
    shown = subprocess.run([wrk, "--version"], capture_output=True, text=True, check=False).stdout
    return " ".join(shown.splitlines()[0].split()[:2])


def run_load(url: str, key: str, load: Load, *, prefix: str, seconds: float) -> LoadResult:
    """Send ``load`` to ``url`` (the service's root) for ``seconds``. ``prefix`` begins the keys: one of this run alone.

    Raises ``RuntimeError`` when the client itself fails.
    """
    arguments = [str(load.bodies), key, prefix, str(seconds), str(CONNECTIONS), str(load.think_ms)]
    target = f"{url}/api/v1/events"
    if wrk := shutil.which("wrk"):
        duration = math.ceil(seconds) + PATIENCE_SECONDS
        script = Path(__file__).with_name("load.lua")
        command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{duration}s", f"--timeout={PATIENCE_SECONDS}s"]
        command += ["-s", str(script), target, "--", *arguments]
    else:
        command = [sys.executable, "-m", "ops.bench.load", target, *arguments]
    before = _children_cpu()
    output = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as client:
        for line in client.stdout or ():
            output += line
            if line == "PARKED\n":
                client.send_signal(signal.SIGINT)  # how wrk is told to report before its time is over
    cpu = _children_cpu() - before
    _, mark, answer = output.rpartition("RESULT ")
    if client.returncode or not mark:
        raise RuntimeError(f"the load generator failed: {output}")
    answer = answer.splitlines()[0]
    found = json.loads(answer)
    unanswered = CONNECTIONS - found.pop("parked")
    if unanswered:
        # The last answer came after the end: count up to the end.
        found["seconds"] = max(found["seconds"], seconds)
    return LoadResult(**found, unanswered=unanswered, client_cpu_seconds=cpu)


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


# -- the client for machines without wrk ---------------------------------------------------------------------------


@dataclass(slots=True)
class _Tally:
    requests: int = 0
    refused: int = 0
    broken: int = 0
    parked: int = 0


async def _client(
    target: str, templates: list[bytes], key: str, prefix: str, seconds: float, connections: int, think_ms: int
) -> None:
    parts = urlsplit(target)
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {key}\r\n"
        "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    ).encode()
    tally, latencies = _Tally(), list[float]()
    numbers = iter(range(1, 1 << 62))
    began = time.perf_counter()

    async def answer(reader: StreamReader) -> int:
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        await reader.readexactly(length)
        return int(lines[0].split()[1])

    async def send_all(reader: StreamReader, writer: StreamWriter) -> None:
        while time.perf_counter() - began < seconds:
            await asyncio.sleep(2 * random.random() * think_ms / 1000)
            number = next(numbers)
            body = templates[number % len(templates)].replace(KEY_MARK, f"{prefix}-{number:x}".encode())
            sent = time.perf_counter()
            writer.write(head % len(body) + body)
            status = await asyncio.wait_for(answer(reader), PATIENCE_SECONDS)
            latencies.append(time.perf_counter() - sent)
            tally.requests += 1
            tally.refused += status > 399

    async def connection() -> None:
        while time.perf_counter() - began < seconds:
            try:
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
                await send_all(reader, writer)
                writer.close()
            except (OSError, EOFError, TimeoutError):
                tally.broken += 1
        tally.parked += 1

    await asyncio.gather(*[connection() for _ in range(connections)])
    took = time.perf_counter() - began
    latencies.sort()

    def percentile(share: float) -> float:
        return round(latencies[min(int(share * len(latencies)), len(latencies) - 1)] * 1000, 3) if latencies else 0.0

    found = {"seconds": took, "p50_ms": percentile(0.5), "p99_ms": percentile(0.99), "max_ms": percentile(1)}
    print("RESULT " + json.dumps(asdict(tally) | found))


if __name__ == "__main__":
    _target, _bodies, _key, _prefix, _seconds, _connections, _think_ms = sys.argv[1:]
    _templates = Path(_bodies).read_bytes().splitlines()
    asyncio.run(_client(_target, _templates, _key, _prefix, float(_seconds), int(_connections), int(_think_ms)))
