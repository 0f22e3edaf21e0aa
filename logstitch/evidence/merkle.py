"""Each tenant's events are the leaves of an RFC 6962 log, of which almost nothing has to be kept.

Appending needs only the head: the size and the roots of the complete subtrees along the right edge, one for each bit
that is set in the size. ``append`` hands out the roots of complete blocks of 256 leaves as they fill up: with those,
any proof needs the leaves of at most three blocks.

Hashes are 32 bytes: ``SHA-256(0x00 ‖ leaf)`` and ``SHA-256(0x01 ‖ left ‖ right)`` (RFC 6962, section 2.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

HASH_BYTES: Final = 32
BLOCK_LEVEL: Final = 8
BLOCK: Final = 1 << BLOCK_LEVEL
"""Leaves of a subtree whose root is stored."""


def leaf_hash(content_hash: bytes) -> bytes:
    """The hash of a leaf that holds an event's 32-byte content hash."""
    return sha256(b"\x00" + content_hash).digest()


@dataclass(frozen=True, slots=True)
class TenantHead:
    """All that appending needs: ``size`` leaves, and the roots of the complete subtrees, largest (leftmost) first."""

    size: int = 0
    edge: bytes = b""

    def __post_init__(self) -> None:
        if self.size < 0 or len(self.edge) != HASH_BYTES * self.size.bit_count():
            raise ValueError("a head has one hash for each bit that is set in its size")


def append(head: TenantHead, leaf_hashes: Sequence[bytes]) -> tuple[TenantHead, list[tuple[int, bytes]]]:
    """The head after these leaves, and the blocks of 256 leaves that they completed, as (block number, root)."""
    size, edge = head.size, head.edge
    # Only subtrees below the highest bit that changes are touched: for one leaf, one or two of perhaps twenty.
    touched = (1 << (size ^ (size + len(leaf_hashes))).bit_length()) - 1
    kept = len(edge) - HASH_BYTES * (size & touched).bit_count()
    working = _split(edge[kept:])
    blocks: list[tuple[int, bytes]] = []
    size = _grow(size, working, leaf_hashes, blocks)
    return TenantHead(size, edge[:kept] + b"".join(working)), blocks


def _split(edge: bytes) -> list[bytes]:
    return [edge[i : i + HASH_BYTES] for i in range(0, len(edge), HASH_BYTES)]


def _grow(size: int, edge: list[bytes], leaf_hashes: Iterable[bytes], blocks: list[tuple[int, bytes]]) -> int:
    """Append to ``edge`` in place, as a binary counter carries: each bit that flips from 1 to 0 joins two subtrees."""
    hash_ = sha256
    pop = edge.pop
    for node in leaf_hashes:
        carry = size
        size += 1
        if carry & 255 == 255:
            for _ in range(BLOCK_LEVEL):
                node = hash_(b"\x01" + pop() + node).digest()
            blocks.append((carry >> BLOCK_LEVEL, node))
            carry >>= BLOCK_LEVEL
        while carry & 1:
            node = hash_(b"\x01" + pop() + node).digest()
            carry >>= 1
        edge.append(node)
    return size
