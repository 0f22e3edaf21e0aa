"""Services whose evaluators are broken on purpose: the kill harness of alerts is trusted because it finds them out.

``python -m tests.support.alert_mutants NAME serve …`` runs the real command line with one thing changed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import trio

from logstitch.actors import evaluator
from logstitch.detection.facts import Fact
from logstitch.recording import evaluation
from logstitch.store import alerts as store
from logstitch.store.alerts import LEASE_SECONDS, Advance, Lease, NewAlert
from logstitch.store.database import Connection


def position_before_alerts() -> None:
    """The position is written first, in a transaction of its own, and the alerts a moment later."""
    record = evaluator._Look._record

    async def hasty(self: Any, firings: Sequence[Any], seq: int) -> None:
        write = partial(evaluation.keep, project_no=self._project_no, fence=self._fence, position=seq, forget=False)
        await self._insist(self._share.write, write)
        await trio.sleep(1)
        await record(self, firings, seq)

    advance = store.advance

    def pretend(conn: Connection, project_no: int, fence: int, seq: int, *, seconds: float = LEASE_SECONDS) -> Advance:
        # Or it would take the alerts for written.
        return advance(conn, project_no, fence, seq, seconds=seconds)._replace(before=-1)

    evaluator._Look._record = hasty  # type: ignore[method-assign]
    store.advance = pretend


def no_fence() -> None:
    """Whoever wants to look may, whoever writes is not asked, and an alert may be there twice."""
    take_lease = store.take_lease

    def take(conn: Connection, project_no: int, *, seconds: float = -1.0) -> Lease | None:
        return take_lease(conn, project_no, seconds=-1.0)

    insert_alerts = store.insert_alerts

    def insert(conn: Connection, project_no: int, alerts: Sequence[NewAlert]) -> set[UUID]:
        conn.execute("ALTER TABLE alerts DROP CONSTRAINT IF EXISTS alerts_project_no_rule_id_seq_key")
        return insert_alerts(conn, project_no, alerts)

    def advance(conn: Connection, project_no: int, fence: int, seq: int, *, seconds: float = -1.0) -> Advance:
        conn.execute(
            "UPDATE evaluators SET seq = greatest(seq, %s), lease_until = NULL WHERE project_no = %s", (seq, project_no)
        )
        return Advance(-1, store.find_head(conn, project_no))

    store.take_lease = take
    store.advance = advance
    store.insert_alerts = insert
    text = store._sql._statements["insert_alerts"].text.replace("ON CONFLICT (project_no, rule_id, seq) DO NOTHING", "")
    object.__setattr__(store._sql._statements["insert_alerts"], "text", text)


def no_gap_check() -> None:
    """What ingest tells of is taken to come next."""

    async def trust(self: Any, facts: Sequence[Fact]) -> None:
        new = [fact for fact in facts if fact.seq > self._position]
        if new:
            self._head = max(self._head, new[-1].seq)
            await self._look_at(new, new[-1].seq)

    evaluator._Look._look_at_news = trust  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[], None]] = {
    mutant.__name__: mutant for mutant in (position_before_alerts, no_fence, no_gap_check)
}


def main() -> None:
    """Break it, then run the command line with the remaining arguments."""
    from logstitch.cli import app

    MUTANTS[sys.argv.pop(1)]()
    app()


if __name__ == "__main__":
    main()
