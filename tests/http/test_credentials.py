"""Keys: how they are made, and how they are read from a header."""

from __future__ import annotations

import re
from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch import credentials
from logstitch.errors import Unauthorized


@pytest.mark.parametrize(("kind", "mark"), [("master", "mk_"), ("project", "pk_")])
def test_a_minted_key_is_read_back(kind: str, mark: str) -> None:
    minted = credentials.mint(kind)

    assert re.fullmatch(mark + "[0-9A-Za-z]{40}", minted.secret)
    assert minted.prefix == minted.secret[:7]
    assert credentials.key_digest(b"Bearer " + minted.secret.encode()) == minted.digest


def test_what_is_not_shown_is_random_enough() -> None:
    assert (3 + credentials.SECRET_CHARS - credentials.PREFIX_CHARS) * log2(62) >= 190


def test_keys_differ() -> None:
    assert len({credentials.mint("project").secret for _ in range(1000)}) == 1000


def test_no_other_kind_is_minted() -> None:
    with pytest.raises(KeyError):
        credentials.mint("viewer")


@pytest.mark.parametrize("missing", [None, b""])
def test_no_header(missing: bytes | None) -> None:
    with pytest.raises(Unauthorized):
        credentials.key_digest(missing)


@given(st.binary(max_size=80))
def test_whatever_else_is_sent_is_refused_in_words_that_do_not_repeat_it(authorization: bytes) -> None:
    with pytest.raises(Unauthorized) as refused:
        credentials.key_digest(b"Bearer " + authorization)
    assert len(refused.value.message) < 80
