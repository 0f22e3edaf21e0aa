"""The log is RFC 6962's, however it is appended to, and its proofs convince a verifier and nobody else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch.evidence.merkle import (
    BLOCK,
    EMPTY_ROOT,
    TenantHead,
    append,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root,
    root_of,
    verify_consistency,
    verify_inclusion,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "merkle.json").read_bytes())
LEAVES = [leaf_hash(n.to_bytes(32, "big")) for n in range(5 * BLOCK + 77)]


# -- RFC 6962, section 2.1, as it is written there -----------------------------------------------------------------


def _k(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def naive_root(leaves: Sequence[bytes]) -> bytes:
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = _k(len(leaves))
    return sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = _k(len(leaves))
    if m < k:
        return [*naive_path(m, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(m - k, leaves[k:]), naive_root(leaves[:k])]


def naive_subproof(m: int, leaves: Sequence[bytes], known: bool) -> list[bytes]:
    if m == len(leaves):
        return [] if known else [naive_root(leaves)]
    k = _k(len(leaves))
    if m <= k:
        return [*naive_subproof(m, leaves[:k], known), naive_root(leaves[k:])]
    return [*naive_subproof(m - k, leaves[k:], False), naive_root(leaves[:k])]


class Stored:
    """What the store keeps of a log, and how much of it was read."""

    def __init__(self, size: int, chunks: Sequence[int] = ()) -> None:
        self.head = TenantHead()
        self.blocks: list[bytes] = []
        self.leaf_reads: list[int] = []
        at = 0
        for chunk in [*chunks, size]:
            stop = min(at + chunk, size)
            self.head, completed = append(self.head, LEAVES[at:stop])
            for number, digest in completed:
                assert number == len(self.blocks)
                self.blocks.append(digest)
            at = stop

    def read_leaves(self, start: int, stop: int) -> Sequence[bytes]:
        self.leaf_reads.append(stop - start)
        return LEAVES[start : min(stop, self.head.size)]

    def read_blocks(self, start: int, stop: int) -> Sequence[bytes]:
        return self.blocks[start:stop]


sizes = st.integers(0, 20) | st.integers(0, len(LEAVES)) | st.sampled_from([255, 256, 257, 511, 512, 513, 1024, 1280])


def test_the_roots_of_the_reference_implementation() -> None:
    leaves = [leaf_hash(bytes.fromhex(text)) for text in VECTORS["leaves"]]
    assert [root_of(leaves[:n]).hex() for n in range(9)] == VECTORS["roots"]
    assert root(TenantHead()) == EMPTY_ROOT


@given(sizes, st.lists(st.integers(0, 300), max_size=12))
def test_any_way_of_appending_gives_the_same_log(size: int, chunks: list[int]) -> None:
    stored = Stored(size, chunks)
    assert stored.head.size == size
    assert len(stored.head.edge) == 32 * size.bit_count()
    assert root(stored.head) == root_of(LEAVES[:size]) == naive_root(LEAVES[:size])
    assert stored.blocks == [naive_root(LEAVES[i : i + BLOCK]) for i in range(0, size - BLOCK + 1, BLOCK)]


@given(st.data())
def test_inclusion(data: st.DataObject) -> None:
    size = data.draw(sizes.filter(bool))
    index = data.draw(st.integers(0, size - 1))
    stored = Stored(size)
    proof = inclusion_proof(index, size, stored.read_leaves, stored.read_blocks)
    assert proof == naive_path(index, LEAVES[:size])
    assert len(stored.leaf_reads) <= 2
    assert max(stored.leaf_reads, default=0) <= BLOCK
    top = root(stored.head)
    assert verify_inclusion(LEAVES[index], index, size, proof, top)
    assert not verify_inclusion(LEAVES[index - 1], index, size, proof, top) or size == 1
    assert not verify_inclusion(LEAVES[index], index, size, [*proof, top], top)
    assert not verify_inclusion(LEAVES[index], index, size, proof[:-1], top) or size == 1
    assert not verify_inclusion(LEAVES[index], size, size, proof, top)
    for other in {index ^ 1, size - 1 - index, 0} - {index}:
        assert not verify_inclusion(LEAVES[index], other, size, proof, top)


@given(st.data())
def test_consistency(data: st.DataObject) -> None:
    second = data.draw(sizes.filter(bool))
    first = data.draw(st.integers(1, second) | st.sampled_from([1, second]))
    stored = Stored(second)
    proof = consistency_proof(first, second, stored.read_leaves, stored.read_blocks)
    assert proof == naive_subproof(first, LEAVES[:second], True)
    assert len(stored.leaf_reads) <= 3
    old, new = root_of(LEAVES[:first]), root(stored.head)
    assert verify_consistency(first, second, old, new, proof)
    assert not verify_consistency(first, second, new, old, proof) or first == second
    assert not verify_consistency(first, second, old, new, [*proof, new])
    assert not verify_consistency(first, second, old, new, proof[:-1]) or not proof
    assert not verify_consistency(second + 1, second, old, new, proof)
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        assert not verify_consistency(first, second, old, new, [*proof[:at], EMPTY_ROOT, *proof[at + 1 :]])


def test_an_older_size_of_a_log_that_grew_is_proven_from_the_same_rows() -> None:
    stored = Stored(len(LEAVES))
    for size in (1, 255, 256, 300, 1000):
        proof = inclusion_proof(size - 1, size, stored.read_leaves, stored.read_blocks)
        assert verify_inclusion(LEAVES[size - 1], size - 1, size, proof, root_of(LEAVES[:size]))


def test_what_is_not_there_is_not_proven() -> None:
    stored = Stored(10)
    for index in (-1, 10):
        with pytest.raises(IndexError):
            inclusion_proof(index, 10, stored.read_leaves, stored.read_blocks)
    for first, second in ((0, 10), (11, 10)):
        with pytest.raises(IndexError):
            consistency_proof(first, second, stored.read_leaves, stored.read_blocks)


def test_missing_rows_are_noticed() -> None:
    stored = Stored(600)
    with pytest.raises(LookupError, match="leaves"):
        inclusion_proof(599, 600, lambda start, stop: [], stored.read_blocks)
    with pytest.raises(LookupError, match="blocks"):
        inclusion_proof(599, 600, stored.read_leaves, lambda start, stop: [])


def test_a_head_that_does_not_fit_its_size_is_refused() -> None:
    for size, edge in ((1, b""), (2, b"x" * 64), (-1, b"x" * 32), (3, b"x" * 63)):
        with pytest.raises(ValueError, match="head"):
            TenantHead(size, edge)


def test_a_long_log_of_random_batches() -> None:
    rng = Random(6962)
    stored = Stored(len(LEAVES), [rng.choice([0, 1, 2, 3, 7, 100, 256]) for _ in range(60)])
    assert root(stored.head) == naive_root(LEAVES)


def test_a_proof_of_a_smaller_log_proves_nothing_of_a_larger_one() -> None:
    """The root fits, the size that is claimed for it does not."""
    two = root_of(LEAVES[:2])
    assert verify_inclusion(LEAVES[0], 0, 2, [LEAVES[1]], two)
    assert not verify_inclusion(LEAVES[0], 0, 4, [LEAVES[1]], two)
    assert verify_consistency(1, 2, LEAVES[0], two, [LEAVES[1]])
    assert not verify_consistency(1, 4, LEAVES[0], two, [LEAVES[1]])
