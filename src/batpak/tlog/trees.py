"""Roots and proofs of a Merkle tree, from whoever can give the hashes of its subtrees.

A `Subtree` is called with (level, index) and gives the hash of the complete subtree over
leaves [index << level, (index + 1) << level): from memory here, from tiles in `tiles`.
What verifies these proofs is `batpak.proof.merkle`. Source: docs/proofs.md, "The tree".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

from batpak.errors import InvalidInput
from batpak.proof.merkle import EMPTY_ROOT, Take, both_roots, node_hash, range_root, split

__all__ = [
    "Subtree",
    "complete_root",
    "consistency_proof",
    "inclusion_proof",
    "root_of",
    "subtrees_of",
    "tree_root",
]

Subtree = Callable[[int, int], bytes]


def subtrees_of(leaf_hashes: Sequence[bytes]) -> Subtree:
    """Complete subtrees over leaf hashes in memory; nothing is kept between calls."""

    def subtree(level: int, index: int) -> bytes:
        if level == 0:
            return leaf_hashes[index]
        return node_hash(subtree(level - 1, 2 * index), subtree(level - 1, 2 * index + 1))

    return subtree


def root_of(leaf_hashes: Sequence[bytes]) -> bytes:
    """The root over leaf hashes in memory: 32 bytes."""
    return tree_root(subtrees_of(leaf_hashes), len(leaf_hashes))


def complete_root(hashes: Sequence[bytes]) -> bytes:
    """The root over a power of two of hashes, 32 bytes each: 32 bytes."""
    while len(hashes) > 1:
        each = iter(hashes)
        # As `node_hash`, but for the call: a proof takes hundreds, a checkpoint millions.
        hashes = [
            sha256(b"\x01" + left + right).digest() for left, right in zip(each, each, strict=True)
        ]
    return hashes[0]


def tree_root(subtree: Subtree, size: int) -> bytes:
    """The root of the first `size` leaves: 32 bytes."""
    return _hash_over(subtree, 0, size) if size else EMPTY_ROOT


def inclusion_proof(subtree: Subtree, first: int, size: int, count: int = 1) -> list[bytes]:
    """Proof that leaves [first, first + count) are those of the tree of `size` leaves.

    For one leaf it is RFC 9162's; for more, what those paths need besides the leaves
    themselves, in the same order: from below, left before right. Raises InvalidInput.
    """
    if not 0 <= first < first + count <= size:
        raise InvalidInput(
            f"a tree of {size} has no {count} leaves from {first} on", field="first", value=first
        )
    proof: list[bytes] = []
    leaves = [subtree(0, index) for index in range(first, first + count)]
    range_root(leaves, first, size, _noting(proof, subtree))
    return proof


def consistency_proof(subtree: Subtree, old_size: int, new_size: int) -> list[bytes]:
    """RFC 9162's proof that the old tree is a prefix of the new one; empty for the empty tree.

    Raises InvalidInput.
    """
    if not 0 <= old_size <= new_size:
        raise InvalidInput(
            f"a tree of {new_size} has not grown from {old_size}", field="old_size", value=old_size
        )
    proof: list[bytes] = []
    if old_size:
        both_roots(old_size, b"", new_size, _noting(proof, subtree))
    return proof


def _noting(proof: list[bytes], subtree: Subtree) -> Take:
    """What the walk of a verifier reads from a proof, a prover computes and notes."""

    def take(start: int, stop: int) -> bytes:
        proof.append(_hash_over(subtree, start, stop))
        return proof[-1]

    return take


def _hash_over(subtree: Subtree, start: int, stop: int) -> bytes:
    size = stop - start
    if size & (size - 1) == 0:
        return subtree(size.bit_length() - 1, start // size)
    middle = split(start, stop)
    return node_hash(_hash_over(subtree, start, middle), _hash_over(subtree, middle, stop))
