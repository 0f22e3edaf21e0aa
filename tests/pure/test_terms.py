"""What an event can be found by: the words of its values, whoever folds them and how."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any
from unicodedata import combining, normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch.evidence.canonical import canonical
from logstitch.search import terms as search_terms
from logstitch.search.terms import (
    MAX_WORD_BYTES,
    MAX_WORDS,
    Facet,
    facet,
    facets,
    matches,
    query_words,
    words,
)

VECTORS = Path(__file__).parent / "vectors"
EVENT: dict[str, Any] = json.loads((VECTORS / "event.json").read_bytes())
ANSWERED = EVENT | {
    "id": "evt_01JDC8Z8YQ3V1S7T9W6X4K2M0P",
    "content_hash": "cafe" * 16,
    "occurred_at": "2026-11-23T08:00:00.123Z",
    "received_at": "2026-11-23T08:00:00.124Z",
    "redactions": [{"field": "metadata.zebra", "rules": ["builtin_email"]}],
}


def found(text: str, event: dict[str, Any] = ANSWERED) -> bool:
    return matches(canonical(event), query_words(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [(case["text"], case["words"]) for case in json.loads((VECTORS / "terms.json").read_bytes())],
)
def test_the_words_of_a_text(text: str, expected: list[str]) -> None:
    assert {word.decode() for word in query_words(text)} == set(expected)
    event = {"action": "a.b", "metadata": {"key": [{"deep": text}]}}
    assert {word.decode() for word in words(canonical(event))} == {"a", "b", *expected}


@pytest.mark.parametrize(
    "text",
    [
        "Ada",
        "ada LOVE",
        "user.role",
        "updated",
        "admin",
        "acme",
        "grace hop",
        "203.0.113.42",
        "mozilla x86",
        "member",
        "",
    ],
)
def test_values_are_found(text: str) -> None:
    event = ANSWERED | {"target": {"id": "usr_7", "type": "user", "name": "Grace Hopper"}}
    assert found(text, event)


@pytest.mark.parametrize(
    "text",
    [
        "tenant_id",  # a key
        "lovelace hopper",  # one of two
        "ovelace",  # the inside of a word
        "evt",  # the id
        "cafe",  # the content hash
        "2026",  # a time
        "zebra",  # what was redacted
        "7f3c2a90",  # the idempotency key
        "9007199254740993",  # a number
    ],
)
def test_what_is_no_value_is_not_found(text: str) -> None:
    assert not found(text)


def test_what_a_tier_hides_is_not_found() -> None:
    visible = {name: value for name, value in ANSWERED.items() if name not in ("context", "actor", "content_hash")}
    assert not found("mozilla", visible)
    assert not found("ada", visible)
    assert found("role", visible)


def test_a_word_longer_than_what_counts_is_found_by_all_of_it() -> None:
    event = {"action": "a.b", "metadata": {"token": "f" * 64}}
    assert found("F" * 64, event)
    assert found("f" * 41, event)
    assert not found("f" * 39 + "e", event)


def test_an_event_of_too_many_words_is_found_by_the_first_of_them() -> None:
    text = " ".join(f"n{i}" for i in range(MAX_WORDS + 10))
    event = {"action": "a.b", "metadata": {"text": text}}
    assert len(words(canonical(event))) == MAX_WORDS
    assert found(f"n{MAX_WORDS - 3}", event)
    assert not found(f"n{MAX_WORDS - 2}", event)  # Two words went to the action.


# -- against the definition ----------------------------------------------------------------------------------------


def words_by_definition(event: dict[str, Any]) -> set[bytes]:
    def strings(value: object) -> list[str]:
        if isinstance(value, dict | list):
            return [s for item in (value.values() if isinstance(value, dict) else value) for s in strings(item)]
        return [value] if isinstance(value, str) else []

    result = set()
    for name in ("action", "category", "tenant_id", "actor", "target", "context", "metadata", "changes"):
        for text in strings(event.get(name)):
            folded = normalize("NFKC", normalize("NFKC", text).casefold())
            for word in re.findall(r"[^\W_]+", folded):
                cut = word
                while len(cut.encode()) > MAX_WORD_BYTES:
                    cut = cut[:-1]
                result.add(cut.encode())
    return result


_text = st.text(
    st.sampled_from('aB9_ .-"\\\n\x7féÉßİſΣςﬁ２東\u0301\u00bd😀') | st.characters(codec="utf-8"), max_size=60
)
_ascii = st.text(st.characters(codec="ascii"), max_size=60)
_value = st.recursive(
    _text | _ascii | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
)
_events = st.fixed_dictionaries(
    {"action": st.just("user.created"), "tenant_id": _ascii},
    optional={
        "actor": st.dictionaries(_ascii, _ascii | _text, max_size=3),
        "metadata": st.dictionaries(_ascii, _value, max_size=3),
        "changes": st.lists(_value, max_size=2),
        "id": _ascii,
    },
)


@given(_events)
def test_the_words_are_those_of_the_definition(event: dict[str, Any]) -> None:
    body = json.dumps(event).encode()
    found_words = words(body)
    assert set(found_words) == words_by_definition(event)
    assert len(found_words) == len(set(found_words))


@given(_events, _text | _ascii, st.data())
def test_matching_is_having_every_word_as_a_prefix(event: dict[str, Any], text: str, data: st.DataObject) -> None:
    body = json.dumps(event).encode()
    present = words_by_definition(event)
    wanted = query_words(text)
    assert matches(body, wanted) == all(any(word.startswith(prefix) for word in present) for prefix in wanted)
    if present:
        whole = data.draw(st.sampled_from(sorted(present))).decode()
        assert matches(body, [whole[: data.draw(st.integers(1, len(whole)))].encode()])


@given(_text | _ascii)
def test_a_value_is_found_by_itself(text: str) -> None:
    assert found(text, {"action": "a.b", "metadata": {"x": text}})


# -- bounds --------------------------------------------------------------------------------------------------------

HALF = 2_500_000
WORST = {
    "marks out of order": "a" + "\u0301" * HALF + "\u0327" * HALF,
    "marks in turn": "a" + "\u0301\u0327" * HALF,
    "letters that become marks": "a" + "\u0301" * HALF + "\uff9e" * HALF,
    "one character that becomes eighteen": "\ufdfa" * HALF,
    "words of marks": "a\u0301\u0327 " * 1_250_000,
    "one word": "é" * HALF,
    "ASCII in between": ("é" + "x" * 5000 + " ") * 1000,
}


@pytest.mark.parametrize("text", WORST.values(), ids=WORST.keys())
def test_no_text_takes_long_to_fold(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = 0.0

    def timed(form: Any, piece: str) -> str:
        nonlocal longest
        began = time.thread_time()
        result = normalize(form, piece)
        longest = max(longest, time.thread_time() - began)
        return result

    monkeypatch.setattr(search_terms, "normalize", timed)
    began = time.thread_time()
    search_terms.words_of({"changes": [text]})
    assert time.thread_time() - began < 1
    assert longest < 0.02


def test_whatever_is_reordered_counts_as_a_mark() -> None:
    """Also what begins with a combining mark only when it is decomposed."""
    every = (chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000)
    marks = [one for one in every if combining(one) or combining(normalize("NFKD", one)[0])]
    assert len(marks) > 900
    assert [one for one in marks if search_terms.is_plain(one * 31)] == []


def test_where_a_long_text_is_cut_makes_no_difference_between_words() -> None:
    text = " ".join(f"{i}é\u0301x{i}" for i in range(3000))
    assert len(text) > 3 * search_terms.MAX_PIECE
    assert set(query_words(text)) == words_by_definition({"metadata": {"x": text}})
    assert matches(canonical({"action": "a.b", "metadata": {"x": text}}), query_words("2999é\u0301x2999"))


def test_beyond_the_limit_ascii_alone_is_searched() -> None:
    filler = "é " * (search_terms.MAX_UNICODE // 2)
    event = {"action": "a.b", "metadata": {"x": filler + "zürich " + " " * search_terms.MAX_PIECE + " london"}}
    assert found("london", event)
    assert not found("zürich", event)
    assert found("zürich", {"action": "a.b", "metadata": {"x": filler[:-20_000] + "zürich"}})


# -- facets --------------------------------------------------------------------------------------------------------


def test_the_facets_of_an_event() -> None:
    assert set(facets(EVENT)) == {
        *(b"Auser.role.updated", b"Cadmin", b"Tacme", b"Uusr_42", b"Vuser", b"Gusr_7", b"Huser"),
    }
    assert facet(Facet.ACTOR_ID, "usr_42") in facets(EVENT)
    untargeted = {name: value for name, value in EVENT.items() if name != "target"}
    assert not [term for term in facets(untargeted) if term[:1] in b"GH"]


@given(st.text(max_size=250), st.text(max_size=250))
def test_facets_tell_values_apart(a: str, b: str) -> None:
    assert (facet(Facet.TENANT_ID, a) == facet(Facet.TENANT_ID, b)) == (a == b)
    assert len(facet(Facet.TENANT_ID, a)) <= 203


def test_a_hashed_value_equals_no_short_one() -> None:
    long = facet(Facet.TENANT_ID, "t" * 201)
    assert len(long) == 203
    assert facet(Facet.TENANT_ID, long[1:].decode()) != long
    assert facet(Facet.TENANT_ID, "t" * 200) == b"T" + b"t" * 200
