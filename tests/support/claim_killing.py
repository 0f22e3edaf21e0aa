"""A process that claims and is killed, again and again: before each statement of the claim, and right after its commit.

``python -m tests.support.claim_killing DATABASE_URL`` forks a child for each of these moments. The child claims a
stream and, at its moment, gets SIGKILL from itself. The parent then looks at what is left, claims once more, and prints
one line for each moment and a verdict as JSON.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import psycopg
import trio

from logstitch.errors import StreamAlreadyClaimed
from logstitch.recording.claiming import StreamClaim
from logstitch.streams import StreamStatus
from tests.support.ingest import event
from tests.support.statements import at_statement
from tests.support.streams import StreamBench, new_token, open_stream_bench

EVENTS = 5
Work = Callable[[StreamBench], Awaitable[Any]]


def with_bench(url: str, project_no: int | None, work: Work) -> Any:
    """Run ``work`` with actors of its own."""

    async def run() -> Any:
        async with open_stream_bench(url, project_no=project_no) as bench:
            return await work(bench)

    return trio.run(run)


def die(_: psycopg.Connection[Any]) -> None:
    """As abruptly as a process can."""
    os.kill(os.getpid(), signal.SIGKILL)


def claim_and_die(url: str, project_no: int, token: str, number: int) -> None:
    """In a child: claim, and be killed before statement ``number``."""
    pid = os.fork()
    if pid == 0:
        with at_statement(StreamClaim, number, die):
            with_bench(url, project_no, lambda bench: bench.claim(token))
        os._exit(0)  # it was not killed, which the parent sees
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status):
        raise RuntimeError(f"the claim ran past statement {number}")


async def prepare(bench: StreamBench) -> tuple[int, str]:
    """A stream of five events, and the number of the project."""
    token = new_token()
    await bench.submit(token, *[event(idempotency_key=f"{token} {n}") for n in range(EVENTS)])
    return bench.project.no, token


async def count_statements(bench: StreamBench) -> int:
    """Statements of a claim that nobody disturbs."""
    _, token = await prepare(bench)
    with at_statement(StreamClaim, None, lambda _: None) as seen:
        await bench.claim(token)
    return len(seen.texts)


async def look(bench: StreamBench, token: str) -> tuple[StreamStatus, int, int]:
    """How the stream stands, its events in it, and its events in the project."""

    def read(conn: psycopg.Connection[Any]) -> None:
        # The killed one's transaction may not be over yet on the server: wait for its lock.
        conn.execute("SELECT FROM streams FOR UPDATE")

    await bench.database.transact(read)
    in_project = sum(body.get("idempotency_key", "").startswith(token) for body in await bench.bodies())
    row = await bench.row(token)
    assert row is not None
    stored = await bench.count(f"SELECT count(*) FROM stream_events WHERE stream_no = {row.no}")
    return row.status, stored, in_project


def main() -> int:
    """Every moment, one after the other."""
    url = sys.argv[1]
    broken: list[int] = []
    before: list[StreamStatus] = []
    project_no, _ = with_bench(url, None, prepare)
    statements: int = with_bench(url, project_no, count_statements)
    for number in range(statements + 1):
        _, token = with_bench(url, project_no, prepare)
        claim_and_die(url, project_no, token, number)

        async def judge(bench: StreamBench, token: str = token) -> tuple[StreamStatus, bool]:
            status, stored, in_project = await look(bench, token)
            whole = (stored, in_project) == ((EVENTS, 0) if status is StreamStatus.ACTIVE else (0, EVENTS))
            try:
                await bench.claim(token)
                again = status is StreamStatus.ACTIVE
            except StreamAlreadyClaimed:
                again = status is StreamStatus.CLAIMED
            after = await look(bench, token) == (StreamStatus.CLAIMED, 0, EVENTS)
            return status, whole and again and after

        status, well = with_bench(url, project_no, judge)
        before.append(status)
        print(f"killed before statement {number} of {statements}: {status}, {'well' if well else 'BROKEN'}")
        if not well:
            broken.append(number)
    verdict = {
        "statements": statements,
        "whole_before": before.count(StreamStatus.ACTIVE),
        "claimed_before": before.count(StreamStatus.CLAIMED),
        "broken": broken,
    }
    print(orjson.dumps(verdict).decode())
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
