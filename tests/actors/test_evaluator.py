"""Evaluators against a real PostgreSQL: each alert once, whoever looks, whatever happens in between."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from logstitch import metrics
from logstitch.actors import evaluator as actor_module
from logstitch.actors.evaluator import Evaluator, Share
from logstitch.actors.messages.alerts import CatchUp
from logstitch.actors.supervisor import open_supervisor
from logstitch.detection.detector import Detector
from logstitch.detection.rules import Distinct, GroupBy
from logstitch.errors import DatabaseUnavailable
from logstitch.recording import evaluation
from logstitch.store.database import open_database
from logstitch.store.migrations import migrate
from tests.actors.lifecycle import LIFECYCLE, Check, Subject
from tests.support.answering import Answering, Ping
from tests.support.evaluation import (
    MINUTE,
    SECOND,
    START_MS,
    Post,
    create,
    failed,
    login,
    open_post,
    remove,
    rule,
    set_fields,
    spied,
    until,
)
from tests.support.ingest import event
from tests.support.own_server import own_server
from tests.support.webhooks import make_webhook

# -- what is fired -------------------------------------------------------------------------------------------------


async def test_what_comes_to_be_too_much_is_an_alert_and_a_delivery_to_whoever_wants_to_know(database_url: str) -> None:
    async with open_post(database_url) as post:
        hook = await post.database.transact(partial(make_webhook, project_no=post.no))
        for n in range(5):
            await post.send(failed("eve", tenant_id=f"t{n}"), at_ms=START_MS + n * SECOND)
        await post.looked()

        bodies = await post.bench.bodies()
        ((alert_id, *fields),) = await post.bench.rows(
            "SELECT alert_id, rule_id, rule_name, severity, status, group_by, group_key, tenant_id, event_count,"
            " threshold, window_seconds, seq, extract(epoch FROM triggered_at)::float, acknowledged_at, resolved_at"
            " FROM alerts WHERE project_no = %(no)s"
        )
        assert fields == [
            *("auth_brute_force", "Auth Brute Force", "high", "open", "actor_id", "eve", "t4", 5, 5, 300, 5),
            *(START_MS / 1000 + 4, None, None),
        ]
        assert alert_id.bytes[:6] == (START_MS + 4 * SECOND).to_bytes(6, "big"), "an id tells when it was fired"
        ((ids,),) = await post.bench.rows("SELECT event_ids FROM alerts WHERE project_no = %(no)s")
        stored = await post.bench.rows("SELECT id FROM events WHERE project_no = %(no)s ORDER BY seq")
        assert [(one,) for one in ids] == stored
        assert len(bodies) == 5
        told = await post.bench.rows("SELECT webhook_id, alert_id, type FROM deliveries WHERE project_no = %(no)s")
        assert told == [(hook.id, alert_id, "alert.triggered")]
        assert await post.row() == (5, 1, True), "the position was written with the alert"


async def test_what_ingest_tells_of_is_not_read(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = spied(monkeypatch, "read_page")
    async with open_post(database_url) as post:
        await post.send(failed())
        await post.looked()
        reads.clear()
        for _ in range(10):
            await post.send(failed("a"), failed("b"))
        await post.looked()
        assert reads == []
        assert [alert.group_key for alert in await post.alerts()] == ["a", "b"]


async def test_what_ingest_tells_of_is_what_is_stored(database_url: str) -> None:
    async with open_post(database_url, looks=False) as post:
        await post.send(
            event(context={"ip_address": "203.0.113.7"}, idempotency_key="k", occurred_at="2025-01-01T00:00:00.123Z"),
            event(context={"session_id": "s"}, metadata={"card": "4111 1111 1111 1111"}),
            event(tenant_id="zażółć", context={"ip_address": "4111 1111 1111 1111"}),
        )
        await post.send(event(), event(idempotency_key="k2"), at_ms=START_MS + 1)
        await post.send(event(idempotency_key="k2"), login(), at_ms=START_MS + 2)  # the first one is a replay
        told = [fact for no, message in post.evaluators.told for fact in message.facts]  # type: ignore[union-attr]
        page = await post.database.transact(
            lambda conn: evaluation.read_page(conn, post.no, 0, evaluation.Interest(lambda _: True, addresses=True)),
            read_only=True,
        )
    assert told == page.facts
    assert [fact.seq for fact in told] == [1, 2, 3, 4, 5, 6]
    assert [fact.ip_address for fact in told[:3]] == ["203.0.113.7", None, "[REDACTED]"]


async def test_nobody_to_tell_is_counted_and_harms_nobody(database_url: str) -> None:
    before = metrics.FACTS_DROPPED._value.get()
    async with open_post(database_url, looks=False) as post:
        post.evaluators.refusal = DatabaseUnavailable("no room")  # type: ignore[union-attr]
        await post.send(event(), event())
        assert await post.head() == 2
    assert metrics.FACTS_DROPPED._value.get() - before == 2


async def test_events_of_before_are_found_when_somebody_begins_to_look(database_url: str) -> None:
    async with open_post(database_url, looks=False) as quiet:
        for n in range(7):
            await quiet.send(*[failed(f"u{n}") for n in range(30)], at_ms=START_MS + n * SECOND)
        async with open_post(database_url, beside=quiet) as post:
            post.wake()
            await post.looked()
            assert len(await post.alerts()) == 30
            assert await post.alerts() == await post.expected()


async def test_many_alerts_at_once_are_written_in_portions(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor_module, "FIRINGS", 3)
    records = spied(monkeypatch, "record")
    async with open_post(database_url, looks=False) as quiet:
        await quiet.change(create(rule(threshold=1, cooldown_seconds=0), START_MS))
        await quiet.send(*[login(f"u{n}") for n in range(100)])
        async with open_post(database_url, beside=quiet) as post:
            post.wake()
            await post.looked()
            assert len(await post.alerts()) == 100
            assert await post.alerts() == await post.expected()
    assert max(len(values["found"].alerts) for values in records) <= actor_module.SLICE


# -- rules ---------------------------------------------------------------------------------------------------------


async def test_what_lies_behind_a_change_of_rules_is_judged_by_the_new_ones_however_late(database_url: str) -> None:
    mine = rule(threshold=3)
    async with open_post(database_url, looks=False) as quiet:
        # So many that they are not read, for no rule that holds at the beginning counts them or a login.
        await quiet.send(*[event(action="page.seen") for _ in range(evaluation.FEW_EVENTS)])
        await quiet.send(login(), login())
        await quiet.change(create(mine, START_MS))
        await quiet.send(login(), login())  # two that count
        await quiet.change(set_fields(mine.id, {"threshold": 2}))
        await quiet.send(login())  # the next one fires, with three
        await quiet.change(set_fields("suspicious_ip_change", {"enabled": True}))
        await quiet.send(*[login("mallory", context={"ip_address": f"203.0.113.{n}"}) for n in range(3)])
        await quiet.change(set_fields(mine.id, {"action_pattern": "auth.*"}))
        await quiet.send(login("bob"), login("bob"))
        await quiet.change(set_fields("auth_brute_force", {"enabled": False}))
        await quiet.send(*[failed("eve") for _ in range(6)])
        await quiet.change(remove(mine.id))
        await quiet.send(*[failed("zoe") for _ in range(6)])
        async with open_post(database_url, beside=quiet) as post:
            post.wake()
            await post.looked()
            assert await post.alerts() == await post.expected()
            assert [(alert.rule_id, alert.group_key) for alert in await post.alerts()] == [
                (mine.id, "u1"),
                (mine.id, "mallory"),
                ("suspicious_ip_change", "mallory"),
                (mine.id, "eve"),
            ]


async def test_a_change_of_rules_is_heard_of_while_it_looks(database_url: str) -> None:
    mine = rule()
    async with open_post(database_url) as post:
        await post.send(*[login() for _ in range(3)])
        await post.looked()
        await post.change(create(mine, START_MS))
        await post.send(*[login() for _ in range(3)])
        await post.looked()
        assert [alert.seq for alert in await post.alerts()] == [7]
        assert await post.alerts() == await post.expected()


async def test_a_longer_cooldown_counts_from_what_was_fired_before(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a firing so long ago that nobody remembers it, when the cooldown becomes longer, it is silent again."""
    recalled = spied(monkeypatch, "read_past")
    mine = rule(threshold=1, cooldown_seconds=0)
    async with open_post(database_url) as post:
        await post.change(create(mine, START_MS))
        await post.send(login(), at_ms=START_MS)
        await post.looked()
        await post.send(login("somebody else"), at_ms=START_MS + 20 * MINUTE)
        await post.looked()
        await post.change(set_fields(mine.id, {"cooldown_seconds": 3600}), at_ms=START_MS + 20 * MINUTE)
        await post.send(login(), at_ms=START_MS + 30 * MINUTE)
        await post.send(login(), at_ms=START_MS + 60 * MINUTE)
        await post.looked()
        assert [alert.seq for alert in await post.alerts()] == [2, 3, 6]
        assert await post.alerts() == await post.expected()
        assert recalled == [], "the past is read once, and not for each group"


async def test_versions_that_nobody_needs_are_dropped(database_url: str) -> None:
    mine = rule()
    async with open_post(database_url, looks=False) as quiet:
        await quiet.change(create(mine, START_MS))
        for threshold in (4, 5, 6):
            await quiet.change(set_fields(mine.id, {"threshold": threshold}))
        async with open_post(database_url, beside=quiet) as post:
            post.wake()
            await post.looked()

            async def one_is_left() -> bool:
                rows = await post.bench.rows("SELECT threshold FROM alert_rules WHERE project_no = %(no)s")
                return rows == [(6,)]

            await until(one_is_left)


# -- rest and trouble ----------------------------------------------------------------------------------------------


async def test_a_position_without_alerts_is_written_soon(database_url: str) -> None:
    async with open_post(database_url) as post:
        await post.send(login())

        async def written() -> bool:
            return (await post.row())[0] == 1

        await until(written)


async def test_one_who_has_nothing_to_do_leaves(database_url: str) -> None:
    async with open_post(database_url, idle_after=0.3) as post:
        await post.send(login())
        await until(lambda: not post.gauges())

        async def left() -> bool:
            return await post.row() == (1, 1, False)

        await until(left)
        await post.send(login())
        await post.looked()
        assert (await post.row())[1:] == (2, True)


async def test_while_the_database_is_away_it_waits_and_then_goes_on(error_logs: object) -> None:
    with own_server() as server:
        server.start()
        migrate(server.url)
        async with open_post(server.url) as post:
            await post.send(*[failed("eve") for _ in range(4)])
            await post.looked()
            server.kill()
            await trio.sleep(0.5)
            server.start()
            await post.send(failed("eve"))
            await post.looked()
            assert await post.alerts() == await post.expected()
            assert len(await post.alerts()) == 1
            assert (await post.row())[1] == 1, "and it is still the same evaluator"


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_the_alerts_are_those_of_the_rules(database_url: str, seed: int) -> None:
    """Two processes that ingest, look, stop, are cut off from their leases and change rules, in a random order."""
    chance = random.Random(seed)
    rules = [rule(threshold=chance.randrange(1, 5), cooldown_seconds=chance.choice((0, 30, 600))) for _ in range(3)]
    there: set[str] = set()
    detectors = [partial(Detector, groups=chance.choice((3, 50)), times=chance.choice((60, 10_000))) for _ in range(2)]
    async with (
        open_post(database_url, make_detector=detectors[0], capacity=2) as one,
        open_post(database_url, make_detector=detectors[1], beside=one) as two,
    ):
        now = START_MS
        for _ in range(60):
            post, (kind,) = chance.choice((one, two)), chance.choices(("send", "rule", "stop", "expire"), (20, 4, 2, 1))
            now += chance.choice((0, 500, 5_000, 20_000, 61_000))
            if kind == "send":
                sent = [
                    chance.choice((login, failed))(
                        f"u{chance.randrange(6)}",
                        tenant_id=f"t{chance.randrange(3)}",
                        context={"ip_address": f"203.0.113.{chance.randrange(4)}"},
                    )
                    for _ in range(chance.randrange(1, 20))
                ]
                await post.send(*sent, at_ms=now - chance.choice((0, 0, 3_000)))
            elif kind == "stop":
                await post.stop()
            elif kind == "expire":
                await one.expire()
            else:
                await _change_something(post, rules, there, chance, now)
        one.wake()
        two.wake()

        async def all_looked() -> bool:
            one.wake()
            two.wake()
            return (await one.row())[0] == await one.head()

        await until(all_looked)
        assert await one.alerts() == await one.expected()
        assert await one.alerts()


async def _change_something(post: Post, rules: Sequence[Any], there: set[str], chance: random.Random, now: int) -> None:
    mine = chance.choice(rules)
    if mine.id not in there:
        there.add(mine.id)
        await post.change(create(mine, now), at_ms=now)
        return
    fields = chance.choice(
        (
            {"threshold": chance.randrange(1, 6)},
            {"cooldown_seconds": chance.choice((0, 20, 3600))},
            {"action_pattern": chance.choice(("*", "auth.*", "user.login"))},
            {"enabled": chance.random() < 0.7},
            {"group_by": chance.choice([*GroupBy])},
            {"distinct": chance.choice((None, Distinct.IP_ADDRESS))},
            {"window_seconds": chance.choice((60, 120))},
        )
    )
    await post.change(set_fields(mine.id, fields), at_ms=now)


# -- the kernel's demands ------------------------------------------------------------------------------------------


@asynccontextmanager
async def a_project(url: str) -> AsyncIterator[Post]:
    async with open_post(url, looks=False) as post:
        await post.send(login())
        yield post


@pytest.mark.parametrize("check", LIFECYCLE)
async def test_lifecycle(check: Check, database_url: str) -> None:
    async with a_project(database_url) as post, open_database(database_url) as database:
        share = Share(database)
        await check(Subject(factory=lambda: Answering(Evaluator(share, post.no)), question=Ping))


async def test_messages_do_not_pile_up_while_it_stands_by(database_url: str) -> None:
    async with open_post(database_url) as one:
        await one.send(login())
        await one.looked()
        async with open_database(database_url) as database, open_supervisor() as supervisor:
            share = Share(database)
            address = supervisor.start("evaluator", lambda: Evaluator(share, one.no), capacity=4)
            for _ in range(40):
                address.tell(CatchUp())
                await until(lambda: address.health().depth == 0)
            assert address.health().gauges == {"leads": 0, "lag": 0}
            assert one.leads
