"""Idempotency, as a pure rule: which events of a batch are new, which are replays, and when the batch is refused.

The contract: per project, the same key with the same body returns the first id and stores nothing; with another body
the whole batch is refused and the item is named. Two equal keys in one batch, or in two batches of one group, obey
the same rule, which is why ``known`` grows as batches are admitted.

An event that was claimed from an anonymous stream keeps the digest that it had there, under the stream's secret, marked
with the stream's number: whoever sends its key again is compared under that secret. One that comes by a claim itself is
left out where the project has its key, whatever it is. Where nothing proves two events equal, they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hmac import compare_digest
from typing import Final, NamedTuple

from logstitch.errors import Conflict, Detail

CONFLICT = "This idempotency key was used before with another event."

_FROM_STREAM: Final = b"\x01"
_MARK_BYTES: Final = 9
_DIGEST_BYTES: Final = 32


class FromStream(NamedTuple):
    """Whose secret a claimed event's digest is made with, and the digest."""

    stream_no: int
    digest: bytes


def digest_from_stream(stream_no: int, digest: bytes) -> bytes:
    """The digest (32 bytes) that an event had in its stream, as the project keeps it: a byte that says so, the stream's
    number in 8 bytes, the digest."""
    return _FROM_STREAM + stream_no.to_bytes(_MARK_BYTES - 1) + digest


def from_stream(stored: bytes) -> FromStream | None:
    """What ``digest_from_stream`` was given; None of the digest of an event that was sent to the project."""
    if len(stored) != _MARK_BYTES + _DIGEST_BYTES or stored[:1] != _FROM_STREAM:
        return None
    return FromStream(int.from_bytes(stored[1:_MARK_BYTES]), stored[_MARK_BYTES:])


Resent = Callable[[int, FromStream], bool]
"""Whether the event at a position of the batch is the one that was sent to the stream and claimed since."""


def _never(position: int, claimed: FromStream) -> bool:
    return False


class Claim(NamedTuple):  # a tuple, because it is made for every event and costs a third of a frozen dataclass
    """What an event claims for itself: its new id (16 bytes) and, if it carries an idempotency key, the key's hash
    (16 bytes) and the digest of the event as it was sent; empty where nobody knows what was sent, and marked where it
    is claimed from a stream."""

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


def admit(
    claims: Sequence[Claim], known: Mapping[bytes, Known], *, batch: bool, resent: Resent = _never
) -> Admission | Conflict:
    """Decide over one batch. ``batch``: an array was sent, so a conflict's field begins with the item's index.
    ``resent`` compares an event with one that was claimed."""
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
        elif _is_replay(position, claim, earlier, resent):
            ids.append(earlier.id)
        else:
            field = f"{position}.idempotency_key" if batch else "idempotency_key"
            conflicts.append(Detail(field, CONFLICT))
    if conflicts:
        return Conflict("An idempotency key was used before with another event; nothing was stored.", conflicts)
    return Admission(tuple(ids), tuple(fresh), keys)


def _is_replay(position: int, claim: Claim, earlier: Known, resent: Resent) -> bool:
    if from_stream(claim.digest) is not None:
        return True
    if (claimed := from_stream(earlier.digest)) is not None:
        return resent(position, claimed)
    return bool(claim.digest) and compare_digest(earlier.digest, claim.digest)
