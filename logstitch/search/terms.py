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

No text can make this slow. Normalizing takes time with the square of a run of combining marks, and one character may
become eighteen, all in a single call that keeps every other thread waiting. So text is folded in pieces of 8,192
characters at most, cut after a space or a line where there is one; a mark beyond the 30th in a row begins a new run, as
in the Stream-Safe Text Format (UAX #15, section 13); and beyond the first 262,144 characters of an event's pieces that
hold other characters than ASCII, only the pieces that hold none are searched.

The exact values of the filter columns (facets) are in an inverted index of their own, told apart by their first byte.
They are in the word index as well: folded words begin with no capital of ASCII, so the two never meet there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from hashlib import shake_256
from typing import Any, Final
from unicodedata import normalize

import orjson

MAX_WORD_BYTES: Final = 40
MAX_WORDS: Final = 16_384
MAX_FACET_BYTES: Final = 200
MAX_PIECE: Final = 8192
"""Characters that one call folds."""
MAX_UNICODE: Final = 256 * 1024
"""Characters of an event that are folded by Unicode's rules. ASCII costs next to nothing and has no such limit."""

_SEARCHED: Final = ("action", "category", "tenant_id", "actor", "target", "context", "metadata", "changes")

# One pass: ASCII letters to lower case, everything that is no letter or digit to a space.
_FOLD = bytes(ord(chr(i).lower()) if chr(i).isalnum() and i < 128 else 32 for i in range(256))
_LETTERS_TO_X = bytes(32 if i == 32 else 120 for i in range(256))
_LONG_RUN = b"x" * (MAX_WORD_BYTES + 1)
_STR = {str}
_WORD = re.compile(r"[^\W_]+")
# Whatever may be reordered. The two half-width sound marks are letters, but become combining marks.
_RUN_OF_MARKS = re.compile(r"(?:[^\w\x00-\x7f]|[\uff9e\uff9f]){30}")
_GRAPHEME_JOINER = "\u034f"  # reordered with nothing, part of no word


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


def entries(body: bytes) -> list[bytes]:
    """What the word index has of an event, from its body: its words and its facets, each once."""
    event = orjson.loads(body)
    return words_of(event) + facets(event)


def words_of(event: Mapping[str, object]) -> list[bytes]:
    """The same from the parsed event."""
    return _distinct(_text_of(event), MAX_WORDS)


def query_words(text: str) -> list[bytes]:
    """The distinct words of a ``search`` parameter. Empty when it holds no letter or digit at all."""
    return sorted(_distinct(text, MAX_WORDS))


def matches(body: bytes, wanted: Sequence[bytes]) -> bool:
    """Whether every one of the query's words is a word of the event or the beginning of one."""
    return matches_event(orjson.loads(body), wanted)


def matches_event(event: Mapping[str, object], wanted: Sequence[bytes]) -> bool:
    """The same for the parsed event."""
    text = _text_of(event)
    if len(text) > MAX_PIECE:  # More than one piece, and maybe more words than count.
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


def _text_of(event: Mapping[str, object]) -> str:
    """The searched strings of an event, one a line."""
    texts: list[str] = []
    _gather([event[name] for name in _SEARCHED if name in event], texts)
    return "\n".join(texts)


def _gather(values: Iterable[object], texts: list[str]) -> None:
    for item in values:
        if type(item) is str:
            texts.append(item)
        elif type(item) is dict:
            inner = item.values()
            if {*map(type, inner)} == _STR:  # as in most objects, and then there is nothing to look at one by one
                texts += inner
            else:
                _gather(inner, texts)
        elif type(item) is list:
            _gather(item, texts)


def is_plain(text: str) -> bool:
    """Whether a text is folded in one quick call: short enough, and without long runs of combining marks."""
    return len(text) <= MAX_PIECE and _RUN_OF_MARKS.search(text) is None


def _distinct(text: str, limit: int) -> list[bytes]:
    """The distinct words of a text: all of them, or the first ``limit`` to appear."""
    if len(text) <= MAX_PIECE:
        few = _words_by_line(text)
        if len(few) <= limit:
            return list(set(few))
        return list(dict.fromkeys(_words_of_piece(text)))[:limit]
    found: dict[bytes, None] = {}
    for some in _words_by_piece(text):
        found.update(dict.fromkeys(some))
        if len(found) >= limit:
            return list(found)[:limit]
    return list(found)


def _words_by_line(text: str) -> list[bytes]:
    """The words of a short text, out of order: of an event that is not all ASCII, most lines are."""
    if text.isascii():
        return _words_of_ascii(text.encode().translate(_FOLD))
    lines = text.split("\n")  # nothing composes with it, so each line is folded as if it stood alone
    others = "\n".join([line for line in lines if not line.isascii()])
    plain = "\n".join([line for line in lines if line.isascii()])
    return _words_of_ascii(plain.encode().translate(_FOLD)) + _words_of_piece(others)


def _words_by_piece(text: str) -> Iterator[list[bytes]]:
    if text.isascii():
        folded = text.encode().translate(_FOLD)
        start = 0
        while start < len(folded):
            stop = folded.find(b" ", start + MAX_PIECE)
            stop = len(folded) if stop < 0 else stop
            yield _words_of_ascii(folded[start:stop])
            start = stop
        return
    room, start = MAX_UNICODE, 0
    while start < len(text):
        stop = start + MAX_PIECE
        if stop < len(text):
            # Neither composes with what follows, so cutting there changes nothing.
            stop = 1 + max(text.rfind(" ", start, stop), text.rfind("\n", start, stop)) or stop
        piece = text[start:stop]
        start = stop
        if piece.isascii():
            yield _words_of_ascii(piece.encode().translate(_FOLD))
        elif len(piece) <= room:
            room -= len(piece)
            yield _words_of_piece(piece)
        else:
            room = 0


def _words_of_ascii(folded: bytes) -> list[bytes]:
    found = folded.split()
    if _LONG_RUN in folded.translate(_LETTERS_TO_X):
        found = [_cut(word) for word in found]
    return found


def _words_of_piece(text: str) -> list[bytes]:
    return [_cut(word.encode()) for word in _WORD.findall(_fold_text(text))]


def _fold_text(text: str) -> str:
    if _RUN_OF_MARKS.search(text) is not None:
        text = _RUN_OF_MARKS.sub(r"\g<0>" + _GRAPHEME_JOINER, text)
    # Folding may undo normalization and the other way round, so once more (Unicode, 3.13, definition D146).
    return normalize("NFKC", normalize("NFKC", text).casefold())


def _cut(word: bytes) -> bytes:
    if len(word) <= MAX_WORD_BYTES:
        return word
    return word[:MAX_WORD_BYTES].decode(errors="ignore").encode()
