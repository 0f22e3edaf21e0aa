"""Idempotency: the same key with the same body is one event, with another body it is a conflict."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from logstitch.errors import Conflict
from logstitch.recording.admission import (
    Admission,
    Claim,
    FromStream,
    Known,
    admit,
    digest_from_stream,
    from_stream,
)

KEY = bytes(16)


def claim(key: bytes | None = None, body: bytes = b"a") -> Claim:
    return Claim(os.urandom(16), key, body)


def test_events_without_keys_are_all_new() -> None:
    claims = [claim(), claim(), claim()]
    decision = admit(claims, {}, batch=True)
    assert decision == Admission(tuple(c.id for c in claims), (0, 1, 2), {})


def test_a_replay_gets_the_first_id_and_stores_nothing() -> None:
    first = claim(KEY)
    decision = admit([claim(KEY)], {KEY: Known(first.id, b"a")}, batch=False)
    assert decision == Admission((first.id,), (), {})
    assert isinstance(decision, Admission)
    assert decision.replays == 1


def test_another_body_under_a_known_key_refuses_the_batch_and_names_the_item() -> None:
    decision = admit([claim(), claim(KEY, b"b")], {KEY: Known(os.urandom(16), b"a")}, batch=True)
    assert isinstance(decision, Conflict)
    assert [detail.field for detail in decision.details] == ["1.idempotency_key"]


def test_a_single_event_is_named_without_an_index() -> None:
    decision = admit([claim(KEY, b"b")], {KEY: Known(os.urandom(16), b"a")}, batch=False)
    assert isinstance(decision, Conflict)
    assert [detail.field for detail in decision.details] == ["idempotency_key"]


def test_twins_in_one_batch_are_one_event() -> None:
    twins = [claim(KEY), claim(KEY)]
    decision = admit(twins, {}, batch=True)
    assert decision == Admission((twins[0].id, twins[0].id), (0,), {KEY: Known(twins[0].id, b"a")})


def test_unequal_twins_in_one_batch_are_a_conflict() -> None:
    decision = admit([claim(KEY, b"a"), claim(KEY, b"b")], {}, batch=True)
    assert isinstance(decision, Conflict)
    assert [detail.field for detail in decision.details] == ["1.idempotency_key"]


claims = st.lists(
    st.builds(
        lambda key, body: claim(None if key is None else bytes([key]) * 16, body),
        st.none() | st.integers(0, 3),
        st.sampled_from([b"a", b"b"]),
    ),
    max_size=6,
)


@given(st.lists(claims, max_size=5))
def test_over_any_batches_a_key_stands_for_one_event_and_one_body(batches: list[list[Claim]]) -> None:
    known: dict[bytes, Known] = {}
    stored: dict[bytes, Claim] = {}
    for batch in batches:
        before = dict(known)
        decision = admit(batch, known, batch=True)
        assert known == before, "the caller adds what was admitted; a refusal must leave no trace"
        if isinstance(decision, Conflict):
            continue
        known |= decision.keys
        for position in decision.fresh:
            stored[batch[position].id] = batch[position]
        for given_claim, event_id in zip(batch, decision.ids, strict=True):
            if given_claim.key_hash is None:
                assert event_id == given_claim.id
            else:
                kept = stored[event_id]
                assert (kept.key_hash, kept.digest) == (given_claim.key_hash, given_claim.digest)
    keys = [kept.key_hash for kept in stored.values() if kept.key_hash is not None]
    assert len(keys) == len(set(keys))


@given(st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))
def test_a_digest_from_a_stream_says_so(stream_no: int, digest: bytes) -> None:
    assert from_stream(digest_from_stream(stream_no, digest)) == FromStream(stream_no, digest)
    assert from_stream(digest) is None
    assert from_stream(b"\x02" + digest_from_stream(stream_no, digest)[1:]) is None


@given(st.booleans(), st.sampled_from([b"a" * 32, b"", digest_from_stream(8, bytes(32))]))
def test_what_comes_by_a_claim_is_left_out_where_the_key_is_there_whatever_it_is(batch: bool, known: bytes) -> None:
    first = os.urandom(16)
    decision = admit([claim(KEY, digest_from_stream(7, bytes(32)))], {KEY: Known(first, known)}, batch=batch)
    assert decision == Admission((first,), (), {})


def test_under_the_key_of_a_claimed_event_only_what_is_proven_equal_is_a_replay() -> None:
    claimed = Known(os.urandom(16), digest_from_stream(7, b"d" * 32))
    sent = [claim(), claim(KEY, b"x" * 32)]

    same = admit(sent, {KEY: claimed}, batch=True, resent=lambda at, one: (at, one) == (1, FromStream(7, b"d" * 32)))
    assert isinstance(same, Admission)
    assert same.ids == (sent[0].id, claimed.id)

    for another in (
        admit(sent, {KEY: claimed}, batch=True, resent=lambda at, one: False),
        admit(sent, {KEY: claimed}, batch=True),
    ):
        assert isinstance(another, Conflict)
        assert [detail.field for detail in another.details] == ["1.idempotency_key"]


@given(st.sampled_from([b"", b"a"]), st.sampled_from([b"", b"a"]))
def test_where_nobody_knows_what_was_sent_nothing_is_equal(known: bytes, coming: bytes) -> None:
    decision = admit([claim(KEY, coming)], {KEY: Known(os.urandom(16), known)}, batch=True)
    assert isinstance(decision, Admission) == (known == coming == b"a")
