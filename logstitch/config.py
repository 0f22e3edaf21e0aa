"""What an operator can set. One frozen record; the command line and the environment fill it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_BIND = "127.0.0.1:8700"
DEFAULT_OPS_BIND = "127.0.0.1:8701"
DEFAULT_WORKERS = 1
DEFAULT_POOL_SIZE = 8
DEFAULT_CONNECTIONS_PER_ADDRESS = 500
DEFAULT_STREAMS_PER_ADDRESS = 20
DEFAULT_DRAIN_NOTICE = 1.0
DEFAULT_DRAIN_SECONDS = 10.0
DEFAULT_LOG_LEVEL = "info"

MISCONFIGURED = 78
"""Exit status of a service that would meet the same mistake at every start (EX_CONFIG of sysexits.h)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How one ``serve`` runs."""

    bind: str = DEFAULT_BIND
    ops_bind: str = DEFAULT_OPS_BIND
    ops_host_names: str = ""
    """Names by which a browser may reach the operations address, besides the one in ``ops_bind``; separated by
    commas."""
    data: Path | None = None
    """Directory of the embedded PostgreSQL; ``None`` for the default one. Unused with ``database_url``."""
    database_url: str | None = None
    workers: int = DEFAULT_WORKERS
    pool_size: int = DEFAULT_POOL_SIZE
    """Transactions of one process at the same time. A process has two connections more: for the readiness check, and
    to hear of changes."""
    connections_per_address: int = DEFAULT_CONNECTIONS_PER_ADDRESS
    """Connections to the public API that one client address may have to one process, of 2,000 in all."""
    streams_per_address: int = DEFAULT_STREAMS_PER_ADDRESS
    """Anonymous streams that one client address may begin in an hour, counted by each process; 0 for none at all."""
    webhook_allow: str = ""
    """Networks that webhooks may be sent to although they are not public: CIDRs, separated by commas."""
    drain_notice: float = DEFAULT_DRAIN_NOTICE
    """Seconds between the first sign of a shutdown (ready turns 503) and the last accepted connection."""
    drain_seconds: float = DEFAULT_DRAIN_SECONDS
    """Seconds for requests in flight after that."""
    log_level: str = DEFAULT_LOG_LEVEL

    @property
    def connections(self) -> int:
        """Connections to the database that all processes together may have."""
        return self.workers * (self.pool_size + 2)
