"""Each tenant's events are the leaves of an RFC 6962 log, of which almost nothing has to be kept.

Appending needs only the head: the size and the roots of the complete subtrees along the right edge, one for each bit
that is set in the size. Proofs need the leaves of at most three blocks of 256 and the roots of the complete blocks,
which ``append`` hands out as they fill up.

Hashes are 32 bytes: ``SHA-256(0x00 ‖ leaf)`` and ``SHA-256(0x01 ‖ left ‖ right)`` (RFC 6962, section 2.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

HASH_BYTES: Final = 32
BLOCK_LEVEL: Final = 8
BLOCK: Final = 1 << BLOCK_LEVEL
"""Leaves of a subtree whose root is stored."""
EMPTY_ROOT: Final = sha256(b"").digest()

ReadHashes = Callable[[int, int], Sequence[bytes]]
"""``read(start, stop)`` gives the hashes numbered from ``start`` up to, not including, ``stop``."""


def leaf_hash(content_hash: bytes) -> bytes:
    """The hash of a leaf that holds an event's 32-byte content hash."""
    return sha256(b"\x00" + content_hash).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return sha256(b"\x01" + left + right).digest()


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


def root(head: TenantHead) -> bytes:
    """The Merkle tree hash of the whole log."""
    return _fold(_split(head.edge))


def root_of(leaf_hashes: Sequence[bytes]) -> bytes:
    """The Merkle tree hash of a list of leaf hashes."""
    edge: list[bytes] = []
    _grow(0, edge, leaf_hashes, None)
    return _fold(edge)


def inclusion_proof(index: int, size: int, leaves: ReadHashes, blocks: ReadHashes) -> list[bytes]:
    """The audit path of leaf ``index`` in the log of the first ``size`` leaves (RFC 6962, 2.1.1), leaf to root.

    ``leaves`` reads leaf hashes (at most 256 a call, at most twice); ``blocks`` reads the roots that ``append`` gave.
    Raises ``IndexError`` unless 0 ≤ index < size.
    """
    if not 0 <= index < size:
        raise IndexError("no such leaf in a log of this size")
    tree = _Tree(size, leaves, blocks)
    path: list[bytes] = []
    start, stop = 0, size
    while stop - start > 1:
        middle = start + _split_point(stop - start)
        if index < middle:
            path.append(tree.hash(middle, stop))
            stop = middle
        else:
            path.append(tree.hash(start, middle))
            start = middle
    path.reverse()
    return path


def consistency_proof(first: int, second: int, leaves: ReadHashes, blocks: ReadHashes) -> list[bytes]:
    """That the log of ``second`` leaves extends the log of ``first`` (RFC 6962, 2.1.2); empty when they are the same.

    ``leaves`` is called at most three times. Raises ``IndexError`` unless 0 < first ≤ second.
    """
    if not 0 < first <= second:
        raise IndexError("no such pair of sizes")
    tree = _Tree(second, leaves, blocks)
    path: list[bytes] = []
    start, stop = 0, second
    whole = True  # Whether [start, first) is a tree that the verifier has the root of already.
    while first != stop:
        middle = start + _split_point(stop - start)
        if first <= middle:
            path.append(tree.hash(middle, stop))
            stop = middle
        else:
            path.append(tree.hash(start, middle))
            start, whole = middle, False
    if not whole:
        path.append(tree.hash(start, stop))
    path.reverse()
    return path


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether ``proof`` shows the leaf hash at ``index`` under the root of ``size`` leaves (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    at, last, digest = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            digest = node_hash(sibling, digest)
            while at and not at & 1:
                at >>= 1
                last >>= 1
        else:
            digest = node_hash(digest, sibling)
        at >>= 1
        last >>= 1
    return last == 0 and digest == root


def verify_consistency(first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether ``proof`` shows that the second log extends the first (RFC 9162, 2.1.4.2). Sizes start at 1."""
    if not 0 < first <= second:
        return False
    if first == second:
        return not proof and first_root == second_root
    path = list(proof)
    if first & (first - 1) == 0:
        path.insert(0, first_root)  # A power of two: the first root is itself a node of the second tree.
    if not path:
        return False
    at, last = first - 1, second - 1
    while at & 1:
        at >>= 1
        last >>= 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while at and not at & 1:
                at >>= 1
                last >>= 1
        else:
            new = node_hash(new, sibling)
        at >>= 1
        last >>= 1
    return last == 0 and old == first_root and new == second_root


class _Tree:
    """Hashes of the subtrees that proofs ask for, reading every stored hash at most once."""

    def __init__(self, size: int, leaves: ReadHashes, blocks: ReadHashes) -> None:
        self._size = size
        self._read_leaves = leaves
        self._read_blocks = blocks
        self._blocks_of_leaves: dict[int, Sequence[bytes]] = {}

    def hash(self, start: int, stop: int) -> bytes:
        """Of leaves [start, stop), a node of the RFC's recursion: so ``start`` is aligned to the node's width."""
        edge: list[bytes] = []
        first_block, last_block = start >> BLOCK_LEVEL, stop >> BLOCK_LEVEL
        at = start
        if start & (BLOCK - 1) == 0 and first_block < last_block:
            whole = self._read_blocks(first_block, last_block)
            if len(whole) != last_block - first_block:
                raise LookupError("the roots of complete blocks are missing")
            _grow(0, edge, whole, None)
            at = last_block << BLOCK_LEVEL
        if at < stop:
            block = at >> BLOCK_LEVEL
            leaves = self._leaves(block)
            base = block << BLOCK_LEVEL
            tail: list[bytes] = []
            _grow(0, tail, leaves[at - base : stop - base], None)
            edge += tail
        return _fold(edge)

    def _leaves(self, block: int) -> Sequence[bytes]:
        if (known := self._blocks_of_leaves.get(block)) is not None:
            return known
        start = block << BLOCK_LEVEL
        stop = min(start + BLOCK, self._size)
        leaves = self._read_leaves(start, stop)
        if len(leaves) != stop - start:
            raise LookupError("leaves are missing")
        self._blocks_of_leaves[block] = leaves
        return leaves


def _split(edge: bytes) -> list[bytes]:
    return [edge[i : i + HASH_BYTES] for i in range(0, len(edge), HASH_BYTES)]


def _grow(size: int, edge: list[bytes], leaf_hashes: Iterable[bytes], blocks: list[tuple[int, bytes]] | None) -> int:
    """Append to ``edge`` in place, as a binary counter carries: each bit that flips from 1 to 0 joins two subtrees."""
    hash_ = sha256
    pop = edge.pop
    for node in leaf_hashes:
        carry = size
        size += 1
        if carry & 255 == 255 and blocks is not None:
            for _ in range(BLOCK_LEVEL):
                node = hash_(b"\x01" + pop() + node).digest()
            blocks.append((carry >> BLOCK_LEVEL, node))
            carry >>= BLOCK_LEVEL
        while carry & 1:
            node = hash_(b"\x01" + pop() + node).digest()
            carry >>= 1
        edge.append(node)
    return size


def _fold(edge: Sequence[bytes]) -> bytes:
    if not edge:
        return EMPTY_ROOT
    digest = edge[-1]
    for left in reversed(edge[:-1]):
        digest = node_hash(left, digest)
    return digest


def _split_point(n: int) -> int:
    """The largest power of two below ``n``."""
    return 1 << ((n - 1).bit_length() - 1)
