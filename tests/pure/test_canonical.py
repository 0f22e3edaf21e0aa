"""Canonical JSON is RFC 8785, on either path."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from logstitch.evidence.canonical import canonical, encode_sections
from logstitch.jcs import canonical_exact
from logstitch.sections import SECTIONS

VECTORS = Path(__file__).parent / "vectors"
BOTH: list[Callable[[object], bytes]] = [canonical, canonical_exact]


@pytest.mark.parametrize("encode", BOTH)
def test_the_samples_of_the_rfc(encode: Callable[[object], bytes]) -> None:
    numbers, keys = json.loads((VECTORS / "canonical.json").read_bytes())
    assert encode(json.loads(numbers["value"])).hex() == numbers["hex"]
    assert list(json.loads(encode(json.loads(keys["value"]))).values()) == keys["order"]


@pytest.mark.parametrize(("bits", "text"), json.loads((VECTORS / "numbers.json").read_bytes())["numbers"].items())
def test_the_numbers_of_the_rfc(bits: str, text: str) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical(number).decode() == text
    assert canonical({"a": [number]}).decode() == f'{{"a":[{text}]}}'


# Keys from both sides of the surrogates, where code points and UTF-16 sort differently.
_text = st.text(max_size=6) | st.text(
    st.sampled_from("az\x7f\u20ac\ud7ff\ue000\ufb33\uffff\U00010000😀\U0010ffff"), max_size=3
)
_floats = st.floats(allow_nan=False, allow_infinity=False)


def _json(integers: st.SearchStrategy[int]) -> st.SearchStrategy[Any]:
    scalars = st.none() | st.booleans() | integers | _floats | _text
    return st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_text, inner, max_size=5))


@given(_json(st.integers(-(2**53) + 1, 2**53 - 1)))
def test_agrees_with_another_implementation(value: Any) -> None:
    assert canonical(value) == canonical_exact(value) == rfc8785.dumps(value)


@given(_json(st.integers(-(2**70), 2**70)))
def test_integers_of_any_size_are_plain_digits(value: object) -> None:
    text = canonical(value)
    assert text == canonical_exact(value)
    # json keeps integers exact; what was a float may come back as the integer it equals in canonical form.
    assert canonical(json.loads(text, parse_int=lambda digits: float(digits) if len(digits) > 40 else int(digits)))


@given(_floats)
def test_a_double_comes_back(number: float) -> None:
    assert float(canonical(number)) == number


def test_the_order_of_insertion_does_not_matter() -> None:
    assert canonical({"b": 1, "a": {"d": 2.0, "c": 1}}) == canonical({"a": {"c": 1, "d": 2}, "b": 1})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), {"a": [float("nan")]}])
def test_not_a_number_is_refused(value: object) -> None:
    for encode in BOTH:
        with pytest.raises(ValueError, match="NaN"):
            encode(value)


@pytest.mark.parametrize("value", ["\ud800", {"\ud800": 1}, {1: 2}, {1: 2.5}, b"bytes", {"a": {1, 2}}])
def test_what_is_not_json_is_refused(value: object) -> None:
    for encode in BOTH:
        with pytest.raises((TypeError, UnicodeEncodeError)):
            encode(value)


LITTLE: dict[str, object] = {"strings": "", "objects": {}, "arrays": [], "numbers": 1e-7, "keys": {"": 0}}


@pytest.mark.parametrize("value", LITTLE.values(), ids=LITTLE.keys())
def test_little_values_take_little_memory_on_the_exact_path(value: object) -> None:
    """Each result of orjson that is kept holds a kilobyte or more: together they made gigabytes of one body."""
    values = [value] * 50_000
    tracemalloc.start()
    try:
        text = canonical_exact(values)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(text) > 150_000
    assert peak < 4 * len(text)


def test_sections_are_encoded_in_their_order() -> None:
    event = json.loads((VECTORS / "event.json").read_bytes())
    sections = encode_sections(dict(reversed(event.items())))
    assert tuple(sections) == SECTIONS
    assert sections == {name: canonical_exact(event[name]) for name in SECTIONS}
    assert encode_sections({"actor": {}, "metadata": {}}) == {"actor": b"{}", "metadata": b"{}"}
    assert orjson.loads(sections["actor"]) == event["actor"]
