"""Whether a commit that a server acknowledges will survive: what its settings must be, and what they are."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg.rows import TupleRow

OLDEST_SERVER = 150000
"""The least ``server_version_num``: PostgreSQL 15."""

_CHECK = """
SELECT current_setting('server_version_num')::int, current_setting('server_version'), current_setting('fsync'),
       current_setting('synchronous_commit'), current_setting('full_page_writes'),
       current_setting('transaction_read_only'), extract(epoch FROM pg_postmaster_start_time())::float8
"""


@dataclass(frozen=True, slots=True)
class DatabaseCheck:
    """What a readiness check found out about the server.

    ``problems`` make the service not ready, each a sentence that names the setting; ``warnings`` do not.
    """

    reachable: bool
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    started_at: float | None = None
    """Unix time at which the server was started."""

    @property
    def ready(self) -> bool:
        """True when an acknowledged commit can be trusted to this server."""
        return not self.problems


def check_server(conn: psycopg.Connection[TupleRow]) -> DatabaseCheck:
    """Ask the server for its settings, and judge them; a work function."""
    row = conn.execute(_CHECK).fetchone()
    assert row is not None  # noqa: S101  # a SELECT without FROM has one row
    return _judge_settings(*row)


def unreachable(why: str) -> DatabaseCheck:
    """What is found out about a server that does not answer."""
    return DatabaseCheck(False, (f"PostgreSQL cannot be reached: {why}",))


def _judge_settings(
    number: int,
    version: str,
    fsync: str,
    synchronous_commit: str,
    full_page_writes: str,
    read_only: str,
    started_at: float,
) -> DatabaseCheck:
    problems, warnings = [], []
    if number < OLDEST_SERVER:
        problems.append(f"server_version is {version}: PostgreSQL 15 or later is needed")
    if fsync == "off":
        problems.append("fsync is off: a crash of the machine loses acknowledged events")
    if synchronous_commit == "off":  # local and the remote levels all wait for the local disk
        problems.append("synchronous_commit is off: a crash of the server loses acknowledged events")
    if read_only == "on":
        problems.append("transaction_read_only is on: the server is a standby or default_transaction_read_only is set")
    if full_page_writes == "off":
        warnings.append("full_page_writes is off: safe only on storage that never tears an 8 KiB page")
    return DatabaseCheck(True, tuple(problems), tuple(warnings), started_at)
