"""The corpus of real events keeps to the wire contract, so that a test which sends it tests the service."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from logstitch.gate import parse
from logstitch.model import validate_events
from logstitch.redaction.engine import Change, redact_batch
from logstitch.redaction.rules import DEFAULT_BUILTINS, compile_rules
from ops.corpus import make
from tests.support import corpus

ACTION = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+", re.ASCII)
CATEGORIES = {"auth", "access", "mutation", "admin", "security", "system"}
TYPES = {"user", "api_key", "service", "system"}


def test_the_corpus_is_what_its_readme_says() -> None:
    events = corpus.events()

    assert len(events) == 329
    assert len({event["action"].split(".")[0] for event in events}) == 58
    assert len(corpus.distinct_events()) == 324
    assert {event["category"] for event in events} == CATEGORIES
    assert {event["actor"]["type"] for event in events} == {"user", "service", "system"}
    assert sum("target" not in event for event in events) == 6
    assert sum("occurred_at" not in event for event in events) == 19


def test_every_event_keeps_to_the_schema() -> None:
    for event in corpus.events():
        assert ACTION.fullmatch(event["action"]), event["action"]
        assert len(event["action"]) <= 128
        assert event["category"] in CATEGORIES
        assert event["actor"]["type"] in TYPES
        assert 1 <= len(event["actor"]["id"]) <= 256
        assert 1 <= len(event["tenant_id"]) <= 256
        assert 1 <= len(event["idempotency_key"]) <= 255
        assert len(orjson.dumps(event["metadata"], option=orjson.OPT_SORT_KEYS)) <= 32 * 1024
        assert len(event.get("changes", [])) <= 100
        assert all(change.keys() == {"field", "before", "after"} for change in event.get("changes", []))
        if "target" in event:
            assert event["target"].keys() <= {"id", "type", "name"}
            assert 1 <= len(event["target"]["id"]) <= 256
            assert 1 <= len(event["target"]["type"]) <= 128
            assert len(event["target"].get("name", "")) <= 256
        if "occurred_at" in event:
            assert make.RFC3339.fullmatch(event["occurred_at"])


def test_every_line_passes_the_strict_gate() -> None:
    for line in corpus.lines():
        assert isinstance(parse(line), dict)


def test_every_event_is_one_that_the_service_accepts() -> None:
    now_ms = 1_750_000_000_000

    for line in corpus.lines():
        (accepted,) = validate_events(parse(line), now_ms=now_ms)
        assert accepted is not None


def test_the_default_redaction_rules_take_one_thing_out_of_it_and_that_one_rightly() -> None:
    """A signed link to a package, delivered twice, carries the id of an AWS access key. Nothing else is a secret."""
    rules = compile_rules(DEFAULT_BUILTINS, (), secret=bytes(32))
    redacted = {
        (event["action"], change)
        for event, result in zip(corpus.events(), redact_batch(corpus.events(), rules), strict=True)
        for change in result.changes
    }

    link = "metadata.package.package_version.package_files.0.download_url"
    assert redacted == {("package.published", Change(link, ("builtin_aws_key",)))}
    links = re.findall(r"X-Amz-Credential=(AK[A-Z0-9]+)%2F", b"".join(corpus.lines()).decode())
    assert [len(access_key) for access_key in links] == [20, 20]


def test_a_key_stands_for_one_body() -> None:
    bodies: dict[str, Any] = {}
    for event in corpus.events():
        assert bodies.setdefault(event["idempotency_key"], event) == event


def test_every_category_of_the_platform_has_its_row() -> None:
    kinds = Counter(event["action"].split(".")[0] for event in corpus.events())

    assert kinds.keys() == make.KINDS.keys()


def test_events_are_fresh_at_each_call() -> None:
    corpus.events()[0]["action"] = "changed.by_a_test"

    assert corpus.events()[0]["action"] != "changed.by_a_test"


# -- how it is made


def package(tmp_path: Path, kind: str, *payloads: dict[str, Any]) -> Path:
    """A package with payloads of one kind."""
    index = tmp_path / make.INDEX
    index.parent.mkdir(parents=True)
    index.write_text(json.dumps([{"name": kind, "examples": payloads}]))
    return tmp_path


def made(path: Path, counts: Counter[str] | None = None) -> list[dict[str, Any]]:
    packed = make.make(path, Counter() if counts is None else counts)
    return [orjson.loads(line) for line in gzip.decompress(packed).splitlines()]


SENDER = {"id": 7, "login": "ada", "type": "User"}


def test_a_payload_becomes_an_event(tmp_path: Path) -> None:
    payload = {
        "action": "edited",
        "issue": {"id": 12, "title": "Now", "updated_at": "2024-05-01T10:00:00+02:00", "closed_at": None},
        "changes": {"title": {"from": "Then"}},
        "repository": {"owner": {"login": "acme"}, "updated_at": "2030-01-01T00:00:00Z"},
        "sender": SENDER,
    }

    (event,) = made(package(tmp_path, "issues", payload))

    assert event.pop("idempotency_key").startswith("github:issues:")
    assert event == {
        "action": "issues.edited",
        "category": "mutation",
        "actor": {"id": "7", "type": "user", "name": "ada"},
        "tenant_id": "acme",
        "target": {"id": "12", "type": "issue", "name": "Now"},
        "changes": [{"field": "title", "before": "Then", "after": "Now"}],
        "metadata": payload,
        "occurred_at": "2024-05-01T10:00:00+02:00",
    }


@pytest.mark.parametrize(
    ("kind", "payload", "action"),
    [
        ("push", {"ref": "refs/heads/main"}, "push.received"),
        ("repository_dispatch", {"action": "on-demand-test"}, "repository_dispatch.on_demand_test"),
    ],
)
def test_actions_are_made_to_fit(tmp_path: Path, kind: str, payload: dict[str, Any], action: str) -> None:
    (event,) = made(package(tmp_path, kind, payload))

    assert event["action"] == action


@pytest.mark.parametrize(("account", "actor"), [("User", "user"), ("Bot", "service"), ("Organization", "service")])
def test_bots_are_services(tmp_path: Path, account: str, actor: str) -> None:
    (event,) = made(package(tmp_path, "watch", {"action": "started", "sender": {**SENDER, "type": account}}))

    assert event["actor"]["type"] == actor


def test_the_latest_moment_counts_and_unix_seconds_are_read(tmp_path: Path) -> None:
    issue = {
        "id": 1,
        "created_at": 1_700_000_000,
        "updated_at": "2020-01-01T00:00:00Z",
        "due_on": "2050-01-01T00:00:00Z",
    }

    (event,) = made(package(tmp_path, "issues", {"action": "opened", "issue": issue, "sender": SENDER}))

    assert event["occurred_at"] == "2023-11-14T22:13:20Z"


def test_a_payload_over_the_limits_is_reduced_and_counted(tmp_path: Path) -> None:
    deep: dict[str, Any] = {}
    for _ in range(20):
        deep = {"down": deep}
    payload = {"action": "opened", "text": "x" * 40_000, "deep": deep, "issue": {"id": 1, "html_url": "https://x"}}
    counts: Counter[str] = Counter()

    (event,) = made(package(tmp_path, "issues", payload), counts)

    assert counts["metadata reduced"] == 1
    assert event["metadata"]["text"] == "x" * 1_000
    assert event["metadata"]["issue"] == {"id": 1}
    assert make.depth(event["metadata"]) <= 16


def test_a_payload_that_stays_too_large_keeps_its_scalars(tmp_path: Path) -> None:
    payload = {"action": "opened", "issue": {"id": 1}, "list": ["x" * 900] * 50}

    (event,) = made(package(tmp_path, "issues", payload))

    assert event["metadata"] == {"action": "opened"}


def test_the_same_package_gives_the_same_bytes_and_a_redelivery_the_same_key(tmp_path: Path) -> None:
    payload = {"action": "started", "sender": SENDER}
    path = package(tmp_path, "watch", payload, payload)
    counts: Counter[str] = Counter()

    first, second = made(path, counts)

    assert first == second
    assert counts["redeliveries"] == 1
    assert make.make(path, Counter()) == make.make(path, Counter())
