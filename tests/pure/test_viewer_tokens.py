"""Viewer tokens: what was minted is read back, and nothing else is."""

from __future__ import annotations

import hmac
import json
import warnings
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256, sha512
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch.errors import Unauthorized
from logstitch.viewing.tokens import (
    LEEWAY_SECONDS,
    MAX_LIFE_SECONDS,
    MAX_TOKEN_CHARS,
    Claims,
    Secret,
    Secrets,
    TooLong,
    UnknownSecret,
    has_form,
    mint,
    verify,
)

NOW = 1_795_420_800
KEY = bytes(range(32))
SECRET = Secret(UUID("6b0c1b5e-8a44-4a0e-9a53-0c8a6b1f2d37"), KEY)
SECRETS = Secrets(UUID("0e4f6f7a-93e0-4c55-8f1c-5d8a2b7c9e10"), [SECRET])
CLAIMS = Claims(UUID(int=1), "acme", UUID(int=2), UUID(int=3), NOW, NOW + 3600)
JTI = bytes(16)

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60)


def encoded(value: bytes) -> str:
    return urlsafe_b64encode(value).rstrip(b"=").decode()


def header(**changes: object) -> dict[str, object]:
    """The header of a good token, with changes; ``...`` leaves a member out."""
    return without({"alg": "HS256", "kid": str(SECRET.id), "typ": "JWT"} | changes)


def payload(**changes: object) -> dict[str, object]:
    """The claims of a good token, likewise."""
    claims = {
        "iss": SECRETS.issuer,
        "aud": SECRETS.audience,
        "iat": NOW,
        "exp": NOW + 3600,
        "jti": "j",
        "pid": str(CLAIMS.project_id),
        "tid": "acme",
        "tier": str(CLAIMS.tier_id),
        "kid": str(CLAIMS.key_id),
    }
    return without(claims | changes)


def without(members: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in members.items() if value is not ...}


def forged(
    head: object = None, claims: object = None, *, key: bytes = KEY, hash: Any = sha256, raw: bytes | None = None
) -> str:
    """A token made without the code under test: whoever had the secret could make it."""
    first = encoded(json.dumps(header() if head is None else head).encode())
    second = encoded(json.dumps(payload() if claims is None else claims).encode() if raw is None else raw)
    return f"vt_{first}.{second}.{encoded(hmac.digest(key, f'{first}.{second}'.encode(), hash))}"


def refused(token: str, secrets: Secrets = SECRETS, now: float = NOW) -> str:
    """Why a token is refused; fails if it is not, or otherwise."""
    with pytest.raises(Unauthorized) as error:
        verify(token, secrets, now)
    return error.value.message


# -- what is good --------------------------------------------------------------------------------------------------


@given(
    tenant_id=names,
    tier_id=st.none() | st.uuids(),
    project_id=st.uuids(),
    key_id=st.uuids(),
    life=st.integers(60, MAX_LIFE_SECONDS),
    jti=st.binary(min_size=16, max_size=16),
)
def test_what_was_minted_is_read_back(
    tenant_id: str, tier_id: UUID | None, project_id: UUID, key_id: UUID, life: int, jti: bytes
) -> None:
    claims = Claims(project_id, tenant_id, tier_id, key_id, NOW, NOW + life)

    token = mint(SECRETS, claims, jti)

    assert has_form(token)
    assert verify(token, SECRETS, NOW) == claims
    assert verify(token, SECRETS, NOW + life - 0.001) == claims
    assert refused(token, now=NOW + life) == "The viewer token has expired."


def test_it_is_a_jwt_that_anybody_can_make_who_has_the_secret() -> None:
    assert verify(forged(), SECRETS, NOW) == CLAIMS


def test_no_tier_is_null_or_absent() -> None:
    for absent in (None, ...):
        assert verify(forged(claims=payload(tier=absent)), SECRETS, NOW) == replace(CLAIMS, tier_id=None)


@pytest.mark.parametrize("tenant_id", ["é", "e\u0301", "acme ", " acme", "ACME", "a\tb", "租户", "\U0001f600", "Å"])
def test_a_tenant_is_the_very_same_text(tenant_id: str) -> None:
    assert verify(mint(SECRETS, replace(CLAIMS, tenant_id=tenant_id), JTI), SECRETS, NOW).tenant_id == tenant_id


def test_the_longest_tenant_fits_and_what_is_longer_in_json_is_said_to_be_too_long() -> None:
    longest = replace(CLAIMS, tenant_id="\U0001f600" * 256)

    assert len(mint(SECRETS, longest, JTI)) <= MAX_TOKEN_CHARS
    with pytest.raises(TooLong):
        mint(SECRETS, replace(CLAIMS, tenant_id="\x01" * 256), JTI)


def test_a_clock_that_is_a_little_ahead_is_forgiven() -> None:
    token = mint(SECRETS, CLAIMS, JTI)

    assert verify(token, SECRETS, NOW - LEEWAY_SECONDS) == CLAIMS
    refused(token, now=NOW - LEEWAY_SECONDS - 1)


# -- secrets -------------------------------------------------------------------------------------------------------


def test_a_former_secret_holds_until_its_overlap_ends() -> None:
    token = mint(SECRETS, replace(CLAIMS, expires_at=NOW + MAX_LIFE_SECONDS), JTI)
    new = Secret(UUID(int=9), bytes(32))
    rotated = Secrets(SECRETS.deployment, [new, replace(SECRET, until=NOW + 100.0)])

    assert verify(token, rotated, NOW + 99).tenant_id == "acme"
    refused(token, rotated, NOW + 100)
    assert verify(mint(rotated, CLAIMS, JTI), Secrets(SECRETS.deployment, [new]), NOW) == CLAIMS


def test_a_secret_that_is_not_held_is_told_apart_for_who_may_look_it_up() -> None:
    for secrets in (Secrets(SECRETS.deployment, []), Secrets(SECRETS.deployment, [Secret(UUID(int=9), KEY)])):
        with pytest.raises(UnknownSecret):
            verify(forged(), secrets, NOW)


def test_nothing_is_signed_without_a_secret() -> None:
    with pytest.raises(LookupError):
        mint(Secrets(SECRETS.deployment, [replace(SECRET, until=NOW + 1.0)]), CLAIMS, JTI)


def test_a_secret_is_not_shown() -> None:
    assert KEY.hex() not in repr(SECRETS)
    assert repr(KEY) not in repr(SECRETS)


# -- attacks -------------------------------------------------------------------------------------------------------

OTHER_ALGORITHMS = ["none", "None", "NONE", "nOnE", "", "HS384", "HS512", "RS256", "ES256", "PS256", "EdDSA", "hs256"]


@pytest.mark.parametrize("algorithm", OTHER_ALGORITHMS)
def test_another_algorithm(algorithm: str) -> None:
    refused(forged(header(alg=algorithm)))


@pytest.mark.parametrize("algorithm", [None, ..., 1, True, [], ["HS256"], {"HS256": 1}, "HS256\0"])
def test_an_algorithm_that_is_no_name(algorithm: object) -> None:
    refused(forged(header(alg=algorithm)))


def test_no_signature() -> None:
    first, second, _ = forged(header(alg="none")).split(".")

    for token in (f"{first}.{second}.", f"{first}.{second}", f"{forged().rpartition('.')[0]}."):
        refused(token)


@pytest.mark.parametrize(
    "key", [b"", b"\0" * 32, str(SECRET.id).encode(), KEY + b"\0", KEY[:-1], b"-----BEGIN PUBLIC KEY"]
)
def test_another_key(key: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if key == KEY + b"\0":  # HMAC pads keys with zeros: a longer one of the same value is the same key
            assert verify(forged(key=key), SECRETS, NOW) == CLAIMS
        else:
            refused(forged(key=key))


def test_a_signature_of_another_hash_under_the_same_name() -> None:
    refused(forged(hash=sha512))


@pytest.mark.parametrize("place", ["header", "payload", "signature"])
@given(at=st.integers(0, 10_000), bit=st.integers(0, 5))
def test_no_bit_may_change(place: str, at: int, bit: int) -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    parts = forged()[3:].split(".")
    which = ["header", "payload", "signature"].index(place)
    part = parts[which]
    at %= len(part)
    parts[which] = part[:at] + alphabet[alphabet.index(part[at]) ^ (1 << bit)] + part[at + 1 :]

    refused("vt_" + ".".join(parts))


@pytest.mark.parametrize("name", ["iss", "aud", "iat", "exp", "jti", "pid", "tid", "kid"])
@pytest.mark.parametrize(
    "value", [..., None, True, False, 1.5, float(NOW + 60), "1795420860", "", [], {}, -1, 0, 2**63]
)
def test_claims_that_are_missing_or_of_another_type(name: str, value: object) -> None:
    if isinstance(value, str) and (name == "jti" or (name == "tid" and value)):
        return  # any text will do
    refused(forged(claims=payload(**{name: value})))


@pytest.mark.parametrize(
    "value", [True, 1, 1.5, "", "support", [], {}, str(UUID(int=0xA2)).upper(), UUID(int=2).hex + "a"]
)
def test_a_tier_that_is_no_id(value: object) -> None:
    refused(forged(claims=payload(tier=value)))


@pytest.mark.parametrize(
    "times",
    [
        {"exp": NOW},
        {"exp": NOW - 1},
        {"exp": NOW + 59},
        {"exp": NOW + MAX_LIFE_SECONDS + 1},
        {"exp": 10**15},
        {"exp": 10**400},
        {"iat": NOW + LEEWAY_SECONDS + 1, "exp": NOW + 3600},
        {"iat": NOW - MAX_LIFE_SECONDS, "exp": NOW + 1},
        {"iat": NOW + 10**9, "exp": NOW + 10**9 + 60},
        {"iat": -(10**15)},
        {"nbf": NOW - 1},  # also a claim that is not ours
        {"nbf": NOW + 10**6},
    ],
)
def test_absurd_times(times: Mapping[str, int]) -> None:
    refused(forged(claims=payload(**times)))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "1795424400.0", "1795424400e0", "true"])
@pytest.mark.parametrize("name", ["iat", "exp"])
def test_numbers_that_are_none(name: str, number: str) -> None:
    text = json.dumps(payload(**{name: "@"})).replace('"@"', number)

    refused(forged(raw=text.encode()))


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "logstitch"},
        {"iss": SECRETS.issuer + " "},
        {"iss": [SECRETS.issuer]},
        {"aud": [SECRETS.audience]},
        {"aud": [SECRETS.audience, "other"]},
        {"aud": SECRETS.issuer},
        {"iss": SECRETS.audience},
        {"aud": "*"},
    ],
)
def test_another_audience_or_issuer(claims: Mapping[str, object]) -> None:
    refused(forged(claims=payload(**claims)))


def test_another_deployments_token_though_it_has_the_same_secret() -> None:
    other = Secrets(UUID(int=77), [SECRET])

    refused(mint(other, CLAIMS, JTI))
    assert verify(mint(other, CLAIMS, JTI), other, NOW) == CLAIMS


@pytest.mark.parametrize(
    "head",
    [
        header(kid=...),
        header(kid=None),
        header(kid=1),
        header(kid=[str(SECRET.id)]),
        header(kid=str(SECRET.id).upper()),
        header(kid="../../dev/null"),
        header(kid="' OR 1=1 --"),
        header(typ=...),
        header(crit=["exp"]),
        header(b64=False, crit=["b64"]),
        header(jwk={"kty": "oct", "k": ""}),
        header(jku="http://127.0.0.1/"),
        header(x5u="http://127.0.0.1/"),
        [],
        "HS256",
        None,
        1,
    ],
)
def test_other_headers(head: object) -> None:
    first = encoded(json.dumps(head).encode())
    second = encoded(json.dumps(payload()).encode())
    signature = encoded(hmac.digest(KEY, f"{first}.{second}".encode(), "sha256"))

    refused(f"vt_{first}.{second}.{signature}")


@pytest.mark.parametrize("claims", [[], "x", 1, None, {}, payload(admin=True), payload(tid="x" * 257), payload(tid="")])
def test_other_claims(claims: object) -> None:
    raw = json.dumps(claims).encode()

    refused(forged(raw=raw))


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"\xff\xfe", b"[" * 1400, b'{"a":' * 200, b"\0", json.dumps(payload()).encode("utf-16")]
)
def test_claims_that_are_no_json(raw: bytes) -> None:
    refused(forged(raw=raw))


def test_a_name_given_twice_does_not_get_round_the_checks() -> None:
    text = json.dumps(payload()).replace('"tid":', '"exp": 99999999999, "tid":')

    refused(forged(raw=text.encode()))


GOOD = forged()


@pytest.mark.parametrize(
    "token",
    [
        "",
        "vt_",
        "vt_..",
        GOOD[3:],
        "pk_" + GOOD[3:],
        "VT_" + GOOD[3:],
        "vt_" + GOOD,
        GOOD + "=",
        GOOD + "\n",
        GOOD + ".",
        GOOD + ".x",
        " " + GOOD,
        GOOD.replace(".", ".\n", 1),
        GOOD.replace(".", "..", 1),
        GOOD.replace(".", "+.", 1),
        GOOD.replace(".", "é.", 1),
        "vt_" + "a" * 40,
        "vt_" + "a" * 60_000,
        f"vt_eyJ{'a' * 400}.eyJ{'a' * 1600}.{'a' * 43}",
        f"vt_eyJ.eyJ{'a' * 60_000}.{'a' * 43}",
    ],
)
def test_what_has_not_the_form_is_not_decoded(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logstitch.viewing.tokens._verify", None)

    assert not has_form(token)
    refused(token)


ESCAPED = [ValueError, KeyError, TypeError, RecursionError, OverflowError, UnicodeError, MemoryError]


@pytest.mark.parametrize("error", ESCAPED)
@pytest.mark.parametrize("name", ["decode", "get_unverified_header"])
def test_whatever_the_library_lets_out_is_a_refusal(
    name: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("inside")

    monkeypatch.setattr(f"logstitch.viewing.tokens.jwt.{name}", fail)

    refused(GOOD)


@given(
    st.text(max_size=100) | st.binary(max_size=600).map(lambda data: f"vt_{encoded(data)}.{encoded(data)}.{'A' * 43}")
)
def test_any_text_whatever_is_refused_and_not_repeated(token: str) -> None:
    assert len(refused(token)) < 50


@given(
    st.dictionaries(
        st.sampled_from([*payload(), "nbf", "sub"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just(str(UUID(int=2))),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=5,
        ),
        max_size=4,
    )
)
def test_signed_nonsense_never_gets_further_than_a_refusal(claims: dict[str, object]) -> None:
    """Whatever is signed, the answer is ``Unauthorized``, or what the claims say is exactly what is taken."""
    token = forged(claims=payload() | claims)
    try:
        found = verify(token, SECRETS, NOW)
    except Unauthorized:
        return
    told = payload() | claims
    assert (str(found.project_id), found.tenant_id, str(found.key_id)) == (told["pid"], told["tid"], told["kid"])
    assert (found.issued_at, found.expires_at) == (told["iat"], told["exp"])
    assert 60 <= found.expires_at - found.issued_at <= MAX_LIFE_SECONDS
    assert found.expires_at > NOW
