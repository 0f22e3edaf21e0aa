"""Redaction rules in the database: one snapshot, one order, and a version that decides what may be stored."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import errors as pg

from logstitch.errors import NotFound
from logstitch.ids import UlidMint
from logstitch.model import Plan, validate_events
from logstitch.recording.audit import AuditedChange
from logstitch.recording.commit import GroupCommit, PreparedBatch, Recorded, StaleRules
from logstitch.recording.preparation import Preparation
from logstitch.recording.rules import Amended, creation, deletion, read_rules, rule_change, update
from logstitch.redaction.rules import DEFAULT_BUILTINS
from logstitch.store import events, projects
from logstitch.store import redaction as store
from logstitch.store.database import Connection
from logstitch.store.redaction import BuiltinRow, RuleRow
from tests.support.ingest import event
from tests.support.locks import block_for_a_lock

NOW = datetime(2026, 11, 23, 8, 0, 0, 123000, tzinfo=UTC)
ADA = UUID(int=7)
MINT = UlidMint()


@pytest.fixture
def no(conn: Connection) -> int:
    """The number of a project."""
    return make_project(conn)


def make_project(conn: Connection) -> int:
    organization = projects.create_organization(conn, name="o", plan=Plan.ENTERPRISE, now=NOW)
    no = projects.create_project(conn, organization_id=organization.id, name="p", now=NOW).no
    conn.commit()
    return no


def rule(**changes: Any) -> RuleRow:
    """A rule on a pattern."""
    fields: dict[str, Any] = {
        "id": uuid4(),
        "name": "accounts",
        "type": "pattern",
        "pattern": "ACCT-[0-9]+",
        "fields": (),
        "behavior": "replace",
        "enabled": True,
        "created_at": NOW,
    }
    return RuleRow(**(fields | changes))


# -- rows ----------------------------------------------------------------------------------------------------------


def test_a_new_project_has_no_rules_of_its_own_and_version_0(conn: Connection, no: int) -> None:
    rules = store.load_rules(conn, no)

    assert (rules.version, rules.builtins, rules.custom) == (0, [], [])
    assert rules.secret == projects.idempotency_secret(conn, no)
    assert read_rules(conn, no).builtins == DEFAULT_BUILTINS


def test_what_is_stored_comes_back(conn: Connection, no: int) -> None:
    by_field = rule(type="field_redact", pattern=None, fields=("metadata.**", "changes.*.after"), behavior="mask")
    store.insert_rule(conn, no, rule(name="żółć 🦊 %s", enabled=False))
    store.insert_rule(conn, no, by_field)
    store.save_builtin(conn, no, BuiltinRow("email", True, "hash"))
    store.save_builtin(conn, no, BuiltinRow("email", False, "mask"))

    rules = store.load_rules(conn, no)

    assert rules.builtins == [BuiltinRow("email", False, "mask")]
    assert [(one.name, one.enabled) for one in rules.custom] == [("żółć 🦊 %s", False), ("accounts", True)]
    assert (rules.custom[1].pattern, rules.custom[1].fields) == (None, ("metadata.**", "changes.*.after"))


def test_a_rule_is_changed_and_removed_in_its_own_project_only(conn: Connection, no: int) -> None:
    stranger = make_project(conn)
    mine = rule()
    store.insert_rule(conn, no, mine)
    store.update_rule(conn, stranger, rule(id=mine.id, name="changed"))
    store.delete_rule(conn, stranger, mine.id)
    assert [one.name for one in store.load_rules(conn, no).custom] == ["accounts"]

    store.update_rule(conn, no, rule(id=mine.id, name="changed", pattern="x", behavior="hash", enabled=False))

    (changed,) = store.load_rules(conn, no).custom
    assert changed == rule(id=mine.id, name="changed", pattern="x", behavior="hash", enabled=False)
    store.delete_rule(conn, no, mine.id)
    assert store.load_rules(conn, no).custom == []


@pytest.mark.parametrize("step", [timedelta(0), timedelta(hours=-1), timedelta(microseconds=400), timedelta(hours=1)])
def test_rules_keep_their_order_of_creation_whatever_the_clocks_say(conn: Connection, no: int, step: timedelta) -> None:
    made = [rule(created_at=NOW + n * step) for n in range(5)]

    times = [store.insert_rule(conn, no, one) for one in made]

    assert times == sorted(set(times))
    assert all(time.microsecond % 1000 == 0 for time in times), "an answer shows milliseconds"
    assert [one.id for one in store.load_rules(conn, no).custom] == [one.id for one in made]


@pytest.mark.parametrize(
    "bad",
    [
        rule(type="field_redact"),
        rule(pattern=None),
        rule(fields=("metadata",)),
        rule(type="other"),
        rule(behavior="other"),
    ],
)
def test_the_table_itself_refuses_what_no_rule_can_be(conn: Connection, no: int, bad: RuleRow) -> None:
    with pytest.raises(pg.CheckViolation):
        store.insert_rule(conn, no, bad)


def test_an_unknown_project_has_no_rules(conn: Connection) -> None:
    with pytest.raises(LookupError):
        store.load_rules(conn, 4711)
    with pytest.raises(LookupError):
        store.raise_version(conn, 4711)


def test_whoever_stores_events_waits_for_a_change_and_sees_its_version(
    conn: Connection, other: Connection, no: int
) -> None:
    assert store.raise_version(conn, no) == 1
    other.execute("SET lock_timeout = '50ms'")
    with pytest.raises(pg.LockNotAvailable):
        events.lock_head(other, no)
    other.rollback()
    conn.commit()

    head, _ = events.lock_head(other, no)

    assert head.rules_version == 1


def test_storing_events_leaves_the_version_alone(conn: Connection, no: int) -> None:
    store.raise_version(conn, no)
    (outcome,) = GroupCommit(no).run(conn, [batch(conn, no, 1)])

    assert isinstance(outcome, Recorded)
    assert events.lock_head(conn, no)[0].rules_version == 1


# -- the version decides -------------------------------------------------------------------------------------------


def batch(conn: Connection, no: int, rules_version: int, **fields: Any) -> PreparedBatch:
    """One event that went through rules of this version."""
    incoming = validate_events([event(**fields)], now_ms=1_700_000_000_000)
    prepared = Preparation(projects.idempotency_secret(conn, no)).prepare(
        incoming,
        [one.raw for one in incoming],
        [()],
        received_at_ms=1_700_000_000_000,
        ids=MINT.mint(1, 1_700_000_000_000),
    )
    return PreparedBatch(prepared, False, 1_700_000_000_000, None, rules_version)


@pytest.mark.parametrize("version", [0, 1, 3, 4])
def test_what_went_through_rules_of_another_version_is_not_stored(conn: Connection, no: int, version: int) -> None:
    for _ in range(2):
        store.raise_version(conn, no)

    outcomes = GroupCommit(no).run(conn, [batch(conn, no, version), batch(conn, no, 2), batch(conn, no, version)])

    assert [outcomes[0], outcomes[2]] == [StaleRules(2)] * 2
    assert isinstance(outcomes[1], Recorded)
    assert conn.execute("SELECT seq FROM events").fetchall() == [(1,)]


def test_a_stale_batch_claims_no_idempotency_key(conn: Connection, no: int) -> None:
    store.raise_version(conn, no)

    stale, fresh = GroupCommit(no).run(
        conn, [batch(conn, no, 0, idempotency_key="k"), batch(conn, no, 1, idempotency_key="k", category="admin")]
    )

    assert isinstance(stale, StaleRules)
    assert isinstance(fresh, Recorded)


# -- a change is one transaction ------------------------------------------------------------------------------------


def change(no: int, decide: Any) -> AuditedChange[Amended]:
    return rule_change(no, decide, by=ADA, event_id=MINT.one(1_700_000_000_000), now=lambda: NOW)


def test_a_change_its_version_and_its_record_are_there_together_or_not_at_all(
    conn: Connection, other: Connection, no: int
) -> None:
    amended = change(no, creation(rule())).run(conn)
    assert (amended.rules.version, len(amended.rules.custom)) == (1, 1)
    assert store.load_rules(other, no).version == 0
    other.rollback()
    conn.rollback()
    assert store.load_rules(conn, no).custom == []
    assert conn.execute("SELECT count(*) FROM events").fetchone() == (0,)

    change(no, creation(rule())).run(conn)
    conn.commit()

    assert store.load_rules(other, no).version == 1
    assert other.execute("SELECT action FROM events").fetchall() == [("logstitch.redaction_rule.created",)]


def test_the_clock_is_asked_under_the_head_row(conn: Connection, other: Connection, no: int) -> None:
    asked: list[datetime] = []

    def now() -> datetime:
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute("SELECT FROM project_heads WHERE project_no = %s FOR UPDATE NOWAIT", (no,))
        other.rollback()
        asked.append(NOW + timedelta(seconds=len(asked)))
        return asked[-1]

    for _ in range(2):
        rule_change(no, creation(rule()), by=ADA, event_id=MINT.one(1_700_000_000_000), now=now).run(conn)
        conn.commit()

    stored = conn.execute("SELECT received_at, id FROM events ORDER BY seq").fetchall()
    assert [at for at, _ in stored] == asked
    assert [event_id.bytes[:6] for _, event_id in stored] == [
        int(at.timestamp() * 1000).to_bytes(6, "big") for at in asked
    ]


def test_a_change_that_is_run_again_after_its_commit_was_lost_is_made_once(conn: Connection, no: int) -> None:
    made = rule()
    for decide in (creation(made), update(str(made.id), {"behavior": "hash"}), deletion(str(made.id))):
        again = change(no, decide)
        first = again.run(conn)
        conn.commit()  # … of which the service did not hear
        assert again.run(conn) == first
        conn.commit()
    assert store.load_rules(conn, no).version == 3
    assert conn.execute("SELECT count(*) FROM events").fetchone() == (3,)


def test_a_change_that_is_run_again_after_it_was_rolled_back_is_made(conn: Connection, no: int) -> None:
    again = change(no, creation(rule()))
    again.run(conn)
    conn.rollback()

    again.run(conn)
    conn.commit()

    assert len(store.load_rules(conn, no).custom) == 1
    assert conn.execute("SELECT count(*) FROM events").fetchone() == (1,)


def test_two_changes_of_one_rule_at_the_same_time_are_both_made(
    database_url: str, conn: Connection, other: Connection, no: int
) -> None:
    made = rule()
    change(no, creation(made)).run(conn)
    conn.commit()
    change(no, update(str(made.id), {"name": "renamed"})).run(conn)

    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(change(no, update(str(made.id), {"behavior": "hash"})).run, other)
        block_for_a_lock(database_url)
        conn.commit()
        second.result(10)
        other.commit()

    (stored,) = store.load_rules(conn, no).custom
    assert (stored.name, stored.behavior) == ("renamed", "hash")


def test_a_change_that_is_refused_writes_nothing(conn: Connection, no: int) -> None:
    with pytest.raises(NotFound):
        change(no, deletion(str(uuid4()))).run(conn)
    conn.commit()

    assert store.load_rules(conn, no).version == 0
