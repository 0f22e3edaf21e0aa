"""How one actor is, as a frozen record: what the health endpoints show and the metrics count.

The record holds numbers and names only. An error is named by its type and never quoted, because its text may carry
what redaction would have removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class ActorState(StrEnum):
    """Where an actor stands in its life."""

    STARTING = "starting"
    """Has an address that takes messages; runs as soon as its predecessor is gone and a slot is free."""
    RUNNING = "running"
    BACKING_OFF = "backing_off"
    """Crashed; its mailbox fills while it waits to be started again."""
    STUCK = "stuck"
    """Had work and made no progress for too long; was cancelled and has not ended yet."""
    STOPPING = "stopping"
    """Takes no new message and works off those it has."""
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ActorHealth:
    """One actor at one moment. Ages are seconds on Trio's clock, counts are since the actor was first started."""

    path: str
    """Name in the tree of actors: ``alerts/7``."""
    state: ActorState
    restarts: int
    last_error: str | None
    """Type name of what ended the last crashed run; None if none has crashed."""
    depth: int
    """Messages posted and not received."""
    capacity: int
    """The depth at which posting raises ``MailboxFull``."""
    peak: int
    """The largest depth there ever was."""
    oldest_age: float
    """Age of the oldest message that waits or is being worked on; 0.0 if there is none."""
    handled: int
    """Messages the actor is done with: asks answered or refused, and tells it came back from."""
    rejected: int
    """Messages that met a full mailbox."""
    last_progress_age: float
    """Time since the actor last received, answered or said that it gets on."""
    in_flight: int = 0
    """Messages received and not done with."""
    gauges: Mapping[str, float] = field(default_factory=dict)
    """What this run of the actor reports of its own work, such as how far it is behind."""

    def to_json(self) -> dict[str, Any]:
        """The same as plain values, ready for any JSON encoder; ages rounded to milliseconds."""
        return asdict(self) | {
            "state": self.state.value,
            "oldest_age": round(self.oldest_age, 3),
            "last_progress_age": round(self.last_progress_age, 3),
        }
