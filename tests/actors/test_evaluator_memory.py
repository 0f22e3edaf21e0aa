"""Evaluators and what they remember: what was dropped is read back, and no more than matters."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import pytest

from logstitch.actors import evaluator as actor_module
from logstitch.actors.messages.redaction import CreateRule, RuleDraft
from logstitch.detection.detector import ActiveRule, Detector
from logstitch.detection.rules import GroupBy
from logstitch.recording import evaluation
from logstitch.redaction.rules import Behavior, RuleType
from tests.support.evaluation import (
    ADA,
    MINUTE,
    SECOND,
    START_MS,
    create,
    failed,
    login,
    open_post,
    rule,
    set_fields,
    spied,
)


def small(rules: Sequence[ActiveRule]) -> Detector:
    """A detector that can remember two groups."""
    return Detector(rules, groups=2, times=40)


@pytest.mark.parametrize("group_by", GroupBy)
async def test_what_had_to_be_dropped_is_read_back(database_url: str, group_by: GroupBy) -> None:
    mine = rule(threshold=4, window_seconds=600, group_by=group_by, cooldown_seconds=120)
    async with open_post(database_url, make_detector=small) as post:
        await post.change(create(mine, START_MS))
        for n in range(12):
            at = START_MS + n * 30 * SECOND
            await post.send(*[login(f"u{n}", tenant_id=f"t{n}") for n in range(8)], failed("eve"), at_ms=at)
            await post.looked()
        assert await post.alerts() == await post.expected()
        assert len(await post.alerts()) > 16


async def test_what_is_missing_is_asked_for_in_slices_and_read_back_at_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a page of a long time, it is all of its events' pasts that are read back, and not the last one's only."""
    monkeypatch.setattr(actor_module, "SLICE_WORK", 1)
    monkeypatch.setattr(evaluation, "PAGE_FACTS", 640)
    recalled = spied(monkeypatch, "find_past")
    mine = rule(threshold=25, window_seconds=600, cooldown_seconds=50)
    async with open_post(database_url, looks=False) as quiet:
        await quiet.change(create(mine, START_MS))
        for n in range(160):
            await quiet.send(*[login(f"u{n}") for n in range(8)], at_ms=START_MS + n * 20 * SECOND)
        async with open_post(database_url, beside=quiet, make_detector=small) as post:
            post.wake()
            await post.looked()
            assert await post.alerts() == await post.expected()
            assert len(await post.alerts()) == 46 * 8
    assert [len(values["missing"].groups) for values in recalled] == [8]


async def test_distinct_addresses_are_read_back_too(database_url: str) -> None:
    async with open_post(database_url, make_detector=small) as post:
        await post.change(set_fields("suspicious_ip_change", {"enabled": True}))
        for n in range(3):
            for actor in range(5):
                await post.send(login(f"u{actor}", context={"ip_address": f"203.0.113.{n}"}), at_ms=START_MS + n)
            await post.looked()
        assert await post.alerts() == await post.expected()
        assert len(await post.alerts()) == 5


async def test_only_the_past_that_matters_is_read_at_the_start(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_post(database_url, looks=False) as quiet:
        for n in range(40):
            await quiet.send(*[failed("eve", tenant_id=str(n)) for _ in range(100)], at_ms=START_MS + n * 10 * MINUTE)
        await quiet.database.transact(
            lambda conn: (
                conn.execute("INSERT INTO evaluators (project_no, seq) VALUES (%s, 4000)", (quiet.no,)) and None
            )
        )
        reads = spied(monkeypatch, "read_page")
        async with open_post(database_url, beside=quiet) as post:
            post.wake()
            await post.looked()
        assert min(values["after"] for values in reads) >= 3500


async def test_an_actor_whose_id_redaction_has_made_long_goes_by_its_digest(database_url: str) -> None:
    """Told, read, and read back: it is one group, and its key is one that an index takes."""
    async with open_post(database_url, make_detector=small) as post:
        hashing = CreateRule(ADA, RuleDraft("letters", RuleType.PATTERN, "[a-z]", (), Behavior.HASH, enabled=True))
        await post.bench.redaction.ask(post.no, hashing, timeout=15)
        long = "m" * 18 + "0" * 238
        await post.send(failed(long), failed(long))  # told
        await post.looked()
        await post.stop()
        await post.send(*[failed(f"{n}") for n in range(3)])
        await post.looked()
        await post.send(failed(long), failed(long), failed(long))  # read back, and told
        await post.looked()
        await post.stop()
        await post.send(*[failed(long) for _ in range(3)], at_ms=START_MS + 2 * 60 * MINUTE)
        await post.stop()
        async with open_post(database_url, beside=post, make_detector=small) as other:
            await other.send(failed(long), failed(long), at_ms=START_MS + 2 * 60 * MINUTE)
            await other.looked()
        keys = [(alert.rule_id, alert.group_key) for alert in await post.alerts()]
        ((actor_id,),) = await post.bench.rows("SELECT actor_id FROM events WHERE length(actor_id) > 1000 LIMIT 1")
        digest = f"sha256:{sha256(actor_id.encode()).hexdigest()}"
        assert keys == [("auth_brute_force", digest), ("auth_brute_force", digest)]
