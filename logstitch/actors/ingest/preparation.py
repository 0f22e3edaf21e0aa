"""From a validated, redacted event to a row that only lacks its numbers.

Everything that costs CPU and depends on nothing but the event happens here, before the transaction: ids, salts,
commitments, content hash, the answered body, the idempotency digest, the facets, the COPY layout.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from logstitch.actors.ingest.admission import Claim
from logstitch.actors.messages import RedactedField
from logstitch.evidence.canonical import canonical
from logstitch.evidence.commitments import SALTS_PER_EVENT, encode_event
from logstitch.model import IncomingEvent
from logstitch.search.terms import facets
from logstitch.store.events import row_tail


class PreparedEvent(NamedTuple):  # a tuple, because it is made for every event and costs a third of a frozen dataclass
    """An event that is ready to be stored; ``tail`` are the columns that no transaction decides."""

    claim: Claim
    tenant_id: str
    action: str
    occurred_at_ms: int
    content_hash: bytes
    facets: Sequence[bytes]
    tail: bytes


def prepare(
    incoming: Sequence[IncomingEvent],
    stored: Sequence[dict[str, object]],
    changes: Sequence[tuple[RedactedField, ...]],
    *,
    received_at_ms: int,
    secret: bytes,
    ids: Sequence[bytes],
) -> list[PreparedEvent]:
    """Encode a batch. ``incoming`` is as sent (for the digest), ``stored`` as redacted; ``secret`` is the project's,
    ``ids`` are fresh ones, 16 bytes each. Touches nothing but its arguments, so it may run in a thread."""
    salts = os.urandom(SALTS_PER_EVENT * len(incoming))
    salt_of = [salts[start : start + SALTS_PER_EVENT] for start in range(0, len(salts), SALTS_PER_EVENT)]
    return [
        _prepare(*parts, received_at_ms, secret) for parts in zip(incoming, stored, changes, ids, salt_of, strict=True)
    ]


def _prepare(
    incoming: IncomingEvent,
    stored: dict[str, object],
    changes: tuple[RedactedField, ...],
    event_id: bytes,
    salts: bytes,
    received_at_ms: int,
    secret: bytes,
) -> PreparedEvent:
    event = cast("dict[str, Any]", stored)
    occurred_at_ms = received_at_ms if incoming.occurred_at_ms is None else incoming.occurred_at_ms
    encoded = encode_event(
        event,
        id16=event_id,
        occurred_at_ms=occurred_at_ms,
        received_at_ms=received_at_ms,
        salts=salts,
        redactions=[{"field": change.field, "rules": list(change.rules)} for change in changes],
    )
    key = incoming.raw.get("idempotency_key")
    key_hash = digest = None
    if key is not None:
        # Of the event as it was sent, so that a rule that changes between two tries does not make them differ.
        sent = encoded.canonical if stored is incoming.raw else canonical(incoming.raw)
        key_hash = hashlib.sha256(key.encode()).digest()[:16]
        digest = hmac.digest(secret, sent, "sha256")
    actor, target = event["actor"], event.get("target") or {}
    return PreparedEvent(
        claim=Claim(event_id, key_hash, digest or b""),
        tenant_id=event["tenant_id"],
        action=event["action"],
        occurred_at_ms=occurred_at_ms,
        content_hash=encoded.content_hash,
        facets=facets(event),
        tail=row_tail(
            action=event["action"],
            category=event["category"],
            actor_id=actor["id"],
            actor_type=actor["type"],
            target_id=target.get("id"),
            target_type=target.get("type"),
            key_hash=key_hash,
            key_digest=digest,
            content_hash=encoded.content_hash,
            salts=encoded.salts,
            body=encoded.body,
        ),
    )
