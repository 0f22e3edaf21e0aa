"""Secrets that are nowhere else, and a search for them in whatever form they may have been written down.

A canary is looked for as it is, in any letter case, and as UTF-16, hexadecimal and base64, of bytes or of text. Long
ones are also found by a piece: the word index keeps 40 bytes of a word, a log line may be cut.
"""

from __future__ import annotations

import base64
import random
import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import re2

_UPPER = string.ascii_uppercase + string.digits
_MIXED = string.ascii_letters + string.digits
_PIECE = 16
"""Characters by which a long secret is known."""


@dataclass(frozen=True, slots=True)
class Canary:
    """One secret. ``text`` is what a request holds, ``marks`` are what must be found nowhere; ``where`` it was put."""

    kind: str
    text: str
    marks: tuple[str, ...]
    where: str


@dataclass
class Canaries:
    """Makes secrets and remembers them all."""

    rng: random.Random
    all: list[Canary] = field(default_factory=list)

    def remember(self, kind: str, text: str) -> None:
        """A secret that was sent already, and must be found nowhere from the start."""
        self._add(kind, text, (text,), kind)

    def _add(self, kind: str, text: str, marks: Iterable[str], where: str) -> str:
        self.all.append(Canary(kind, text, tuple(marks), where))
        return text

    def _random(self, length: int, alphabet: str = _MIXED) -> str:
        # A digit at least, as every real token has.
        return "".join(self.rng.choices(alphabet, k=length - 2)) + "A" + self.rng.choice(string.digits)

    def card(self, where: str) -> str:
        """A Visa number that passes Luhn."""
        return self._card(where, lambda digits: digits)

    def spaced_card(self, where: str) -> str:
        """The same in groups of four."""
        return self._card(where, lambda digits: " ".join(digits[i : i + 4] for i in range(0, 16, 4)))

    def wide_card(self, where: str) -> str:
        """The same in full-width digits."""
        return self._card(where, lambda digits: "".join(chr(ord(digit) + 0xFEE0) for digit in digits))

    def hidden_card(self, where: str) -> str:
        """The same with zero-width spaces in it."""
        return self._card(where, lambda digits: "\u200b".join(digits))

    def card_number(self, where: str) -> int:
        """The same as a number."""
        return int(self.card(where))

    def _card(self, where: str, spell: Any) -> str:
        front = "4" + "".join(self.rng.choices(string.digits, k=14))
        total = sum(sum(divmod(int(digit) * (2 - i % 2), 10)) for i, digit in enumerate(front))
        digits = front + str(-total % 10)
        spelled = spell(digits)
        return self._add(
            "card", spelled, {digits, spelled, " ".join(digits[i : i + 4] for i in range(0, 16, 4))}, where
        )

    def ssn(self, where: str) -> str:
        """A social security number with valid parts."""
        parts = f"{self.rng.randrange(100, 665)}-{self.rng.randrange(10, 99)}-{self.rng.randrange(1000, 9999)}"
        return self._add("ssn", parts, {parts, parts.replace("-", "")}, where)

    def aws(self, where: str) -> str:
        """An access key id. Its mask leaves the last four."""
        middle = self._random(12, _UPPER)
        return self._add("aws", f"AKIA{middle}{self._random(4, _UPPER)}", {middle}, where)

    def jwt(self, where: str) -> str:
        """Three parts; the payload and the signature are what matters."""
        subject, signature = self._random(24), self._random(43)
        payload = base64.urlsafe_b64encode(f'{{"sub":"{subject}"}}'.encode()).decode().rstrip("=")
        text = f"eyJhbGciOiJIUzI1NiJ9.{payload}.{signature}"
        return self._add("jwt", text, {subject, payload[-_PIECE:], signature[:_PIECE], signature[-_PIECE:]}, where)

    def bearer(self, where: str) -> str:
        """``Bearer`` and a token."""
        token = self._random(40)
        return self._add("bearer", f"Bearer {token}", _pieces(token), where)

    def api_key(self, where: str) -> str:
        """A key in the form of a well-known service's."""
        token = self._random(32)
        return self._add("api key", self.rng.choice(("sk_live_", "ghp_")) + token, _pieces(token), where)

    def word(self, where: str) -> str:
        """What the project's own pattern is about: ``CNRY-`` and 16 hexadecimal digits."""
        digits = "".join(self.rng.choices("0123456789abcdef", k=16))
        return self._add("word", f"CNRY-{digits}", {digits}, where)

    def value(self, where: str) -> str:
        """What only a rule on fields takes: a value like any other."""
        text = "".join(self.rng.choices(string.ascii_lowercase, k=20))
        return self._add("value", f"pass {text}", {text}, where)

    def text(self, where: str) -> str:
        """One of each kind that is found in any text, in a sentence."""
        makers = (self.card, self.ssn, self.aws, self.jwt, self.bearer, self.api_key, self.word, self.wide_card)
        return "; ".join(maker(where) for maker in makers)

    def pick(self, where: str) -> str:
        """One of any kind that is a token: letters, digits, dots and dashes."""
        makers = (self.card, self.ssn, self.aws, self.jwt, self.api_key, self.word)
        return self.rng.choice(makers)(where)


def _pieces(token: str) -> set[str]:
    return {token[:_PIECE], token[-_PIECE:]}


@dataclass(frozen=True, slots=True)
class Finding:
    """A secret that was found where it must not be."""

    canary: Canary
    form: str
    place: str

    def __str__(self) -> str:
        return f"{self.canary.kind} sent in {self.canary.where!r} found as {self.form} in {self.place}"


class Search:
    """Looks for all canaries at once; made when the last of them was sent."""

    def __init__(self, canaries: Iterable[Canary]) -> None:
        self._needles: dict[bytes, tuple[Canary, str]] = {}
        for canary in canaries:
            for mark in canary.marks:
                for form, needle in _forms(mark):
                    self._needles.setdefault(needle.lower(), (canary, form))
        options = re2.Options()
        options.max_mem = 1 << 30
        options.never_capture = True
        options.case_sensitive = False
        options.encoding = re2.Options.Encoding.LATIN1  # type: ignore[attr-defined]
        self._pattern = re2.compile(b"|".join(map(re2.escape, self._needles)), options)

    def find(self, data: bytes, place: str) -> Iterator[Finding]:
        """What is in ``data``; every canary once a form."""
        seen = set()
        for match in self._pattern.finditer(data):
            canary, form = self._needles[match.group().lower()]
            if (canary.text, form) not in seen:
                seen.add((canary.text, form))
                yield Finding(canary, form, place)


def _forms(mark: str) -> Iterator[tuple[str, bytes]]:
    raw = mark.encode()
    yield "text", raw
    yield "UTF-16", mark.encode("utf-16-le")
    yield "UTF-16 BE", mark.encode("utf-16-be")
    yield "hex", raw.hex().encode()
    if not mark.isascii():
        yield "JSON escapes", mark.encode("ascii", "backslashreplace")
        yield "percent escapes", "".join(f"%{byte:02x}" for byte in raw).encode()
    for shift in range(3):
        # Wherever it stands in what was encoded; the characters at either end depend on its neighbours.
        encoded = base64.b64encode(bytes(shift) + raw).rstrip(b"=")
        inner = encoded[(0, 2, 3)[shift] : len(encoded) - 1]
        yield "base64", inner
        yield "base64url", inner.translate(bytes.maketrans(b"+/", b"-_"))
