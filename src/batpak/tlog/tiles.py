"""Where C2SP tlog-tiles keeps a tree: coordinates, paths, and the bytes of tiles and bundles.

Pure: who reads or writes a path is the caller. An entry is a 32-byte event hash.
Source: docs/proofs.md, "Tiles".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from batpak.errors import ProofInvalid
from batpak.proof.merkle import HASH_SIZE
from batpak.tlog.trees import Subtree, complete_root

__all__ = [
    "ENTRIES",
    "TILE_WIDTH",
    "Tile",
    "decode_entries",
    "encode_entries",
    "subtrees_in",
    "tile_bytes",
    "tiles_for",
]

ENTRIES: Final = -1
"""The level of entry bundles."""
TILE_WIDTH: Final = 256
_PATH: Final = re.compile(r"tile/([0-9]{1,2}|entries)/((?:x[0-9]{3}/){0,6}[0-9]{3})(\.p/[0-9]+)?")
_PREFIX: Final = HASH_SIZE.to_bytes(2, "big")


@dataclass(frozen=True, slots=True)
class Tile:
    """Hashes [256 * index, 256 * index + width) of a level; `width` below 256: partial."""

    level: int
    index: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """Where it stands below the log's prefix: `tile/0/x001/x234/067.p/112`."""
        rest, last = divmod(self.index, 1000)
        groups = f"{last:03}"
        while rest:
            rest, last = divmod(rest, 1000)
            groups = f"x{last:03}/{groups}"
        level = "entries" if self.level == ENTRIES else self.level
        return f"tile/{level}/{groups}" + (f".p/{self.width}" if self.width < TILE_WIDTH else "")

    @classmethod
    def parse(cls, path: str) -> Tile | None:
        """The tile at a path; None for what `path` never gives."""
        match = _PATH.fullmatch(path)
        if match is None:
            return None
        level, index, part = match.groups()
        width = int(part[3:6]) if part else TILE_WIDTH
        level = ENTRIES if level == "entries" else int(level)
        tile = cls(level, int(re.sub("[x/]", "", index)), width)
        return tile if level < 64 and width > 0 and tile.path == path else None


def tiles_for(size: int, old_size: int = 0) -> Iterator[Tile]:
    """The tiles and entry bundles to write when a tree grows from `old_size` to `size`."""
    for level in (ENTRIES, *range(8)):
        shift = 8 * max(level, 0)
        old, new = old_size >> shift, size >> shift
        for index in range(old // TILE_WIDTH, -(-new // TILE_WIDTH) if new > old else 0):
            yield Tile(level, index, min(TILE_WIDTH, new - TILE_WIDTH * index))


def edge_tiles(size: int) -> Iterator[Tile]:
    """The last tile of each level, and the last entry bundle, of a tree of `size` leaves."""
    for level in (ENTRIES, *range(8)):
        if hashes := size >> 8 * max(level, 0):
            index = (hashes - 1) // TILE_WIDTH
            yield Tile(level, index, hashes - TILE_WIDTH * index)


def tile_bytes(tile: Tile, subtree: Subtree) -> bytes:
    """The content of a tile of hashes: 32 bytes times its width."""
    first = TILE_WIDTH * tile.index
    return b"".join(subtree(8 * tile.level, first + place) for place in range(tile.width))


def subtrees_in(read: Callable[[Tile], bytes], size: int) -> Subtree:
    """Complete subtrees of a tree of `size` leaves whose tiles `read` gives.

    The result raises ProofInvalid for a tile of the wrong length.
    """

    def subtree(level: int, index: int) -> bytes:
        tile_level, height = divmod(level, 8)
        place, first = divmod(index << height, TILE_WIDTH)
        width = min(TILE_WIDTH, (size >> 8 * tile_level) - TILE_WIDTH * place)
        tile = Tile(tile_level, place, width)
        data = read(tile)
        if len(data) != HASH_SIZE * width:
            raise ProofInvalid(f"{tile.path} has {len(data)} bytes", reason="tile-length")
        return complete_root(
            [data[32 * at : 32 * at + 32] for at in range(first, first + (1 << height))]
        )

    return subtree


def encode_entries(event_hashes: Iterable[bytes]) -> bytes:
    """An entry bundle: each event hash behind its length in two bytes, big-endian."""
    return _PREFIX.join((b"", *event_hashes))


def decode_entries(data: bytes) -> list[bytes]:
    """The event hashes of an entry bundle. Raises ProofInvalid."""
    step = HASH_SIZE + 2
    starts = range(0, len(data), step)
    if len(data) % step or any(data[at : at + 2] != _PREFIX for at in starts):
        raise ProofInvalid("not a bundle of 32-byte entries", reason="entries")
    if not 0 < len(starts) <= TILE_WIDTH:
        raise ProofInvalid(f"a bundle of {len(starts)} entries, not 1 to 256", reason="entries")
    return [data[at + 2 : at + step] for at in starts]
