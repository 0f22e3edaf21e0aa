"""The log is RFC 6962's, however it is appended to."""

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

from logstitch.evidence.merkle import BLOCK, TenantHead, append, leaf_hash

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


def root(head: TenantHead) -> bytes:
    """The tree's hash from its complete subtrees, of which the smallest two are joined first."""
    edge = [head.edge[i : i + 32] for i in range(0, len(head.edge), 32)]
    digest = edge.pop() if edge else sha256(b"").digest()
    while edge:
        digest = sha256(b"\x01" + edge.pop() + digest).digest()
    return digest


class Stored:
    """What the store keeps of a log."""

    def __init__(self, size: int, chunks: Sequence[int] = ()) -> None:
        self.head = TenantHead()
        self.blocks: list[bytes] = []
        at = 0
        for chunk in [*chunks, size]:
            stop = min(at + chunk, size)
            self.head, completed = append(self.head, LEAVES[at:stop])
            for number, digest in completed:
                assert number == len(self.blocks)
                self.blocks.append(digest)
            at = stop


sizes = st.integers(0, 20) | st.integers(0, len(LEAVES)) | st.sampled_from([255, 256, 257, 511, 512, 513, 1024, 1280])


def test_the_roots_of_the_reference_implementation() -> None:
    leaves = [leaf_hash(bytes.fromhex(text)) for text in VECTORS["leaves"]]
    assert [root(append(TenantHead(), leaves[:n])[0]).hex() for n in range(9)] == VECTORS["roots"]
    assert [naive_root(leaves[:n]).hex() for n in range(9)] == VECTORS["roots"]


@given(sizes, st.lists(st.integers(0, 300), max_size=12))
def test_any_way_of_appending_gives_the_same_log(size: int, chunks: list[int]) -> None:
    stored = Stored(size, chunks)
    assert stored.head.size == size
    assert len(stored.head.edge) == 32 * size.bit_count()
    assert root(stored.head) == naive_root(LEAVES[:size])
    assert stored.blocks == [naive_root(LEAVES[i : i + BLOCK]) for i in range(0, size - BLOCK + 1, BLOCK)]


def test_a_head_that_does_not_fit_its_size_is_refused() -> None:
    for size, edge in ((1, b""), (2, b"x" * 64), (-1, b"x" * 32), (3, b"x" * 63)):
        with pytest.raises(ValueError, match="head"):
            TenantHead(size, edge)


def test_a_long_log_of_random_batches() -> None:
    rng = Random(6962)
    stored = Stored(len(LEAVES), [rng.choice([0, 1, 2, 3, 7, 100, 256]) for _ in range(60)])
    assert root(stored.head) == naive_root(LEAVES)
