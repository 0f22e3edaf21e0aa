"""Claims through the real actor: all of a stream or nothing, once, as the project's rules leave it."""

from __future__ import annotations

import pickle
from collections import Counter
from typing import Any
from uuid import uuid4

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from logstitch.actors import claimer as actor_module
from logstitch.actors.bounds import THREAD_BYTES
from logstitch.actors.child import open_child
from logstitch.actors.claimer import PAGE_EVENTS, Claimer
from logstitch.actors.messages.redaction import CreateRule, RuleDraft, UpdateRule
from logstitch.actors.messages.streams import ClaimStream, StreamClaimed
from logstitch.detection.rows import parse_rows
from logstitch.errors import Conflict, StreamAlreadyClaimed, StreamExpired, StreamNotFound, Unavailable
from logstitch.ids import UlidMint
from logstitch.model import RESERVED_TENANT
from logstitch.recording import claimchild, claiming
from logstitch.recording.claiming import StreamClaim
from logstitch.redaction.definitions import Behavior, RuleType
from logstitch.store.database import Connection
from logstitch.store.streams import EventRow, Totals
from logstitch.store.timemachine import copy_facts, find_span
from logstitch.streams import LIFE_DAYS, StreamStatus, token_digest
from logstitch.times import DAY_MS
from logstitch.verify import verify
from tests.actors.lifecycle import LIFECYCLE, Check, Subject
from tests.support.errors import ErrorLogs
from tests.support.ingest import event
from tests.support.streams import (
    BY,
    NOON_MS,
    StreamBench,
    another_project,
    fill,
    moment,
    new_token,
    open_stream_bench,
)


async def rule(bench: StreamBench, pattern: str | None = None, *, fields: tuple[str, ...] = ()) -> str:
    """Give the project a rule of its own; the rule's id."""
    kind = RuleType.FIELD_REDACT if fields else RuleType.PATTERN
    draft = RuleDraft("test", kind, pattern, fields, Behavior.REPLACE, True)
    made = await bench.bench.redaction.ask(bench.project.no, CreateRule(BY, draft), timeout=10)
    return made.id


async def test_a_claimed_stream_is_the_projects_event_for_event(database_url: str) -> None:
    async with open_stream_bench(database_url) as bench:
        token = new_token()
        sent = [event(metadata={"n": n, "float": 1e21, "text": "ä\u2028"}) for n in range(60)]
        first = await bench.submit(token, *sent)
        bench.clock.ms += 1000
        second = await bench.submit(token, event(occurred_at="2001-02-03T04:05:06.789+01:00", idempotency_key="k"))
        await bench.bench.submit(event())

        bench.clock.ms += DAY_MS
        claimed = await bench.claim(token)

        assert claimed == StreamClaimed(events_migrated=61, duplicates=0)
        _, *bodies = await bench.bodies()
        assert [body["id"] for body in bodies] == [*first.ids, *second.ids]
        assert [body["metadata"] for body in bodies[:60]] == [one["metadata"] for one in sent]
        assert bodies[0]["received_at"] == bodies[0]["occurred_at"] == "2025-11-23T12:00:00.000Z"
        assert bodies[60]["received_at"] == "2025-11-23T12:00:01.000Z"
        assert bodies[60]["occurred_at"] == "2001-02-03T03:05:06.789Z"
        assert bodies[60]["idempotency_key"] == "k"
        (finding,) = await verify(bench.database, lambda _: None)
        assert finding.problems == ()
        assert finding.events == 63
        assert await bench.totals() == Totals(0, 0)
        assert await bench.count("SELECT count(*) FROM stream_events") == 0


async def test_who_claimed_what_is_on_record_and_the_token_is_not(database_url: str) -> None:
    async with open_stream_bench(database_url) as bench:
        token = new_token()
        await bench.submit(token, event(), event())

        await bench.claim(token)

        told = (await bench.bodies(told=True))[-1]
        assert (told["tenant_id"], told["action"]) == (RESERVED_TENANT, "logstitch.stream.claimed")
        assert told["actor"] == {"id": str(BY), "type": "api_key"}
        assert told["target"]["id"] == token_digest(token)[:16].hex()
        assert {change["field"]: change["after"] for change in told["changes"]} == {
            "status": "claimed",
            "events_migrated": 2,
            "duplicates": 0,
        }
        dump = await bench.bench.rows("SELECT s::text FROM streams s UNION ALL SELECT e::text FROM events e")
        assert len(dump) == 4
        assert token not in str(dump)


async def test_claimed_events_are_told_apart_by_their_numbers(database_url: str) -> None:
    async with open_stream_bench(database_url) as bench:
        for count in (3, 2):
            token = new_token()
            await bench.submit(token, *[event() for _ in range(count)])
            await bench.bench.submit(event())
            await bench.claim(token)

        # 1 sent, 2 to 4 claimed, 5 the record of it, 6 sent, 7 and 8 claimed, 9 the record.
        rows = await bench.bench.rows("SELECT first_seq, last_seq FROM claims WHERE project_no = %(no)s ORDER BY 1")
        assert rows == [(2, 4), (7, 8)]
        (at,) = {at for (at,) in await bench.bench.rows("SELECT claimed_at FROM claims")}
        assert at == bench.clock.now()


async def test_who_tries_an_alert_rule_on_the_past_does_not_see_them(database_url: str) -> None:
    async with open_stream_bench(database_url) as bench:
        day = [NOON_MS + n * DAY_MS for n in range(7)]
        token = new_token()
        await bench.submit(token, *[event() for _ in range(40)], at_ms=day[0])
        for at_ms in day[1:5]:
            await bench.bench.submit(event(), event(), received_at_ms=at_ms)
        bench.clock.ms = day[5]
        await bench.claim(token)
        for at_ms in day[5:]:
            await bench.bench.submit(event(), received_at_ms=at_ms)

        def look(conn: Connection, start_ms: int | None, end_ms: int | None) -> tuple[int, int]:
            span = find_span(conn, bench.project.no, start_ms=start_ms, end_ms=end_ms, disorder_ms=1000)
            count, rows = copy_facts(conn, bench.project.no, span, span.first, span.last, actions=None, addresses=False)
            return count, len(parse_rows(b"".join(rows)))

        # Two a day for four days, one on each of two; and the record of the claim.
        for start, end, expected in [
            (None, None, 11),
            (day[0], day[0], 0),
            (day[1], None, 11),
            (day[4], None, 5),
            (day[5], None, 3),
            (day[6], None, 1),
            (None, day[4], 8),
            (day[2], day[3], 4),
        ]:
            found = await bench.database.transact(lambda conn, s=start, e=end: look(conn, s, e))  # type: ignore[misc]
            assert found == (expected, expected), (start, end)


async def test_of_fifty_who_claim_at_once_one_gets_it(database_url: str) -> None:
    async with (
        open_stream_bench(database_url) as one,
        open_stream_bench(database_url, project_no=one.project.no) as other,
    ):
        token = new_token()
        await one.submit(token, *[event() for _ in range(20)])
        wanted = [one.project, *[await another_project(one.database) for _ in range(4)]]
        outcomes: Counter[str] = Counter()
        winners = []

        async def race(number: int) -> None:
            project = wanted[number % len(wanted)]
            try:
                claimed = await (one, other)[number % 2].claim(token, project)
            except StreamAlreadyClaimed:
                outcomes["already claimed"] += 1
            else:
                outcomes["claimed"] += 1
                winners.append((project.no, claimed))

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(race, number)

        assert outcomes == {"claimed": 1, "already claimed": 49}
        ((winner, claimed),) = winners
        assert claimed == StreamClaimed(20, 0)
        rows = await one.bench.rows("SELECT project_no, count(*) FROM events GROUP BY 1")
        assert rows == [(winner, 21)]
        row = await one.row(token)
        assert row is not None
        assert row.claimed_by == winner


# -- idempotency ----------------------------------------------------------------------------------------------------


async def test_a_key_that_the_project_has_makes_a_duplicate_whatever_the_event_is(database_url: str) -> None:
    async with open_stream_bench(database_url) as bench:
        token = new_token()
        await bench.submit(token, event(idempotency_key="a"), event(idempotency_key="b"), event())
        mine = await bench.bench.submit(event(idempotency_key="a", metadata={"another": "event"}))

        assert await bench.claim(token) == StreamClaimed(events_migrated=2, duplicates=1)

        bodies = await bench.bodies()
        assert [body.get("idempotency_key") for body in bodies] == ["a", "b", None]
        assert bodies[0]["id"] == mine.ids[0]


async def test_a_stream_of_nothing_but_duplicates_is_claimed_all_the_same(database_url: str) -> None:
    async with open_stream_bench(database_url) as bench:
        token = new_token()
        await bench.submit(token, event(idempotency_key="a"))
        await bench.bench.submit(event(idempotency_key="a"))

        assert await bench.claim(token) == StreamClaimed(0, 1)

        assert (await bench.info(token)).status is StreamStatus.CLAIMED
        assert await bench.count("SELECT count(*) FROM claims") == 0


async def test_what_is_sent_with_the_key_of_a_claimed_event_is_its_replay_or_a_conflict(database_url: str) -> None:
    async with open_stream_bench(database_url) as bench:
        one, other = new_token(), new_token()
        # What redaction takes out is compared, too: it is what was sent that counts.
        first = event(idempotency_key="a", metadata={"mail": MAIL})
        theirs = await bench.submit(one, first)
        await bench.submit(other, event(idempotency_key="b"), event(idempotency_key="a"))
        await bench.claim(one)
        assert await bench.claim(other) == StreamClaimed(1, 1)

        again = await bench.bench.submit(first)
        assert (again.ids, again.replays) == (theirs.ids, 1)
        assert (await bench.bench.submit(event(), event(idempotency_key="b"))).replays == 1

        for another in (
            event(idempotency_key="a"),
            event(idempotency_key="a", metadata={"mail": "john.doe@example.com"}),
            event(idempotency_key="b", metadata={"another": "event"}),
        ):
            with pytest.raises(Conflict) as refused:
                await bench.bench.submit(event(metadata={"n": 1}), another)
            assert [detail.field for detail in refused.value.details] == ["1.idempotency_key"]
        assert len(await bench.bodies()) == 3


async def test_no_other_project_learns_of_what_was_claimed(database_url: str) -> None:
    async with open_stream_bench(database_url) as bench:
        token = new_token()
        await bench.submit(token, event(idempotency_key="a"))
        await bench.claim(token, await another_project(bench.database))

        assert (await bench.bench.submit(event(idempotency_key="a"))).replays == 0


async def test_a_claim_counts_nothing_among_the_events_of_the_day(database_url: str) -> None:
    async with open_stream_bench(database_url) as bench:
        token = new_token()
        await bench.submit(token, *[event() for _ in range(50)])
        await bench.claim(token)
        # Nor does the record of it.
        await bench.bench.submit(event(), daily_limit=1, received_at_ms=bench.clock.ms)


# -- redaction on the way -------------------------------------------------------------------------------------------

CANARY = "ACCT-48151623"
MAIL = "jane.roe@example.com"


async def test_the_projects_rules_apply_on_the_way_and_both_redactions_are_on_record(database_url: str) -> None:
    async with open_stream_bench(database_url) as bench:
        token = new_token()
        await bench.submit(token, event(metadata={"note": f"{MAIL} has {CANARY}", "who": MAIL, "account": CANARY}))
        rule_id = await rule(bench, "ACCT-[0-9]{8}")

        await bench.claim(token)

        (body,) = await bench.bodies()
        assert body["metadata"] == {
            "note": "[REDACTED] has [REDACTED]",
            "who": "[REDACTED]",
            "account": "[REDACTED]",
        }
        assert {one["field"]: one["rules"] for one in body["redactions"]} == {
            "metadata.note": ["builtin_email", rule_id],
            "metadata.who": ["builtin_email"],
            "metadata.account": [rule_id],
        }


async def test_a_key_that_the_project_redacts_is_not_kept_in_the_record_of_what_the_stream_did(
    database_url: str,
) -> None:
    async with open_stream_bench(database_url) as bench:
        token = new_token()
        metadata = {CANARY: {"deep": [MAIL]}, "list": [{CANARY: MAIL}], "secret": {CANARY: MAIL}}
        await bench.submit(token, event(metadata=metadata, changes=[{"field": "f", "after": {CANARY: MAIL}}]))
        await rule(bench, "ACCT-[0-9]{8}")
        await rule(bench, fields=("metadata.secret",))

        await bench.claim(token)

        (body,) = await bench.bodies()
        assert CANARY not in str(body)
        assert MAIL not in str(body)
        found = {one["field"] for one in body["redactions"] if "builtin_email" in one["rules"]}
        assert found == {
            "metadata.[REDACTED].deep.0",
            "metadata.list.0.[REDACTED]",
            "metadata.secret",
            "changes.0.after.[REDACTED]",
        }
        (finding,) = await verify(bench.database, lambda _: None)
        assert finding.problems == ()


async def test_the_built_ins_that_the_project_has_switched_on_apply_too(database_url: str) -> None:
    async with open_stream_bench(database_url) as bench:
        token = new_token()
        await bench.submit(token, event(context={"ip_address": "203.0.113.77"}))
        await bench.bench.redaction.ask(
            bench.project.no, UpdateRule(BY, "builtin_ipv4", enabled=True, behavior=Behavior.MASK), timeout=10
        )

        await bench.claim(token)

        (body,) = await bench.bodies()
        assert body["context"]["ip_address"] == "203.0.*.*"


async def test_no_table_keeps_what_was_redacted_before_or_on_the_way(database_url: str) -> None:
    async with open_stream_bench(database_url) as bench:
        token = new_token()
        card = "4111111111111111"
        await bench.submit(token, event(metadata={"mail": MAIL, "card": card, "account": CANARY}))
        tables = "SELECT e::text FROM stream_events e UNION ALL SELECT s::text FROM streams s"
        before = str(await bench.bench.rows(tables))
        assert MAIL not in before
        assert card not in before
        await rule(bench, "ACCT-[0-9]{8}")

        await bench.claim(token)

        dump = str(await bench.bench.rows(f"{tables} UNION ALL SELECT e::text FROM events e WHERE tenant_no > 0"))
        told = [body for body in await bench.bodies(told=True) if body["action"].startswith("logstitch.")]
        assert len(told) == 2
        assert [secret for secret in (MAIL, card, CANARY) if secret in dump] == []


async def test_rules_that_change_while_a_claim_is_under_way_apply_to_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_stream_bench(database_url) as bench:
        token = new_token()
        await bench.submit(token, event(metadata={"account": CANARY}))
        tries = 0
        run = StreamClaim.run

        def change_first(self: StreamClaim, conn: Any) -> Any:
            nonlocal tries
            tries += 1
            if tries == 1:
                trio.from_thread.run(rule, bench, "ACCT-[0-9]{8}")
            return run(self, conn)

        monkeypatch.setattr(StreamClaim, "run", change_first)
        await bench.claim(token)

        (body,) = await bench.bodies()
        assert (tries, body["metadata"]) == (2, {"account": "[REDACTED]"})


# -- the stream moves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("late_events", "tries"), [(3, 1), (0, 4)], ids=["under the lock", "by beginning anew"])
async def test_events_that_come_while_a_claim_is_under_way_are_claimed_with_the_others(
    database_url: str, monkeypatch: pytest.MonkeyPatch, late_events: int, tries: int
) -> None:
    monkeypatch.setattr(claiming, "LATE_EVENTS", late_events)
    async with open_stream_bench(database_url) as bench:
        token = new_token()
        first = await bench.submit(token, event())
        late: list[str] = []
        runs = 0
        run = StreamClaim.run

        def send_first(self: StreamClaim, conn: Any) -> Any:
            nonlocal runs
            runs += 1
            for _ in range(3 // tries or len(late) < 3):
                late.extend(trio.from_thread.run(bench.submit, token, event(metadata={"account": CANARY})).ids)
            return run(self, conn)

        monkeypatch.setattr(StreamClaim, "run", send_first)
        await rule(bench, "ACCT-[0-9]{8}")
        claimed = await bench.claim(token)

        assert (claimed.events_migrated, runs) == (4, tries)
        assert CANARY not in str(await bench.bodies())
        assert [body["id"] for body in await bench.bodies()] == [*first.ids, *late]


async def test_each_event_that_races_a_claim_is_in_the_project_once_or_was_refused(database_url: str) -> None:
    async with (
        open_stream_bench(database_url) as one,
        open_stream_bench(database_url, project_no=one.project.no) as other,
    ):
        for _ in range(5):
            token = new_token()
            accepted = list((await one.submit(token, event())).ids)
            outcomes: Counter[str] = Counter()
            stop = trio.Event()

            async def send(
                bench: StreamBench,
                token: str = token,
                accepted: list[str] = accepted,
                outcomes: Counter[str] = outcomes,
            ) -> None:
                try:
                    for _ in range(12):
                        accepted.extend((await bench.submit(token, event(), event())).ids)
                        outcomes["accepted"] += 1
                except StreamAlreadyClaimed:
                    outcomes["refused"] += 1

            async def claim(token: str = token, stop: trio.Event = stop) -> None:
                await trio.sleep(0.01)
                await other.claim(token)
                stop.set()

            async with trio.open_nursery() as nursery:
                for bench in (one, other, one, other):
                    nursery.start_soon(send, bench)
                nursery.start_soon(claim)

            mine = [body["id"] for body in await one.bodies()]
            assert sorted(id for id in mine if id in set(accepted)) == sorted(accepted)
            assert len(mine) == len(set(mine))
            assert await one.count("SELECT count(*) FROM stream_events") == 0
        assert await one.totals() == Totals(0, 0)


@pytest.mark.parametrize("count", [PAGE_EVENTS - 1, PAGE_EVENTS, PAGE_EVENTS * 2 + 1])
async def test_a_stream_of_several_pages_is_claimed_whole(database_url: str, count: int) -> None:
    async with open_stream_bench(database_url) as bench:
        token = new_token()
        await fill(bench.database, token, [event(metadata={"n": n}) for n in range(count)])

        assert await bench.claim(token) == StreamClaimed(count, 0)

        assert [body["metadata"]["n"] for body in await bench.bodies()] == list(range(count))


# -- what is large ------------------------------------------------------------------------------------------------


def in_children(monkeypatch: pytest.MonkeyPatch, code: str = claimchild.CODE) -> list[str]:
    """Every child that is started runs ``code``, and is in the list."""
    started = []

    def open_one(_: str) -> Any:
        started.append(code)
        return open_child(code)

    monkeypatch.setattr(actor_module, "open_child", open_one)
    return started


async def test_a_stream_with_a_huge_event_is_claimed_by_a_child_process(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = in_children(monkeypatch)
    async with open_stream_bench(database_url) as bench:
        token = new_token()
        huge = event(changes=[{"field": "f", "after": "x" * THREAD_BYTES}])
        await bench.submit(token, huge)

        assert await bench.claim(token) == StreamClaimed(1, 0)

        (body,) = await bench.bodies()
        assert body["changes"] == huge["changes"]
    assert len(children) == 1


async def test_a_child_process_prepares_events_as_the_service_does(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = in_children(monkeypatch)
    sent = [
        event(
            metadata={"n": n, "account": CANARY, "text": "ä\u2028", "float": 1e21},
            context={"ip_address": "203.0.113.7"},
            idempotency_key=f"key {n}",
        )
        for n in range(90)
    ]
    made = []
    for most in (1_000, 10):
        monkeypatch.setattr(actor_module, "CHILD_EVENTS", most)
        async with open_stream_bench(database_url) as bench:
            await rule(bench, "ACCT-[0-9]{8}")
            await rule(bench, fields=("context.ip_address",))
            token = new_token()
            await bench.submit(token, *sent[:60])
            await bench.submit(token, *sent[60:])
            bench.clock.ms += DAY_MS
            assert await bench.claim(token) == StreamClaimed(90, 0)
            bodies = (await bench.bodies())[-90:]
            for body in bodies:
                body["redactions"] = [(record["field"], len(record["rules"])) for record in body["redactions"]]
            made.append([{k: v for k, v in body.items() if k not in ("id", "content_hash")} for body in bodies])
            assert {finding.problems for finding in await verify(bench.database, lambda _: None)} == {()}
    assert len(children) == 1
    assert made[0] == made[1]
    assert made[1][0]["metadata"]["account"] == "[REDACTED]"
    assert made[1][0]["redactions"] == [("context.ip_address", 1), ("metadata.account", 1)]


@pytest.mark.parametrize(
    "code",
    ["sys.stdin.buffer.read(3)", "time.sleep(3600)", "raise ValueError"],
    ids=["ends", "hangs", "fails"],
)
async def test_a_child_that_fails_claims_nothing_and_is_not_in_the_way_of_the_next_try(
    code: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor_module, "CHILD_EVENTS", 3)
    monkeypatch.setattr(actor_module, "ANSWER_SECONDS", 1.0)
    async with open_stream_bench(database_url) as bench:
        token = new_token()
        await bench.submit(token, *[event(metadata={"n": n}) for n in range(60)])
        with pytest.MonkeyPatch.context() as patch:
            in_children(patch, code)
            with pytest.raises(Unavailable):
                await bench.claim(token)
        assert await bench.bodies() == []
        assert await bench.count("SELECT count(*) FROM stream_events") == 60

        monkeypatch.setattr(actor_module, "ANSWER_SECONDS", 20.0)
        assert await bench.claim(token) == StreamClaimed(60, 0)
        assert [body["metadata"]["n"] for body in await bench.bodies()] == list(range(60))


@given(st.lists(st.integers(0, 700_000), max_size=130))
def test_a_child_is_sent_all_events_in_lots_that_it_can_take(sizes: list[int]) -> None:
    text = "x" * 700_000
    rows = [EventRow(n, BY, 0, 0, text[:size], None, 1, None) for n, size in enumerate(sizes)]
    lots = [pickle.loads(message[4:]) for message in claimchild.events_messages(rows)]  # noqa: S301
    assert [row for lot in lots for row in lot] == rows
    for lot in lots:
        assert 1 <= len(lot) <= claiming.PIECE_EVENTS
        assert len(lot) == 1 or sum(len(row.body) for row in lot) <= claimchild.LOT_BYTES


# -- at its end -----------------------------------------------------------------------------------------------------


async def test_at_the_edge_of_expiry(database_url: str) -> None:
    async with open_stream_bench(database_url) as bench:
        early, late = new_token(), new_token()
        began = bench.clock.ms
        for token in (early, late):
            await bench.submit(token, event())

        bench.clock.ms = began + LIFE_DAYS * DAY_MS - 1
        await bench.claim(early)
        bench.clock.ms += 1
        with pytest.raises(StreamExpired):
            await bench.claim(late)
        with pytest.raises(StreamAlreadyClaimed):  # what was claimed in time stays so
            await bench.claim(early)

        assert len(await bench.bodies()) == 1


async def test_a_stream_that_expires_while_it_is_being_claimed_is_judged_by_when_the_claim_came(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_stream_bench(database_url) as bench:
        token = new_token()
        await bench.submit(token, event())
        bench.clock.ms += LIFE_DAYS * DAY_MS - 1
        run = StreamClaim.run

        def later(self: StreamClaim, conn: Any) -> Any:
            bench.clock.ms += 10
            return run(self, conn)

        monkeypatch.setattr(StreamClaim, "run", later)
        assert await bench.claim(token) == StreamClaimed(1, 0)


async def test_a_stream_that_nobody_began_is_not_found(database_url: str) -> None:
    async with open_stream_bench(database_url) as bench:
        with pytest.raises(StreamNotFound):
            await bench.claim(new_token())


async def test_a_stream_that_cannot_be_claimed_takes_no_other_claim_with_it(
    database_url: str, error_logs: ErrorLogs
) -> None:
    error_logs.expect("claimer.failed")
    async with open_stream_bench(database_url) as bench:
        broken, whole = new_token(), new_token()
        await fill(bench.database, broken, [{"no": "event"}])
        await bench.submit(whole, event())
        refused = []

        async def claim_broken() -> None:
            try:
                await bench.claim(broken)
            except KeyError as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(claim_broken)
            nursery.start_soon(bench.claim, whole)

        assert len(refused) == 1
        assert len(await bench.bodies()) == 1
        assert (await bench.info(broken)).status is StreamStatus.ACTIVE


@pytest.mark.parametrize("check", LIFECYCLE)
async def test_lifecycle(check: Check, database_url: str) -> None:
    async with open_stream_bench(database_url) as bench:
        message = ClaimStream(token_digest(str(uuid4())), bench.project, BY)
        await check(
            Subject(
                factory=lambda: Claimer(bench.database, UlidMint(), now=lambda: moment(bench.clock.ms)),
                question=lambda: message,
            )
        )
