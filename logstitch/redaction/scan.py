"""One pass of a linear-time engine over all text at once finds the few texts that need a closer look.

A scan errs only towards the closer look. It runs on JSON as orjson writes it, where a text stands between quotes as it
is, save for escapes and for characters that folding changes; both are themselves suspicions (spaces and dashes, which
plain text is full of, are put into the patterns instead). Patterns of customers are used without their assertions
(``^``, ``\\b``): what is left matches wherever the whole pattern does, in any context. It runs again, for the events
that are suspected, on their single strings.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Final, NamedTuple

import re2

from logstitch.redaction.budget import CALL_UNITS
from logstitch.redaction.builtins import compile_re2, suspicion

MAX_GROUP: Final = 1000
"""Instructions of the customers' patterns that are scanned for together."""

MAX_GROUP_MEMORY: Final = 8 << 20
"""Bytes that the automaton of one group may grow to."""
MIN_GROUP_MEMORY: Final = 768 * 1024
"""What any group needs for an automaton at all."""
MAX_MEMORY: Final = 32 << 20
"""Bytes for all groups together, as far as that leaves each its least."""

# Ranges that neither folding nor NFC changes, alone or behind another character: names of fields are compared in NFC.
# What is not listed is suspected, so a table that is too short only costs time; a test goes through every character.
UNCHANGED: Final = (
    "\\x{A1}-\\x{A7}\\x{A9}\\x{AB}\\x{AC}\\x{AE}\\x{B0}\\x{B1}\\x{B6}\\x{B7}\\x{BB}-\\x{131}\\x{134}-\\x{17E}"
    "\\x{180}-\\x{1C6}\\x{1F4}-\\x{2AF}\\x{386}\\x{388}-\\x{3CE}\\x{400}-\\x{482}\\x{48A}-\\x{52F}\\x{531}-\\x{587}"
    "\\x{5D0}-\\x{5EA}\\x{620}-\\x{64A}\\x{671}-\\x{6D5}\\x{904}-\\x{939}\\x{10A0}-\\x{115E}"
    "\\x{1176}-\\x{11A7}\\x{11C3}-\\x{11FF}\\x{1E00}-\\x{1F70}\\x{1F72}\\x{1F74}\\x{1F76}\\x{1F78}\\x{1F7A}\\x{1F7C}"
    "\\x{1F7E}-\\x{1FBA}\\x{1FBC}\\x{2016}\\x{2018}-\\x{2023}\\x{2030}\\x{2032}\\x{2039}-\\x{203B}\\x{20A9}-\\x{20C0}"
    "\\x{2180}-\\x{2211}\\x{2213}-\\x{2328}\\x{232B}-\\x{23FF}\\x{2500}-\\x{2775}\\x{2793}-\\x{27FF}\\x{3001}-\\x{301B}"
    "\\x{301D}-\\x{3029}\\x{3041}-\\x{3096}\\x{30A1}-\\x{30FF}\\x{3131}-\\x{3163}\\x{3400}-\\x{4DBF}\\x{4E00}-\\x{9FFF}"
    "\\x{AC00}-\\x{D7A3}\\x{FF61}-\\x{FF9D}\\x{FFFD}\\x{1F300}-\\x{1F64F}\\x{1F680}-\\x{1F6FF}\\x{1F900}-\\x{1F9FF}"
    "\\x{20000}-\\x{2A6DF}"
)
SPACES: Final = "\\x{A0}\\x{2000}-\\x{200A}\\x{202F}\\x{3000}"
DASHES: Final = "\\x{2010}-\\x{2015}\\x{2212}\\x{301C}"

# What folding changes, and no built-in minds, since it becomes punctuation that is a part of none (``suspicion`` knows
# where it may be): as it stands between the words of Chinese and Japanese, and three dots.
PUNCTUATION: Final = (
    "\\x{2026}\\x{FF01}\\x{FF02}\\x{FF05}\\x{FF06}-\\x{FF0A}\\x{FF0C}\\x{FF1A}-\\x{FF1F}\\x{FF3B}-\\x{FF3D}\\x{FF40}"
    "\\x{FF5B}-\\x{FF5E}"
)
# Letters without case and flags, which are a part of no match, either, but for those that folding makes something else
# of; and what shows nothing, where it stands behind such a letter or a picture, which part what is around it anyway.
LETTERS: Final = "\\p{Lo}\\p{Mc}\\x{1F1E6}-\\x{1F1FF}\\x{1F7E0}-\\x{1F7EB}\\x{1FA70}-\\x{1FAFF}"
NO_LETTERS: Final = "\\x{AA}\\x{BA}\\x{115F}\\x{1160}\\x{3164}\\x{FC5E}-\\x{FC63}\\x{FE70}-\\x{FE7F}\\x{FFA0}"
PICTURES: Final = (
    "\\x{2190}-\\x{2211}\\x{2213}-\\x{2328}\\x{232B}-\\x{23FF}\\x{2500}-\\x{2775}\\x{2793}-\\x{27FF}"
    "\\x{1F300}-\\x{1F64F}\\x{1F680}-\\x{1F6FF}\\x{1F900}-\\x{1F9FF}"
)
_MARKS: Final = "\\p{Mn}\\x{200C}\\x{200D}"

_ASCII: Final = "\\x00\\t\\n\\r\\x20-\\x7e"  # NUL only separates: in JSON it is escaped
_FOLDED: Final = (
    f"[^{_ASCII}{UNCHANGED}{SPACES}{DASHES}{PUNCTUATION}{LETTERS}{_MARKS}]|[{NO_LETTERS}]"
    f"|[^{LETTERS}{PICTURES}{_MARKS}][{_MARKS}]"
)
_FOLDED_OR_SEPARATOR: Final = f"[^{_ASCII}{UNCHANGED}]"
_CONTROL_ESCAPE: Final = r"\\[ubf]"
_ANY_ESCAPE: Final = r"\\"
# A float that is written with an exponent does not show its digits.
_EXPONENT: Final = r"[0-9]e[+-]?[0-9]+[,}\]]"

_GROUPED: Final = "(?:{})"

_BUILTIN_CHUNK: Final = 1 << 17
_SEPARATOR: Final = b"\x00"


class Scan(NamedTuple):
    """One pattern, and how much text it may be given at once."""

    regex: Any
    limit: int
    """Bytes. A longer text is not scanned but suspected."""
    chunk: int
    """Bytes that are scanned at once."""
    by_end: bool
    """Whether a match lies in one text, save for a character before it; else it may go on beyond where it begins."""

    def suspects(self, texts: Sequence[bytes]) -> Iterator[list[int]]:
        """The indexes of the texts that may match, in order, chunk by chunk; others may have a turn in between."""
        start = size = 0
        for index, text in enumerate(texts):
            length = len(text) + 1
            if size + length > self.chunk and index > start:
                yield from self._in_chunk(texts[start:index], start)
                start, size = index, 0
            size += length
        if start < len(texts):
            yield from self._in_chunk(texts[start:] if start else texts, start)

    def _in_chunk(self, texts: Sequence[bytes], base: int) -> Iterator[list[int]]:
        if len(texts) == 1 and len(texts[0]) > self.limit:
            yield [base]
            return
        data = _SEPARATOR.join(texts)
        match = self.regex.search(data)
        if match is None:
            yield []
            return
        # Where each text starts; the separator before it goes with it, since a match may begin there.
        starts = [0, *accumulate(len(text) + 1 for text in texts)]
        found = []
        looked = len(data)
        while match is not None:
            index = bisect_right(starts, match.end() - 1 if self.by_end else match.start()) - 1
            found.append(base + index)
            if index + 1 >= len(texts):
                break
            # A match that may go on may be looked for up to the end of the chunk, for each text anew.
            looked += len(data) - starts[index + 1]
            if looked > self.limit:
                yield found
                found, looked = [], len(data) - starts[index + 1]
            match = self.regex.search(data, starts[index + 1] - self.by_end)
        yield found


def builtin_scan(slugs: Iterable[str], *, json: bool) -> Scan | None:
    """For the enabled built-ins, in JSON or in single texts; None for none."""
    if json:
        patterns = [suspicion(slug, " " + SPACES, DASHES + "-", PUNCTUATION) for slug in slugs]
        if patterns:
            patterns += [_FOLDED, _CONTROL_ESCAPE, _EXPONENT]
    else:
        patterns = [suspicion(slug) for slug in slugs]
    if not patterns:
        return None
    # Its automaton was seen to stay small whatever the text, so it may be given any.
    return Scan(compile_re2("|".join(patterns), 16 << 20), 1 << 30, _BUILTIN_CHUNK, True)


def pattern_scans(patterns: Sequence[str], keys: Iterable[str] = (), *, json: bool) -> tuple[Scan, ...]:
    """For customers' patterns (already ``without_assertions``), and, in JSON, for the keys that rules on fields look
    for (``paths.key_patterns``)."""
    parts = [_GROUPED.format(pattern) for pattern in patterns]
    if json:
        parts += dict.fromkeys(keys)
        if parts:
            parts = [_FOLDED_OR_SEPARATOR, _ANY_ESCAPE, *([_EXPONENT] if patterns else []), *parts]
    groups: list[list[str]] = []
    size = 0
    for part in parts:
        cost = compile_re2(part).programsize
        if not groups or size + cost > MAX_GROUP:
            groups.append([])
            size = 0
        groups[-1].append(part)
        size += cost
    memory = min(MAX_GROUP_MEMORY, max(MIN_GROUP_MEMORY, MAX_MEMORY // max(1, len(groups))))
    return tuple(_group_scan(group, memory) for group in groups)


def _group_scan(parts: Sequence[str], memory: int) -> Scan:
    regex = compile_re2("|".join(parts), memory)
    limit = CALL_UNITS // regex.programsize
    return Scan(regex, limit, min(limit, 16 * 1024), False)


_GROUP_NAME = re.compile(r"\(\?P?<[^>]*>")


def without_assertions(pattern: str) -> str | None:
    """A pattern that matches, in any context, whatever ``pattern`` matches in one; None where that is not certain.

    ``pattern`` is valid RE2 syntax (github.com/google/re2/wiki/Syntax).
    """
    out: list[str] = []
    i, n = 0, len(pattern)
    while i < n:
        char = pattern[i]
        if char == "\\":
            escape = pattern[i + 1 : i + 2]
            if escape == "Q":  # Ended here, so that it does not go on into what is put behind it.
                end = pattern.find("\\E", i)
                end = n if end < 0 else end
                out.append(pattern[i:end] + "\\E")
                i = end + 2
                continue
            if escape in "pP" and pattern[i + 2 : i + 3] == "{":  # It may have a ^ of its own: \p{^Greek}
                end = pattern.index("}", i) + 1
                out.append(pattern[i:end])
                i = end
                continue
            if escape == "C":  # Any single byte, also half a character.
                return None
            out.append("(?:)" if escape in "bBAz" else char + escape)
            i += 2
        elif char == "[":
            end = _end_of_class(pattern, i)
            out.append(pattern[i:end])
            i = end
        elif char in "^$":
            out.append("(?:)")
            i += 1
        elif char == "(" and (name := _GROUP_NAME.match(pattern, i)):
            out.append("(?:")
            i = name.end()
        else:
            out.append(char)
            i += 1
    stripped = "".join(out)
    try:
        compile_re2(_GROUPED.format(stripped))
    except re2.error:
        return None
    return stripped


def _end_of_class(pattern: str, start: int) -> int:
    i = start + 1
    if pattern.startswith("^", i):
        i += 1
    if pattern.startswith("]", i):
        i += 1
    while i < len(pattern) and pattern[i] != "]":
        if pattern[i] == "\\":
            i += 2
        elif pattern.startswith("[:", i) and (end := pattern.find(":]", i)) > 0:
            i = end + 2
        else:
            i += 1
    return i + 1
