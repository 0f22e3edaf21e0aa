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
ANSWERS_CUT: Final = Counter(
    "logstitch_http_answers_cut_total",
    "Exports that began and did not come to their end, by reason: client_left (or read too slowly), aborted (at the "
    "end of a drain), else the code of an error. Their readers can tell, and go on where they were.",
    ("reason",),
    registry=REGISTRY,
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

DELIVERIES_PENDING: Final = Gauge(
    "logstitch_webhook_deliveries_pending",
    "Webhook deliveries of the whole database that are still to be made, or to be tried again.",
    registry=REGISTRY,
)
DELIVERY_ATTEMPTS: Final = Counter(
    "logstitch_webhook_attempts_total",
    "Attempts to deliver a webhook, by outcome: delivered, or the category of what went wrong.",
    ("outcome",),
    registry=REGISTRY,
)

LOOP_LAG_SECONDS: Final = Histogram(
    "logstitch_loop_lag_seconds",
    "How late a timer of the event loop fired: for how long one task kept it to itself.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
    registry=REGISTRY,
)

ALERTS_FIRED: Final = Counter(
    "logstitch_alerts_fired_total", "Alerts that were committed here, by severity.", ("severity",), registry=REGISTRY
)
FACTS_DROPPED: Final = Counter(
    "logstitch_evaluator_facts_dropped_total",
    "Committed events that an evaluator had no room for; it reads them from the database.",
    registry=REGISTRY,
)
EVALUATOR_RESTARTS: Final = Counter(
    "logstitch_evaluator_restarts_total",
    "Times that an evaluator lost its lease and forgot what it knew.",
    registry=REGISTRY,
)

STREAM_EVENTS_ACCEPTED: Final = Counter(
    "logstitch_stream_events_accepted_total",
    "Events of anonymous streams acknowledged as newly stored.",
    registry=REGISTRY,
)
STREAMS_CREATED: Final = Counter(
    "logstitch_streams_created_total", "Anonymous streams that were begun.", registry=REGISTRY
)
STREAMS_REFUSED: Final = Counter(
    "logstitch_streams_refused_total",
    "Requests to anonymous streams that were refused, by reason: limit (of new streams an address, or of room), day (a "
    "stream's events of the day are used up), closed (no new streams at all).",
    ("reason",),
    registry=REGISTRY,
)
STREAMS_CLAIMED: Final = Counter(
    "logstitch_streams_claimed_total", "Anonymous streams that became a project's.", registry=REGISTRY
)
STREAM_EVENTS_CLAIMED: Final = Counter(
    "logstitch_stream_events_claimed_total", "Their events that did.", registry=REGISTRY
)
STREAMS_EXPIRED: Final = Counter(
    "logstitch_streams_expired_total",
    "Anonymous streams that expired, by the reaper of this process.",
    registry=REGISTRY,
)
STREAMS_ACTIVE: Final = Gauge(
    "logstitch_streams_active", "Anonymous streams of the whole database, a minute ago at most.", registry=REGISTRY
)
STREAM_BYTES: Final = Gauge("logstitch_stream_bytes", "Bytes of their events, likewise.", registry=REGISTRY)

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


def attempted(outcome: str) -> None:
    """Count one attempt to deliver a webhook; ``outcome`` is one of a few words."""
    DELIVERY_ATTEMPTS.labels(outcome).inc()


def redacted(rule_ids: Iterable[str]) -> None:
    """Count what these rules have changed; of custom ones there is no end, so they count together."""
    for rule_id in rule_ids:
        _redactions(rule_id if rule_id.startswith(("builtin_", "redaction_")) else "custom").inc()


def alert_fired(severity: str) -> None:
    """Count one alert."""
    _alerts_fired(severity).inc()


@lru_cache(maxsize=16)
def _alerts_fired(severity: str) -> Counter:
    return ALERTS_FIRED.labels(severity)


@lru_cache(maxsize=16)
def _redactions(rule: str) -> Counter:
    return REDACTIONS.labels(rule)
