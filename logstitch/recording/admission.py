"""Idempotency, as a pure rule: which events of a batch are new, which are replays, and when the batch is refused.

The contract: per project, the same key with the same body returns the first id and stores nothing; with another body
the whole batch is refused and the item is named. Two equal keys in one batch, or in two batches of one group, obey
the same rule, which is why ``known`` grows as batches are admitted.

An empty digest stands for any body: of an event that was sent to an anonymous stream and claimed later, nobody in the
project can tell what was sent. Its key alone decides, in both directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hmac import compare_digest
from typing import NamedTuple

from logstitch.errors import Conflict, Detail

CONFLICT = "This idempotency key was used before with another event."


class Claim(NamedTuple):  # a tuple, because it is made for every event and costs a third of a frozen dataclass
    """What an event claims for itself: its new id (16 bytes) and, if it carries an idempotency key, the key's hash
    (16 bytes) and the digest of the event as it was sent; empty where nobody knows what was sent, as of an event that
    was claimed from a stream."""

    id: bytes
    key_hash: bytes | None = None
    digest: bytes = b""


class Known(NamedTuple):
    """What a key already stands for."""

    id: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class Admission:
    """``ids`` in request order; ``fresh`` are the positions to store; ``keys`` is what the batch adds to the known."""

    ids: tuple[bytes, ...]
    fresh: tuple[int, ...]
    keys: Mapping[bytes, Known]

    @property
    def replays(self) -> int:
        """How many of the ids were given out before."""
        return len(self.ids) - len(self.fresh)


def admit(claims: Sequence[Claim], known: Mapping[bytes, Known], *, batch: bool) -> Admission | Conflict:
    """Decide over one batch. ``batch``: an array was sent, so a conflict's field begins with the item's index."""
    keys = {claim.key_hash: Known(claim.id, claim.digest) for claim in claims if claim.key_hash is not None}
    if len(keys) == len(claims) and keys.keys().isdisjoint(known):  # the common case: all keys are new, and differ
        return Admission(tuple([claim.id for claim in claims]), tuple(range(len(claims))), keys)
    ids: list[bytes] = []
    fresh: list[int] = []
    keys = {}
    conflicts: list[Detail] = []
    for position, claim in enumerate(claims):
        earlier = None
        if claim.key_hash is not None:
            earlier = keys.get(claim.key_hash) or known.get(claim.key_hash)
            if earlier is None:
                keys[claim.key_hash] = Known(claim.id, claim.digest)
        if earlier is None:
            fresh.append(position)
            ids.append(claim.id)
        elif not earlier.digest or not claim.digest or compare_digest(earlier.digest, claim.digest):
            ids.append(earlier.id)
        else:
            field = f"{position}.idempotency_key" if batch else "idempotency_key"
            conflicts.append(Detail(field, CONFLICT))
    if conflicts:
        return Conflict("An idempotency key was used before with another event; nothing was stored.", conflicts)
    return Admission(tuple(ids), tuple(fresh), keys)
