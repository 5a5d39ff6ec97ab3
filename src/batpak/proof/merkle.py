"""The Merkle tree of RFC 9162, section 2.1, over SHA-256: what a verifier needs of it.

Hashes in, yes or no out: knows no events and no files, believes nothing, never raises.
`range_root` and `both_roots` walk for the prover (batpak.tlog) as for the verifier: the next
hash of a proof is what `take(start, stop)` gives. Source: docs/proofs.md, "The tree".
"""

from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from typing import Final

__all__ = [
    "EMPTY_ROOT", "HASH_SIZE", "MAX_SIZE", "Take", "both_roots", "leaf_hash", "node_hash",
    "range_root", "split", "verify_consistency", "verify_inclusion", "verify_range",
]  # fmt: skip

HASH_SIZE: Final = 32
MAX_SIZE: Final = 2**63
EMPTY_ROOT: Final = sha256(b"").digest()

Hashes = Sequence[bytes]
Take = Callable[[int, int], bytes]
Walk = Callable[[Take], object]


def leaf_hash(entry: bytes) -> bytes:
    """The tree's hash of one entry, here of an event hash: 32 bytes."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node: 32 bytes."""
    return sha256(b"\x01" + left + right).digest()


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Hashes, root: bytes) -> bool:
    """Whether `leaf` (a leaf hash) is leaf `index` of the tree with this size and root."""
    return verify_range((leaf,), index, size, proof, root)


def verify_range(leaves: Hashes, first: int, size: int, proof: Hashes, root: bytes) -> bool:
    """Whether these are exactly the leaves from `first` on of the tree with this size and root."""
    if not 0 <= first < first + len(leaves) <= size <= MAX_SIZE:
        return False
    walk = partial(range_root, leaves, first, size)
    return _leads_to(root, (*proof, *leaves), proof, walk)


def verify_consistency(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Hashes
) -> bool:
    """Whether the old tree is a prefix of the new one, as the empty tree is of every one."""
    if not 0 <= old_size <= new_size <= MAX_SIZE:
        return False
    if old_size == 0:
        return old_root == EMPTY_ROOT and not proof and (new_size > 0 or new_root == old_root)
    roots = (old_root, new_root)
    walk = partial(both_roots, old_size, old_root, new_size)
    return _leads_to(roots, (*proof, *roots), proof, walk)


def _leads_to(wanted: object, hashes: Hashes, proof: Hashes, walk: Walk) -> bool:
    rest = iter(proof)
    try:
        found = walk(lambda _start, _stop: next(rest))
    except StopIteration:
        return False
    return found == wanted and next(rest, None) is None and {*map(len, hashes)} == {HASH_SIZE}


def split(start: int, stop: int) -> int:
    """Where the tree over these leaves divides: left, the most leaves that are a power of two."""
    return start + (1 << (stop - start - 1).bit_length() - 1)


def range_root(leaves: Hashes, first: int, size: int, take: Take) -> bytes:
    """The root, from leaves `first` on and the hashes of all that lies beside them."""

    def walk(start: int, stop: int) -> bytes:
        if stop - start == 1:
            return leaves[start - first]
        middle = split(start, stop)
        left = walk(start, middle) if first < middle else None
        right = walk(middle, stop) if first + len(leaves) > middle else take(middle, stop)
        return node_hash(left or take(start, middle), right)

    return walk(0, size)


def both_roots(old_size: int, old_root: bytes, size: int, take: Take) -> tuple[bytes, bytes]:
    """The roots of the old and the new tree, from what divides them at `old_size`."""

    def walk(start: int, stop: int, is_old_tree: bool) -> tuple[bytes, bytes]:
        if stop == old_size:
            both = old_root if is_old_tree else take(start, stop)
            return both, both
        middle = split(start, stop)
        if old_size <= middle:
            old, new = walk(start, middle, is_old_tree)
            return old, node_hash(new, take(middle, stop))
        old, new = walk(middle, stop, False)
        left = take(start, middle)
        return node_hash(left, old), node_hash(left, new)

    return walk(0, size, True)
