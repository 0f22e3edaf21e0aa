"""What the handlers are given: addresses of the actors they ask, a key for cursors, limits, and the state of health.

Handlers hold no state of their own and know no actor by its class; a test gives them small actors of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from logstitch.actors.health import ActorHealth
from logstitch.actors.mailbox import Asks, KeyedAsks
from logstitch.errors import Detail
from logstitch.model import MAX_BODY_BYTES


def wall_clock_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that hold for every request."""

    request_seconds: float = 10.0
    """Until the answer, not counting the time in which the body arrives."""
    body_seconds: float = 10.0
    """For the whole body to arrive."""
    body_bytes: int = MAX_BODY_BYTES
    bytes_in_flight: int = 64 * 1024 * 1024
    """Of request bodies, over all requests. A dozen of the largest; thousands of ordinary ones."""
    bytes_in_flight_of_key: int = 8 * 1024 * 1024
    """Of them, of one key: about what is stored in a second. More would only wait, and be answered too late."""
    bytes_in_flight_of_anyone: int = 32 * 1024 * 1024
    """Of them, of all who have no key together: half is kept for who has one."""
    thread_bytes: int = 128 * 1024
    """Bodies from this size on are parsed and checked in a thread: a megabyte takes longer than other requests should
    wait."""


class Health(Protocol):
    """How the process is."""

    def not_ready(self) -> Sequence[Detail]:
        """Why it should not be sent requests now: what (``database``, ``actors/ingest/7``) and a sentence. Empty: it
        should."""
        ...

    def actors(self) -> Sequence[ActorHealth]:
        """Every actor, in any order; paths such as ``ingest/7``."""
        ...

    def database(self) -> Mapping[str, float]:
        """Numbers of the connections to the database, by the names that :mod:`logstitch.http.ops` exports; what is
        not known is left out."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that the public API needs."""

    keyring: Asks
    """Answers ``Authenticate``, ``CreateKey``, ``ListKeys``, ``RevokeKey``."""
    organizations: Asks
    """Answers ``ResolveProject``, ``CreateProject``, ``ListProjects``."""
    events_in: KeyedAsks
    """Answers ``SubmitEvents``; the key is the project's number."""
    redaction: KeyedAsks
    """Answers ``ListRules``, ``CreateRule``, ``UpdateRule``, ``DeleteRule`` and ``TryRules``; the key is the same."""
    reader: Asks
    """Answers ``ListEvents`` and ``GetEvent``."""
    laboratory: Asks
    """Answers ``MeasureRule``."""
    alerts: Asks
    """Answers ``ListAlertRules``, ``CreateAlertRule``, ``UpdateAlertRule``, ``DeleteAlertRule``, ``ListAlerts``,
    ``GetAlert`` and ``SetAlertStatus``."""
    timemachine: Asks
    """Answers ``ReplayRule``."""
    webhooks: Asks
    """Answers ``CreateWebhook``, ``UpdateWebhook``, ``DeleteWebhook``, ``RotateSecret``, ``GetWebhook``,
    ``ListWebhooks``, ``ListDeliveries``, ``SendTest`` and ``RetryDelivery``."""
    viewers: Asks
    """Answers ``AuthenticateViewer``, ``MintViewerToken``, ``ListTiers``, ``CreateTier``, ``UpdateTier`` and
    ``DeleteTier``."""
    streams: Asks
    """Answers ``SubmitStreamEvents`` and ``GetStreamInfo``."""
    claimer: Asks
    """Answers ``ClaimStream``."""
    cursor_key: bytes = field(repr=False)
    """Shared by all processes of a deployment; at least 32 random bytes."""
    limits: Limits = Limits()
    now_ms: Callable[[], int] = wall_clock_ms
    draining: Callable[[], bool] = lambda: False
    """Whether the process is shutting down, so that what has no end in sight is to be ended."""
