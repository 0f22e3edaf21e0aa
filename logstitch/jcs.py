"""Canonical JSON: RFC 8785, with integers of any size as plain digits.

The RFC wants JavaScript's number format and keys sorted by UTF-16 code units. orjson with sorted keys gives the same
bytes except for some floats (``1.0``, ``1e21``) and for objects whose keys mix characters beyond the BMP with those of
U+E000–U+FFFF, where code point order and UTF-16 order differ. Whole floats are handed to it as integers; the rest takes
the exact path. What sends a value there may be wrong in one direction only: towards the exact path.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from types import NoneType
from typing import Any, Final

import orjson

_PLAIN: Final = frozenset({str, int, bool, NoneType})
_MAY_HOLD_FLOATS: Final = frozenset({float, dict, list})
_EXACT: Final = 2.0**53


def canonical(value: object, *, floats: bool | None = None) -> bytes:
    """The canonical UTF-8 bytes of a JSON value (dict with str keys, list, str, int, float, bool, None).

    ``floats=False`` vouches that the value holds no float; else it is looked for. Raises ``TypeError`` for other types
    and for lone surrogates, ``ValueError`` for NaN and infinities.
    """
    try:
        tame = value if floats is False else _tame(value)
        text = orjson.dumps(tame, option=orjson.OPT_SORT_KEYS)
    except (_WildFloat, TypeError):  # An integer beyond 64 bits is a TypeError; so is what the exact path refuses too.
        return canonical_exact(value)
    if text.isascii() or not _may_sort_differently(text):
        return text
    return canonical_exact(value)


def canonical_exact(value: object) -> bytes:
    """The same, by the letter of the RFC, about thirty times slower."""
    out = bytearray()
    _write(value, out)
    return bytes(out)


class _WildFloat(Exception):
    """A float that orjson writes otherwise than the RFC."""


def _tame(value: object) -> object:
    """``value`` with its floats as orjson must be given them to write what the RFC wants; copied only where it differs.

    Both write the shortest digits that read back the same. They differ in whole numbers (``1.0``), which an integer
    stands for exactly up to 2⁵³, and in where exponents begin.
    """
    if type(value) is float:
        return _tame_float(value)
    places: Iterable[tuple[object, object]]
    if type(value) is dict:
        kinds = {*map(type, value.values())}
        places = value.items()
    elif type(value) is list:
        kinds = {*map(type, value)}
        places = enumerate(value)
    else:
        return value
    if kinds <= _PLAIN:
        return value
    changed = [
        (place, tame) for place, item in places if type(item) in _MAY_HOLD_FLOATS and (tame := _tame(item)) is not item
    ]
    if not changed:
        return value
    copy: Any = value.copy()
    for place, tame in changed:
        copy[place] = tame
    return copy


def _tame_float(value: float) -> float | int:
    size = abs(value)
    if size <= _EXACT and value.is_integer():
        return int(value)  # Also of negative zero, which the RFC writes as 0.
    if 1e-4 <= size < 1e15:
        return value
    raise _WildFloat


def _may_sort_differently(text: bytes) -> bool:
    # UTF-8 begins U+E000-U+FFFF with EE or EF, and everything beyond the BMP with F0 to F4.
    return (b"\xee" in text or b"\xef" in text) and (
        b"\xf0" in text or b"\xf1" in text or b"\xf2" in text or b"\xf3" in text or b"\xf4" in text
    )


def _utf16(key: str) -> bytes:
    return key.encode("utf-16-be")


def _write(value: object, out: bytearray) -> None:
    # Into one buffer: every little result of orjson that is kept holds kilobytes, which made gigabytes of one body.
    kind = type(value)
    if kind is dict:
        assert isinstance(value, dict)  # noqa: S101 - for the type checker
        if not all(type(key) is str for key in value):
            raise TypeError("a key of a JSON object is a str")
        separator = b"{"
        for key in sorted(value, key=_utf16):
            out += separator
            out += orjson.dumps(key)
            out += b":"
            _write(value[key], out)
            separator = b","
        out += b"}" if value else b"{}"
    elif kind is list:
        assert isinstance(value, list)  # noqa: S101 - for the type checker
        separator = b"["
        for item in value:
            out += separator
            _write(item, out)
            separator = b","
        out += b"]" if value else b"[]"
    elif kind is float:
        assert isinstance(value, float)  # noqa: S101 - for the type checker
        out += _number(value)
    elif kind is int:
        out += str(value).encode()
    elif kind in _PLAIN:
        out += orjson.dumps(value)
    else:
        raise TypeError(f"{kind.__name__} is not a JSON type")


def _number(value: float) -> bytes:
    """ECMAScript's Number::toString (ECMA-262, 6.1.6.1.20): the shortest digits, its own choice of exponent."""
    if not isfinite(value):
        raise ValueError("JSON has no NaN and no infinities")
    if value == 0:
        return b"0"  # Also for negative zero.
    text = repr(value)  # The same shortest digits, but an exponent from 1e16 on and below 1e-4.
    if "e" not in text:
        return text.removesuffix(".0").encode()
    mantissa, _, exponent = text.partition("e")
    sign = "-" if mantissa[0] == "-" else ""
    digits = mantissa.lstrip("-").replace(".", "")
    point = int(exponent) + 1  # The decimal point stands after this many digits.
    if len(digits) <= point <= 21:
        return f"{sign}{digits}{'0' * (point - len(digits))}".encode()
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}".encode()
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{point - 1:+d}".encode()
