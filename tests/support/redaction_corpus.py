"""A labelled corpus for redaction, made from a seed: leaks in every disguise, and what looks like leaks and is none.

A leak knows what its text must become, to the character: the secret replaced, what stands around it untouched.
"""

from __future__ import annotations

import hashlib
import random
import string
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from stdnum import luhn

TYPES = ("credit_card", "ssn", "email", "phone", "ipv4", "jwt", "bearer_token", "aws_key")


class Leak(NamedTuple):
    """One secret in one disguise at one position of an event."""

    type: str
    disguise: str
    position: str
    event: dict[str, Any]
    expected: dict[str, Any]


# -- secrets -------------------------------------------------------------------------------------------------------

# Issuers' test numbers are made of these: prefix and length.
CARDS = (
    *(("4", 13), ("4", 16), ("4", 19), ("51", 16), ("55", 16), ("2221", 16), ("2720", 16), ("34", 15), ("37", 15)),
    *(("6011", 16), ("65", 16), ("644", 19), ("300", 14), ("36", 14), ("38", 16), ("3528", 16), ("3589", 16)),
    *(("62", 16), ("62", 19), ("50", 13), ("5018", 16), ("6759", 19), ("2200", 16), ("9792", 16), ("8171", 16)),
)
BASE62 = string.ascii_letters + string.digits
_URL64 = BASE62 + "-_"


def _some(rng: random.Random, alphabet: str, length: int) -> str:
    return "".join(rng.choices(alphabet, k=length))


def card(rng: random.Random) -> str:
    """A card number with a valid check digit, in one of the spellings that people use."""
    prefix, length = rng.choice(CARDS)
    body = prefix + _some(rng, string.digits, length - len(prefix) - 1)
    number = body + luhn.calc_check_digit(body)
    between = rng.choice(("", "", " ", "-"))
    return between.join(number[i : i + 4] for i in range(0, length, 4))


def ssn(rng: random.Random) -> str:
    area = rng.choice([n for n in (1, 899, rng.randrange(1, 900)) if n != 666])
    return f"{area:03d}-{rng.randrange(1, 100):02d}-{rng.randrange(1, 10_000):04d}"


def email(rng: random.Random) -> str:
    local = _some(rng, string.ascii_lowercase, 1) + rng.choice(("", ".b", "+tag", "_x9", "-y"))
    return f"{local}@{rng.choice(('example.com', 'mail.example.co.uk', 'x-y.example.org', 'EXAMPLE.MUSEUM'))}"


def phone(rng: random.Random) -> str:
    area = rng.choice((201, 212, 305, 415, 512, 617, 702, 808, 907, 989))
    exchange, line = rng.randrange(220, 911), rng.randrange(10_000)
    exchange += exchange % 100 == 11
    form = rng.choice(("{}-{}-{}", "({}) {}-{}", "{}.{}.{}", "{}{}{}", "+1 {} {} {}", "+1{}{}{}", "1-{}-{}-{}"))
    return form.format(area, exchange, f"{line:04d}")


def ipv4(rng: random.Random) -> str:
    return ".".join(str(rng.choice((0, 9, 10, 99, 100, 249, 250, 255, rng.randrange(256)))) for _ in range(4))


def jwt(rng: random.Random) -> str:
    return f"eyJ{_some(rng, _URL64, 17)}.eyJ{_some(rng, _URL64, rng.randrange(9, 60))}.{_some(rng, _URL64, 43)}"


_KEYS: tuple[Callable[[random.Random], str], ...] = (
    lambda r: "sk_live_" + _some(r, BASE62, 24),
    lambda r: "rk_test_" + _some(r, BASE62, 40),
    lambda r: "ghp_" + _some(r, BASE62, 36),
    lambda r: "github_pat_" + _some(r, BASE62, 22) + "_" + _some(r, BASE62, 59),
    lambda r: f"xoxb-{r.randrange(10**11, 10**12)}-{r.randrange(10**11, 10**12)}-{_some(r, BASE62, 24)}",
    lambda r: "AIza" + _some(r, BASE62, 35),
    lambda r: "sk-" + _some(r, BASE62, 30) + "T3BlbkFJ" + _some(r, BASE62, 20),
    lambda r: "sk-ant-api03-" + _some(r, BASE62, 80),
    lambda r: "sk-ant-api03-" + _some(r, _URL64, 93) + "AA",
    lambda r: f"sk-{r.choice(('proj', 'svcacct', 'admin'))}-" + _some(r, _URL64, r.choice((48, 74, 156))),
    lambda r: "sk-" + _some(r, _URL64, 48),
    lambda r: (
        f"ya29.{r.choice(('', 'a.', 'c.'))}a0" + _some(r, _URL64, 60) + r.choice(("", "." + _some(r, _URL64, 40)))
    ),
    lambda r: "lin_api_" + _some(r, BASE62, 40),
    lambda r: "ATATT3xFfGF0" + _some(r, _URL64, 174) + "=" + _some(r, "0123456789ABCDEF", 8),
    lambda r: "EAAA" + r.choice("lE") + _some(r, _URL64, 59),
    lambda r: "glpat-" + _some(r, _URL64, 27) + ".01." + _some(r, string.digits + string.ascii_lowercase, 9),
    lambda r: "glpat-" + _some(r, BASE62, 20),
    lambda r: "npm_" + _some(r, BASE62, 36),
    lambda r: "SG." + _some(r, BASE62, 22) + "." + _some(r, BASE62, 43),
    lambda r: "SK" + _some(r, "0123456789abcdef", 32),
    lambda r: "mk_" + _some(r, BASE62, 40),
    lambda r: "pk_" + _some(r, BASE62, 40),
    lambda r: "Bearer " + _some(r, BASE62, 19) + "7",
    lambda r: "bearer " + _some(r, string.digits + "abcdef", 40),
    lambda r: f"Bearer {r.randrange(1, 1000)}|laravel_sanctum_" + _some(r, BASE62, 40),
    lambda r: f"Bearer {r.randrange(10**8, 10**9)}:AA" + _some(r, _URL64, 33),
    lambda r: r.choice(("Bearer: ", "bearer=", "Bearer%20", "Bearer  ")) + _some(r, BASE62, 39) + "7",
    lambda r: "BEARER " + _some(r, BASE62, 12) + "/x+9~_-" + _some(r, BASE62, 12) + "==",
)


def token(rng: random.Random) -> str:
    return rng.choice(_KEYS)(rng)


def aws_key(rng: random.Random) -> str:
    return rng.choice(("AKIA", "ASIA")) + _some(rng, string.ascii_uppercase + "234567", 16)


SECRETS: dict[str, Callable[[random.Random], str]] = {
    "credit_card": card,
    "ssn": ssn,
    "email": email,
    "phone": phone,
    "ipv4": ipv4,
    "jwt": jwt,
    "bearer_token": token,
    "aws_key": aws_key,
}

# -- disguises -----------------------------------------------------------------------------------------------------


def _digits_from(zero: str) -> Callable[[str, random.Random], str]:
    table = {ord("0") + n: ord(zero) + n for n in range(10)}
    return lambda text, _: text.translate(table)


def _between(*marks: str) -> Callable[[str, random.Random], str]:
    """A mark between any two characters: always, where there is one mark, else now and then."""
    if len(marks) == 1:
        return lambda text, _: marks[0].join(text)
    return lambda text, rng: text[0] + "".join(rng.choice(("", *marks)) + char for char in text[1:])


_WIDE = {code: code + 0xFEE0 for code in range(0x21, 0x7F)} | {0x20: 0x3000}
_BOLD = (
    {ord("A") + n: 0x1D400 + n for n in range(26)}
    | {ord("a") + n: 0x1D41A + n for n in range(26)}
    | {ord("0") + n: 0x1D7CE + n for n in range(10)}
)
_SEPARATORS = {ord(" "): "\u00a0", ord("-"): "\u2011"}

DISGUISES: dict[str, Callable[[str, random.Random], str]] = {
    "none": lambda text, _: text,
    "full width": lambda text, _: text.translate(_WIDE),
    "arabic digits": _digits_from("٠"),
    "devanagari digits": _digits_from("०"),
    "mathematical bold": lambda text, _: text.translate(_BOLD),
    "zero-width space": _between("\u200b"),
    "joiners": _between("\u200c", "\u200d", "\u2060"),
    "soft hyphen": _between("\u00ad"),
    "byte order mark": _between("\ufeff"),
    "combining marks": _between("\u0301", "\u20e3", "\ufe0f"),
    "direction marks": _between("\u200e", "\u202e", "\u2066"),
    "control characters": _between("\x01", "\x08", "\x7f", "\x9f"),
    "other separators": lambda text, _: text.translate(_SEPARATORS),
    "wide and zero-width": lambda text, _: "\u200b".join(text.translate(_WIDE)),
}

# -- positions -----------------------------------------------------------------------------------------------------

Place = Callable[[str], dict[str, Any]]
_SURROUNDINGS = (
    ("", ""),
    ("see ", " for it"),
    ("Müller, ", "; done."),
    ('{"secret":"', '"}'),
    ("first line\n", "\nlast line"),
    ("value=", "&next=1"),
    ("C:\\temp\\", " 🙂"),
    ("(", ")"),
)
_PLACES: dict[str, Place] = {
    "actor.name": lambda text: {"actor": {"id": "u", "type": "user", "name": text}},
    "actor.id": lambda text: {"actor": {"id": text, "type": "user"}},
    "target.name": lambda text: {"target": {"id": "t", "type": "doc", "name": text}},
    "context.user_agent": lambda text: {"context": {"user_agent": text}},
    "metadata.note": lambda text: {"metadata": {"note": text, "n": 1}},
    "metadata.a.b.0.1.c": lambda text: {"metadata": {"a": {"b": [[0, {"c": text}]]}}},
    "a key": lambda text: {"metadata": {"by": {text: True}}},
    "changes.0.before": lambda text: {"changes": [{"field": "f", "before": text, "after": None}]},
    "changes.1.after.x": lambda text: {"changes": [{"field": "f"}, {"field": "g", "after": {"x": [text]}}]},
    "changes.0.field": lambda text: {"changes": [{"field": text}]},
}


def leaks(seed: int, rounds: int = 1) -> Iterator[Leak]:
    """Each type in each disguise at each place, in surroundings that take turns."""
    rng = random.Random(seed)
    for number in range(rounds):
        for kind in TYPES:
            for name, disguise in DISGUISES.items():
                for turn, (place, event) in enumerate(_PLACES.items()):
                    secret = disguise(SECRETS[kind](rng), rng)
                    before, after = _SURROUNDINGS[(number + turn) % len(_SURROUNDINGS)]
                    if kind in ("jwt", "bearer_token") and after.startswith("."):
                        after = " " + after
                    yield Leak(
                        kind,
                        name,
                        place,
                        event(before + secret + after),
                        event(f"{before}[REDACTED]{after}"),
                    )


def card_numbers(seed: int, count: int) -> Iterator[int]:
    """Cards as JSON numbers."""
    rng = random.Random(seed)
    for _ in range(count):
        yield int(card(rng).replace(" ", "").replace("-", ""))


class Crowded(NamedTuple):
    """A card with other numbers before and after it."""

    before: str
    card: str
    after: str


def crowded_cards(seed: int, count: int) -> Iterator[Crowded]:
    """Cards that only a space or a dash sets apart from other numbers, which are in groups or not."""
    rng = random.Random(seed)

    def numbers() -> str:
        return rng.choice(" -").join(_number(rng) for _ in range(rng.randrange(3)))

    for _ in range(count):
        before, after = numbers(), numbers()
        yield Crowded(before and before + rng.choice(" -"), card(rng), after and rng.choice(" -") + after)


def _number(rng: random.Random) -> str:
    # Some begin as a card does.
    digits = rng.choice(("", "", "4", "5", "60", "34", "37")) + _some(rng, string.digits, rng.randrange(1, 15))
    size = rng.choice((2, 3, 4, 20, 20))
    return rng.choice(" -").join(digits[i : i + size] for i in range(0, len(digits), size))


# -- what is none --------------------------------------------------------------------------------------------------


def _version(rng: random.Random) -> str:
    numbers = [str(rng.randrange(200)) for _ in range(rng.randrange(2, 5))]
    return rng.choice(("v", "", "release-")) + ".".join(numbers) + rng.choice(("", "-rc.1", "+20240501", "-beta"))


def _time(rng: random.Random) -> str:
    moment = datetime.fromtimestamp(rng.randrange(1_500_000_000, 1_900_000_000), UTC)
    return moment.strftime(
        rng.choice(
            ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S.%f+00:00", "%Y-%m-%d %H:%M:%S", "%Y%m%d%H%M%S", "%Y%m%dT%H%MZ")
        )
    )


def _order(rng: random.Random) -> str:
    digits = _some(rng, string.digits, 12)
    return rng.choice(
        (
            f"ORD-{digits[:8]}",
            f"{digits[:3]}-{digits[3:10]}-{_some(rng, string.digits, 7)}",  # a large shop's order number
            f"INV-2024-{digits[:6]}",
            f"#{digits[:10]}",
            f"PO{digits}",
            f"{digits[:4]}/{digits[4:8]}",
        )
    )


def _phone_like(rng: random.Random) -> str:
    digits = _some(rng, string.digits, 12)
    return rng.choice(
        (
            f"+49 30 {digits[:8]}",
            f"+49 170 {digits[:8]}",
            f"+49170{digits[:8]}",
            f"0{digits[:10]}",
            f"ext. {digits[:4]}",
            f"+44 20 {digits[:4]} {digits[4:8]}",
        )
    )


def _words(rng: random.Random) -> str:
    prose = (
        "the bearer of this ticket asked for a token key change on invoice lines and the basic authentication header "
        "bearer shares bearer holdings: bearer instruments, bearer authentication"
    )
    return " ".join(rng.choices(prose.split(), k=rng.randrange(3, 12)))


_BENIGN: dict[str, Callable[[random.Random], Any]] = {
    "uuid": lambda rng: str(uuid.UUID(int=rng.getrandbits(128), version=4)),
    "snowflake": lambda rng: str(
        (rng.randrange(13 * 10**11, 2 * 10**12) - 1_288_834_974_657) << 22 | rng.getrandbits(22)
    ),
    "snowflake number": lambda rng: (rng.randrange(15 * 10**11, 2 * 10**12) - 1_420_070_400_000) << 22,
    "epoch ms": lambda rng: rng.randrange(1_500_000_000_000, 1_900_000_000_000),
    "epoch text": lambda rng: str(rng.randrange(1_500_000_000_000, 1_900_000_000_000) * rng.choice((1, 1000))),
    "order number": _order,
    "hex digest": lambda rng: rng.choice((hashlib.md5, hashlib.sha1, hashlib.sha256))(rng.randbytes(8)).hexdigest(),
    "version": _version,
    "phone-like id": _phone_like,
    "security identifier": lambda rng: (
        f"S-1-5-21-{rng.getrandbits(32)}-{rng.getrandbits(32)}-{rng.getrandbits(32)}-{rng.randrange(500, 9999)}"
    ),
    "time": _time,
    "float": lambda rng: rng.random() * 10 ** rng.randrange(6),
    "float text": lambda rng: str(rng.random() * 100),
    "base64": lambda rng: _some(rng, BASE62 + "+/", rng.randrange(16, 80)),
    "ulid": lambda rng: _some(rng, "0123456789ABCDEFGHJKMNPQRSTVWXYZ", 26),
    "prose": _words,
    "slug": lambda rng: "-".join(
        rng.choices(
            (
                "task",
                "risk",
                "disk",
                "desk",
                "sk",
                "runner",
                "build",
                "mask",
                "key",
                "stage",
                "eu",
                "west",
                "1",
                "2",
                "99",
            ),
            k=6,
        )
    ),
    "money": lambda rng: f"{rng.randrange(10**6):,}.{rng.randrange(100):02d} EUR",
    "coordinates": lambda rng: f"{rng.uniform(-90, 90):.6f}, {rng.uniform(-180, 180):.6f}",
    "mac": lambda rng: ":".join(f"{rng.randrange(256):02x}" for _ in range(6)),
    "path": lambda rng: f"/v2/{_some(rng, string.ascii_lowercase, 6)}/{rng.randrange(10**9)}?page={rng.randrange(99)}",
}


def benign(seed: int, count: int) -> Iterator[tuple[str, Any]]:
    """Values that real systems carry, with their kind; each kind equally often."""
    rng = random.Random(seed)
    kinds = list(_BENIGN.items())
    for index in range(count):
        name, make = kinds[index % len(kinds)]
        yield name, make(rng)
