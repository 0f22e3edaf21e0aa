"""Every number that the service counts about itself, in one place and in one registry.

Labels are bounded: routes are templates, methods and statuses a fixed set; never a project, a tenant or a path, of
which there is no end. What is labelled is looked up once and kept, because ``labels()`` costs as much as counting.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

REGISTRY: Final = CollectorRegistry()

# The process's memory, CPU and descriptors, its garbage collections, its Python: read when somebody asks.
ProcessCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)

REQUESTS: Final = Counter(
    "logstitch_http_requests_total",
    "Answers given, by method, route template and status; 499 is a client that left before its answer.",
    ("method", "route", "status"),
    registry=REGISTRY,
)
REQUEST_SECONDS: Final = Histogram(
    "logstitch_http_request_seconds",
    "From the request's head to the end of its answer, the time its body took to arrive included.",
    ("method", "route"),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=REGISTRY,
)
REQUESTS_IN_FLIGHT: Final = Gauge("logstitch_http_requests_in_flight", "Requests being worked on.", registry=REGISTRY)
BODY_BYTES_IN_FLIGHT: Final = Gauge(
    "logstitch_http_body_bytes_in_flight", "Bytes of request bodies held in memory.", registry=REGISTRY
)
EVENTS_ACCEPTED: Final = Counter(
    "logstitch_events_accepted_total", "Events acknowledged as newly stored.", registry=REGISTRY
)
EVENTS_REPLAYED: Final = Counter(
    "logstitch_events_replayed_total", "Events acknowledged as stored by an earlier request.", registry=REGISTRY
)
VALUES_REDACTED: Final = Counter(
    "logstitch_values_redacted_total", "Field values that redaction changed.", registry=REGISTRY
)
WORDS_BACKLOG: Final = Gauge(
    "logstitch_words_backlog_events",
    "Events of the whole database that wait for the word index; searches read them one by one until then.",
    registry=REGISTRY,
)

REDACTIONS: Final = Counter(
    "logstitch_redactions_total",
    "Values that a redaction rule changed, by rule: a built-in's id, or custom; also in events that were not stored in "
    "the end, and once for each rule that changed a value.",
    ("rule",),
    registry=REGISTRY,
)

LOOP_LAG_SECONDS: Final = Histogram(
    "logstitch_loop_lag_seconds",
    "How late a timer of the event loop fired: for how long one task kept it to itself.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
    registry=REGISTRY,
)

_METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


@lru_cache(maxsize=1024)
def _children(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(method, route, str(status)), REQUEST_SECONDS.labels(method, route)


def method_label(method: str) -> str:
    """The method, or ``other`` for what is none: a client may send any word."""
    return method if method in _METHODS else "other"


def answered(method: str, route: str, status: int, seconds: float) -> None:
    """Count one answer. ``route`` is the template, such as ``/api/v1/events/{id}``."""
    count, duration = _children(method_label(method), route, status)
    count.inc()
    duration.observe(seconds)


def redacted(rule_ids: Iterable[str]) -> None:
    """Count what these rules have changed; of custom ones there is no end, so they count together."""
    for rule_id in rule_ids:
        _redactions(rule_id if rule_id.startswith("builtin_") else "custom").inc()


@lru_cache(maxsize=16)
def _redactions(rule: str) -> Counter:
    return REDACTIONS.labels(rule)
