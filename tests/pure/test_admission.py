"""Idempotency: the same key with the same body is one event, with another body it is a conflict."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from logstitch.errors import Conflict
from logstitch.recording.admission import Admission, Claim, Known, admit

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


@given(st.booleans(), st.binary(min_size=1, max_size=4))
def test_an_empty_digest_stands_for_any_body_whoever_came_first(claimed_first: bool, body: bytes) -> None:
    known, coming = (b"", body) if claimed_first else (body, b"")
    first = os.urandom(16)
    decision = admit([claim(KEY, coming)], {KEY: Known(first, known)}, batch=True)
    assert decision == Admission((first,), (), {})
