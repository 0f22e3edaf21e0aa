"""What redaction did in a stream stays on record when the project's rules change the event once more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import orjson
from hypothesis import given
from hypothesis import strategies as st

from logstitch.evidence.canonical import canonical
from logstitch.recording.claiming import moved_paths, prepare_claim
from logstitch.recording.streams import stream_rules
from logstitch.redaction.definitions import Behavior, BuiltinState, CustomRule, RuleType
from logstitch.redaction.engine import MAX_PART, redact
from logstitch.redaction.rules import compile_rules
from logstitch.redaction.turns import result_of
from logstitch.store.streams import EventRow
from tests.support.ingest import event

keys = st.sampled_from(["plain", "a.b", "ACCT-1", "ACCT-2", "x" * (MAX_PART + 5), "ACCT-3" + "y" * MAX_PART, ""])
leaves = st.sampled_from(["text", "ACCT-9", "jane.roe@example.com", "ACCT-9 jane.roe@example.com", 4, None])
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)
field_sets = st.lists(st.sampled_from(["metadata.plain", "metadata.*.plain", "metadata.**.0", "actor"]), max_size=2)


def rules(fields: list[str]) -> Any:
    """A project's: accounts, and these fields."""
    custom = [CustomRule("accounts", "", RuleType.PATTERN, "ACCT-[0-9]", (), Behavior.REPLACE, True)]
    if fields:
        custom.append(CustomRule("fields", "", RuleType.FIELD_REDACT, None, tuple(fields), Behavior.REPLACE, True))
    return compile_rules([BuiltinState("ipv4", True, Behavior.REPLACE)], custom, secret=bytes(32))


def paths(value: Any, path: str) -> Iterator[str]:
    """Every path that leads somewhere, as redaction spells it."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, f"{path}.{key}" if len(key) <= MAX_PART else f"{path}.{key[:MAX_PART]}…")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from paths(inner, f"{path}.{index}")


@given(st.dictionaries(keys, trees, max_size=4), field_sets)
def test_what_is_on_record_leads_somewhere_and_has_nothing_of_what_was_taken_out(
    metadata: dict[str, Any], fields: list[str]
) -> None:
    actor = {"id": "jane.roe@example.com", "type": "user", "name": "ACCT-7", "email": "jane.roe@example.com"}
    sent = event(metadata=metadata, actor=actor)
    in_stream = redact(sent, stream_rules())
    # Through the table and back, where keys are in canonical order.
    before = orjson.loads(canonical(in_stream.event))
    after = redact(before, rules(fields)).event
    recorded = [change.field for change in in_stream.changes]

    moved = moved_paths(before, after, recorded)

    assert moved.keys() == set(recorded)
    there = {path for section in ("actor", "metadata") for path in paths(after[section], section)}
    assert set(moved.values()) <= there
    assert "ACCT-" not in "".join(moved.values())


@given(st.dictionaries(keys, trees, max_size=4))
def test_where_the_project_changes_nothing_every_path_stays(metadata: dict[str, Any]) -> None:
    before = event(metadata=metadata)
    everything = list(paths(metadata, "metadata"))

    moved = moved_paths(before, orjson.loads(orjson.dumps(before)), everything)

    assert moved == {path: path for path in everything}


def test_of_a_path_that_leads_nowhere_only_the_section_is_kept() -> None:
    before = event(metadata={"a": 1})

    assert moved_paths(before, before, ["metadata.ACCT-1.x", "elsewhere.ACCT-2"]) == {"metadata.ACCT-1.x": "metadata"}


def test_a_stream_is_prepared_in_slices() -> None:
    text = orjson.dumps(event(metadata={"note": "ACCT-1"})).decode()
    rows = [
        EventRow(n, UUID(int=n), 1_700_000_000_000 + n // 3, 1_600_000_000_000, text, None, 1, None)
        for n in range(1, 200)
    ]

    work = prepare_claim(rows, rules([]))
    assert sum(1 for _ in work) >= 8
    prepared = result_of(prepare_claim(rows, rules([])))

    assert [one.claim.id for one in prepared] == [row.id.bytes for row in rows]
    assert [one.received_at_ms for one in prepared] == [row.received_at_ms for row in rows]
    assert {one.occurred_at_ms for one in prepared} == {1_600_000_000_000}
    assert {one.claim.digest for one in prepared} == {b""}
    assert {one.redacted_count for one in prepared} == {1}
