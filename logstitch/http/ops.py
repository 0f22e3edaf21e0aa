"""For operators: is it alive, should it get requests, how are its actors, and its numbers. On an address of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector, CollectorRegistry
from pydantic import TypeAdapter

from logstitch import metrics
from logstitch.actors.health import ActorHealth
from logstitch.errors import Detail, NotFound, Unavailable
from logstitch.http import examples
from logstitch.http.endpoints import Call, Endpoint, Success
from logstitch.http.errors import TABLE, envelope
from logstitch.http.responses import Reply, resource
from logstitch.http.schemas.common import AnyText
from logstitch.http.schemas.ops import ActorTreeAnswer, HealthAnswer
from logstitch.http.services import Health


class Ops:
    """The handlers."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._registry = CollectorRegistry()
        self._registry.register(metrics.REGISTRY)
        self._registry.register(_ActorNumbers(health))
        self._registry.register(_DatabaseNumbers(health))

    async def live(self, call: Call, body: bytes) -> Reply:
        """``GET /health/live``: the loop runs, since it answers; nothing else is worth a restart of the process."""
        return resource(call.request_id, {"status": "live"})

    async def ready(self, call: Call, body: bytes) -> Reply:
        """``GET /health/ready``."""
        if reasons := self._health.not_ready():
            return _not_ready(call, reasons)
        return resource(call.request_id, {"status": "ready"})

    async def actors(self, call: Call, body: bytes) -> Reply:
        """``GET /health/actors``."""
        return resource(call.request_id, tree(self._health.actors(), ""))

    async def actor(self, call: Call, body: bytes) -> Reply:
        """``GET /health/actors/{path}``."""
        below = tree(self._health.actors(), call.path["path"])
        if below["actor"] is None and not below["children"]:
            raise NotFound("There is no such actor now.")
        return resource(call.request_id, below)

    async def metrics(self, call: Call, body: bytes) -> Reply:
        """``GET /metrics``."""
        return Reply(200, generate_latest(self._registry), (), CONTENT_TYPE_PLAIN_0_0_4.encode())


def tree(actors: Sequence[ActorHealth], root: str) -> dict[str, Any]:
    """What stands at the path ``root`` and below it, children by name; numbers in order of their value."""
    by_path: Mapping[str, ActorHealth] = {actor.path: actor for actor in actors}
    names: dict[str, set[str]] = defaultdict(set)
    for path in by_path:
        parts = path.split("/")
        for depth, part in enumerate(parts):
            names["/".join(parts[:depth])].add(part)

    def node(path: str) -> dict[str, Any]:
        below = sorted(names.get(path, ()), key=lambda name: (not name.isdigit(), len(name), name))
        actor = by_path.get(path)
        return {
            "path": path,
            "actor": None if actor is None else actor.to_json(),
            "children": [node(f"{path}/{name}" if path else name) for name in below],
        }

    return node(root)


class _ActorNumbers(Collector):
    """Actors as metrics, by the first part of their path: there may be two thousand of a kind."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def collect(self) -> Iterator[Metric]:
        kinds: dict[str, list[ActorHealth]] = defaultdict(list)
        for actor in self._health.actors():
            kinds[actor.path.partition("/")[0]].append(actor)
        states = GaugeMetricFamily("logstitch_actors", "Actors by state.", labels=("kind", "state"))
        waiting = GaugeMetricFamily("logstitch_actor_messages_waiting", "Messages in mailboxes.", labels=("kind",))
        oldest = GaugeMetricFamily("logstitch_actor_oldest_message_seconds", "Age of the oldest.", labels=("kind",))
        # Gauges: an actor takes its counts along when it goes idle, so these may fall.
        restarts = GaugeMetricFamily(
            "logstitch_actor_restarts", "Runs that crashed, of the actors that live now.", labels=("kind",)
        )
        rejected = GaugeMetricFamily(
            "logstitch_actor_rejected",
            "Messages that met a full mailbox, of the actors that live now.",
            labels=("kind",),
        )
        for kind, members in sorted(kinds.items()):
            for state in sorted({actor.state for actor in members}):
                states.add_metric((kind, state.value), sum(actor.state is state for actor in members))
            waiting.add_metric((kind,), sum(actor.depth for actor in members))
            oldest.add_metric((kind,), max(actor.oldest_age for actor in members))
            restarts.add_metric((kind,), sum(actor.restarts for actor in members))
            rejected.add_metric((kind,), sum(actor.rejected for actor in members))
        lag = GaugeMetricFamily(
            "logstitch_evaluator_lag_events",
            "Events that the evaluators at work here have still to look at.",
            value=sum(actor.gauges.get("lag", 0) for members in kinds.values() for actor in members),
        )
        return iter((states, waiting, oldest, restarts, rejected, lag))


_DATABASE = {
    "slots": (GaugeMetricFamily, "slots", "Transactions that may run at the same time."),
    "in_flight": (GaugeMetricFamily, "calls_in_flight", "Calls that have a thread."),
    "waiting": (GaugeMetricFamily, "calls_waiting", "Calls that wait for a slot."),
    "size": (GaugeMetricFamily, "connections", "Connections of the pool, those being made included."),
    "idle": (GaugeMetricFamily, "connections_idle", "Connections that wait in the pool."),
    "listening": (GaugeMetricFamily, "listening", "1 while the connection for notifications is up."),
    "requests": (CounterMetricFamily, "calls", "Transactions asked for."),
    "errors": (CounterMetricFamily, "calls_failed", "Transactions refused because the database was unavailable."),
    "retried": (CounterMetricFamily, "calls_retried", "Times that a transaction was run again."),
    "cut": (CounterMetricFamily, "calls_cut", "Calls cut by the service, since the server did not answer in time."),
    "connections": (CounterMetricFamily, "connects", "Attempts to connect."),
    "connection_errors": (CounterMetricFamily, "connects_failed", "Attempts to connect that failed."),
    "notifications_lost": (CounterMetricFamily, "notifications_lost", "Notifications that met a full buffer."),
    "started_at": (GaugeMetricFamily, "start_time_seconds", "Unix time at which the server was started."),
}
"""What ``Health.database`` calls a number, and how it is exported: kind, name after ``logstitch_database_``, help."""


class _DatabaseNumbers(Collector):
    """The process's connections to the database as metrics."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def collect(self) -> Iterator[Metric]:
        numbers = self._health.database()
        for key, (family, name, help_text) in _DATABASE.items():
            if key in numbers:
                yield family(f"logstitch_database_{name}", help_text, value=numbers[key])


def _not_ready(call: Call, reasons: Iterable[Detail]) -> Reply:
    meaning = TABLE[Unavailable]
    body = envelope(meaning.code, "The service is not ready.", call.request_id, reasons)
    return Reply(meaning.status, body, ((b"retry-after", b"1"),))


def endpoints(health: Health) -> tuple[Endpoint, ...]:
    """The endpoints of the operations address."""
    handlers = Ops(health)
    whole = {"path": "ingest/7", "actor": examples.ACTOR, "children": [], "request_id": examples.REQUEST_ID}
    return (
        Endpoint(
            name="health.live",
            method="GET",
            path="/health/live",
            handler=handlers.live,
            summary="Is it alive",
            description="Restart the process when this fails.",
            success=Success(
                200,
                "It is.",
                TypeAdapter(HealthAnswer),
                {"status": "live", "request_id": examples.REQUEST_ID},
            ),
        ),
        Endpoint(
            name="health.ready",
            method="GET",
            path="/health/ready",
            handler=handlers.ready,
            summary="Should it get requests",
            description="503 names every reason why not.",
            success=Success(
                200,
                "It should.",
                TypeAdapter(HealthAnswer),
                {"status": "ready", "request_id": examples.REQUEST_ID},
            ),
        ),
        Endpoint(
            name="health.actors",
            method="GET",
            path="/health/actors",
            handler=handlers.actors,
            summary="All actors",
            description="The tree of actors.",
            success=Success(200, "The tree.", TypeAdapter(ActorTreeAnswer), {**whole, "path": ""}),
        ),
        Endpoint(
            name="health.actor",
            method="GET",
            path="/health/actors/{path*}",
            handler=handlers.actor,
            summary="One actor, or a part of the tree",
            description="What stands at this path, and what is below it.",
            success=Success(200, "This part of the tree.", TypeAdapter(ActorTreeAnswer), whole),
            errors=("not_found",),
        ),
        Endpoint(
            name="metrics",
            method="GET",
            path="/metrics",
            handler=handlers.metrics,
            summary="Numbers",
            description="In Prometheus's text format.",
            success=Success(
                200, "The numbers.", AnyText, "logstitch_events_accepted_total 48211.0\n", {}, "text/plain"
            ),
        ),
    )
