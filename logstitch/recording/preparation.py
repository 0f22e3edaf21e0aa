"""From a validated, redacted event to a row that only lacks its numbers.

Everything that costs CPU and depends on nothing but the event happens here, before the transaction: ids, salts,
commitments, content hash and leaf, the answered body, the idempotency digest, the facets, the COPY layout.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple, cast

from logstitch.evidence.canonical import canonical
from logstitch.evidence.commitments import SALTS_PER_EVENT, encode_event
from logstitch.evidence.merkle import leaf_hash
from logstitch.ids import event_id_text
from logstitch.model import IncomingEvent
from logstitch.recording.admission import Claim
from logstitch.redaction.engine import Change
from logstitch.search.terms import facets
from logstitch.store.events import row_tail

_MAX_ID_CHARS = 256
"""Of an actor's id as it is sent. Redaction may put a hash in the place of each character."""
_BLOCK = 64
"""Bytes of a SHA-256 block."""


class PreparedEvent(NamedTuple):  # a tuple, because it is made for every event and costs a third of a frozen dataclass
    """An event that is ready to be stored; ``tail`` are the columns that no transaction decides."""

    claim: Claim
    id_text: str
    tenant_id: str
    action: str
    occurred_at_ms: int
    leaf: bytes
    """The hash of its leaf in the tenant's log."""
    facets: Sequence[bytes]
    tail: bytes
    redacted_count: int
    """Field values that redaction changed."""
    received_at_ms: int
    actor_id: str
    """As detection knows it: one that redaction has made longer than any that is sent goes by its digest."""
    ip_address: str | None
    """What redaction has left of it."""


class Preparation:
    """Prepares one project's events. ``secret`` is the project's own: 32 bytes that idempotency digests are keyed with;
    ``None`` for events that were not sent to the project, whose digests are given, or empty.

    Its methods touch nothing but their arguments, so they may run in a thread.
    """

    def __init__(self, secret: bytes | None) -> None:
        self._digest = _no_digest if secret is None else keyed_digest(secret)

    def prepare(
        self,
        incoming: Sequence[IncomingEvent],
        stored: Sequence[Mapping[str, object]],
        changes: Sequence[tuple[Change, ...]],
        *,
        received_at_ms: int,
        ids: Sequence[bytes],
        digests: Sequence[bytes] | None = None,
    ) -> list[PreparedEvent]:
        """Encode a batch. ``incoming`` is as sent (for the digest), ``stored`` as redacted, ``ids`` are fresh ones, 16
        bytes each. ``digests`` are of events whose digest is made already; an empty one is not."""
        salts = os.urandom(SALTS_PER_EVENT * len(incoming))
        salt_of = [salts[start : start + SALTS_PER_EVENT] for start in range(0, len(salts), SALTS_PER_EVENT)]
        made = [b""] * len(incoming) if digests is None else digests
        return [
            self._prepare(event, left, change, event_id, salt, digest, received_at_ms)
            for event, left, change, event_id, salt, digest in zip(
                incoming, stored, changes, ids, salt_of, made, strict=True
            )
        ]

    def _prepare(
        self,
        incoming: IncomingEvent,
        stored: Mapping[str, object],
        changes: tuple[Change, ...],
        event_id: bytes,
        salts: bytes,
        made: bytes,
        received_at_ms: int,
    ) -> PreparedEvent:
        event = cast("Mapping[str, Any]", stored)
        raw, occurred_at_ms = incoming
        if occurred_at_ms is None:
            occurred_at_ms = received_at_ms
        id_text = event_id_text(event_id)
        encoded = encode_event(
            event,
            id_text=id_text,
            occurred_at_ms=occurred_at_ms,
            received_at_ms=received_at_ms,
            salts=salts,
            redactions=[{"field": change.field, "rules": list(change.rules)} for change in changes] if changes else (),
        )
        key = raw.get("idempotency_key")
        key_hash = digest = None
        if key is not None:
            # Of the event as it was sent, so that a rule that changes between two tries does not make them differ.
            digest = made or self._digest(encoded.canonical if stored is raw else canonical(raw))
            key_hash = sha256(key.encode()).digest()[:16]
        actor = event["actor"]
        context = event.get("context")
        target = event.get("target")
        action = event["action"]
        content_hash = encoded.content_hash
        tail = row_tail(
            event_id,
            occurred_at_ms,
            received_at_ms,
            action,
            event["category"],
            actor["id"],
            actor["type"],
            None if target is None else target["id"],
            None if target is None else target["type"],
            key_hash,
            digest,
            content_hash,
            encoded.salts,
            encoded.body,
        )
        return PreparedEvent(
            Claim(event_id, key_hash, digest or b""),
            id_text,
            event["tenant_id"],
            action,
            occurred_at_ms,
            leaf_hash(content_hash),
            facets(event),
            tail,
            sum([change.values for change in changes]) if changes else 0,
            received_at_ms,
            _short(actor["id"]),
            # Redaction may have put a text in the place of the whole context.
            context.get("ip_address") if type(context) is dict else None,
        )


def _no_digest(message: bytes) -> bytes:
    return b""


def _short(actor_id: str) -> str:
    """The id, or its digest where an index would not take it; the database makes the same (store/sql/alerts.sql)."""
    return actor_id if len(actor_id) <= _MAX_ID_CHARS else f"sha256:{sha256(actor_id.encode()).hexdigest()}"


def keyed_digest(secret: bytes) -> Callable[[bytes], bytes]:
    """HMAC-SHA-256 (RFC 2104) under ``secret``, at most 64 bytes, with the key's two blocks hashed once and for all.

    ``hmac.digest`` hashes them again for every message, and lets go of the interpreter's lock for each: with a busy
    thread beside it that is three times as slow.
    """
    if len(secret) > _BLOCK:
        raise ValueError("a key has at most 64 bytes here")
    padded = secret.ljust(_BLOCK, b"\0")
    inner = sha256(bytes(byte ^ 0x36 for byte in padded)).copy
    outer = sha256(bytes(byte ^ 0x5C for byte in padded)).copy

    def digest(message: bytes) -> bytes:
        within, around = inner(), outer()
        within.update(message)
        around.update(within.digest())
        return around.digest()

    return digest
