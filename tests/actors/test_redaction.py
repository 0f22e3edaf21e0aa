"""The redaction actor against a real PostgreSQL: what a rule takes out of events, and from which moment on."""

from __future__ import annotations

import hmac
import itertools
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from logstitch.actors import redaction as actor_module
from logstitch.actors.directory import Directory
from logstitch.actors.mailbox import Ask
from logstitch.actors.messages.pages import Page
from logstitch.actors.messages.redaction import (
    CreateRule,
    DeleteRule,
    ListRules,
    RedactEvents,
    RedactionRule,
    RuleDraft,
    TryRules,
    UpdateRule,
)
from logstitch.actors.redaction import MAX_MANAGED, MAX_TRIED, Redaction, redact_requests
from logstitch.actors.supervisor import open_supervisor
from logstitch.errors import ActorDown, Conflict, DailyEventLimitReached, InvalidRequest, NotFound, Unavailable
from logstitch.ids import UlidMint
from logstitch.model import EVENT, RESERVED_TENANT, IncomingEvent
from logstitch.recording.rules import MAX_CUSTOM
from logstitch.redaction import engine
from logstitch.redaction.definitions import LIMIT
from logstitch.redaction.engine import Redaction as Result
from logstitch.redaction.engine import RuleSet
from logstitch.redaction.rules import Behavior, RuleType
from logstitch.store import projects
from logstitch.store import redaction as store
from logstitch.store.database import Connection, Database
from logstitch.store.redaction import RuleRow
from logstitch.verify import verify
from tests.actors.lifecycle import LIFECYCLE, Check, Subject
from tests.support.errors import ErrorLogs
from tests.support.ingest import Bench, event, open_bench
from tests.support.locks import wait_for_a_lock

ADA = UUID(int=7)
"""The id of the key that changes rules."""
CARD = "4111 1111 1111 1111"


def draft(pattern: str | None = "ACCT-[0-9]+", **changes: Any) -> RuleDraft:
    """A rule that nobody has checked yet."""
    fields: dict[str, Any] = {
        "name": "accounts",
        "type": RuleType.FIELD_REDACT if "fields" in changes else RuleType.PATTERN,
        "pattern": None if "fields" in changes else pattern,
        "fields": (),
        "behavior": Behavior.REPLACE,
        "enabled": True,
    }
    return RuleDraft(**(fields | changes))


async def ask(bench: Bench, message: Ask[Any]) -> Any:
    """What the bench's redaction actor answers."""
    return await bench.redaction.ask(bench.project_no, message, timeout=15)


async def create(bench: Bench, *arguments: Any, **changes: Any) -> RedactionRule:
    rule: RedactionRule = await ask(bench, CreateRule(ADA, draft(*arguments, **changes)))
    return rule


async def own_bodies(bench: Bench) -> list[dict[str, Any]]:
    """The stored events that were sent."""
    return [body for body in await bench.bodies() if body["tenant_id"] != RESERVED_TENANT]


async def audited(bench: Bench) -> list[dict[str, Any]]:
    """The stored events that tell of changes."""
    return [body for body in await bench.bodies() if body["tenant_id"] == RESERVED_TENANT]


def change_rules(conn: Connection, project_no: int, pattern: str) -> UUID:
    """A change as another process makes it: a new rule, in a transaction that has the head row."""
    version = store.raise_version(conn, project_no)
    now = conn.execute("SELECT now()").fetchone()
    assert now is not None
    row = RuleRow(uuid4(), f"rule {version}", "pattern", pattern, (), "replace", True, now[0])
    store.insert_rule(conn, project_no, row)
    return row.id


# -- what is taken out ---------------------------------------------------------------------------------------------


async def test_the_default_rules_are_on_for_every_project_from_its_first_event_on(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        accepted = await bench.submit(
            event(
                metadata={"card": CARD, "mail": "ada@example.com"}, changes=[{"field": "ssn", "after": "078-05-1120"}]
            )
        )
        (body,) = await bench.bodies()
    assert body["metadata"] == {"card": "[REDACTED]", "mail": "ada@example.com"}
    assert body["changes"] == [{"field": "ssn", "after": "[REDACTED]"}]
    assert body["redactions"] == [
        {"field": "metadata.card", "rules": ["builtin_credit_card"]},
        {"field": "changes.0.after", "rules": ["builtin_ssn"]},
    ]
    assert accepted.redacted_count == 2


async def test_a_rule_applies_from_its_answer_on_and_until_that_of_its_removal(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        sent = event(metadata={"note": "moved from ACCT-42"})
        await bench.submit(sent)
        rule = await create(bench)
        await bench.submit(sent)
        await ask(bench, UpdateRule(ADA, rule.id, behavior=Behavior.MASK))
        await bench.submit(sent)
        await ask(bench, UpdateRule(ADA, rule.id, enabled=False))
        await bench.submit(sent)
        await ask(bench, UpdateRule(ADA, rule.id, enabled=True))
        await ask(bench, DeleteRule(ADA, rule.id))
        await bench.submit(sent)
        notes = [body["metadata"]["note"] for body in await own_bodies(bench)]
    assert notes == [f"moved from {rest}" for rest in ("ACCT-42", "[REDACTED]", "****", "ACCT-42", "ACCT-42")]


async def test_a_built_in_is_switched_and_returns_to_its_default(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        on = await ask(bench, UpdateRule(ADA, "builtin_email", enabled=True, behavior=Behavior.MASK))
        assert (on.enabled, on.behavior, on.builtin_id, on.type) == (True, "mask", "email", "builtin")
        await bench.submit(event(metadata={"mail": "ada@example.com"}))
        await ask(bench, UpdateRule(ADA, "builtin_email", enabled=False, behavior=Behavior.REPLACE))
        await bench.submit(event(metadata={"mail": "ada@example.com"}))
        mails = [body["metadata"]["mail"] for body in await own_bodies(bench)]
        kept = await bench.rows("SELECT * FROM redaction_builtins WHERE project_no = %(no)s")
    assert mails == ["a***@example.com", "ada@example.com"]
    assert kept == [], "what is as by default is not stored"


async def test_a_clean_event_comes_back_as_the_very_object_that_went_in(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        incoming = [IncomingEvent(event(metadata={"n": n}), None) for n in range(3)]
        incoming.append(IncomingEvent(event(metadata={"card": CARD}), None))
        redacted = await ask(bench, RedactEvents([incoming[:2], incoming[2:]]))
    assert [mine is sent.raw for mine, sent in zip(redacted.events, incoming, strict=True)] == [True, True, True, False]
    assert [len(changes) for changes in redacted.changes] == [0, 0, 0, 1]


async def test_a_hash_is_keyed_by_the_project_and_not_with_the_key_of_idempotency(database_url: str) -> None:
    async with open_bench(database_url) as one, open_bench(database_url) as other:
        for bench in (one, other):
            await ask(bench, UpdateRule(ADA, "builtin_credit_card", behavior=Behavior.HASH))
            await bench.submit(event(metadata={"a": CARD}), event(metadata={"a": CARD}))
        hashes = [{body["metadata"]["a"] for body in await own_bodies(bench)} for bench in (one, other)]
        secret = await one.database.transact(lambda conn: projects.idempotency_secret(conn, one.project_no))
    key = hmac.digest(secret, b"redaction", "sha256")
    assert hashes[0] == {"sha256:" + hmac.digest(key, CARD.encode(), "sha256").hex()}
    assert len(hashes[1]) == 1
    assert hashes[0] != hashes[1]


async def test_an_id_that_hashes_have_made_long_is_stored_and_proves_itself(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        await create(bench, "[a-z]", behavior=Behavior.HASH)
        await bench.submit(event(actor={"id": "a" * 18 + "0" * 238, "type": "user"}))
        (body,) = await own_bodies(bench)
        assert len(body["actor"]["id"]) == 18 * 71 + 238
        assert [finding.problems for finding in await verify(bench.database, lambda _: None)] == [()]


async def test_a_retry_after_a_change_of_rules_is_still_the_same_event(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        sent = event(metadata={"note": "ACCT-42"}, idempotency_key="k")
        first = await bench.submit(sent)
        await create(bench)
        again = await bench.submit(sent)
        assert (again.ids, again.replays) == (first.ids, 1)
        assert again.redacted_count == 0  # what is stored was not changed by the newer rule
        with pytest.raises(Conflict):
            await bench.submit(sent | {"metadata": {"note": "ACCT-43"}})


# -- from which moment on ------------------------------------------------------------------------------------------


async def test_a_change_applies_to_a_request_in_flight(database_url: str) -> None:
    """Given a request that was redacted and waits for its transaction, when the rules change, it is redacted again."""
    async with open_bench(database_url) as bench:
        await bench.submit(event())
        accepted = []

        async def submit(name: str) -> None:
            accepted.append(await bench.submit(event(metadata={"note": f"{name} ACCT-42 {CARD}"}), event()))

        with psycopg.connect(database_url) as other:
            other.execute("SELECT FROM project_heads FOR UPDATE")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(submit, "a")
                await wait_for_a_lock(database_url)
                nursery.start_soon(submit, "b")
                rule_id = change_rules(other, bench.project_no, "ACCT-[0-9]+")
                other.commit()
        bodies = [body for body in await own_bodies(bench) if "metadata" in body]
        assert sorted(body["metadata"]["note"] for body in bodies) == [
            "a [REDACTED] [REDACTED]",
            "b [REDACTED] [REDACTED]",
        ]
        assert {tuple(body["redactions"][0]["rules"]) for body in bodies} == {(str(rule_id), "builtin_credit_card")}
        assert [one.redacted_count for one in accepted] == [1, 1]
        assert len(await own_bodies(bench)) == 5


async def test_a_change_in_one_process_is_seen_by_the_very_next_request_to_another(database_url: str) -> None:
    async with open_bench(database_url) as one, open_bench(database_url, project_no=one.project_no) as other:
        for round_ in range(20):
            here, there = (one, other) if round_ % 2 else (other, one)
            await there.submit(event(metadata={"note": "warm"}))
            await create(here, f"ROUND-{round_}-[0-9]+")
            if round_ % 3 == 0:
                assert len((await ask(there, ListRules(100, None))).rules) == 8 + round_ + 1
            if round_ % 3 == 1:
                assert (await ask(there, TryRules({"metadata": {"a": f"ROUND-{round_}-1"}}, ()))).changes
            accepted = await there.submit(event(metadata={"note": f"ROUND-{round_}-1"}))
            assert accepted.redacted_count == 1, f"round {round_}"
        assert "ROUND" not in str([body["metadata"] for body in await own_bodies(one)])


async def test_while_rules_change_all_the_time_a_batch_meets_one_version_and_never_an_old_one(
    database_url: str,
) -> None:
    """Version n of the rule has behaviour n % 3, so that what was redacted by a version before the last is told."""
    behaviors = (Behavior.REPLACE, Behavior.MASK, Behavior.HASH)
    async with open_bench(database_url) as one, open_bench(database_url, project_no=one.project_no) as other:
        rule = await create(one, "ACCT-[0-9]{8}", behavior=behaviors[0])
        answered, done = 0, False

        async def change() -> None:
            nonlocal answered, done
            for number in itertools.count(1):
                if number > 40 and len(sent) > 20:
                    break
                await ask(one, UpdateRule(ADA, rule.id, behavior=behaviors[number % 3]))
                answered = number
                await trio.lowlevel.checkpoint()
            done = True

        sent: list[tuple[int, int, str]] = []

        async def send(bench: Bench, name: str) -> None:
            while not done:
                before, tenant = answered, f"{name}-{len(sent)}"
                batch = [event(tenant_id=tenant, metadata={"a": "ACCT-12345678"}) for _ in range(20)]
                assert (await bench.submit(*batch)).redacted_count == 20
                sent.append((before, answered, tenant))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(change)
            for number, bench in enumerate((one, other, one, other)):
                nursery.start_soon(send, bench, str(number))
        forms: dict[str, set[str]] = {}
        for body in await own_bodies(one):
            forms.setdefault(body["tenant_id"], set()).add(body["metadata"]["a"][:7])
        assert len(set.union(*forms.values())) >= 2
        for before, after, tenant in sent:
            # The change after the last answered one may be committed already; the one before the first must be over.
            allowed = {("[REDACT", "****567", "sha256:")[version % 3] for version in range(before, after + 2)}
            assert len(forms[tenant]) == 1, "a batch was redacted by two versions"
            assert forms[tenant] <= allowed


async def test_a_rule_stays_unseen_while_its_change_is_not_committed(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        await bench.submit(event())
        with psycopg.connect(database_url) as other:
            change_rules(other, bench.project_no, "ACCT-[0-9]+")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bench.submit, event(metadata={"note": "ACCT-42"}))
                await wait_for_a_lock(database_url)
                other.rollback()
        assert (await own_bodies(bench))[-1]["metadata"] == {"note": "ACCT-42"}


async def test_what_nobody_waits_for_any_more_is_not_redacted_again(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        await bench.submit(event())
        with psycopg.connect(database_url) as other:
            other.execute("SELECT FROM project_heads FOR UPDATE")
            with trio.CancelScope() as gone:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(bench.submit, event(metadata={"note": "ACCT-42"}))
                    await wait_for_a_lock(database_url)
                    gone.cancel()
            change_rules(other, bench.project_no, "ACCT-[0-9]+")
            other.commit()
        await bench.submit(event(tenant_id="later"))
        assert [body["tenant_id"] for body in await own_bodies(bench)] == ["acme", "later"]
        (health,) = [health for health in bench.supervisor.health() if health.path.startswith("ingest/")]
        assert (health.depth, health.in_flight) == (0, 0)


class Cut(Exception):
    """The actor's end."""


class CutAfterCommit:
    """A database behind which whoever has just changed something dies, once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.armed = False

    async def transact(self, work: Callable[[Connection], Any], **options: Any) -> Any:
        result = await self._database.transact(work, **options)
        if self.armed and not options.get("read_only"):
            self.armed = False
            raise Cut
        return result


async def test_an_actor_that_dies_between_commit_and_answer_has_changed_the_rules_once(
    database_url: str, error_logs: ErrorLogs
) -> None:
    error_logs.expect("actor crashed")
    async with open_bench(database_url) as bench, open_supervisor() as supervisor:
        cutting: Any = CutAfterCommit(bench.database)
        mint = UlidMint()
        redaction = Directory(supervisor, "cut", lambda no: Redaction(cutting, no, mint), capacity=8)
        await bench.submit(event(metadata={"note": "ACCT-42"}))
        cutting.armed = True
        with pytest.raises(ActorDown):
            await redaction.ask(bench.project_no, CreateRule(ADA, draft()), timeout=10)
        await bench.submit(event(metadata={"note": "ACCT-42"}))
        (*_, rule) = (await redaction.ask(bench.project_no, ListRules(100, None), timeout=10)).rules
        assert rule.name == "accounts"
        assert [body["metadata"]["note"] for body in await own_bodies(bench)] == ["ACCT-42", "[REDACTED]"]
        assert len(await audited(bench)) == 1


# -- changes are on record -----------------------------------------------------------------------------------------


async def test_every_change_is_an_event_of_the_reserved_tenant(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        await bench.submit(event())
        rule = await create(bench)
        await ask(bench, UpdateRule(ADA, rule.id, pattern="ACC-[0-9]+", enabled=False))
        await ask(bench, UpdateRule(ADA, "builtin_ssn", behavior=Behavior.HASH))
        await ask(bench, DeleteRule(ADA, rule.id))
        told = await audited(bench)
        findings = await verify(bench.database, lambda _: None)
    shown = [{name: body[name] for name in ("action", "category", "actor", "target", "changes")} for body in told]
    who: dict[str, Any] = {"category": "admin", "actor": {"id": str(ADA), "type": "api_key"}}
    target = {"id": rule.id, "type": "redaction_rule", "name": "accounts"}
    assert shown == [
        {
            "action": "logstitch.redaction_rule.created",
            **who,
            "target": target,
            "changes": [
                {"field": "name", "after": "accounts"},
                {"field": "type", "after": "pattern"},
                {"field": "pattern", "after": "ACCT-[0-9]+"},
                {"field": "behavior", "after": "replace"},
                {"field": "enabled", "after": True},
            ],
        },
        {
            "action": "logstitch.redaction_rule.updated",
            **who,
            "target": target,
            "changes": [
                {"field": "pattern", "before": "ACCT-[0-9]+", "after": "ACC-[0-9]+"},
                {"field": "enabled", "before": True, "after": False},
            ],
        },
        {
            "action": "logstitch.redaction_rule.updated",
            **who,
            "target": {"id": "builtin_ssn", "type": "redaction_rule", "name": "Social Security Number"},
            "changes": [{"field": "behavior", "before": "replace", "after": "hash"}],
        },
        {
            "action": "logstitch.redaction_rule.deleted",
            **who,
            "target": target,
            "changes": [
                {"field": "name", "before": "accounts"},
                {"field": "type", "before": "pattern"},
                {"field": "pattern", "before": "ACC-[0-9]+"},
                {"field": "behavior", "before": "replace"},
                {"field": "enabled", "before": False},
            ],
        },
    ]
    for one in shown:
        EVENT.validate_python({**one, "tenant_id": "any but the reserved one"})
    assert [finding.problems for finding in findings] == [()]


async def test_the_record_of_a_rule_is_not_redacted_by_it(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        await create(bench, "hunter")
        await create(bench, fields=("changes", "target.name"))
        first, second = await audited(bench)
    assert {"field": "pattern", "after": "hunter"} in first["changes"]
    assert {"field": "fields", "after": ["changes", "target.name"]} in second["changes"]
    assert second["target"]["name"] == "accounts"


async def test_a_change_of_nothing_is_none(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        rule = await create(bench)
        same = await ask(bench, UpdateRule(ADA, rule.id, behavior=Behavior.REPLACE, name="accounts"))
        assert same == rule
        assert await ask(bench, UpdateRule(ADA, rule.id)) == rule
        assert (await ask(bench, UpdateRule(ADA, "builtin_ssn", enabled=True))).enabled
        assert len(await audited(bench)) == 1
        assert await bench.rows("SELECT rules_version FROM project_heads WHERE project_no = %(no)s") == [(1,)]


async def test_rules_may_be_changed_when_the_days_events_are_used_up_and_use_up_none(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        await bench.submit(*[event()] * 99, daily_limit=100)
        rule = await create(bench)
        await bench.submit(event(), daily_limit=100)
        with pytest.raises(DailyEventLimitReached):
            await bench.submit(event(), daily_limit=100)
        await ask(bench, DeleteRule(ADA, rule.id))
        assert len(await audited(bench)) == 2


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "fields"),
    [
        (draft("("), ["pattern"]),
        (draft("a*"), ["pattern"]),
        (draft("(?=a)"), ["pattern"]),
        (draft(None), ["pattern"]),
        (draft("a{1000}b{1000}c{1000}"), ["pattern"]),
        (draft(fields=("action",)), ["fields.0"]),
        (draft(fields=("metadata.a", "", "actor..x")), ["fields.1", "fields.2"]),
        (replace(draft(fields=()), pattern="x"), ["fields", "pattern"]),
        (replace(draft(), fields=("metadata.a",)), ["fields"]),
    ],
)
async def test_a_bad_rule_is_refused_at_save_and_in_a_trial_and_changes_nothing(
    database_url: str, bad: RuleDraft, fields: list[str]
) -> None:
    async with open_bench(database_url) as bench:
        with pytest.raises(InvalidRequest) as saved:
            await ask(bench, CreateRule(ADA, bad))
        with pytest.raises(InvalidRequest) as tried:
            await ask(bench, TryRules({}, (draft(), bad)))
        assert await bench.bodies() == []
        assert await bench.rows("SELECT rules_version FROM project_heads WHERE project_no = %(no)s") == [(0,)]
    assert [detail.field for detail in saved.value.details] == fields
    assert [detail.field for detail in tried.value.details] == [f"rules.1.{field}" for field in fields]


async def test_what_a_rule_of_this_type_does_not_have_cannot_be_changed(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        by_pattern = await create(bench)
        by_field = await create(bench, fields=("metadata.password",))
        cases: list[tuple[str, dict[str, Any], list[str]]] = [
            ("builtin_jwt", {"name": "x", "pattern": "y", "enabled": False}, ["name", "pattern"]),
            ("builtin_jwt", {"fields": ("metadata",)}, ["fields"]),
            (by_pattern.id, {"fields": ("metadata",)}, ["fields"]),
            (by_pattern.id, {"pattern": "["}, ["pattern"]),
            (by_field.id, {"pattern": "x"}, ["pattern"]),
            (by_field.id, {"fields": ("nowhere",)}, ["fields.0"]),
        ]
        for rule_id, change, fields in cases:
            with pytest.raises(InvalidRequest) as refused:
                await ask(bench, UpdateRule(ADA, rule_id, **change))
            assert [detail.field for detail in refused.value.details] == fields
        assert len(await audited(bench)) == 2


async def test_unknown_rules_and_built_ins(database_url: str) -> None:
    async with open_bench(database_url) as bench, open_bench(database_url) as stranger:
        foreign = await create(stranger)
        for rule_id in (foreign.id, str(uuid4()), "builtin_", "builtin_nothing", "", "credit_card"):
            with pytest.raises(NotFound):
                await ask(bench, UpdateRule(ADA, rule_id, enabled=False))
            with pytest.raises(NotFound):
                await ask(bench, DeleteRule(ADA, rule_id))
        with pytest.raises(Conflict):
            await ask(bench, DeleteRule(ADA, "builtin_jwt"))
        assert await audited(bench) == []


async def test_a_project_has_a_hundred_custom_rules_and_no_more(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        async with trio.open_nursery() as nursery:
            refused = 0

            async def make(number: int) -> None:
                nonlocal refused
                try:
                    while True:
                        try:
                            await create(bench, f"ACCT-{number}x")
                        except Unavailable:
                            await trio.sleep(0.01)
                        else:
                            return
                except Conflict:
                    refused += 1

            for number in range(MAX_CUSTOM + 3):
                nursery.start_soon(make, number)
        assert refused == 3
        accepted = await bench.submit(event(metadata={"all": [f"ACCT-{n}x" for n in range(MAX_CUSTOM + 3)]}))
        assert accepted.redacted_count == MAX_CUSTOM


async def test_requests_about_rules_beyond_the_bound_are_refused_and_events_go_on(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        await bench.submit(event())
        outcomes: Counter[str] = Counter()

        async def make(number: int) -> None:
            try:
                await create(bench, f"x{number}")
                outcomes["answered"] += 1
            except Unavailable:
                outcomes["refused"] += 1

        with psycopg.connect(database_url) as other:
            other.execute("SELECT FROM project_heads FOR UPDATE")
            async with trio.open_nursery() as nursery:
                for number in range(MAX_MANAGED + 5):
                    nursery.start_soon(make, number)
                await wait_for_a_lock(database_url)
                redacted = await ask(bench, RedactEvents([[IncomingEvent(event(metadata={"a": CARD}), None)]]))
                assert len(redacted.changes[0]) == 1
                assert outcomes == {"refused": 5}
                other.rollback()
        assert outcomes == {"answered": MAX_MANAGED, "refused": 5}


async def test_rules_can_be_changed_however_many_samples_wait(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slices(events: Sequence[dict[str, Any]], rules: RuleSet) -> Generator[None, None, list[Result]]:
        while True:
            yield

    monkeypatch.setattr(actor_module, "slices", slices)
    async with open_bench(database_url) as bench:
        refused = 0

        async def try_sample() -> None:
            nonlocal refused
            try:
                await ask(bench, TryRules({"metadata": {"a": CARD}}, ()))
            except Unavailable:
                refused += 1

        async with trio.open_nursery() as nursery:
            for _ in range(MAX_TRIED + MAX_MANAGED):
                nursery.start_soon(try_sample)
            with trio.fail_after(5):
                while refused < MAX_MANAGED:
                    await trio.lowlevel.checkpoint()
                made = [await create(bench, f"x{n}") for n in range(3)]
            assert len(made) == 3
            assert refused == MAX_MANAGED
            nursery.cancel_scope.cancel()
        await wait_all_tasks_blocked()


async def test_samples_that_are_refused_make_room_for_others(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        for _ in range(2 * MAX_TRIED):
            with pytest.raises(InvalidRequest):
                await ask(bench, TryRules({"metadata": {"a": CARD}}, (draft("("),)))
        tried = await ask(bench, TryRules({"metadata": {"a": CARD}}, ()))
        assert tried.event == {"metadata": {"a": "[REDACTED]"}}


async def test_a_defect_that_a_sample_meets_is_told_to_its_asker_and_costs_no_ingest(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slices(*_: object) -> Generator[None, None, list[Result]]:
        raise RuntimeError("a defect")

    async with open_bench(database_url) as bench:
        with monkeypatch.context() as patch:
            patch.setattr(actor_module, "slices", slices)
            for _ in range(2 * MAX_TRIED):
                with pytest.raises(RuntimeError, match="a defect"):
                    await ask(bench, TryRules({"metadata": {"a": CARD}}, ()))

        await bench.submit(event())
        (health,) = [health for health in bench.supervisor.health() if "redaction" in health.path]
        assert health.restarts == 0


async def test_a_trial_says_what_was_replaced_for_no_rule(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        sample = {"changes": [{"before": "x" * 1_100_000 + CARD}]}
        tried = await ask(bench, TryRules(sample, ()))
        assert tried.event == {"changes": [{"before": "[REDACTED]"}]}
        assert [(change.field, change.rules) for change in tried.changes] == [("changes.0.before", (LIMIT,))]
        assert tried.rules[LIMIT].name == "Limits of redaction"


async def test_every_changed_value_is_counted_however_many(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        sent = event(changes=[{"field": "f", "before": [CARD] * 5_500}])
        accepted = await bench.submit(sent)
        assert accepted.redacted_count == 5_500


# -- lists and trials ----------------------------------------------------------------------------------------------


async def test_built_ins_come_first_then_rules_in_order_of_creation_page_by_page(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        made = [await create(bench, f"x{n}") for n in range(5)]
        listed: list[RedactionRule] = []
        after: Page | None = None
        while True:
            page = await ask(bench, ListRules(3, after))
            assert len(page.rules) <= 3
            listed += page.rules
            if (after := page.next) is None:
                break
    assert [rule.builtin_id for rule in listed[:8]] == [
        "credit_card",
        "ssn",
        "email",
        "phone",
        "ipv4",
        "jwt",
        "bearer_token",
        "aws_key",
    ]
    assert listed[8:] == made


async def test_a_trial_shows_what_saved_and_unsaved_rules_would_do_together_and_stores_nothing(
    database_url: str,
) -> None:
    async with open_bench(database_url) as bench, open_bench(database_url, project_no=bench.project_no) as other:
        saved = await create(other, "ACCT-[0-9]+", behavior=Behavior.MASK)
        sample = {"metadata": {"a": "ACCT-1234567", "b": "BCCT-1 ACCT-12345678", "c": CARD, "d": "fine"}}
        tried = await ask(bench, TryRules(sample, (draft("[A-Z]CCT-[0-9]+", name="any"), draft("fine", enabled=False))))
        assert tried.event == {
            "metadata": {"a": "****4567", "b": "[REDACTED] ****5678", "c": "[REDACTED]", "d": "fine"}
        }
        assert [(change.field, change.rules) for change in tried.changes] == [
            ("metadata.a", (saved.id,)),
            ("metadata.b", (saved.id, "rules.0")),
            ("metadata.c", ("builtin_credit_card",)),
        ]
        assert {rule_id: rule.name for rule_id, rule in tried.rules.items()} == {
            saved.id: "accounts",
            "rules.0": "any",
            "builtin_credit_card": "Credit Card Number",
        }
        assert await own_bodies(bench) == []
        assert sample["metadata"]["c"] == CARD


# -- turns ---------------------------------------------------------------------------------------------------------


def fake_slices(clock: list[float]) -> Callable[..., Generator[None, None, list[Result]]]:
    """An engine for which an event takes as many slices of 4 ms as it says, and which replaces what takes over 2 s."""

    def slices(
        events: Sequence[dict[str, Any]], rules: RuleSet, *, shared: bool = False
    ) -> Generator[None, None, list[Result]]:
        used = 0.0
        for one in events:
            for _ in range(one["slices"]):
                clock[0] += 0.004
                used += 0.004
                yield
        return [Result({"late": True} if used > 2 else one, ()) for one in events]

    return slices


def test_a_slow_request_does_not_use_up_the_time_of_those_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(actor_module, "slices", fake_slices(clock))
    monkeypatch.setattr("time.thread_time", lambda: clock[0])
    requests = [[IncomingEvent({"slices": n}, None)] for n in (1, 1000, 2)]
    work = redact_requests(requests, RuleSet())
    turns = 0
    while True:
        try:
            next(work)
        except StopIteration as done:
            results = done.value
            break
        turns += 1
    assert [result.event for result in results] == [{"slices": 1}, {"late": True}, {"slices": 2}]
    assert turns > 1000
    assert clock[0] < 4.2


async def test_events_are_redacted_beside_a_request_that_takes_long_and_the_rules_can_be_changed(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = 0

    def slices(events: Sequence[dict[str, Any]], rules: RuleSet) -> Generator[None, None, list[Result]]:
        nonlocal turns
        while any(one["tenant_id"] == "endless" for one in events):
            turns += 1
            yield
        return (yield from engine.slices(events, rules))

    monkeypatch.setattr(actor_module, "slices", slices)
    async with open_bench(database_url) as bench:
        await bench.submit(event())
        async with trio.open_nursery() as nursery:
            endless = RedactEvents([[IncomingEvent(event(tenant_id="endless"), None)]])
            nursery.start_soon(ask, bench, endless)
            await create(bench)
            await bench.submit(event(metadata={"note": "ACCT-42"}))
            nursery.cancel_scope.cancel()
        assert (await own_bodies(bench))[-1]["metadata"] == {"note": "[REDACTED]"}
        assert turns > 10
        await wait_all_tasks_blocked()  # it comes to rest, since nobody waits for the endless one any more


@pytest.mark.parametrize("check", LIFECYCLE)
async def test_lifecycle(check: Check, database_url: str) -> None:
    async with open_bench(database_url) as bench:
        mint = UlidMint()
        await check(
            Subject(
                factory=lambda: Redaction(bench.database, bench.project_no, mint),
                question=lambda: ListRules(10, None),
            )
        )
