"""What an operator can set. One frozen record; the command line and the environment fill it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_BIND = "127.0.0.1:8700"
DEFAULT_OPS_BIND = "127.0.0.1:8701"


@dataclass(frozen=True, slots=True)
class Settings:
    """How one ``serve`` runs."""

    bind: str = DEFAULT_BIND
    ops_bind: str = DEFAULT_OPS_BIND
    data: Path | None = None
    """Directory of the embedded PostgreSQL; ``None`` for the default one. Unused with ``database_url``."""
    database_url: str | None = None
    workers: int = 1
    pool_size: int = 8
    """Transactions of one process at the same time. A process has two connections more: for the readiness check, and
    to hear of changes."""
    connections_per_address: int = 500
    """Connections to the public API that one client address may have to one process, of 2,000 in all."""
    streams_per_address: int = 20
    """Anonymous streams that one client address may begin in an hour, counted by each process; 0 for none at all."""
    webhook_allow: str = ""
    """Networks that webhooks may be sent to although they are not public: CIDRs, separated by commas."""
    drain_notice: float = 1.0
    """Seconds between the first sign of a shutdown (ready turns 503) and the last accepted connection."""
    drain_seconds: float = 10.0
    """Seconds for requests in flight after that."""
    log_level: str = "info"

    @property
    def connections(self) -> int:
        """Connections to the database that all processes together may have."""
        return self.workers * (self.pool_size + 2)
