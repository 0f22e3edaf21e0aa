"""The one gate through which JSON comes in, from bytes to plain values, strictly.

Parsers are kind where an audit log must not be: they keep the last of two equal keys, take NaN, UTF-16 and lone
surrogates, turn an integer of forty digits into a float, recurse as deep as the sender likes. What passes here came
back as it was sent, and can be stored and read again.

orjson parses, and already refuses what is not RFC 8259 JSON in UTF-8. What it lets pass is found by comparison:
serialize the value again, compactly. If that gives the body byte for byte (a compact client), nothing was dropped or
changed. If not, quotes are counted: the same strings need the same number of quotes, so a body that has more of them
had a key twice, and its first value was dropped. Brackets and long numbers are looked at in passes over the bytes in C;
only where a string may be mistaken for structure is the *skeleton* made, the text without its strings. No step is worse
than linear.
"""

from __future__ import annotations

import gc
import re
from typing import Final

import orjson

from logstitch.errors import InvalidRequest

MAX_DEPTH: Final = 32
"""Nesting that any body may have; deeper is a mistake or an attack, and recursion is what it attacks."""
MAX_INTEGER: Final = 2**63
"""Largest magnitude of an integer."""

# Keeps brackets and quotes, drops the rest, and makes all brackets one kind so that nesting is seen as such.
_BRACKETS = bytes.maketrans(b"[]", b"{}")
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b'{}[]"')
_RUNS = re.compile(rb"({+)(}*)")
_DIGITS_TO_ZERO = bytes(48 if byte in b"0123456789" else 32 for byte in range(256))
_LONG_RUN = b"0" * 19
# A whole integer of 19 digits or more: not the fraction, the exponent or the front of another number.
_LONG_INTEGER = re.compile(rb"(?<![0-9.eE+-])-?([0-9]{19,}+)(?![.eE])")
_MAX_DIGITS = b"%d" % MAX_INTEGER

_LARGE = 64 * 1024
"""Bytes from which on the garbage collector is held while a body is parsed."""


def parse(body: bytes, *, max_depth: int = MAX_DEPTH) -> object:
    """The JSON value of ``body``: dict, list, str, int, float, bool or None.

    Raises ``InvalidRequest``, with a message that says what is wrong and where but repeats nothing of the body, for:
    an empty body, anything but UTF-8 (also with a byte order mark), text that is not JSON, a key twice in one object,
    NaN and infinities (also numbers that overflow a double), integers beyond ±2⁶³, lone surrogates, U+0000, and more
    than ``max_depth`` levels of objects and arrays.
    """
    if len(body) < _LARGE or not gc.isenabled():
        return _parse(body, max_depth)
    # A megabyte of empty arrays is 300,000 objects, none of them garbage, but each 700 of them would make the collector
    # look at them again: half a second instead of 20 ms.
    gc.disable()
    try:
        return _parse(body, max_depth)
    finally:
        gc.enable()


def _parse(body: bytes, max_depth: int) -> object:
    if _is_deeper(body, max_depth):  # Before anything is built of it.
        raise InvalidRequest(_too_deep(max_depth))
    try:
        value: object = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(_what_is_wrong(body, error, max_depth)) from None
    try:
        compact = orjson.dumps(value, option=orjson.OPT_STRICT_INTEGER)
        if compact != body:
            _compare(body, compact)
    except TypeError:  # An integer beyond 2^53, or nesting beyond orjson's own limit of 254.
        try:
            compact = orjson.dumps(value)
        except TypeError:
            raise InvalidRequest(_too_deep(max_depth)) from None
        _compare(body, compact)
    if b"\\" in compact and b"\\u0000" in compact.replace(b"\\\\", b""):
        raise InvalidRequest("The body has the character U+0000 in a string, which cannot be stored.")
    return value


def skeleton(text: bytes) -> bytes:
    """JSON without its strings, quotes included: ``{"a": [1, "b"]}`` leaves ``{: [1, ]}``. ``text`` must be valid."""
    if b"\\" in text:
        # Backslashes pair up from the left of each run, as an escape does; then what is left before a quote escapes it.
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(text.split(b'"')[::2])


def _compare(body: bytes, compact: bytes) -> None:
    """Refuse what parsing has lost: ``compact`` is the body, parsed and serialized again."""
    if compact != body and _quotes(body) != compact.count(b'"'):
        raise InvalidRequest("The body has the same key twice in one object.")
    if _LONG_RUN not in body.translate(_DIGITS_TO_ZERO):
        return
    numbers = _LONG_INTEGER.findall(skeleton(body))
    # Compared as digits: int() of a megabyte of them is quadratic, and refused by newer Pythons.
    if numbers and (max(map(len, numbers)) > len(_MAX_DIGITS) or max(numbers) > _MAX_DIGITS):
        raise InvalidRequest("The body has an integer beyond ±2^63; send it as a string.")


def _quotes(body: bytes) -> int:
    """How many quotes its strings would take, spelled as orjson spells them: ``\\"``, never ``\\u0022``."""
    count = body.count(b'"')
    if b"\\" in body and b"\\u0022" in body:
        # Backslashes pair up from the left of each run, as escapes do; what then stands before a u is an escape of it.
        count += body.replace(b"\\\\", b"").count(b"\\u0022")
    return count


def _is_deeper(text: bytes, max_depth: int) -> bool:
    """Whether JSON is nested deeper than ``max_depth``. Of text that is not JSON it may say either."""
    brackets = text.translate(_BRACKETS, _NOT_BRACKETS).replace(b'""', b"")
    if b'"' in brackets or (b"\\" in text and b'\\"' in text):
        # A string holds brackets or quotes, and would be taken for structure. Strings without either leave only pairs
        # of quotes behind; the first one that holds a bracket leaves a quote.
        brackets = skeleton(text).translate(_BRACKETS, _NOT_BRACKETS)
    height = 0
    while brackets:
        # Each round takes the innermost level off all there is, which is quick as long as that is much.
        left = brackets.replace(b"{}", b"")
        height += 1
        if len(left) > len(brackets) * 7 // 8:
            return height + _highest(left) > max_depth
        brackets = left
    return height > max_depth


def _highest(brackets: bytes) -> int:
    depth = highest = 0
    for opening, closing in _RUNS.findall(brackets):
        depth += len(opening)
        highest = max(highest, depth)
        depth -= len(closing)
    return highest


def _too_deep(max_depth: int) -> str:
    return f"The body is nested more than {max_depth} levels deep."


def _what_is_wrong(body: bytes, error: orjson.JSONDecodeError, max_depth: int) -> str:
    if not body.strip(b" \t\r\n"):
        return "The body is empty; a JSON value is expected."
    if body.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")) or b"\x00" in body[:2]:
        return "The body must be UTF-8 without a byte order mark."
    try:
        body.decode()
    except UnicodeDecodeError as wrong:
        return f"The body is not valid UTF-8 (at byte {wrong.start})."
    if "depth limit" in error.msg:
        return _too_deep(max_depth)
    if "surrogate" in error.msg:
        return f"The body has half of a surrogate pair in a string: line {error.lineno} column {error.colno}."
    # orjson's messages are fixed phrases and hold nothing of the body.
    return f"The body is not valid JSON: {error.msg}: line {error.lineno} column {error.colno}."
