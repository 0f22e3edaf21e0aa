"""The gate lets in exactly what a slow, literal reading of the rules lets in, and nothing takes it long."""

from __future__ import annotations

import gc
import json
import math
from pathlib import Path
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch.errors import InvalidRequest
from logstitch.gate import MAX_INTEGER, parse, skeleton

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "gate.json").read_bytes())


def parse_literally(body: bytes, max_depth: int = 32) -> object:
    """The rules of the gate, one by one, with the standard library. Raises ValueError."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("duplicate key")
        return dict(pairs)

    def integer(text: str) -> int:
        if abs(int(text)) > MAX_INTEGER:
            raise ValueError("integer")
        return int(text)

    def finite(text: str) -> float:
        if math.isinf(float(text)):
            raise ValueError("infinite")
        return float(text)

    def refuse(_: str) -> object:
        raise ValueError("constant")

    def check(value: object, depth: int) -> None:
        if isinstance(value, str):
            if "\0" in value:
                raise ValueError("NUL")
            value.encode()  # A lone surrogate raises UnicodeEncodeError, a ValueError.
        elif isinstance(value, dict | list):
            if depth == max_depth:
                raise ValueError("depth")
            for item in [*value.keys(), *value.values()] if isinstance(value, dict) else value:
                check(item, depth + 1)

    value = json.loads(
        body.decode(), object_pairs_hook=unique, parse_int=integer, parse_float=finite, parse_constant=refuse
    )
    check(value, 0)
    return value


def same(a: object, b: object) -> bool:
    """Equal, with 1, 1.0 and True told apart."""
    return repr(a) == repr(b)


def verdict(body: bytes, max_depth: int = 32) -> object:
    try:
        return parse(body, max_depth=max_depth)
    except InvalidRequest:
        return InvalidRequest


def literal_verdict(body: bytes, max_depth: int = 32) -> object:
    try:
        return parse_literally(body, max_depth)
    except ValueError:
        return InvalidRequest


@pytest.mark.parametrize("text", VECTORS["accepted"])
def test_accepts(text: str) -> None:
    assert same(parse(text.encode()), parse_literally(text.encode()))


@pytest.mark.parametrize(("text", "why"), [(case["body"], case["why"]) for case in VECTORS["refused"]])
def test_refuses_and_says_why(text: str, why: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(text.encode())
    assert why in caught.value.message
    assert literal_verdict(text.encode()) is InvalidRequest


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ("{}".encode("utf-16"), "byte order mark"),
        ("{}".encode("utf-16-be"), "byte order mark"),
        ("{}".encode("utf-32-le"), "byte order mark"),
        (b'{"a":"\xff"}', "not valid UTF-8 (at byte 6)"),
        (b'"\xed\xa0\x80"', "not valid UTF-8"),
        (b'"\xc0\x80"', "not valid UTF-8"),
        (b'{"a":\n1,}', "line 2 column"),
        (b"\x0c1", "not valid JSON"),
        (b"[1]\x00", "not valid JSON"),
    ],
)
def test_refuses_bytes_and_says_why(body: bytes, why: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(body)
    assert why in caught.value.message


@pytest.mark.parametrize("unit", [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"[":"]"},[', b"]]"), (b'{"\\"{":[', b"]}")])
@pytest.mark.parametrize("width", [1, 3])
def test_the_depth_limit_is_exact(unit: tuple[bytes, bytes], width: int) -> None:
    opening, closing = unit
    levels_of_unit = 1 if opening in (b"[", b'{"a":') else 2
    fitting = 8 // levels_of_unit
    for count, fits in ((fitting - 1, True), (fitting, False)):
        tree = opening * count + b"0" + closing * count
        body = b"[" + b",".join([tree] * width) + b"]"
        assert (verdict(body, 8) is not InvalidRequest) is fits, body
        assert same(verdict(body, 8), literal_verdict(body, 8))


def test_an_error_repeats_nothing_of_the_body() -> None:
    for body in (b'{"secret":1,"secret":2}', b'{"a":"secret"', b'{"secret":secret}', b'["secret\\u0000"]'):
        with pytest.raises(InvalidRequest) as caught:
            parse(body)
        assert "secret" not in caught.value.message


# Characters that the shortcuts look at, so that strings look like structure and escapes like characters.
_text = st.text(st.sampled_from('":,{}[]\\ \tu0209é😀0123456789.eE-a') | st.characters(codec="utf-8"), max_size=12)
_integers = st.integers(-(2**65), 2**65) | st.sampled_from([2**63, 2**63 + 1, -(2**63), -(2**63) - 1, 2**64])
_scalars = st.none() | st.booleans() | _integers | st.floats(allow_nan=False, allow_infinity=False) | _text


@st.composite
def _json_texts(draw: st.DrawFn) -> str:
    """JSON as some client may write it: any white space, any escapes, keys that may be there twice."""
    space = st.sampled_from(["", "", "", " ", "\n", "\t \r"])

    def string(value: str) -> str:
        how = draw(st.integers(0, 3))
        if how == 0:
            return json.dumps(value)
        if how == 1:
            return json.dumps(value, ensure_ascii=False)
        escaped = [
            f"\\u{ord(c):04x}" if ord(c) < 0x10000 and draw(st.booleans()) else json.dumps(c)[1:-1] for c in value
        ]
        return f'"{"".join(escaped)}"'

    def write(depth: int) -> str:
        kind = draw(st.integers(0, 3)) if depth else 0
        pad = draw(space)
        if kind == 1:
            return f"[{pad}{f',{pad}'.join(write(depth - 1) for _ in range(draw(st.integers(0, 3))))}{pad}]"
        if kind >= 2:
            keys = draw(st.lists(_text | st.sampled_from(["a", "b", '"', ":"]), max_size=4))
            gap = draw(space)
            return f"{{{pad}{f'{pad},'.join(f'{pad}{string(key)}{gap}:{pad}{write(depth - 1)}' for key in keys)}{pad}}}"
        value = draw(_scalars)
        return string(value) if isinstance(value, str) else json.dumps(value)

    return write(4)


@given(_json_texts(), st.integers(1, 5))
def test_the_verdict_and_the_value_are_those_of_the_literal_reading(text: str, max_depth: int) -> None:
    body = text.encode(errors="surrogatepass")
    assert same(verdict(body, max_depth), literal_verdict(body, max_depth))


@given(_json_texts(), st.data())
def test_so_they_are_for_damaged_bodies(text: str, data: st.DataObject) -> None:
    body = bytearray(text.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body)))
        damage = data.draw(
            st.sampled_from([b'"', b"\\", b"{", b"]", b",", b":", b"0", b"\x00", b"\xff", b"", b"u0022"])
        )
        body[at : at + data.draw(st.integers(0, 2))] = damage
    assert same(verdict(bytes(body), 4), literal_verdict(bytes(body), 4))


@given(st.recursive(_text, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3)))
def test_a_skeleton_has_no_strings(value: object) -> None:
    bones = skeleton(json.dumps(value, ensure_ascii=False).encode())
    assert bones.strip(b"{}[],: ") == b""

    def members(value: object) -> int:
        if isinstance(value, dict):
            return len(value) + sum(map(members, value.values()))
        return sum(map(members, value)) if isinstance(value, list) else 0

    assert bones.count(b":") == members(value)


_MEGABYTE = 1_000_000
ATTACKS = {
    "empty arrays": b"[" + b",".join([b"[]"] * (_MEGABYTE // 3)) + b"]",
    "as deep as allowed": b"[" + b",".join([b"[" * 31 + b"]" * 31] * (_MEGABYTE // 63)) + b"]",
    "one deeper": b"[" + b",".join([b"[" * 32 + b"]" * 32] * (_MEGABYTE // 65)) + b"]",
    "only opening": b"[" * _MEGABYTE,
    "balanced": b"[" * (_MEGABYTE // 2) + b"]" * (_MEGABYTE // 2),
    "brackets in strings": b"[" + b",".join([b'{"[":["]"]}'] * (_MEGABYTE // 12)) + b"]",
    "digits": b"1" * _MEGABYTE,
    "long integers": b"[" + b",".join([b"9223372036854775808"] * (_MEGABYTE // 20)) + b"]",
    "backslashes": b'"' + b"\\\\" * (_MEGABYTE // 2) + b'"',
    "escaped quotes": b'"' + b'\\"' * (_MEGABYTE // 2) + b'"',
    "spelled-out quotes": b'"' + b"\\u0022" * (_MEGABYTE // 6) + b'"',
    "keys": b"{" + b", ".join(b'"%d" : 0' % i for i in range(_MEGABYTE // 13)) + b"}",
    "the same key": b"{" + b",".join([b'"a":0'] * (_MEGABYTE // 6)) + b"}",
    "white space": b" " * _MEGABYTE,
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_megabyte_of_malice_costs_little(name: str) -> None:
    # CPU time, and generous: 10 to 40 ms on an idle machine. What is guarded against are quadratic steps and the
    # garbage collector, which take from half a second to minutes.
    body = ATTACKS[name]
    spent = []
    for _ in range(3):
        start = process_time()
        verdict(body)
        spent.append(process_time() - start)
    assert min(spent) < 0.25


def test_the_collector_is_back_on_after_a_large_body() -> None:
    assert gc.isenabled()
    parse(ATTACKS["long integers"])
    with pytest.raises(InvalidRequest):
        parse(ATTACKS["the same key"])
    assert gc.isenabled()
