"""Services that are broken on purpose: the kill harness is trusted only because it finds each of them out.

``python -m tests.support.mutants NAME serve …`` runs the real command line with one thing changed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from logstitch.actors import ingest
from logstitch.actors.mailbox import Envelope
from logstitch.actors.messages.events import Accepted
from logstitch.errors import DatabaseUnavailable
from logstitch.ids import event_id_text
from logstitch.store import events
from logstitch.store.database import Connection


def acknowledge_before_commit() -> None:
    """The answer leaves while the transaction is still running."""
    commit = ingest.Ingest._commit

    async def hasty(self: Any, group: Sequence[Any]) -> None:
        for work in group:
            work.envelope.reply(_accepted(work))
        await commit(self, group)

    ingest.Ingest._commit = hasty  # type: ignore[method-assign]


def swallow_errors() -> None:
    """A group that could not be stored is acknowledged all the same."""
    refuse = Envelope.refuse

    def swallow(self: Any, error: Exception) -> None:
        if isinstance(error, DatabaseUnavailable) and hasattr(self.message, "received_at_ms"):
            self.reply(Accepted(tuple(event_id_text(bytes(16)) for _ in self.message.events), 0, 0))
        else:
            refuse(self, error)

    Envelope.refuse = swallow  # type: ignore[method-assign]
    vars(ingest)["HOLD_SECONDS"] = 0.0


def no_unique_key() -> None:
    """Idempotency keys are neither looked up nor unique."""
    lock_head = events.lock_head

    def drop_and_lock(
        conn: Connection, project_no: int, key_hashes: object = ()
    ) -> tuple[events.Head, dict[bytes, events.StoredKey]]:
        conn.execute("DROP INDEX IF EXISTS events_key")
        return lock_head(conn, project_no)

    events.lock_head = drop_and_lock


def async_commit() -> None:
    """Nothing here: the harness starts the server with ``synchronous_commit=off``."""


MUTANTS: dict[str, Callable[[], None]] = {
    mutant.__name__: mutant for mutant in (acknowledge_before_commit, swallow_errors, no_unique_key, async_commit)
}


def _accepted(work: Any) -> Accepted:
    ids = tuple(event.id_text for event in work.batch.events)
    return Accepted(ids, 0, 0)


def main() -> None:
    """Break it, then run the command line with the remaining arguments."""
    from logstitch.cli import app

    MUTANTS[sys.argv.pop(1)]()
    app()


if __name__ == "__main__":
    main()
