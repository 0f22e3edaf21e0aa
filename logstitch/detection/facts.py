"""What detection knows of an event."""

from __future__ import annotations

from typing import NamedTuple


class Fact(NamedTuple):
    """An event as it was stored. Times are milliseconds since the epoch; ``id`` is the 16 bytes of a ULID.

    ``seq`` is its place in the project's order of commit. Within that order ``received_at_ms`` may step back, by at
    most ``windows.GRACE_MS``. Events that were claimed from a stream are no facts: they keep times of long ago.
    """

    seq: int
    id: bytes
    received_at_ms: int
    occurred_at_ms: int
    action: str
    tenant_id: str
    actor_id: str
    ip_address: str | None
