"""What the built-ins take for real, judged by implementations that are not ours."""

from __future__ import annotations

import random
import re
import string
import sys
import time
import unicodedata
from unicodedata import category

import orjson
import phonenumbers
import pytest
import re2
import stdnum.us.ssn
from hypothesis import given
from hypothesis import strategies as st
from stdnum import luhn as oracle

from logstitch.credentials import mint
from logstitch.redaction import builtins, folding
from logstitch.redaction.budget import Budget
from logstitch.redaction.builtins import FINDERS, luhn
from logstitch.redaction.engine import redact
from logstitch.redaction.folding import fold, fold_char
from logstitch.redaction.rules import DEFAULT_BUILTINS, compile_rules
from logstitch.redaction.scan import DASHES, LETTERS, NO_LETTERS, PUNCTUATION, SPACES, UNCHANGED, builtin_scan

CARD = "4111111111111111"
BEARER = compile_rules([state for state in DEFAULT_BUILTINS if state.slug == "bearer_token"], (), secret=b"s")


def found(slug: str, text: str) -> list[str]:
    data = text.encode()
    return [data[hit[0] : hit[1]].decode() for hit in FINDERS[slug](data, Budget(lambda: 0.0)) if hit]


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
        ("credit_card", "+49 170 53081718"),
        ("credit_card", "+4917053081718"),
        ("credit_card", "order 630-4000000-0000000"),
        ("credit_card", "S-1-5-21-4111111111-111111-1013"),
        ("credit_card", "-12.4111111111111111"),
        ("aws_key", "AKIASHORT"),
        ("aws_key", "akiaiosfodnn7example"),
        ("email", "@handle and a@b"),
    ],
)
def test_what_only_looks_like_it_is_left(slug: str, text: str) -> None:
    assert found(slug, text) == []


@pytest.mark.parametrize(
    "text",
    [
        "Bearer mysecrettoken",
        "Bearer correct-horse-battery-staple",
        "Bearer ABCDEFGH",
        "Bearer aBcDeFgHiJk",
        "Bearer " + "ab-" * 90 + "S3cret9999",
        "Bearer <abc123def456ghi789",
        "Bearer [abc123def456ghi789",
        "Bearer \u201cabc12345678",
        "Bearer%09abc12345678",
        "Bearer%3A%20abc12345678",
        'Bearer": "abc12345678',
        'Bearer\\": \\"abc12345678',
        "Bearer\x0babc12345678",
        "Bearer\x85abc12345678",
        "Bearer\u2028abc12345678",
        "Bearer\\u0020abc12345678",
        "Bearer\\n\\tabc12345678",
        "Bearer token abc12345678",
        "Bearer token: abc12345678",
        "Bearer access_token=abc12345678",
        'Bearer token": "abc12345678',
    ],
)
def test_a_bearer_token_is_found_however_it_is_written(text: str) -> None:
    for before, after in (("", ""), ('"', '"'), ("a: ", ", b"), ("x\n", "\ny")):
        assert found("bearer_token", before + text + after) == [text]
        event = {"metadata": {"t": before + text + after}}
        assert redact(event, BEARER).event == {"metadata": {"t": f"{before}[REDACTED]{after}"}}


def test_what_follows_authorization_is_a_token_whatever_its_letters() -> None:
    for text in ("Authorization: bearer mysecrettoken x", '{"authorization":"Bearer mysecrettoken"}'):
        assert [token.lower() for token in found("bearer_token", text)] == ["bearer mysecrettoken"]


def test_a_token_with_capitals_amid_its_letters_is_one_in_any_sentence() -> None:
    assert found("bearer_token", "that is bearer aBcDeFgHiJk for you") == ["bearer aBcDeFgHiJk"]


def test_the_word_itself_hides_no_token() -> None:
    assert found("bearer_token", "Bearer:Bearer token: abc12345678") == ["Bearer token: abc12345678"]
    assert found("bearer_token", "bearer please:Bearer abc12345678") == ["bearer please:Bearer", " abc12345678"]


SENTENCES = """
Bearer tokens are required for this endpoint.
The bearer of this document is entitled to enter, subject to verification.
Missing bearer token
Invalid Bearer token; please authenticate again.
Bearer authentication failed: token expired
Bearer authentication
Bearer Instruments
Bearer certificates/securities, see the appendix
type: Bearer
token_type=Bearer&expires_in=3600&scope=read
{"token_type": "Bearer", "expires_in": 3600}
scheme="Bearer" description="something"
{"bearer": "required", "bearerFormat": "opaque"}
bearerAuth: {type: http, scheme: bearer, bearerFormat: opaque}
Authorization: Bearer <your-access-token>
Authorization: Bearer [token]
Authorization: Bearer $ACCESS_TOKEN
Authorization: Bearer YOUR_ACCESS_TOKEN
WWW-Authenticate: Bearer error=invalid_token
WWW-Authenticate: Bearer resource_metadata="https://api.example.com/.well-known/oauth-protected-resource"
{"www-authenticate": "Bearer authorization_uri=\\"https://login.example.com\\""}
Flag Bearer ceremony: photographs by the stage
Standard bearer competition; ring-bearer fellowship
Bearer token rotation
Bearer bonds held by the depositary
BEARER SECURITIES
Send the Bearer credential, please
"""


@pytest.mark.parametrize("sentence", SENTENCES.strip().splitlines())
def test_what_is_said_of_bearers_is_left(sentence: str) -> None:
    assert found("bearer_token", sentence) == []


@given(st.lists(st.sampled_from(("ab", "Ab", "AB", "-", ".", "=", "bearer", ":", " ", "+")), max_size=400))
def test_what_may_be_a_token_is_looked_at_in_little_time(parts: list[str]) -> None:
    began = time.thread_time()

    found("bearer_token", "Bearer " + "ab-" * 200 + "".join(parts) + "AB")

    assert time.thread_time() - began < 0.1


@pytest.mark.parametrize(
    ("slug", "text", "hits"),
    [
        ("credit_card", "4111 1111 1111 1111 12/25 123", ["4111 1111 1111 1111"]),
        ("credit_card", "1. 4111-1111-1111-1111 2. 378282246310005", ["4111-1111-1111-1111", "378282246310005"]),
        ("credit_card", "card4111111111111111x", ["4111111111111111"]),
        ("credit_card", "12 4111111111111111 34", ["4111111111111111"]),
        ("credit_card", "499178093797 4111 1111 1111 1111", ["499178093797 4111 1111 1111 1111"]),
        ("credit_card", "order 40180 4111 1111 1111 1111", ["40180 4111 1111 1111 1111"]),
        ("credit_card", "ref 490020884 6011-0009-9013-9424.", ["490020884 6011-0009-9013-9424"]),
        ("credit_card", "4111111111111111 1 378282246310005", ["4111111111111111", "378282246310005"]),
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


@pytest.mark.parametrize(
    ("front", "alphabet", "length"),
    [
        ("xoxc-1234567890-", "0123456789abcdef", 32),
        ("xoxd-", string.ascii_letters + string.digits, 40),
        ("hvs.CAESI", _URL64, 90),
        ("hvb.", _URL64, 90),
        ("dckr_pat_", _URL64, 27),
        ("gsk_", string.ascii_letters + string.digits, 52),
        ("rubygems_", "0123456789abcdef", 48),
        ("sntrys_eyJpYXQiOjE2ODc", string.ascii_letters + string.digits + "_", 90),
        ("sntryu_", "0123456789abcdef", 64),
        ("dckr_oat_", _URL64, 40),
        ("glc_eyJvIjoi", string.ascii_letters + string.digits, 100),
        ("xai-", string.ascii_letters + string.digits, 80),
        ("pplx-", string.ascii_letters + string.digits, 48),
        ("r8_", string.ascii_letters + string.digits, 37),
        ("ntn_", string.ascii_letters + string.digits, 46),
        ("figd_", _URL64, 40),
        ("NRAK-", string.ascii_uppercase + string.digits, 27),
        ("PMAK-0123456789abcdef01234567-", "0123456789abcdef", 34),
        ("sbp_", "0123456789abcdef", 40),
        ("pul-", "0123456789abcdef", 40),
        ("HRKU-AA", _URL64, 58),
        ("AGE-SECRET-KEY-1", string.ascii_uppercase + string.digits, 58),
    ],
)
def test_other_keys_are_found_whole(front: str, alphabet: str, length: int) -> None:
    rng = random.Random(4)
    for _ in range(100):
        key = front + "".join(rng.choices(alphabet, k=length))
        assert found("bearer_token", f"key={key}; x") == [key]
        assert redact({"metadata": {"t": f"x {key}, y"}}, BEARER).event == {"metadata": {"t": "x [REDACTED], y"}}


@pytest.mark.parametrize(("front", "length"), [("1800", 15), ("2131", 15), ("8600", 16), ("9860", 16)])
def test_cards_of_small_networks_are_found(front: str, length: int) -> None:
    body = (front + "12345678901")[: length - 1]
    assert found("credit_card", f"x{body}{oracle.calc_check_digit(body)}") == [body + oracle.calc_check_digit(body)]


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("⁴¹¹¹⁻¹¹¹¹", "4111-1111"),
        ("₄₁₁₁₋₁₁₁₁", "4111-1111"),
        ("123\u02d745\u20436789", "123-45-6789"),
        ("4\u20651\ufff01\U000e00801\U000e0fff", "4111"),
        ("\U0001ccf4\U0001ccf0\U0001ccf9\U0001ccd6\U0001ccef", "409AZ"),
    ],
)
def test_what_looks_like_it_is_read_as_it(text: str, seen: str) -> None:
    assert fold(text) == seen


@given(st.text(st.characters(min_codepoint=0x80), min_size=1))
def test_tables_of_characters_forget_and_read_the_same(text: str) -> None:
    before = [fold_char(char) for char in text]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folding, "_MOST_KEPT", 3)
        folding._TABLE.clear()
        assert fold(text) == "".join(before)
        assert len(folding._TABLE) <= 3


@pytest.mark.parametrize("kind", ["master", "project"])
def test_our_own_keys_are_found(kind: str) -> None:
    secret = mint(kind).secret
    assert found("bearer_token", f"key={secret};") == [secret]


def test_the_ranges_that_are_said_not_to_change_do_not() -> None:
    """On every version of Unicode that a Python brings along: else a scan would overlook what folding uncovers."""

    def characters(ranges: str) -> list[str]:
        pairs = re.findall(r"\\x\{([0-9A-F]+)\}(?:-\\x\{([0-9A-F]+)\})?", ranges)
        return [chr(code) for first, last in pairs for code in range(int(first, 16), int(last or first, 16) + 1)]

    unchanged = characters(UNCHANGED)
    assert [char for char in unchanged if fold_char(char) != char] == []
    # Names are compared in NFC: what it changes, alone or by joining it to what stands before it, is not left alone.
    pairs = (unicodedata.decomposition(chr(code)).split() for code in range(sys.maxunicode + 1))
    joining = {chr(int(pair[1], 16)) for pair in pairs if len(pair) == 2 and not pair[0].startswith("<")}
    joining |= {*map(chr, (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)))}  # by rule (Unicode, 3.12)
    assert [char for char in unchanged if char in joining or unicodedata.normalize("NFC", char) != char] == []
    assert {fold_char(char) for char in characters(SPACES)} == {" "}
    assert {fold_char(char) for char in characters(DASHES)} == {"-"}
    # Single dots, and these signs, may be a part of what is found.
    assert not {fold_char(char) for char in characters(PUNCTUATION)} & set(". @+-/_0123456789abcdef")
    assert all(re.fullmatch(r"[!-/:-@[-`{-~]+", fold_char(char)) for char in characters(PUNCTUATION))
    letters, others = (re2.compile(f"[{ranges}]") for ranges in (LETTERS, NO_LETTERS))
    every = (chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000)
    assert [c for c in every if fold_char(c) != c and letters.search(c) and not others.search(c)] == []


@pytest.mark.parametrize(
    "text",
    [
        "登录失败，请重试！（错误 42）：超时…",
        "ログインに失敗しました。再試行しますか？～終わり",
        "हिन्दी में लिखा हुआ संदेश",
        "ข้อความภาษาไทยที่ยาวกว่านี้",
        "می‌خواهم وارد شوم",
        "done ❤️ 👨‍👩‍👧 🇩🇪 ✔️",
    ],
)
def test_text_of_other_scripts_needs_no_closer_look(text: str) -> None:
    scan = builtin_scan(FINDERS, json=True)
    assert scan is not None
    assert fold(text) != text
    assert list(scan.suspects([orjson.dumps({"name": text})])) == [[]]


@pytest.mark.parametrize(
    "text",
    [
        "4111❤\ufe0f1111\ufe0f11111111",
        "4111111\u0301111111111",
        "Bearer abcdefg…1",
        "Bearer：abcdefgh1",
        "eyJhbGci.eyJzdWIi…",
        "ya29.abcdefg…abcdefghij1",
        "(212）555-0123",
        "AKIAIOSF\u200dODNN7EXAMPLE",
    ],
)
def test_what_hides_something_gets_one(text: str) -> None:
    scan = builtin_scan(FINDERS, json=True)
    assert scan is not None
    assert list(scan.suspects([orjson.dumps({"name": text})])) == [[0]]


@pytest.mark.parametrize("zero", [0x10D40, 0x11F50, 0x16130, 0x1E4F0, 0x1E5F1], ids=hex)
def test_digits_that_came_with_newer_versions_of_unicode_are_digits(zero: int) -> None:
    card = "".join(chr(zero + int(digit)) for digit in "4111111111111111")
    assert fold(card) == "4111111111111111"


@given(
    st.lists(st.sampled_from((CARD, "4111 1111 1111 1111", "0", "17", "4242", "- ", "x")), max_size=30).map(" ".join)
)
def test_a_run_of_digits_is_looked_at_in_pieces_as_at_once(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        at_once = found("credit_card", text)
        patch.setattr(builtins, "_PIECE", 5)
        assert found("credit_card", text) == at_once


PEOPLE = ("219-09-9999", "664-15-8581", "212-555-0123", "212 555 0123", "(212) 555-0123", "+1 212.555.0123")
CARDS = ("4###############", "6011############", "4### #### #### ####", "5[1-5]## #### #### ####", "37## ###### #####")


@pytest.mark.parametrize("person", PEOPLE)
@pytest.mark.parametrize("card", CARDS)
def test_a_number_of_a_person_beside_a_card_is_taken_whole_or_left_whole(person: str, card: str) -> None:
    """Some of its digits make a longer card of the one before it, or of themselves and a part of that."""
    rng = random.Random(f"{person}{card}")
    for _ in range(150):
        digits = "".join(str(rng.randrange(10)) if sign == "#" else sign for sign in card.replace("[1-5]", "3"))
        numbers = (f"{digits[:-1]}{check}" for check in range(10))
        number = next(number for number in numbers if oracle.is_valid(number.replace(" ", "")))
        for text in (f"{number} {person}", f"{person} {number}", f"{number}-{person}"):
            left = text
            for cut in found("credit_card", text):
                left = left.replace(cut, "*", 1)
            assert number not in left
            assert person in left or not any(part in left for part in re.findall("[0-9]{3,}", person)), text


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
