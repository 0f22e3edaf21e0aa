"""Error bodies name what is wrong, and repeat no secret in doing so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch.errors import Detail, InvalidRequest
from logstitch.http import examples
from logstitch.http.errors import presentable, reply_to
from logstitch.model import MAX_DETAILS
from tests.support.client import Client

SECRETS = {
    "card": "4111111111111111",
    "spaced card": "4111 1111 1111 1111",
    "full-width card": "４１１１１１１１１１１１１１１１",
    "ssn": "123-45-6789",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    "bearer": "Bearer abcdef0123456789",
    "api key": "sk_live_abcdefABCDEF01",
    "aws": "AKIAIOSFODNN7EXAMPLE",
    "email": "ada@example.com",
    "a project's own number": "ACCT-20261123",
    "a project's own code": "EMP-QWERTY",
    "a sentence": "ada, of the third floor",
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
async def test_an_unknown_field_that_is_a_secret_is_not_repeated(secret: str, producer: Client) -> None:
    answer = await producer.post("/api/v1/events", [examples.SMALL_EVENT_IN, {**examples.SMALL_EVENT_IN, secret: 1}])

    assert answer.status == 400
    assert answer.details == {"1.[REDACTED]": "Unknown field"}


@pytest.mark.parametrize("secret", ["4111111111111111", "AKIAIOSFODNN7EXAMPLE", "EMP-QWERTY"])
async def test_nor_is_a_parameter(secret: str, producer: Client) -> None:
    answer = await producer.get(f"/api/v1/events?{secret}=1")

    assert list(answer.details) == ["[REDACTED]"]


@pytest.mark.parametrize(
    "field", ["2.actor.id", "99.changes.12.before", "rules.0.fields.31", "fullName2", "größe", "X-Project-Id", ""]
)
def test_what_is_no_secret_is_named_as_it_was_sent(field: str) -> None:
    assert list(presentable([Detail(field, "Unknown field")])) == [Detail(field, "Unknown field")]


def test_a_message_repeats_none_either() -> None:
    (shown,) = presentable([Detail("pattern", "missing ): (4111111111111111")])

    assert shown.message == "missing ): ([REDACTED]"


@given(st.lists(st.tuples(st.text(), st.sampled_from(["Required", "Unknown field"])), max_size=MAX_DETAILS))
def test_there_are_as_many_as_before_in_their_order(pairs: list[tuple[str, str]]) -> None:
    shown = presentable([Detail(*pair) for pair in pairs])

    assert [detail.message for detail in shown] == [message for _, message in pairs]


def test_no_secret_in_the_body() -> None:
    reply = reply_to(InvalidRequest.on(f"a.{SECRETS['card']}.b", "Unknown field"), examples.REQUEST_ID)

    assert SECRETS["card"].encode() not in reply.body
    assert b'"a.[REDACTED].b"' in reply.body
