"""The content hash is what its definition says, and nothing in a stored event can change unnoticed."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from logstitch.evidence.commitments import SALTS_PER_EVENT, Verdict, commit, encode_event, verify_event
from logstitch.jcs import canonical_exact
from logstitch.sections import SECTIONS

VECTORS = Path(__file__).parent / "vectors"
EVENT: dict[str, Any] = json.loads((VECTORS / "event.json").read_bytes())
SALTS = bytes(range(SALTS_PER_EVENT))
ID = "evt_00041061050R3GG28A1C60T3GF"
OCCURRED, RECEIVED = 1_795_420_799_123, 1_795_420_800_000
REDACTIONS = [{"rules": ["builtin_email"], "field": "actor.email"}]


def test_an_event_encoded_by_hand() -> None:
    """Architecture, section 4, written out with another library and no shortcut."""
    event = {name: value for name, value in EVENT.items() if name != "metadata"}
    sections = {
        name: sha256(SALTS[16 * i : 16 * i + 16] + rfc8785.dumps(event[name])).hexdigest()
        for i, name in enumerate(["actor", "target", "context", "changes"])
    }
    common = {name: event[name] for name in ("action", "category", "tenant_id", "idempotency_key")} | {
        "id": ID,
        "occurred_at": "2026-11-23T07:59:59.123Z",
        "received_at": "2026-11-23T08:00:00.000Z",
        "redactions": REDACTIONS,
    }
    content_hash = sha256(rfc8785.dumps(common | {"sections": sections})).hexdigest()

    encoded = encode_event(
        event,
        id_text=ID,
        occurred_at_ms=OCCURRED,
        received_at_ms=RECEIVED,
        salts=SALTS,
        redactions=REDACTIONS,
    )

    assert encoded.content_hash.hex() == content_hash
    assert encoded.body == rfc8785.dumps(event | common | {"content_hash": content_hash})
    assert encoded.salts == SALTS[:64]
    assert verify_event(encoded.body, encoded.salts)


def test_the_vector() -> None:
    """A fixed event keeps its fixed bytes for ever: proofs that were handed out rest on them."""
    expected = json.loads((VECTORS / "commitments.json").read_bytes())
    encoded = encode_event(EVENT, id_text=ID, occurred_at_ms=OCCURRED, received_at_ms=RECEIVED, salts=SALTS)
    assert encoded.content_hash.hex() == expected["content_hash"]
    assert encoded.body.decode() == expected["body"]


def test_an_event_with_nothing_optional() -> None:
    event = {"action": "a.b", "category": "auth", "tenant_id": "t", "actor": {"id": "u", "type": "user"}}
    encoded = encode_event(event, id_text=ID, occurred_at_ms=0, received_at_ms=0, salts=SALTS)
    assert len(encoded.salts) == 16
    assert verify_event(encoded.body, encoded.salts)
    assert list(json.loads(encoded.body)) == [
        *("action", "actor", "category", "content_hash", "id", "occurred_at", "received_at", "tenant_id")
    ]


_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
_json = st.recursive(
    # Doubles of 2^53 and more come back as integers that stand for the same double, but are not the same number.
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(-(2.0**53), 2.0**53) | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
)
_strings = st.dictionaries(_text, _text, max_size=3)
_events = st.fixed_dictionaries(
    {"action": st.just("a.b"), "category": st.just("auth"), "tenant_id": _text, "actor": _strings},
    optional={
        "target": _strings,
        "context": _strings,
        "metadata": st.dictionaries(_text, _json, max_size=3),
        "changes": st.lists(st.dictionaries(_text, _json, max_size=3), max_size=2),
        "idempotency_key": _text,
        "occurred_at": st.just("2026-11-23T08:00:00+01:00"),
    },
)


@given(_events, st.binary(min_size=SALTS_PER_EVENT, max_size=SALTS_PER_EVENT), st.booleans())
def test_the_spliced_body_is_the_canonical_one(event: dict[str, Any], salts: bytes, redacted: bool) -> None:
    encoded = encode_event(
        event,
        id_text=ID,
        occurred_at_ms=OCCURRED,
        received_at_ms=RECEIVED,
        salts=salts,
        redactions=REDACTIONS if redacted else [],
    )
    answered = json.loads(encoded.body)
    assert canonical_exact(answered) == encoded.body
    assert canonical_exact(event) == encoded.canonical
    assert ("redactions" in answered) is redacted
    for name in (*SECTIONS, "tenant_id", "idempotency_key"):
        assert answered.get(name) == event.get(name)
    assert verify_event(encoded.body, encoded.salts) is Verdict.OK


@given(st.data())
def test_any_changed_byte_shows(data: st.DataObject) -> None:
    encoded = encode_event(EVENT, id_text=ID, occurred_at_ms=OCCURRED, received_at_ms=RECEIVED, salts=SALTS)
    body, salts = bytearray(encoded.body), bytearray(encoded.salts)
    target = data.draw(st.sampled_from([body, salts]))
    target[data.draw(st.integers(0, len(target) - 1))] ^= data.draw(st.integers(1, 255))
    assert not verify_event(bytes(body), bytes(salts))


def test_what_is_wrong_is_named() -> None:
    encoded = encode_event(EVENT, id_text=ID, occurred_at_ms=OCCURRED, received_at_ms=RECEIVED, salts=SALTS)
    assert verify_event(b"{", encoded.salts) is Verdict.MALFORMED
    assert verify_event(b"[]", encoded.salts) is Verdict.MALFORMED
    assert verify_event(b'{"action":"a.b"}', b"") is Verdict.MALFORMED
    assert verify_event(encoded.body[:-1] + b',"zebra":1}', encoded.salts) is Verdict.MALFORMED
    assert verify_event(b" " + encoded.body, encoded.salts) is Verdict.NOT_CANONICAL
    assert verify_event(encoded.body, encoded.salts[:-16]) is Verdict.WRONG_SALTS
    assert verify_event(encoded.body.replace(b"Ada", b"Eve"), encoded.salts) is Verdict.HASH_DIFFERS


def test_equal_sections_have_unequal_commitments() -> None:
    assert commit(b"{}", b"a" * 16) != commit(b"{}", b"b" * 16)


def test_too_little_salt_is_refused() -> None:
    with pytest.raises(ValueError, match="salt"):
        encode_event(EVENT, id_text=ID, occurred_at_ms=0, received_at_ms=0, salts=SALTS[:79])
