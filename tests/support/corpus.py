"""Real input for tests: 329 audit events made of public webhook payloads (see ``ops/corpus/README.md``)."""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from typing import Any

import orjson

CORPUS = Path(__file__).with_name("corpus") / "github-events.ndjson.gz"


@cache
def lines() -> tuple[bytes, ...]:
    """Every event as its JSON text, in the corpus's order."""
    return tuple(gzip.decompress(CORPUS.read_bytes()).splitlines())


def events() -> list[dict[str, Any]]:
    """Every event, redeliveries included; fresh objects at each call, so a test may change them."""
    return [orjson.loads(line) for line in lines()]


def distinct_events() -> list[dict[str, Any]]:
    """The events without redeliveries: as many as a project stores when it is sent all of them."""
    return list({event["idempotency_key"]: event for event in reversed(events())}.values())[::-1]
