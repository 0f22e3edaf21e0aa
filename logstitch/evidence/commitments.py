"""One hash stands for an event, through salted commitments to its sections.

``content_hash = SHA-256(header)``, where the header is the canonical object of the event's own fields and, for each
section, only ``SHA-256(salt ‖ canonical(section))``. A section can thus be shown alone, against the hash, or be
withheld (or erased together with its salt) while the rest stays provable; without the salt, a guess at its content
cannot be checked.

The stored body is the canonical JSON text of the event as it is answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from hashlib import sha256
from typing import Final, NamedTuple

import orjson

from logstitch.evidence.canonical import canonical, encode_sections
from logstitch.sections import SECTIONS
from logstitch.times import format_time

SALT_BYTES: Final = 16
SALTS_PER_EVENT: Final = SALT_BYTES * len(SECTIONS)
"""Bytes of salt that one event may need: draw them for a whole batch in one ``os.urandom``."""

_MEMBERS: Final = {name: b',"%b":' % name.encode() for name in SECTIONS}
_dumps = orjson.dumps
_SORTED = orjson.OPT_SORT_KEYS


class EncodedEvent(NamedTuple):  # a tuple, because it is made for every event and costs a third of a frozen dataclass
    """An event as it is stored."""

    body: bytes
    """Canonical JSON text, UTF-8."""
    content_hash: bytes
    """32 bytes."""
    salts: bytes
    """16 bytes for each section that is present, in the order of ``SECTIONS``."""
    canonical: bytes
    """RFC 8785 bytes of the event that was given, without what the service adds."""


class Verdict(StrEnum):
    """What ``verify_event`` found. Only ``OK`` is true."""

    OK = "ok"
    MALFORMED = "the body is not an event"
    NOT_CANONICAL = "the body is not in canonical form"
    WRONG_SALTS = "the salts do not fit the sections"
    HASH_DIFFERS = "the content hash is not that of the body"

    def __bool__(self) -> bool:
        return self is Verdict.OK


def commit(section: bytes, salt: bytes) -> bytes:
    """``SHA-256(salt ‖ section)``: 32 bytes, for the canonical bytes of a section and its 16 bytes of salt."""
    return sha256(salt + section).digest()


def encode_event(
    event: Mapping[str, object],
    *,
    id_text: str,
    occurred_at_ms: int,
    received_at_ms: int,
    salts: bytes,
    redactions: Sequence[Mapping[str, object]] = (),
) -> EncodedEvent:
    """Encode a validated and redacted event (``action, category, tenant_id``, its sections, ``idempotency_key``?).

    ``id_text`` is the id as answered. ``salts`` are ``SALTS_PER_EVENT`` fresh random bytes, of which the first ``16 ×
    present sections`` are used and returned. ``redactions`` are ``{field, rules}`` objects; an empty list is left out
    of header and body. The event's own ``occurred_at`` is ignored in favour of ``occurred_at_ms``. Raises ``KeyError``
    where a required field is missing, ``ValueError`` where salt is.
    """
    # Everything that header and body share is serialized once and spliced into both, in sorted order of keys.
    sections = encode_sections(event)
    committed: dict[str, str] = {}
    shown = {"actor": b"", "changes": b"", "context": b"", "metadata": b"", "target": b""}
    start = 0
    for name, section in sections.items():
        stop = start + SALT_BYTES
        committed[name] = sha256(salts[start:stop] + section).hexdigest()
        shown[name] = _MEMBERS[name] + section
        start = stop
    if len(salts) < start:
        raise ValueError("every section needs 16 bytes of salt")
    actor, changes, context, metadata, target = shown.values()

    action = b'{"action":' + _dumps(event["action"])
    category = b',"category":' + _dumps(event["category"])
    tenant = b',"tenant_id":' + _dumps(event["tenant_id"]) + b"}"
    key = occurred = b""
    if (given := event.get("idempotency_key")) is not None:
        key = b',"idempotency_key":' + _dumps(given)
    if (given := event.get("occurred_at")) is not None:
        occurred = b',"occurred_at":' + _dumps(given)
    between = f',"id":"{id_text}"'.encode() + key
    times = f',"occurred_at":"{format_time(occurred_at_ms)}","received_at":"{format_time(received_at_ms)}"'.encode()
    if redactions:
        times += b',"redactions":' + canonical(list(redactions))

    header = (action, category, between, times, b',"sections":', _dumps(committed, option=_SORTED), tenant)
    digest = sha256(b"".join(header))
    own = f',"content_hash":"{digest.hexdigest()}"'.encode()
    body = (action, actor, category, changes, own, context, between, metadata, times, target, tenant)
    sent = (action, actor, category, changes, context, key, metadata, occurred, target, tenant)
    return EncodedEvent(b"".join(body), digest.digest(), salts[:start], b"".join(sent))


def header_of(event: Mapping[str, object], commitments: Mapping[str, str]) -> bytes:
    """The header's canonical bytes, from an event as answered and its sections' commitments in hex."""
    header: dict[str, object] = {name: event[name] for name in _REQUIRED}
    header |= {name: event[name] for name in ("idempotency_key", "redactions") if name in event}
    header["sections"] = dict(commitments)
    return canonical(header)


def verify_event(body: bytes, salts: bytes) -> Verdict:
    """Whether a stored body is canonical and its ``content_hash`` is really its own, given its salts.

    Written apart from ``encode_event``, from the definition, so that each checks the other.
    """
    try:
        event = orjson.loads(body)
        respelled = canonical(event)
    except (orjson.JSONDecodeError, RecursionError):  # The latter some hundred levels below the deepest metadata.
        return Verdict.MALFORMED
    if not isinstance(event, dict) or not event.keys() >= _REQUIRED | {"actor"}:
        return Verdict.MALFORMED
    if any(type(value) is not _TYPES.get(name) for name, value in event.items()):
        return Verdict.MALFORMED
    if respelled != body:
        return Verdict.NOT_CANONICAL
    present = [name for name in SECTIONS if name in event]
    if len(salts) != SALT_BYTES * len(present):
        return Verdict.WRONG_SALTS
    commitments = {
        name: commit(canonical(event[name]), salts[SALT_BYTES * i : SALT_BYTES * (i + 1)]).hex()
        for i, name in enumerate(present)
    }
    if sha256(header_of(event, commitments)).hexdigest() != event.get("content_hash"):
        return Verdict.HASH_DIFFERS
    return Verdict.OK


_REQUIRED: Final = frozenset({"action", "category", "id", "occurred_at", "received_at", "tenant_id"})
_TYPES: Final[Mapping[str, type]] = {
    **dict.fromkeys((*_REQUIRED, "content_hash", "idempotency_key"), str),
    **dict.fromkeys(("actor", "target", "context", "metadata"), dict),
    **dict.fromkeys(("changes", "redactions"), list),
}
