"""Evaluators without HTTP: a process that ingests and looks, on a database that others may share, and what it found."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio

from logstitch.actors.directory import Directory
from logstitch.actors.evaluator import Evaluator, Share
from logstitch.actors.messages.alerts import CatchUp
from logstitch.actors.supervisor import Crash, Supervisor, open_supervisor
from logstitch.detection.detector import ActiveRule, Detector
from logstitch.detection.facts import Fact
from logstitch.detection.rules import BUILTINS, GroupBy, Rule, Severity
from logstitch.errors import Unavailable
from logstitch.ids import UlidMint
from logstitch.recording import alert_rules, evaluation
from logstitch.recording.alert_rules import Decision, creation, deletion, update
from logstitch.store import alerts as store
from logstitch.store import events
from logstitch.store.database import Connection, Database, open_database
from tests.support.alert_model import Expected, expected_alerts
from tests.support.ingest import Bench, Evaluators, event, open_bench

ADA = UUID(int=7)
"""The id of the key that changes rules."""
START_MS = 1_760_000_000_000
"""When stories begin: not now, since nothing here goes by the clock."""
SOON = 20.0
"""Seconds that a wait may take; what is waited for comes within one or two."""

_MINT = UlidMint()


def rule(**changes: Any) -> Rule:
    """A custom rule: three logins of one actor within a minute, and then silence for a minute."""
    fields: dict[str, Any] = {
        "id": str(uuid4()),
        "name": "logins",
        "action_pattern": "user.login",
        "threshold": 3,
        "window_seconds": 60,
        "group_by": GroupBy.ACTOR_ID,
        "severity": Severity.LOW,
        "enabled": True,
        "cooldown_seconds": 60,
        "distinct": None,
    }
    return Rule(**(fields | changes))


def failed(actor: str = "u1", **fields: Any) -> dict[str, Any]:
    """A failed login; five of them within five minutes are too many."""
    return event(action="auth.failed", actor={"id": actor, "type": "user"}, **fields)


def login(actor: str = "u1", **fields: Any) -> dict[str, Any]:
    """A login, which no built-in rule minds."""
    return event(actor={"id": actor, "type": "user"}, **fields)


class Chronicle:
    """The rules of a project as they were at each change."""

    def __init__(self) -> None:
        self._rules: dict[int, Sequence[ActiveRule]] = {0: [ActiveRule(builtin, 0) for builtin in BUILTINS]}

    def note(self, seq: int, rules: Sequence[ActiveRule]) -> None:
        """These hold behind ``seq``."""
        self._rules[seq] = rules

    def at(self, seq: int) -> Sequence[ActiveRule]:
        """Those that hold for the event behind ``seq``."""
        return self._rules[max(change for change in self._rules if change <= seq)]


def change_rules(conn: Connection, project_no: int, decide: Decision, *, at_ms: int, chronicle: Chronicle) -> int:
    """A change of rules as the actor of alert rules makes it; returns the ``seq`` of the event that tells of it."""
    now = datetime.fromtimestamp(at_ms / 1000, UTC)
    change = alert_rules.rule_change(project_no, decide, by=ADA, event_id=_MINT.one(at_ms), now=lambda: now)
    change.run(conn)
    head, _ = events.lock_head(conn, project_no)
    chronicle.note(head.seq, alert_rules.rules_at(conn, project_no, head.seq))
    return head.seq


def create(new: Rule, at_ms: int) -> Decision:
    """Make a rule."""
    return creation(new, datetime.fromtimestamp(at_ms / 1000, UTC), limit=500)


def set_fields(rule_id: str, fields: Mapping[str, Any]) -> Decision:
    """Change a rule."""
    return update(rule_id, fields, limit=500)


remove: Callable[[str], Decision] = deletion


@dataclass(frozen=True, slots=True)
class Post:
    """One process that ingests for a project and may look at it."""

    bench: Bench
    supervisor: Supervisor
    evaluators: Directory | Evaluators
    crashes: list[Crash]
    chronicle: Chronicle

    @property
    def no(self) -> int:
        return self.bench.project_no

    @property
    def database(self) -> Database:
        return self.bench.database

    async def send(self, *sent: dict[str, Any], at_ms: int = START_MS) -> None:
        """Have events stored, in batches, as received at this time."""
        for start in range(0, len(sent), 100):
            await self.bench.submit(*sent[start : start + 100], received_at_ms=at_ms)

    async def change(self, decide: Decision, *, at_ms: int = START_MS) -> int:
        """Change a rule."""
        return await self.database.transact(
            partial(change_rules, project_no=self.no, decide=decide, at_ms=at_ms, chronicle=self.chronicle)
        )

    def gauges(self) -> Mapping[str, float]:
        """What the project's evaluator reports; nothing where there is none."""
        for health in self.supervisor.health():
            if health.path == f"evaluator/{self.no}":
                return health.gauges
        return {}

    @property
    def leads(self) -> bool:
        """Whether it is this process that looks."""
        return self.gauges().get("leads") == 1

    async def head(self) -> int:
        """The newest ``seq``."""
        return await self.database.transact(lambda conn: store.find_head(conn, self.no), read_only=True)

    async def looked(self) -> None:
        """Wait until everything that is stored was looked at, here."""
        head = await self.head()
        await until(lambda: self.gauges().get("position", -1) >= head and self.leads)

    def wake(self) -> None:
        """What the lookout does."""
        with suppress(Unavailable):
            self.evaluators.tell(self.no, CatchUp())

    async def stop(self) -> None:
        """End the evaluator as a shutdown does."""
        await self.supervisor.stop(f"evaluator/{self.no}", deadline_seconds=10)

    async def alerts(self) -> list[Expected]:
        """What was fired, in order."""
        return await self.database.transact(partial(stored_alerts, project_no=self.no), read_only=True)

    async def expected(self) -> list[Expected]:
        """What must have been fired by the events that are stored."""
        facts = await self.database.transact(partial(stored_facts, project_no=self.no), read_only=True)
        return expected_alerts(facts, self.chronicle.at)

    async def row(self) -> tuple[int, int, bool]:
        """What is written of the evaluator: position, fence, and whether somebody has the lease."""
        rows = await self.bench.rows(
            "SELECT seq, fence, coalesce(lease_until > clock_timestamp(), false) FROM evaluators"
            " WHERE project_no = %(no)s"
        )
        return rows[0] if rows else (0, 0, False)

    async def expire(self) -> None:
        """Have the lease run out, as time would."""

        def expire(conn: Connection) -> None:
            conn.execute("UPDATE evaluators SET lease_until = clock_timestamp() - interval '1 second'")

        await self.database.transact(expire)


def stored_facts(conn: Connection, project_no: int) -> list[Fact]:
    """Every event of a project, as detection knows it, read in the plainest way."""
    rows = conn.execute(
        "SELECT seq, id, received_at, occurred_at, action, tenant_id, actor_id, body::json #>> '{context,ip_address}'"
        " FROM events JOIN tenants USING (project_no, tenant_no) WHERE project_no = %s ORDER BY seq",
        (project_no,),
    )
    return [Fact(seq, id_.bytes, _ms(received), _ms(occurred), *rest) for seq, id_, received, occurred, *rest in rows]


def stored_alerts(conn: Connection, project_no: int) -> list[Expected]:
    """Every alert of a project."""
    rows = conn.execute(
        "SELECT seq, rule_id, group_key, tenant_id, event_count, triggered_at FROM alerts WHERE project_no = %s",
        (project_no,),
    )
    return sorted(Expected(seq, rule_id, key, tenant, count, _ms(at)) for seq, rule_id, key, tenant, count, at in rows)


def _ms(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def spied(monkeypatch: pytest.MonkeyPatch, name: str) -> list[dict[str, Any]]:
    """The named arguments of every transaction of this name that runs from now on."""
    function = getattr(evaluation, name)
    calls: list[dict[str, Any]] = []

    def noting(conn: Connection, **values: Any) -> Any:
        calls.append(values)
        return function(conn, **values)

    monkeypatch.setattr(evaluation, name, noting)
    return calls


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until it is true; fail after ``SOON``."""
    with trio.fail_after(SOON):
        while True:
            answer = condition()
            if answer if isinstance(answer, bool) else await answer:
                return
            await trio.sleep(0.01)


@asynccontextmanager
async def open_post(
    url: str,
    *,
    beside: Post | None = None,
    looks: bool = True,
    capacity: int = 32,
    idle_after: float = 60.0,
    share: Callable[[Database], Share] = Share,
    make_detector: Callable[[Sequence[ActiveRule]], Detector] = Detector,
) -> AsyncIterator[Post]:
    """A process with a project of its own, or with that of another one. ``looks=False``: it only ingests."""
    crashes: list[Crash] = []
    async with open_database(url) as database, open_supervisor(on_crash=crashes.append) as supervisor:
        shared = share(database)
        evaluators: Directory | Evaluators = Evaluators()
        if looks:
            evaluators = Directory(
                supervisor,
                "evaluator",
                lambda no: Evaluator(shared, no, make_detector=make_detector),
                capacity=capacity,
                idle_after=idle_after,
            )
        number = None if beside is None else beside.no
        async with open_bench(url, project_no=number, evaluators=evaluators) as bench:
            chronicle = Chronicle() if beside is None else beside.chronicle
            yield Post(bench, supervisor, evaluators, crashes, chronicle)
    assert not crashes


SECOND = 1000
MINUTE = 60 * SECOND
