"""An event is found by the words of its values, folded the same way on both sides.

A word is a run of letters and digits of any script; everything else, the underscore included, separates. Words are
compared without case and width: NFKC and case folding, which for ASCII is lower case. The first 40 bytes of a word
count, cut between characters; a query word is cut alike, so a longer one still finds what it names.

Searched are the string values, at any depth, of ``action, category, tenant_id, actor, target, context, metadata`` and
``changes``. Not searched: object keys, numbers, ids and hashes that the service made, times, ``redactions``, and the
idempotency key, which is random and would fill the index with words that nobody looks for.

An event counts with at most its first 16,384 distinct words (in the order just given): far beyond what 32 KiB of
metadata can hold in words of any language, and within the 1 MB that PostgreSQL allows one ``tsvector``. Only an event
with megabytes of ``changes`` can have more.

The inverted index also holds the exact values of the filter columns (facets), told apart by their first byte: an
upper-case tag, where a word's is ``w``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from hashlib import shake_256
from typing import Any, Final
from unicodedata import normalize

import orjson

MAX_WORD_BYTES: Final = 40
MAX_WORDS: Final = 16_384
MAX_FACET_BYTES: Final = 200
WORD_TAG: Final = b"w"

_SEARCHED: Final = ("action", "category", "tenant_id", "actor", "target", "context", "metadata", "changes")

# One pass: ASCII letters to lower case, everything that is no letter or digit to a space.
_FOLD = bytes(ord(chr(i).lower()) if chr(i).isalnum() and i < 128 else 32 for i in range(256))
_LETTERS_TO_X = bytes(32 if i == 32 else 120 for i in range(256))
_LONG_RUN = b"x" * (MAX_WORD_BYTES + 1)
_WORD = re.compile(r"[^\W_]+")


class Facet(Enum):
    """The filters that the inverted index serves, by the tag of their lexemes."""

    ACTION = b"A"
    CATEGORY = b"C"
    ACTOR_ID = b"U"
    ACTOR_TYPE = b"V"
    TARGET_ID = b"G"
    TARGET_TYPE = b"H"
    TENANT_ID = b"T"


def words(body: bytes) -> list[bytes]:
    """The distinct words of an event, UTF-8, in no particular order; ``body`` is its JSON text as answered.

    Also for an event that a tier has taken fields out of: what is not there is not found.
    """
    return words_of(orjson.loads(body))


def words_of(event: Mapping[str, object]) -> list[bytes]:
    """The same from the parsed event."""
    return _distinct(_text_of(event), MAX_WORDS)


def query_words(text: str) -> list[bytes]:
    """The distinct words of a ``search`` parameter. Empty when it holds no letter or digit at all."""
    return sorted(_distinct(text, MAX_WORDS))


def matches(body: bytes, wanted: Sequence[bytes]) -> bool:
    """Whether every one of the query's words is a word of the event or the beginning of one."""
    text = _text_of(orjson.loads(body))
    if len(text) > MAX_WORDS:  # So many characters may be more words than count.
        present = b"\n".join(_distinct(text, MAX_WORDS))
        separator = b"\n"
    elif text.isascii():
        present = text.encode().translate(_FOLD)
        separator = b" "
    else:
        present = "\n".join(_WORD.findall(_fold_text(text))).encode()
        separator = b"\n"
    # A wanted word is 40 bytes at most, so whether the event's words were cut makes no difference here.
    present = separator + present
    return all(separator + word in present for word in wanted)


def facets(event: Mapping[str, Any]) -> list[bytes]:
    """The facet lexemes of an event (validated and redacted, or parsed from its body)."""
    values = [(b"A", event["action"]), (b"C", event["category"]), (b"T", event["tenant_id"])]
    if (actor := event.get("actor")) is not None:
        values += ((b"U", actor["id"]), (b"V", actor["type"]))
    if (target := event.get("target")) is not None:
        values += ((b"G", target["id"]), (b"H", target["type"]))
    # Most values are short and need no call, which would cost more than all the rest.
    texts = [(tag, value.encode()) for tag, value in values]
    return [tag + text if len(text) <= MAX_FACET_BYTES else tag + _shortened(text) for tag, text in texts]


def facet(kind: Facet, value: str) -> bytes:
    """The lexeme of one facet value. Values over 200 bytes are hashed to 202 characters, which no short one has."""
    text = value.encode()
    return kind.value + (text if len(text) <= MAX_FACET_BYTES else _shortened(text))


def _shortened(text: bytes) -> bytes:
    return shake_256(text).hexdigest(101).encode()


def terms(event: Mapping[str, object]) -> list[bytes]:
    """Everything the inverted index holds for an event: its facets, and its words tagged ``w``."""
    return facets(event) + [WORD_TAG + word for word in words_of(event)]


def _text_of(event: Mapping[str, object]) -> str:
    """The searched strings of an event, one a line."""
    texts: list[str] = []
    for name in _SEARCHED:
        if (value := event.get(name)) is not None:
            if type(value) is str:
                texts.append(value)
            elif type(value) is dict:
                _gather(value.values(), texts)
            elif type(value) is list:
                _gather(value, texts)
    return "\n".join(texts)


def _gather(values: Iterable[object], texts: list[str]) -> None:
    for item in values:
        if type(item) is str:
            texts.append(item)
        elif type(item) is dict:
            _gather(item.values(), texts)
        elif type(item) is list:
            _gather(item, texts)


def _distinct(text: str, limit: int) -> list[bytes]:
    """The distinct words of a text: all of them, or the first ``limit`` to appear."""
    found: list[bytes]
    if text.isascii():
        folded = text.encode().translate(_FOLD)
        found = folded.split()
        has_long = _LONG_RUN in folded.translate(_LETTERS_TO_X)
    else:
        found = list(map(str.encode, _WORD.findall(_fold_text(text))))
        has_long = True
    if has_long:
        found = [word if len(word) <= MAX_WORD_BYTES else _cut(word) for word in found]
    if len(found) > limit:
        return list(dict.fromkeys(found))[:limit]
    return list(set(found))


def _fold_text(text: str) -> str:
    # Folding may undo normalization and the other way round, so once more (Unicode, 3.13, definition D146).
    return normalize("NFKC", normalize("NFKC", text).casefold())


def _cut(word: bytes) -> bytes:
    return word[:MAX_WORD_BYTES].decode(errors="ignore").encode()
