"""What a reader sees as the same text is matched as the same text, and the original span is what gets replaced.

Folding is done character by character, so that every folded character knows which original one it came from:

* what shows nothing (zero-width and format characters, combining marks, soft hyphens, fillers, control characters but
  white space, and what Unicode has set aside for such) disappears;
* every decimal digit, superscript or circled digit of any script becomes its ASCII digit;
* every space becomes a space, every dash a hyphen;
* what Unicode holds for a compatibility form of ASCII text (full-width letters, mathematical letters, ligatures, Roman
  numerals; NFKC, Unicode Standard Annex #15) becomes that text;
* everything else, ``é`` and ``Ж`` included, stays as it is.

A superscript beside a number may be a mark that belongs to it (``4²``) or one of its digits, so there is a reading that
keeps the two apart.
"""

from __future__ import annotations

import unicodedata
from typing import Final

_SHOWS_NOTHING: Final = frozenset(("Mn", "Me", "Cf", "Cc"))
# Blank in every font, yet letters or symbols by category: Hangul fillers and the empty Braille pattern.
_FILLERS: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800")
_WHITE_SPACE: Final = frozenset("\t\n\r\v\f\x85")
APART: Final = "\x1f"
"""Stands between two digits one of which is a mark; no folded text has it otherwise."""
# A minus sign, one among the modifier letters, and a bullet: symbols by category.
_DASHES: Final = frozenset("\u2212\u02d7\u2043")
# Default_Ignorable_Code_Point (Unicode, DerivedCoreProperties) has these, too, which are not assigned.
_IGNORED: Final = frozenset((0x2065, *range(0xFFF0, 0xFFF9), *range(0xE0000, 0xE1000)))
# Outlined capital letters and digits (Unicode 16), of which older tables know nothing.
_OUTLINED: Final = range(0x1CCD6, 0x1CCFA)
_OUTLINED_TEXT: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
# Zeros of the decimal digits that came with Unicode 15 to 17, likewise.
_ZEROS: Final = (0x10D40, 0x116D0, 0x116DA, 0x11BF0, 0x11DE0, 0x11F50, 0x16130, 0x16D70, 0x1E4F0, 0x1E5F1)
_NEW_DIGITS: Final = {zero + digit: str(digit) for zero in _ZEROS for digit in range(10)}
_MOST_KEPT: Final = 20_000
"""Characters that a table knows: as many as there are in texts of any script but one that tries them all."""


def fold_char(char: str) -> str:
    """What ``char`` is matched as: nothing, itself, or ASCII text."""
    if char < "\x7f" and (char >= " " or char in _WHITE_SPACE):
        return char
    category = unicodedata.category(char)
    if category in _SHOWS_NOTHING and char not in _WHITE_SPACE:
        return ""
    if char in _FILLERS or (code := ord(char)) in _IGNORED:
        return ""
    if code in _OUTLINED:
        return _OUTLINED_TEXT[code - _OUTLINED.start]
    if code in _NEW_DIGITS:
        return _NEW_DIGITS[code]
    if (digit := unicodedata.digit(char, None)) is not None:
        return str(digit)
    if category in ("Zs", "Zl", "Zp"):
        return " "
    if category == "Pd" or char in _DASHES:
        return "-"
    plain = unicodedata.normalize("NFKC", char)
    if plain != char:
        if len(plain) == 1 and (again := fold_char(plain)).isascii():
            return again  # A superscript minus sign becomes a minus sign first.
        plain = "".join(c for c in plain if unicodedata.category(c) not in _SHOWS_NOTHING)
        if plain.isascii():
            return plain
    return char


class _Table(dict[int, str]):
    """Folds a character when it is first met."""

    def __missing__(self, code: int) -> str:
        if len(self) >= _MOST_KEPT:
            self.clear()
        folded = self[code] = fold_char(chr(code))
        return folded


_TABLE: Final = _Table()


def _is_decimal(char: str) -> bool:
    return unicodedata.decimal(char, None) is not None or ord(char) in _NEW_DIGITS


class _Marks(dict[str, bool]):
    """Whether a character that is no decimal digit is matched as one, as superscripts and circled numbers are."""

    def __missing__(self, char: str) -> bool:
        if len(self) >= _MOST_KEPT:
            self.clear()
        folded = _TABLE[ord(char)]
        is_mark = self[char] = any("0" <= c <= "9" for c in folded) and not _is_decimal(char)
        return is_mark


_MARKS: Final = _Marks()


def fold(text: str) -> str:
    """``text`` as it is matched. Takes some 50 ns a character that is not ASCII, so cut what is long."""
    return text.translate(_TABLE)


class View:
    """One reading of a text, as bytes for the matchers, that maps spans of them back to characters of the text."""

    __slots__ = ("_ascii", "_byte", "_char", "_origin", "data")

    def __init__(self, seen: str, origin: list[int] | None = None) -> None:
        self.data = encode(seen)
        self._ascii = len(self.data) == len(seen)
        self._origin = origin
        self._byte = self._char = 0

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The characters of the original that these bytes stand for. Quick when asked for from left to right."""
        if not self._ascii:
            if start < self._byte:
                self._byte = self._char = 0
            first = self._char + len(decode(self.data[self._byte : start]))
            self._byte, self._char = start, first
            start, end = first, first + len(decode(self.data[start:end]))
        if self._origin is None:
            return start, end
        return self._origin[start], self._origin[end - 1] + 1


def views(text: str) -> list[View]:
    """The readings of ``text``: as it is; where that differs, folded; and, where it matters, with its marks set apart.

    All are needed: a rule may name what folding takes away, a number may be written in superscripts, and a footnote
    mark beside a number in disguise must not hide it.
    """
    if text.isascii() and text.isprintable():
        return [View(text)]
    folded = fold(text)
    if folded == text:
        return [View(text)]
    lengths = [len(_TABLE[ord(char)]) for char in text]
    if len(folded) == len(text) and max(lengths) == 1 == min(lengths):
        seen = [View(text), View(folded)]
    else:
        origin = [index for index, length in enumerate(lengths) for _ in range(length)]
        seen = [View(text), View(folded, origin)]
    if (apart := read_apart(text)) is not None:
        seen.append(apart)
    return seen


def read_apart(text: str) -> View | None:
    """``text`` folded, with ``APART`` between a mark and a digit beside it; None where no two stand side by side."""
    if not any(map(_MARKS.__getitem__, set(text))):
        return None
    parts: list[str] = []
    origin: list[int] = []
    last, last_is_mark = "", False
    any_apart = False
    for index, char in enumerate(text):
        if not (folded := _TABLE[ord(char)]):
            continue
        is_mark = _MARKS[char]
        if (is_mark or last_is_mark) and "0" <= last <= "9" and "0" <= folded[0] <= "9":
            parts.append(APART)
            # The mark's, so that a rule that finds it takes no digit of a number.
            origin.append(index if is_mark else origin[-1])
            any_apart = True
        parts.append(folded)
        origin += [index] * len(folded)
        last, last_is_mark = folded[-1], is_mark
    return View("".join(parts), origin) if any_apart else None


def encode(text: str) -> bytes:
    """UTF-8, also for a lone surrogate, which no accepted event holds but which must not stop the engine."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def decode(data: bytes) -> str:
    """The reverse of ``encode``, of a part that begins and ends between characters."""
    return data.decode("utf-8", "surrogatepass")
