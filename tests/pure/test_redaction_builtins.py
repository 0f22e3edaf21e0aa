"""What the built-ins take for real, judged by implementations that are not ours."""

from __future__ import annotations

import random
import re
import string
from unicodedata import category

import phonenumbers
import pytest
import stdnum.us.ssn
from hypothesis import given
from hypothesis import strategies as st
from stdnum import luhn as oracle

from logstitch.credentials import mint
from logstitch.redaction.budget import Budget
from logstitch.redaction.builtins import FINDERS, luhn
from logstitch.redaction.folding import fold, fold_char
from logstitch.redaction.scan import DASHES, SPACES, UNCHANGED


def found(slug: str, text: str) -> list[str]:
    data = text.encode()
    return [data[start:end].decode() for start, end in FINDERS[slug](data, Budget(lambda: 0.0))]


@given(st.text("0123456789", min_size=2, max_size=30))
def test_luhn_is_that_of_python_stdnum(digits: str) -> None:
    assert luhn(digits.encode()) == oracle.is_valid(digits)


@given(st.integers(0, 999), st.integers(0, 99), st.integers(0, 9999))
def test_an_ssn_is_what_python_stdnum_takes_for_one(area: int, group: int, serial: int) -> None:
    text = f"{area:03d}-{group:02d}-{serial:04d}"
    # Numbers of famous advertisements are refused by stdnum, but nobody is hurt when they go.
    advertised = text in ("078-05-1120", "457-55-5462", "219-09-9999")
    assert bool(found("ssn", text)) == (stdnum.us.ssn.is_valid(text) or advertised)


def test_every_number_that_phonenumbers_takes_for_american_is_found() -> None:
    rng = random.Random(7)
    spellings = (
        "{}{}{}",
        "{}-{}-{}",
        "({}) {}-{}",
        "{}.{}.{}",
        "+1{}{}{}",
        "+1 {} {} {}",
        "1-{}-{}-{}",
        "+1 ({}) {}-{}",
    )
    valid = wrong = 0
    for area in range(200, 1000):
        for _ in range(6):
            exchange, line = rng.randrange(200, 1000), f"{rng.randrange(10_000):04d}"
            number = phonenumbers.parse(f"+1{area}{exchange}{line}")
            is_us = phonenumbers.is_valid_number(number) and exchange % 100 != 11
            text = rng.choice(spellings).format(area, exchange, line)
            hits = found("phone", f"call {text}, please")
            if is_us:
                valid += 1
                assert hits == [text]
            else:
                wrong += bool(hits)
    print(f"\nphone: {valid} valid numbers found; {wrong} of unassigned area codes, too")
    assert valid > 1000


@pytest.mark.parametrize(
    ("slug", "text"),
    [
        ("credit_card", "41111111111111112"),  # a longer run
        ("credit_card", "4111111111111112"),  # not Luhn
        ("credit_card", "1111111111111117"),  # no issuer
        ("credit_card", "0.4111111111111111"),  # a fraction
        ("credit_card", "4111  1111 1111 1111"),  # two spaces
        ("credit_card", "4111/1111/1111/1111"),
        ("credit_card", "550e8400-e29b-4111-8111-111111111111"),
        ("ssn", "123456789"),
        ("ssn", "1123-45-6789"),
        ("ssn", "123-45-67890"),
        ("phone", "14155552671000"),
        ("phone", "911-555-2671"),
        ("phone", "415-911-2671"),
        ("phone", "055-555-2671"),
        ("ipv4", "1.2.3.256"),
        ("ipv4", "1.2.3.4.5"),
        ("ipv4", "11.2.3"),
        ("ipv4", "1.2.3.4567"),
        ("jwt", "eyJhbGci.eyJzdWIi"),
        ("jwt", "abc.def.ghi"),
        ("bearer_token", "the bearer of bad news"),
        ("bearer_token", "Bearer authentication-scheme is used"),
        ("bearer_token", "bearer Responsibility"),
        ("bearer_token", "task-0123456789abcdefghijk"),
        ("bearer_token", "sk-learn-and-other-things-2024"),
        ("bearer_token", "sk-proj-dashboard-and-settings-2024"),
        ("bearer_token", "sk-Learn-And-Other-Title-Cased-Things-2024"),
        ("bearer_token", "the bearer shares of the company"),
        ("bearer_token", "bearer holdings: none, bearer instruments."),
        ("bearer_token", "bearer: required, bearer=optional-here"),
        ("bearer_token", 'WWW-Authenticate: Bearer realm=example, error_description="expired"'),
        ("bearer_token", "Bearer <access_token> or Bearer ${TOKEN_NUMBER_1}"),
        ("bearer_token", "EAAA" + "b" * 59),  # one character short
        ("bearer_token", "AAAA/EAAA" + "b" * 60),  # a piece of base64
        ("credit_card", "[0.4111111111111111, 1.5]"),
        ("credit_card", "-12.4111111111111111"),
        ("aws_key", "AKIASHORT"),
        ("aws_key", "akiaiosfodnn7example"),
        ("email", "@handle and a@b"),
    ],
)
def test_what_only_looks_like_it_is_left(slug: str, text: str) -> None:
    assert found(slug, text) == []


@pytest.mark.parametrize(
    ("slug", "text", "hits"),
    [
        ("credit_card", "4111 1111 1111 1111 12/25 123", ["4111 1111 1111 1111"]),
        ("credit_card", "1. 4111-1111-1111-1111 2. 378282246310005", ["4111-1111-1111-1111", "378282246310005"]),
        ("credit_card", "card4111111111111111x", ["4111111111111111"]),
        ("credit_card", "12 4111111111111111 34", ["4111111111111111"]),
        ("credit_card", "id=0.4111 1111 1111 1111", ["4111 1111 1111 1111"]),  # nobody groups a fraction
        ("credit_card", "0.4111-1111-1111-1111", ["4111-1111-1111-1111"]),
        ("credit_card", "No.5.4111111111111111", ["4111111111111111"]),
        ("credit_card", "v2.4111111111111111", ["4111111111111111"]),
        ("credit_card", ".4111111111111111", ["4111111111111111"]),
        ("ssn", "123-45-6789-", ["123-45-6789"]),
        ("email", "mailto:ada@example.com?x", ["ada@example.com"]),
        ("email", "<ada@example.com>;'bob@sub.example.org'", ["ada@example.com", "bob@sub.example.org"]),
        ("email", "Zoë: zoë@exämple.de.", ["zoë@exämple.de"]),
        ("ipv4", "10.0.0.1:80,255.255.255.255", ["10.0.0.1", "255.255.255.255"]),
        ("phone", "415-555-2671 415-555-2672", ["415-555-2671", "415-555-2672"]),
        ("jwt", "t=eyJh.eyJi. and eyJh.b.c.d.e", ["eyJh.eyJi.", "eyJh.b.c.d.e"]),
        ("bearer_token", "Authorization: Bearer abc.DEF-123_~+/== x", ["Bearer abc.DEF-123_~+/=="]),
        ("bearer_token", "bearer abcdefghijklmnop", ["bearer abcdefghijklmnop"]),
        ("bearer_token", "BEARER  aBcDeFgHiJkL", ["BEARER  aBcDeFgHiJkL"]),
        ("bearer_token", "bearer sk_live_0123456789abcdef", ["bearer sk_live_0123456789abcdef"]),
        ("bearer_token", "Bearer 12|laravel_sanctum_AbCdEf0123456789", ["Bearer 12|laravel_sanctum_AbCdEf0123456789"]),
        ("bearer_token", "(bearer  110201543:AAHdqTcvCH1vGWJxfSeo)", ["bearer  110201543:AAHdqTcvCH1vGWJxfSeo"]),
        ("bearer_token", "Bearer secret|password, x", ["Bearer secret|password"]),
        ("bearer_token", "Bearer: abc12345; x", ["Bearer: abc12345"]),
        ("bearer_token", "a=Bearer=abc12345&b=Bearer%20abc12345&c", ["Bearer=abc12345", "Bearer%20abc12345"]),
        ("bearer_token", "Bearer 'abc12345' Bearer \\\"abc12345\\\"", ["Bearer 'abc12345", 'Bearer \\"abc12345']),
        ("bearer_token", "ya29.c.b0AXv0zTPQ-x_y.0123456789abcd, x", ["ya29.c.b0AXv0zTPQ-x_y.0123456789abcd"]),
        ("aws_key", "AKIAIOSFODNN7EXAMPLE,ASIAIOSFODNN7EXAMPLE", ["AKIAIOSFODNN7EXAMPLE", "ASIAIOSFODNN7EXAMPLE"]),
    ],
)
def test_what_stands_around_it_stays(slug: str, text: str, hits: list[str]) -> None:
    assert found(slug, text) == hits


def test_a_uuid_holds_no_card_however_well_it_adds_up() -> None:
    body = "411181111111"
    card = body + oracle.calc_check_digit(body)
    assert found("credit_card", f"{card[:4]}-{card[4:8]}-{card[8:]}") != []

    assert found("credit_card", f"550e8400-e29b-{card[:4]}-{card[4:8]}-{card[8:]}abcdef0") == []


_URL64 = string.ascii_letters + string.digits + "-_"


@pytest.mark.parametrize(
    ("front", "lengths", "back"),
    [
        ("sk-proj-", (48, 74, 156), ""),
        ("sk-svcacct-", (74,), ""),
        ("sk-admin-", (58,), ""),
        ("sk-ant-api03-", (93,), "AA"),
        ("sk-ant-admin01-", (93,), "AA"),
        ("sk-", (48,), ""),
        ("glpat-", (20, 27), ".01.0a1b2c3d4"),
        ("glpat-", (27,), ".0a1b2c3d4"),
        ("lin_api_", (0,), "0123456789abcdefghijABCDEFGHIJ0123456789"),
        ("ATATT3xFfGF0", (174,), "=0A1B2C3D"),
        ("EAAA", (60,), ""),
        ("ya29.a0", (60, 180), ".x-1"),
    ],
)
def test_a_key_is_found_whole_whatever_its_body(front: str, lengths: tuple[int, ...], back: str) -> None:
    rng = random.Random(3)
    for length in lengths:
        for _ in range(300):
            key = front + "".join(rng.choices(_URL64, k=length)) + back
            assert found("bearer_token", f"key={key}; x") == [key]


@pytest.mark.parametrize("kind", ["master", "project"])
def test_our_own_keys_are_found(kind: str) -> None:
    secret = mint(kind).secret
    assert found("bearer_token", f"key={secret};") == [secret]


def test_the_ranges_that_are_said_not_to_change_do_not() -> None:
    """On every version of Unicode that a Python brings along: else a scan would overlook what folding uncovers."""

    def characters(ranges: str) -> list[str]:
        pairs = re.findall(r"\\x\{([0-9A-F]+)\}(?:-\\x\{([0-9A-F]+)\})?", ranges)
        return [chr(code) for first, last in pairs for code in range(int(first, 16), int(last or first, 16) + 1)]

    assert [char for char in characters(UNCHANGED) if fold_char(char) != char] == []
    assert {fold_char(char) for char in characters(SPACES)} == {" "}
    assert {fold_char(char) for char in characters(DASHES)} == {"-"}


@given(st.text())
def test_folding_twice_is_folding_once_and_keeps_ascii(text: str) -> None:
    assert fold(fold(text)) == fold(text)
    assert all(fold(char) == char for char in text if " " <= char < "\x7f")
    assert not any(category(char) in ("Mn", "Me", "Cf") for char in fold(text))


@pytest.mark.parametrize("length", [32, 40, 56, 64, 96, 128])
@pytest.mark.parametrize("upper", [False, True])
def test_a_digest_in_hex_holds_no_card(length: int, upper: bool) -> None:
    digest = ("ab" + "4111111111111111" + "bd" * 64)[:length]
    assert found("credit_card", f"tree {digest.upper() if upper else digest} changed") == []


@pytest.mark.parametrize(
    "text",
    [
        "4111-1111-1111-1111-" + "12" * 6,  # digits alone, whatever their number
        "ab" + "4111111111111111" + "bd" * 6,  # 30 characters are no digest
        "x" + "ab" + "4111111111111111" + "bd" * 7,  # nor is what goes on beyond it
        "Ab" + "4111111111111111" + "bd" * 7,  # nor what mixes its letters
    ],
)
def test_what_only_looks_like_a_digest_is_searched(text: str) -> None:
    assert found("credit_card", text) != []
