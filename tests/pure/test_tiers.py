"""Tiers: what is hidden is in nothing that is shown, and everything else stays as it is."""

from __future__ import annotations

import re
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from logstitch.detection.globs import compile_glob
from logstitch.errors import InvalidRequest
from logstitch.search.segments import like_pattern
from logstitch.search.terms import matches_event, query_words
from logstitch.sections import SECTIONS
from logstitch.viewing import tiers
from logstitch.viewing.tiers import Tier, View, check_tier
from tests.support.redaction_reference import takes

EVENT: dict[str, Any] = {
    "id": "evt_1",
    "action": "user.role.updated",
    "category": "admin",
    "tenant_id": "acme",
    "actor": {"id": "usr_42", "type": "user", "name": "Ada", "email": "ada@example.com"},
    "target": {"id": "usr_77", "type": "user"},
    "context": {"ip_address": "203.0.113.42", "location": "Berlin"},
    "metadata": {"reason": "promotion", "internal": {"note": "secret"}, "list": [{"internal": 1, "shown": 2}, 7]},
    "changes": [{"field": "role", "before": "member", "after": "admin"}, {"field": "pay", "before": 1, "after": 2}],
    "idempotency_key": "k",
    "redactions": [{"field": "metadata.card", "rules": ["builtin_credit_card"]}],
    "content_hash": "9f",
    "occurred_at": "2026-11-23T08:00:00.123Z",
    "received_at": "2026-11-23T08:00:00.123Z",
}


def a_tier(*hidden: str, categories: tuple[str, ...] | None = None, actions: tuple[str, ...] | None = None) -> Tier:
    return Tier(UUID(int=1), "support", categories, actions, hidden, datetime(2026, 1, 1, tzinfo=UTC))


def shown(*hidden: str, event: dict[str, Any] = EVENT) -> dict[str, Any]:
    """What is left of an event."""
    return View("acme", a_tier(*hidden)).strip(event)


# -- hidden fields -------------------------------------------------------------------------------------------------


def test_without_a_tier_all_is_shown_but_what_no_viewer_gets() -> None:
    expected = {name: value for name, value in EVENT.items() if name not in ("idempotency_key", "redactions")}

    assert View("acme").strip(EVENT) == expected
    assert shown() == expected
    assert expected["content_hash"] == "9f"


def test_a_field_is_taken_out_and_its_section_stays() -> None:
    left = shown("actor.email", "context.ip_address", "context.location")

    assert left["actor"] == {"id": "usr_42", "type": "user", "name": "Ada"}
    assert left["context"] == {}
    assert left["metadata"] == EVENT["metadata"]


def test_any_depth_and_list_items() -> None:
    left = shown("metadata.**.internal", "changes.*.after")

    assert left["metadata"] == {"reason": "promotion", "list": [{"shown": 2}, 7]}
    assert left["changes"] == [{"field": "role", "before": "member"}, {"field": "pay", "before": 1}]


def test_an_item_that_is_hidden_is_gone() -> None:
    assert shown("changes.0")["changes"] == [EVENT["changes"][1]]
    assert shown("changes.*")["changes"] == []
    assert shown("metadata.list.1")["metadata"]["list"] == [{"internal": 1, "shown": 2}]


@pytest.mark.parametrize("section", SECTIONS)
def test_a_whole_section_is_gone_but_the_actor_whom_every_event_has(section: str) -> None:
    left = shown(section)

    assert left.get(section) == ({} if section == "actor" else None)
    assert (section in left) == (section == "actor")


def test_everything_below_is_gone_with_two_stars_at_the_end() -> None:
    left = shown("metadata.**", "actor.**")

    assert (left["metadata"], left["actor"]) == ({}, {})


@pytest.mark.parametrize("key", ["a.b", "ａ.b", "a.\u200bb", "a\u200b.b"])
def test_keys_with_dots_and_keys_that_only_look_like_the_path(key: str) -> None:
    event = EVENT | {"metadata": {key: "hidden", "c": 1}}

    assert shown("metadata.a.b", event=event)["metadata"] == {"c": 1}


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("metadata.ssn", {"a.b.c": "7h", "a": {"b.d": "6h", "c": "ok"}}),
        ("metadata.a.b", {"ssn.x": "8h", "ｓｓｎ.x": "3h", "a": {"c": "ok"}}),
        ("metadata.**.b", {"ssn.x": "8h", "ｓｓｎ.x": "3h", "a": {"c": "ok"}}),
        ("metadata.a.b.c.d", {"ssn.x": "8h", "ｓｓｎ.x": "3h", "a.b.c": "7h", "a": {"b.d": "6h", "c": "ok"}}),
    ],
)
def test_a_key_is_gone_where_a_path_ends_within_it(path: str, left: dict[str, Any]) -> None:
    metadata = {"ssn.x": "8h", "ｓｓｎ.x": "3h", "a.b.c": "7h", "a": {"b.d": "6h", "c": "ok"}}

    assert shown(path, event=EVENT | {"metadata": metadata})["metadata"] == left


def test_of_a_section_that_redaction_made_a_text_of_nothing_is_shown_where_something_in_it_is_hidden() -> None:
    event = EVENT | {"actor": "sha256:12", "metadata": "[REDACTED]", "target": "****_77"}

    left = shown("actor.email", "metadata.a.b", event=event)

    assert left["actor"] == {}
    assert "metadata" not in left
    assert left["target"] == "****_77"


def test_a_scalar_where_a_path_leads_on_is_shown() -> None:
    assert shown("metadata.reason.deeper")["metadata"] == EVENT["metadata"]


def test_what_is_too_intricate_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "MAX_STEPS", 50)
    event = EVENT | {"metadata": {f"k{n}": {"secret": n} for n in range(60)}}

    left = shown("metadata.**.secret", "actor.email", event=event)

    assert "metadata" not in left
    assert left["actor"] == {"id": "usr_42", "type": "user", "name": "Ada"}


def test_many_wildcards_and_long_keys_take_no_long_time() -> None:
    """Given what would take minutes if every combination were tried, then it is given up, and nothing is shown."""
    hidden = [f"metadata.**.{'*.' * n}x{n}.**" for n in range(25)]
    key = ".".join(["x"] * 60)
    event = EVENT | {"metadata": {f"{key}.{n}": {key: {key: 1}} for n in range(150)}}

    assert "metadata" not in shown(*hidden, event=event)


# -- properties ----------------------------------------------------------------------------------------------------

KEYS = ["a", "b", "id", "a.b", "c", "b.c.a"]
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["alpha", "beta two", "gamma"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from(KEYS), values, max_size=4)
events = st.fixed_dictionaries(
    {
        "action": st.just("a.b"),
        "category": st.just("auth"),
        "tenant_id": st.just("acme"),
        "actor": objects,
    },
    optional={"target": objects, "context": objects, "metadata": objects, "changes": st.lists(objects, max_size=3)},
)
parts = st.sampled_from([*KEYS[:3], "c", "*", "**", "0", "1"])
hidden_paths = st.builds(
    lambda section, rest: ".".join([section, *rest]), st.sampled_from(SECTIONS), st.lists(parts, max_size=3)
)


def reference(event: dict[str, Any], hidden: list[str]) -> dict[str, Any]:
    """What is left, told by trying every path on every place."""
    wanted = [path.split(".") for path in hidden]

    def is_hidden(*place: str) -> bool:
        return any(takes(path, place) for path in wanted)

    def keep(value: Any, *place: str) -> Any:
        if isinstance(value, dict):
            return {k: keep(v, *place, k) for k, v in value.items() if not is_hidden(*place, k)}
        if isinstance(value, list):
            return [keep(v, *place, str(n)) for n, v in enumerate(value) if not is_hidden(*place, str(n))]
        return value

    left = {}
    for name, value in event.items():
        if name not in SECTIONS:
            left[name] = value
        elif not is_hidden(name):
            left[name] = keep(value, name)
        elif name == "actor":
            left[name] = {}
    return left


@given(events, st.lists(hidden_paths, min_size=1, max_size=4))
@example({"tenant_id": "acme", "metadata": {"b.c.a": 1, "c": {"a.b": 2}}}, ["metadata.b", "metadata.c.*.b"])
def test_stripping_is_what_trying_every_path_on_every_place_would_do(event: dict[str, Any], hidden: list[str]) -> None:
    before = deepcopy(event)

    left = View("acme", a_tier(*hidden)).strip(event)

    assert left == reference(event, hidden)
    assert event == before


@given(events, st.lists(hidden_paths, max_size=4), st.lists(hidden_paths, max_size=2))
def test_hiding_more_never_shows_more(event: dict[str, Any], hidden: list[str], more: list[str]) -> None:
    def leaves(value: Any) -> list[str]:
        if isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
            return [leaf for one in inner for leaf in leaves(one)]
        return [repr(value)]

    less = leaves(View("acme", a_tier(*hidden, *more)).strip(event))
    rest = leaves(View("acme", a_tier(*hidden)).strip(event))

    for leaf in less:
        rest.remove(leaf)  # raises where there was none


@given(events, st.lists(hidden_paths, max_size=4), st.sampled_from(["alpha", "two", "gam", "beta"]))
def test_a_word_is_found_only_where_it_is_shown(event: dict[str, Any], hidden: list[str], word: str) -> None:
    left = View("acme", a_tier(*hidden)).strip(event)

    found = matches_event(left, query_words(word))

    assert found == any(part.startswith(word) for part in re.findall(r"[a-z]+", str(values_of(left))))


def values_of(value: Any) -> list[str]:
    """All texts in it, not the keys."""
    if isinstance(value, dict):
        return [text for name, one in value.items() if name != "tenant_id" for text in values_of(one)]
    if isinstance(value, list):
        return [text for one in value for text in values_of(one)]
    return [value] if isinstance(value, str) else []


@given(events)
def test_what_is_written_is_what_was_stored(event: dict[str, Any]) -> None:
    text = orjson.dumps(event | {"metadata": {"i": 2**63 - 1, "j": -(2**63), "f": 0.1, "z": -0.0, "u": "\u2028😀"}})

    assert orjson.loads(View("acme").strip_text(text.decode())) == orjson.loads(text)


# -- which events --------------------------------------------------------------------------------------------------


globs = st.text("ab._*%\\", min_size=1, max_size=6)


@given(globs, st.text("ab._", max_size=8))
def test_a_glob_means_the_same_in_sql(glob: str, action: str) -> None:
    like = like_pattern(glob)
    pattern, at = "", 0
    while at < len(like):
        if like[at] == "\\":
            at += 1
            pattern += re.escape(like[at])
        else:
            pattern += {"%": ".*", "_": "."}.get(like[at], re.escape(like[at]))
        at += 1

    assert compile_glob(glob)(action) == bool(re.fullmatch(pattern, action))


# -- filters, and what a tier may be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hidden", "filters"),
    [
        (["actor.email", "metadata", "target.name"], set()),
        (["actor.id"], {"actor_id"}),
        (["actor.type", "target.id"], {"actor_type", "target_id"}),
        (["actor"], {"actor_id", "actor_type"}),
        (["actor.*"], {"actor_id", "actor_type"}),
        (["target.**"], {"target_id", "target_type"}),
        (["actor.**.id"], {"actor_id"}),
        (["target.id.deeper"], set()),
    ],
)
def test_filters_on_what_is_hidden(hidden: list[str], filters: set[str]) -> None:
    assert View("acme", a_tier(*hidden)).hidden_filters == filters


def test_without_a_tier_no_filter_is_hidden() -> None:
    assert View("acme").hidden_filters == frozenset()


@pytest.mark.parametrize(
    "path", ["", "action", "id", "*.id", "**", "actor..id", "actor.", ".actor", "actor." + "x." * 40]
)
def test_paths_that_are_none_are_named(path: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_tier(a_tier("actor.email", path))

    assert [detail.field for detail in refused.value.details] == ["hidden_fields.1"]
