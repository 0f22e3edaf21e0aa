"""Signatures, held against two verifiers that other people wrote."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import pytest
import standardwebhooks
import svix
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import WebhookVerificationError as StandardRefusal
from svix.webhooks import WebhookVerificationError as SvixRefusal

from logstitch.webhooks.signing import SECRET_BYTES, new_secret, secret_text, signed_headers

ID = "dlv_01KARHK7T0C8Q2M4V6X9Z1B3D5"
BODY = '{"type":"alert.triggered","data":{"group_key":"żółć 🦊"}}'.encode()
REFUSED = (StandardRefusal, SvixRefusal)


class Verifier(Protocol):
    def verify(self, data: bytes, headers: dict[str, str]) -> Any: ...


def verifiers(secret: bytes) -> list[Verifier]:
    text = secret_text(secret)
    return [standardwebhooks.Webhook(text), svix.Webhook(text)]


def now() -> int:
    return int(datetime.now(UTC).timestamp())


def verify(verifier: Verifier, body: bytes, headers: dict[str, str]) -> None:
    verifier.verify(body, dict(headers))


def test_a_new_secret_is_as_the_specification_wants_it() -> None:
    secret, other = new_secret(), new_secret()

    assert secret != other
    assert 24 <= len(secret) == SECRET_BYTES <= 64
    assert base64.b64decode(secret_text(secret).removeprefix("whsec_"), validate=True) == secret


def test_the_example_of_the_specification() -> None:
    # From its reference libraries: secret, id, timestamp and body, and the signature that they must give.
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

    headers = signed_headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', [secret])

    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@given(secret=st.binary(min_size=24, max_size=64), body=st.text(max_size=200))
def test_others_verify_it(secret: bytes, body: str) -> None:
    data = b'{"x": "' + base64.b64encode(body.encode("utf-8", "surrogatepass")) + b'"}'
    headers = signed_headers(ID, now(), data, [secret])

    for verifier in verifiers(secret):
        verify(verifier, data, headers)


def test_with_two_secrets_either_of_them_verifies_it() -> None:
    new, former, stranger = new_secret(), new_secret(), new_secret()
    headers = signed_headers(ID, now(), BODY, [new, former])

    assert len(headers["webhook-signature"].split(" ")) == 2
    for verifier in [*verifiers(new), *verifiers(former)]:
        verify(verifier, BODY, headers)
    for verifier in verifiers(stranger):
        with pytest.raises(REFUSED):
            verify(verifier, BODY, headers)


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (BODY.replace(b"triggered", b"resolved."), {}),
        (BODY + b" ", {}),
        (BODY, {"webhook-id": "dlv_01KARHK7T0C8Q2M4V6X9Z1B3D6"}),
        (BODY, {"webhook-timestamp": "{later}"}),
        (BODY, {"webhook-signature": "v1," + base64.b64encode(bytes(32)).decode()}),
    ],
    ids=["body", "length", "id", "timestamp", "signature"],
)
def test_what_was_tampered_with_is_refused(body: bytes, changed: dict[str, str]) -> None:
    secret = new_secret()
    sent_at = now()
    other = {name: value.format(later=sent_at + 1) for name, value in changed.items()}
    headers = signed_headers(ID, sent_at, BODY, [secret]) | other

    for verifier in verifiers(secret):
        with pytest.raises(REFUSED):
            verify(verifier, body, headers)


@pytest.mark.parametrize("age", [timedelta(minutes=-6), timedelta(minutes=6)])
def test_a_message_of_another_time_is_refused(age: timedelta) -> None:
    secret = new_secret()
    headers = signed_headers(ID, now() - int(age.total_seconds()), BODY, [secret])

    for verifier in verifiers(secret):
        with pytest.raises(REFUSED):
            verify(verifier, BODY, headers)
