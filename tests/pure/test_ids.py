"""Ids grow, have one spelling, and survive the way there and back."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch import ids
from logstitch.ids import (
    IdKind,
    UlidMint,
    as_uuid,
    event_id_text,
    id_text,
    new_request_id,
    parse_event_id,
    parse_id,
    ulid_text,
)
from tests.support.ulids import ulid_ms

NOW = 1_795_420_800_123


def test_a_batch_is_consecutive_and_carries_the_time() -> None:
    ids = UlidMint().mint(100, NOW)
    assert ids == sorted(set(ids))
    assert {ulid_ms(id16) for id16 in ids} == {NOW}


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(NOW - 3, NOW + 3)), min_size=1, max_size=30))
def test_ids_only_grow_whatever_the_clock_does(calls: list[tuple[int, int]]) -> None:
    mint = UlidMint()
    ids = [id16 for n, now_ms in calls for id16 in mint.mint(n, now_ms)]
    assert ids == sorted(set(ids))
    assert all(len(id16) == 16 for id16 in ids)


def test_the_carry_of_an_exhausted_millisecond_goes_into_the_time() -> None:
    mint = UlidMint()
    mint._last = (NOW << 80) + 2**80 - 1
    assert ulid_ms(mint.one(NOW)) == NOW + 1


def test_two_copies_of_a_mint_do_not_make_the_same_ids() -> None:
    mint, copy = UlidMint(), UlidMint()
    copy._last = mint._last = (NOW + 10) << 80  # As after a fork, with a clock that stands still.
    assert not set(mint.mint(50, NOW)) & set(copy.mint(50, NOW))


def test_a_mint_refuses_times_a_ulid_cannot_hold() -> None:
    for now_ms in (-1, 2**48):
        with pytest.raises(ValueError, match="1970"):
            UlidMint().one(now_ms)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0" * 26),
        (1, "0" * 25 + "1"),
        (2**128 - 1, "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"),
        # From the ULID specification's description of the layout: time, then randomness.
        (1469918176385 << 80, "01ARYZ6S41" + "0" * 16),
    ],
)
def test_the_spelling(number: int, text: str) -> None:
    assert ulid_text(number.to_bytes(16, "big")) == text
    assert event_id_text(number.to_bytes(16, "big")) == f"evt_{text}"


@given(st.binary(min_size=16, max_size=16), st.sampled_from(IdKind))
def test_text_reads_back(id16: bytes, kind: IdKind) -> None:
    text = id_text(kind, id16)
    assert len(text) == 30
    assert parse_id(kind, text) == id16
    assert as_uuid(id16) == UUID(bytes=id16)


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_text_sorts_as_the_bytes_do(a: bytes, b: bytes) -> None:
    assert (ulid_text(a) < ulid_text(b)) == (a < b)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "evt_",
        "evt_" + "0" * 25,
        "evt_" + "0" * 27,
        "evt_8" + "0" * 25,
        "evt_01arYZ6S41" + "0" * 16,
        "evt_01ARYZ6S4I" + "0" * 16,
        "evt_01ARYZ6S4O" + "0" * 16,
        "evt_01ARYZ6S4U" + "0" * 16,
        "evt_01ARYZ6S4_" + "0" * 16,
        "evt_01ARYZ6S4٣" + "0" * 16,
        "evt_" + "0" * 26 + "\n",
        "EVT_" + "0" * 26,
        "alr_" + "0" * 26,
        "0" * 26,
    ],
)
def test_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="26 characters"):
        parse_event_id(text)


def test_request_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "_request_ids", UlidMint())  # others may have made later ones
    first, second = new_request_id(NOW), new_request_id(NOW)
    assert first < second
    assert ulid_ms(parse_id(IdKind.REQUEST, first)) == NOW
