"""The token of a stream: one secret has one spelling, but for its case; everything else is refused."""

from __future__ import annotations

from hashlib import sha256
from random import Random
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch.streams import token_digest

TOKEN = "3f0e6b1c-8d2a-4c57-9b64-0a1f7e5d2c38"


def test_a_token_is_known_by_the_digest_of_its_canonical_text() -> None:
    assert token_digest(TOKEN) == sha256(TOKEN.encode()).digest()


@given(st.uuids(version=4), st.randoms())
def test_every_uuid_of_version_4_is_one_in_any_letter_case(token: UUID, chance: Random) -> None:
    spelled = "".join(c.upper() if chance.random() < 0.5 else c for c in str(token))

    assert token_digest(spelled) == token_digest(str(token))


@pytest.mark.parametrize("version", [1, 3, 5])
def test_other_versions_are_none(version: int) -> None:
    with pytest.raises(ValueError, match="version 4"):
        token_digest(str(UUID(int=uuid4().int, version=version)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        TOKEN[:-1],
        TOKEN + "0",
        TOKEN + "\n",
        " " + TOKEN,
        TOKEN.replace("-", ""),
        f"{{{TOKEN}}}",
        f"urn:uuid:{TOKEN}",
        TOKEN.replace("-4", "-7"),  # another version
        TOKEN.replace("-9", "-c"),  # another variant
        TOKEN.replace("-9", "-1"),
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        TOKEN.replace("3", "٣"),  # another script's digit
        TOKEN.replace("3f", "３f"),  # full width
        TOKEN.replace("8", "g"),
        TOKEN.replace("f", "\u017f"),
    ],
)
def test_what_is_no_uuid_of_version_4_is_no_token(text: str) -> None:
    with pytest.raises(ValueError, match="Expected a UUID") as refused:
        token_digest(text)
    assert TOKEN[:8] not in str(refused.value)


@given(st.text(max_size=60))
def test_any_text_is_a_token_or_refused(text: str) -> None:
    try:
        digest = token_digest(text)
    except ValueError:
        return
    assert digest == token_digest(str(UUID(text)))
