"""The floor under every contestant: the rows that this service writes, through COPY, with nothing else around it.

The rows are made beforehand by the code that makes them in the service, and written by the very function that the
service writes with, about 1,000 a transaction with a commit each, over one connection, into the same table with the
same indexes. What the service does per group besides (head row, tenants' logs, segments) is left out.

Runs as a process of its own, so that its CPU can be told. It prepares rows once, says so, and then answers one JSON
line for each JSON line it reads: ``{"open": url}`` connects to a database, and leaves the one before;
``{"seconds": …}`` copies into it and tells ``{"rows": …, "seconds": …}``.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import Counter

import orjson
import psycopg

from logstitch.ids import UlidMint
from logstitch.loadtest.plan import synthetic_event
from logstitch.model import validate_events
from logstitch.recording.preparation import Preparation
from logstitch.search.segments import lexeme_prefix, segment_of
from logstitch.store import events
from ops.bench.load import SEED

GROUP = 1_000
PROJECT = 1


def make_groups(count: int) -> list[list[bytes]]:
    """``count`` groups of rows of the project's first events."""
    rng, mint, preparation = random.Random(SEED), UlidMint(), Preparation(bytes(32))
    tenants: dict[str, int] = {}
    sizes: Counter[str] = Counter()
    groups: list[list[bytes]] = []
    seq = 0
    for _ in range(count):
        rows: list[bytes] = []
        while len(rows) < GROUP:
            now_ms = time.time_ns() // 1_000_000
            batch = [synthetic_event(rng, seq + n) | {"idempotency_key": f"copy-{seq + n:x}"} for n in range(100)]
            # through JSON text, as events arrive: no two of them share an object
            incoming = validate_events(orjson.loads(orjson.dumps(batch)), now_ms=now_ms)
            stored = [event.raw for event in incoming]
            unchanged = [()] * len(stored)
            ids = mint.mint(len(incoming), now_ms)
            for event in preparation.prepare(incoming, stored, unchanged, received_at_ms=now_ms, ids=ids):
                seq += 1
                rows.append(
                    events.row(
                        PROJECT,
                        seq,
                        tenants.setdefault(event.tenant_id, len(tenants) + 1),
                        sizes[event.tenant_id],
                        lexeme_prefix(PROJECT, segment_of(seq)),
                        event.facets,
                        event.tail,
                    )
                )
                sizes[event.tenant_id] += 1
        groups.append(rows)
    return groups


def copy(connection: psycopg.Connection, groups: list[list[bytes]], seconds: float) -> dict[str, float]:
    """Write groups until the time or the groups are over. The table must be empty."""
    rows, began = 0, time.perf_counter()
    for group in groups:
        events.copy_events(connection, group)
        connection.commit()
        rows += len(group)
        if time.perf_counter() - began >= seconds:
            break
    return {"rows": rows, "seconds": time.perf_counter() - began}


def main(count: int) -> None:
    """Prepare ``count`` groups, then obey."""
    groups = make_groups(count)
    size = sum(map(len, groups[0])) / GROUP
    print(json.dumps({"pid": os.getpid(), "row_bytes": round(size), "rows": count * GROUP}), flush=True)
    connection = None
    for line in sys.stdin:
        order = json.loads(line)
        answer: dict[str, float] = {}
        if "open" in order:
            if connection is not None:
                connection.close()
            connection = psycopg.connect(order["open"])
        elif connection is not None:
            answer = copy(connection, groups, order["seconds"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
