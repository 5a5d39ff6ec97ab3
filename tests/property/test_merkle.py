"""Trees and proofs beside the definitions of RFC 9162, written down as they stand there."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batpak.errors import InvalidInput, ProofInvalid
from batpak.proof import merkle
from batpak.tlog import tiles, trees

LARGEST = 300
LEAVES = [merkle.leaf_hash(sha256(b"%d" % n).digest()) for n in range(LARGEST)]


def largest_power_below(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


@cache
def tree_hash(start: int, stop: int) -> bytes:
    """MTH over leaves that are hashed already."""
    if start == stop:
        return sha256(b"").digest()
    if stop - start == 1:
        return LEAVES[start]
    middle = start + largest_power_below(stop - start)
    return sha256(b"\x01" + tree_hash(start, middle) + tree_hash(middle, stop)).digest()


def path(m: int, start: int, stop: int) -> list[bytes]:
    """PATH(m, D[start:stop]), with m counted from the start of the tree."""
    if stop - start == 1:
        return []
    middle = start + largest_power_below(stop - start)
    if m < middle:
        return [*path(m, start, middle), tree_hash(middle, stop)]
    return [*path(m, middle, stop), tree_hash(start, middle)]


def subproof(m: int, start: int, stop: int, complete: bool) -> list[bytes]:
    if m == stop:
        return [] if complete else [tree_hash(start, stop)]
    middle = start + largest_power_below(stop - start)
    if m <= middle:
        return [*subproof(m, start, middle, complete), tree_hash(middle, stop)]
    return [*subproof(m, middle, stop, False), tree_hash(start, middle)]


@cache
def subtree(level: int, index: int) -> bytes:
    return tree_hash(index << level, (index + 1) << level)


def damaged(proof: list[bytes]) -> Iterator[list[bytes]]:
    """A bit flipped in each hash; one left out, one put in, two exchanged, one cut short."""
    for at, digest in enumerate(proof):
        yield [*proof[:at], bytes([digest[0] ^ 1]) + digest[1:], *proof[at + 1 :]]
        yield [*proof[:at], *proof[at + 1 :]]
        yield [*proof[:at], digest[:31], *proof[at + 1 :]]
    yield [*proof, bytes(32)]
    if len(proof) > 1:
        yield [proof[1], proof[0], *proof[2:]]


def test_roots_of_all_sizes() -> None:
    for size in range(LARGEST + 1):
        assert trees.tree_root(subtree, size) == tree_hash(0, size)
        if size < 70:
            assert trees.root_of(LEAVES[:size]) == tree_hash(0, size)


@pytest.mark.proves("INV-PROOF-INCLUSION")
def test_each_leaf_of_each_size_is_proved_as_the_rfc_says() -> None:
    for size in range(1, LARGEST + 1):
        root = tree_hash(0, size)
        for index in range(size):
            proof = trees.inclusion_proof(subtree, index, size)
            assert proof == path(index, 0, size)
            assert merkle.verify_inclusion(LEAVES[index], index, size, proof, root)


@pytest.mark.proves("INV-PROOF-CONSISTENCY")
def test_each_pair_of_sizes_is_proved_as_the_rfc_says() -> None:
    for new in range(LARGEST + 1):
        for old in range(new + 1):
            proof = trees.consistency_proof(subtree, old, new)
            assert proof == (subproof(old, 0, new, True) if old else [])
            assert merkle.verify_consistency(old, tree_hash(0, old), new, tree_hash(0, new), proof)


@pytest.mark.proves("INV-PROOF-INCLUSION")
@given(st.data())
def test_another_leaf_place_size_or_proof_is_not_included(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, LARGEST))
    index = data.draw(st.integers(0, size - 1))
    proof, root = path(index, 0, size), tree_hash(0, size)

    def holds(leaf: bytes, index: int, size: int, proof: list[bytes], root: bytes) -> bool:
        return merkle.verify_inclusion(leaf, index, size, proof, root)

    assert holds(LEAVES[index], index, size, proof, root)
    assert not holds(bytes(32), index, size, proof, root)
    assert not holds(LEAVES[index][:31], index, size, proof, root)
    assert not holds(LEAVES[index], index, size, proof, bytes(32))
    for wrong in damaged(proof):
        assert not holds(LEAVES[index], index, size, wrong, root)
    for place in range(-1, size + 1):
        if place != index:
            assert not holds(LEAVES[index], place, size, proof, root)
    # A path has one shape for each size that it could belong to; the root tells sizes apart
    # only together with a signature, so another size with the same shape is not a forgery.
    for other in (0, -1, 2**63 + 1, 2**70):
        assert not holds(LEAVES[index], index, other, proof, root)


@pytest.mark.proves("INV-PROOF-CONSISTENCY")
@given(st.data())
def test_another_root_or_proof_is_not_consistent(data: st.DataObject) -> None:
    new = data.draw(st.integers(1, LARGEST))
    old = data.draw(st.integers(1, new))
    old_root, new_root = tree_hash(0, old), tree_hash(0, new)
    proof = subproof(old, 0, new, True)
    assert not merkle.verify_consistency(old, bytes(32), new, new_root, proof)
    assert not merkle.verify_consistency(old, old_root, new, bytes(32), proof)
    assert not merkle.verify_consistency(old, old_root[:31], new, new_root, proof)
    assert not merkle.verify_consistency(new + 1, old_root, new, new_root, proof)
    assert not merkle.verify_consistency(-1, old_root, new, new_root, proof)
    for wrong in damaged(proof):
        assert not merkle.verify_consistency(old, old_root, new, new_root, wrong)
    if old > 1:
        fork = sha256(b"another history").digest()
        assert not merkle.verify_consistency(old, fork, new, new_root, proof)


def test_the_empty_tree_is_the_beginning_of_every_tree() -> None:
    empty, other = merkle.EMPTY_ROOT, tree_hash(0, 3)
    assert merkle.verify_consistency(0, empty, 3, other, [])
    assert merkle.verify_consistency(0, empty, 0, empty, [])
    assert not merkle.verify_consistency(0, empty, 0, other, [])
    assert not merkle.verify_consistency(0, other, 3, other, [])
    assert not merkle.verify_consistency(0, empty, 3, other, [bytes(32)])
    assert not merkle.verify_consistency(0, empty, -1, empty, [])


@given(st.data())
def test_a_run_of_leaves_has_one_proof_which_leaves_none_out(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, LARGEST))
    first = data.draw(st.integers(0, size - 1))
    count = data.draw(st.integers(1, size - first))
    leaves, root = LEAVES[first : first + count], tree_hash(0, size)
    proof = trees.inclusion_proof(subtree, first, size, count)
    # At most the hashes of the two paths at its edges.
    assert len(proof) <= len(path(first, 0, size)) + len(path(first + count - 1, 0, size))
    assert merkle.verify_range(leaves, first, size, proof, root)
    assert not merkle.verify_range([], first, size, proof, root)
    for at in range(count):
        assert not merkle.verify_range(leaves[:at] + leaves[at + 1 :], first, size, proof, root)
    for wrong in damaged(proof):
        assert not merkle.verify_range(leaves, first, size, wrong, root)


@pytest.mark.parametrize(("first", "size", "count"), [(-1, 3, 1), (3, 3, 1), (2, 3, 2), (0, 3, 0)])
def test_no_proof_of_leaves_that_are_not_there(first: int, size: int, count: int) -> None:
    with pytest.raises(InvalidInput):
        trees.inclusion_proof(subtree, first, size, count)


@pytest.mark.parametrize(("old", "new"), [(-1, 3), (4, 3)])
def test_no_proof_that_a_tree_shrank(old: int, new: int) -> None:
    with pytest.raises(InvalidInput):
        trees.consistency_proof(subtree, old, new)


# --- tiles ------------------------------------------------------------------------------------

BIG = 70_000
BIG_LEAVES = [sha256(n.to_bytes(4, "big")).digest() for n in range(BIG)]


@cache
def big_subtree(level: int, index: int) -> bytes:
    if level == 0:
        return BIG_LEAVES[index]
    left, right = big_subtree(level - 1, 2 * index), big_subtree(level - 1, 2 * index + 1)
    return sha256(b"\x01" + left + right).digest()


def published(*sizes: int) -> dict[str, bytes]:
    """The tiles of a log that grew by these sizes, each written once."""
    found: dict[str, bytes] = {}
    old = 0
    for size in sizes:
        for tile in tiles.tiles_for(size, old):
            if tile.level != tiles.ENTRIES:
                assert tile.path not in found
                found[tile.path] = tiles.tile_bytes(tile, big_subtree)
        old = size
    return found


def test_a_tree_of_70_000_has_the_tiles_that_the_specification_counts() -> None:
    found = [tile for tile in tiles.tiles_for(BIG) if tile.level != tiles.ENTRIES]
    full = [tile.level for tile in found if tile.width == 256]
    partial = [(tile.level, tile.width) for tile in found if tile.width < 256]
    assert (full.count(0), full.count(1), len(full)) == (273, 1, 274)
    assert partial == [(0, 112), (1, 17), (2, 1)]
    entries = [tile for tile in tiles.tiles_for(BIG) if tile.level == tiles.ENTRIES]
    assert [tile.width for tile in entries] == [256] * 273 + [112]


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 511, 512, 65_536, 65_537, BIG])
def test_the_edge_of_a_tree_is_the_last_tile_of_each_level(size: int) -> None:
    last = {tile.level: tile for tile in tiles.tiles_for(size)}
    assert list(tiles.edge_tiles(size)) == list(last.values())


@pytest.mark.parametrize("sizes", [(1, 255, 256, 257, 300, 65_536, BIG), (BIG,), (256, 512, 513)])
def test_proofs_from_tiles_are_those_from_memory(sizes: tuple[int, ...]) -> None:
    files = published(*sizes)
    size = sizes[-1]
    from_tiles = tiles.subtrees_in(lambda tile: files[tile.path], size)
    assert trees.tree_root(from_tiles, size) == trees.tree_root(big_subtree, size)
    for index in (0, 1, 255, 256, size // 2, size - 1):
        proof = trees.inclusion_proof(from_tiles, index, size)
        assert proof == trees.inclusion_proof(big_subtree, index, size)
    for old in (*sizes, 3, size - 1):
        proof = trees.consistency_proof(from_tiles, old, size)
        assert proof == trees.consistency_proof(big_subtree, old, size)


def test_a_tile_of_the_wrong_length_is_refused() -> None:
    for short in (b"", bytes(31), bytes(33)):
        broken = tiles.subtrees_in(lambda _, data=short: data, 1)
        with pytest.raises(ProofInvalid) as caught:
            broken(0, 0)
        assert caught.value.reason == "tile-length"


@pytest.mark.parametrize(
    ("tile", "path_of_it"),
    [
        (tiles.Tile(0, 0), "tile/0/000"),
        (tiles.Tile(0, 1_234_067), "tile/0/x001/x234/067"),
        (tiles.Tile(63, 999, 1), "tile/63/999.p/1"),
        (tiles.Tile(tiles.ENTRIES, 1000, 255), "tile/entries/x001/000.p/255"),
    ],
)
def test_paths_are_those_of_the_specification(tile: tiles.Tile, path_of_it: str) -> None:
    assert tile.path == path_of_it
    assert tiles.Tile.parse(path_of_it) == tile


@given(st.integers(-1, 63), st.integers(0, 2**55 - 1), st.integers(1, 256))
def test_a_path_names_one_tile(level: int, index: int, width: int) -> None:
    tile = tiles.Tile(level, index, width)
    assert tiles.Tile.parse(tile.path) == tile


@pytest.mark.parametrize(
    "text",
    [
        "", "tile/0", "tile/64/000", "tile/00/000", "tile/-1/000", "tile/0/0", "tile/0/1000",
        "tile/0/x000/001", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/01",
        "tile/0/000.p/", "tile/0/000/", "/tile/0/000", "tile/0/../000", "tile/0/x1/000",
        "tile/entries/x001/x002", "tile/0/٣٣٣", "tile/0/000\n", "tile/0/000.p/99999999999",
    ],
)  # fmt: skip
def test_other_paths_name_none(text: str) -> None:
    assert tiles.Tile.parse(text) is None


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=256))
def test_entry_bundles_round_trip(entries: list[bytes]) -> None:
    data = tiles.encode_entries(entries)
    assert data[:2] == b"\x00\x20"
    assert tiles.decode_entries(data) == entries


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x00\x20" + bytes(31), b"\x00\x20" + bytes(33), b"\x20\x00" + bytes(32),
        (b"\x00\x20" + bytes(32)) * 257, b"\x00\x20" + bytes(32) + b"\x00",
    ],
)  # fmt: skip
def test_other_bytes_are_no_entry_bundle(data: bytes) -> None:
    with pytest.raises(ProofInvalid):
        tiles.decode_entries(data)


def test_the_largest_tree_that_there_can_be() -> None:
    leaf, others = LEAVES[0], [merkle.leaf_hash(bytes([n])) for n in range(63)]
    root = leaf
    for other in others:
        root = merkle.node_hash(root, other)
    assert merkle.verify_inclusion(leaf, 0, merkle.MAX_SIZE, others, root)
    higher = merkle.node_hash(root, leaf)
    assert not merkle.verify_inclusion(leaf, 0, 2 * merkle.MAX_SIZE, [*others, leaf], higher)
