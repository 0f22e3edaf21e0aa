"""One table says which database errors are the weather, and whether trying again soon may help.

Whatever stands in the table becomes :class:`~logstitch.errors.DatabaseUnavailable`. Whatever does not is a defect of
ours (a broken statement, a violated constraint that nobody expected) and propagates as psycopg raised it, so that it
is seen as an internal error instead of hiding as "try again".

Codes: PostgreSQL manual, appendix A.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import psycopg

from logstitch.errors import DatabaseUnavailable


class Retry(Enum):
    """Whether the same transaction may be run again at once, by whoever ran it."""

    NEVER = "never"
    """Trying again would only make it worse: it holds a connection for as long as the first try did."""
    HELD = "held"
    """May pass by itself within seconds: try again while the caller's hold lasts."""
    CONFLICT = "conflict"
    """Two transactions met and this one lost, nothing of it was stored: try again, three times at most."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one kind of database error means to a caller.

    ``message`` is fit for a response (no SQL, no value); ``retry_after`` is the hint to the client in seconds.
    """

    message: str
    retry: Retry
    retry_after: int = 1

    def error(self) -> DatabaseUnavailable:
        """The error to raise; a new one for every call, since an exception carries its own traceback."""
        return DatabaseUnavailable(self.message, retry_after=self.retry_after)


LINK_LOST = Verdict("The database cannot be reached.", Retry.HELD)
"""No SQLSTATE at all: libpq or the pool failed before the server could answer."""

_SHUTTING_DOWN = Verdict("The database is restarting.", Retry.HELD)
_CONFLICT = Verdict("The database could not order two concurrent changes.", Retry.CONFLICT)
_TOO_SLOW = Verdict("The database did not answer in time.", Retry.NEVER)

# Full codes first, then classes (two characters). Kept as literals: they are grepped for from a server's log.
_TABLE: Mapping[str, Verdict] = {
    "08": LINK_LOST,  # connection exceptions, a protocol violation among them
    "25006": Verdict("The database is read-only.", Retry.HELD, 5),  # a failover under way shows like this for seconds
    "25P03": LINK_LOST,  # idle_in_transaction_session_timeout: we stalled, the server rolled back and hung up
    "25P04": _TOO_SLOW,  # transaction_timeout (17 and later, when an operator sets it)
    "40001": _CONFLICT,  # serialization_failure
    "40P01": _CONFLICT,  # deadlock_detected
    "53": Verdict("The database is out of resources.", Retry.HELD, 2),
    "53100": Verdict("The database's disk is full.", Retry.HELD, 5),
    "53300": Verdict("The database has no connection left.", Retry.HELD, 2),
    # Not retried: every try would sit on a pooled connection for lock_timeout, and one locked tenant would starve all.
    "55P03": Verdict("The rows are locked by another transaction.", Retry.NEVER),
    "57014": _TOO_SLOW,  # query_canceled: statement_timeout, or an operator
    "57P01": _SHUTTING_DOWN,  # admin_shutdown; also pg_terminate_backend
    "57P02": _SHUTTING_DOWN,  # crash_shutdown: another backend died
    "57P03": _SHUTTING_DOWN,  # cannot_connect_now: starting up, recovering
    "57P04": Verdict("The database was dropped.", Retry.NEVER, 5),
    "57P05": LINK_LOST,  # idle_session_timeout
    "58030": Verdict("The database cannot use its disk.", Retry.HELD, 5),  # io_error
}


def judge(error: psycopg.Error) -> Verdict | None:
    """What ``error`` means; ``None`` when it is not the weather and must propagate as it is.

    An ``OperationalError`` without an SQLSTATE comes from libpq or the pool (refused, reset, timed out, pool empty or
    closed), never from a statement.
    """
    code = error.sqlstate
    if code is None:
        return LINK_LOST if isinstance(error, psycopg.OperationalError) else None
    return _TABLE.get(code) or _TABLE.get(code[:2])
