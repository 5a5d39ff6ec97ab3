"""The Merkle tree over event hashes, kept as tiles under `tlog/` that any file server can publish.

Disposable: tiles are written without a sync, and what is missing or wrong is made again from
the log. Built when a checkpoint is made, never by an
append and never at close. Which paths and bytes: batpak.tlog.tiles; hashing:
batpak.proof.merkle; layout: docs/proofs.md, "Tiles".

Hashes come from the index, which is disposable too: before one goes into a tree that is
signed, it is compared with the link of the entity's next event in the segment, or computed
from the segment where no next event is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from struct import Struct
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from batpak.engine.reading import LogReader
from batpak.errors import InvalidInput, JournalCorrupt, ProofInvalid
from batpak.event import EVENT_PREFIX, ROW_SIZE
from batpak.files import TEMPORARY_SUFFIX, Files, closing, refusal, write_all
from batpak.index.mapped import MappedPart
from batpak.journal.layout import Layout
from batpak.proof.merkle import EMPTY_ROOT, HASH_SIZE, node_hash
from batpak.tlog.tiles import (
    ENTRIES,
    TILE_WIDTH,
    Tile,
    edge_tiles,
    encode_entries,
    subtrees_in,
    tiles_for,
)
from batpak.tlog.trees import Subtree, complete_root, root_of, tree_root

if TYPE_CHECKING:
    from batpak.index.parts import Slot
    from batpak.journal.reading import SegmentReader

__all__ = ["RunningRoot", "Tree", "event_hashes", "subtrees_of_log"]

_TILE_BYTES: Final = HASH_SIZE * TILE_WIDTH
_CACHED: Final = 64
"""Tiles kept in memory for the next proof."""
_LARGE: Final = 12
"""From this level on a subtree's hash is kept: it is made of 16 or more of its tile's."""
_LARGE_KEPT: Final = 8192
_STEP: Final = 1 << 18
_ROW_CHUNK: Final = 1 << 16
_LENGTHS_AT: Final = slice(84, 98)
_LINK_AT: Final = 144
_ONE_HASH: Final = f"V{HASH_SIZE}"
_each_entry: Final = Struct(f"{HASH_SIZE}s").iter_unpack
"""The entries that stand end to end, each alone in a tuple."""


class Tree:
    """The tiles of one journal. The writer grows them; reading needs no lock of the journal."""

    def __init__(self, files: Files, layout: Layout, reader: LogReader) -> None:
        self._files = files
        self._layout = layout
        self._reader = reader
        self._lock = threading.RLock()
        # guarded by _lock
        self._is_growing = False
        self.size = 0
        """Leaves that the tiles are known to hold, in this process."""
        self._folders: set[str] = set()
        self._caching = threading.RLock()
        # guarded by _caching, but for single look-ups
        self._cache: dict[Tile, bytes] = {}
        self._large: dict[tuple[int, int], bytes] = {}
        """Hashes of large subtrees by level and index, which many proofs share."""

    def trust(self, size: int, root: bytes) -> bool:
        """Whether the tiles are there, whole, and have this root; then they serve from now on.

        Looks at every tile's length and at the hashes on the right edge. Bytes inside of a
        tile are looked at when a proof needs them.
        """
        with self._lock:
            if self.size >= size > 0:
                return True
            if not self._are_whole(tiles_for(size)):
                return False
            try:
                is_right = tree_root(subtrees_in(self._read, size), size) == root
            except ProofInvalid:
                return False
            if is_right:
                self.size = size
            return is_right

    def has_edge(self) -> bool:
        """Whether the right edge of what was grown is still there.

        Somebody may delete the folder under an open store. A single tile inside that is gone is
        found by the proof that needs it: a look at every one would cost each checkpoint more than
        its events.
        """
        with self._lock:
            return self._are_whole(edge_tiles(self.size))

    def subtrees(self) -> Subtree:
        """The complete subtrees below `size` as it is now; ProofInvalid is for a bad tile.

        A tree that grows meanwhile may take a partial tile away, which then is a bad one.
        """
        inside, known = subtrees_in(self._read, self.size), self._large

        def subtree(level: int, index: int) -> bytes:
            if level < _LARGE:
                return inside(level, index)
            found = known.get((level, index))
            if found is None:
                found = inside(level, index)
                with self._caching:
                    if len(known) >= _LARGE_KEPT:
                        known.clear()
                    known[level, index] = found
            return found

        return subtree

    def forget(self) -> None:
        """Believe no tile any more: the next `grow` makes all of them again."""
        with self._lock:
            self.size = 0
            self._folders.clear()
            self._clear()

    def _clear(self) -> None:
        with self._caching:
            self._cache.clear()
            self._large.clear()

    def grow(self, size: int, tell: Callable[[int], None] | None = None) -> bytes:
        """Write what is missing up to `size` leaves; returns the root over them.

        `tell` is told after each tile how many leaves there are. Raises StorageFailed, NoSpace,
        JournalCorrupt; ProofInvalid for a tile that went bad, InvalidInput where `tell` calls it.
        """
        with self._lock:
            if self._is_growing:
                # Only the thread that grows it can get here.
                raise InvalidInput(
                    "the journal's tree is growing: what is told of it can't grow it as well",
                    field="progress",
                    advice="make the proof or the checkpoint when this call has returned",
                )
            if size > self.size:
                self._is_growing = True
                try:
                    try:
                        self._grow(self.size, size, tell)
                    except FileNotFoundError:
                        # Somebody deleted the folder meanwhile: no tile of before is there.
                        self._folders.clear()
                        self._grow(0, size, tell)
                except BaseException as error:
                    # Which tiles are there now is not known.
                    self.size = 0
                    if isinstance(error, OSError):
                        path = self._layout.tlog
                        raise refusal(error, "can't write the log's tiles", path) from error
                    raise
                finally:
                    self._is_growing = False
                self.size = size
            return tree_root(self.subtrees(), size)

    # --- writing -------------------------------------------------------------

    def _grow(self, old: int, size: int, tell: Callable[[int], None] | None) -> None:
        self._clear()
        start = old - old % TILE_WIDTH
        pending: list[bytes] = []
        place = start // TILE_WIDTH
        for leaves in _by_tiles(event_hashes(self._reader, start, size)):
            entries = _entries_in(leaves)
            hashes = _leaf_hashes(entries)
            self._write(Tile(ENTRIES, place, len(hashes)), encode_entries(entries))
            self._write(Tile(0, place, len(hashes)), b"".join(hashes))
            if len(hashes) == TILE_WIDTH:
                pending.append(complete_root(hashes))
            place += 1
            if tell is not None:
                tell(place * TILE_WIDTH)
        self._drop_partial(ENTRIES, old, size)
        level = 1
        while size >> 8 * level:
            pending = self._grow_level(level, old, size, pending)
            level += 1

    def _grow_level(self, level: int, old: int, size: int, new: list[bytes]) -> list[bytes]:
        """Write the tiles of one level above the leaves; the roots of those that are full."""
        self._drop_partial(level - 1, old, size)
        before = old >> 8 * level
        first = before - before % TILE_WIDTH
        place, width = first // TILE_WIDTH, before - first
        known = self._read(Tile(level, place, width)) if width else b""
        if len(known) != HASH_SIZE * width:
            raise ProofInvalid("a tile to grow is not whole", reason="tile-length")
        hashes = [known[at : at + HASH_SIZE] for at in range(0, len(known), HASH_SIZE)] + new
        full: list[bytes] = []
        if not new:
            return full
        for at in range(0, len(hashes), TILE_WIDTH):
            tile = hashes[at : at + TILE_WIDTH]
            self._write(Tile(level, place, len(tile)), b"".join(tile))
            if len(tile) == TILE_WIDTH:
                full.append(complete_root(tile))
            place += 1
        return full

    def _write(self, tile: Tile, data: bytes) -> None:
        """Put a tile in its place. A crash leaves none, an old one, or, since nothing is synced,
        one of other bytes, which the proof that needs it does not verify with."""
        path = self._path(tile)
        self._make_folder(os.path.dirname(path))
        try:
            # New, so that nobody knows of it before the checkpoint that needs it is published:
            # a rename would only take its time, of which there are thousands.
            fd = self._files.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            self._replace(path, data)
            return
        with closing(self._files, fd):
            write_all(self._files, fd, data, 0)

    def _replace(self, path: str, data: bytes) -> None:
        """Whoever reads meanwhile finds the old bytes or the new ones."""
        temporary = path + TEMPORARY_SUFFIX
        flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY
        with closing(self._files, self._files.open(temporary, flags)) as fd:
            write_all(self._files, fd, data, 0)
        self._files.rename(temporary, path)

    def _make_folder(self, path: str) -> None:
        if path in self._folders:
            return
        if path != self._layout.root:
            self._make_folder(os.path.dirname(path))
            try:
                self._files.mkdir(path)
            except FileExistsError:
                pass
        self._folders.add(path)

    def _drop_partial(self, level: int, old: int, size: int) -> None:
        """Delete the partial tiles of the tile that `old` ended in, once it is full."""
        shift = 8 * max(level, 0)
        place, width = divmod(old >> shift, TILE_WIDTH)
        if not width or (size >> shift) < (place + 1) * TILE_WIDTH:
            return
        folder = os.path.dirname(self._path(Tile(level, place, width)))
        try:
            for name in self._files.listdir(folder):
                self._files.unlink(os.path.join(folder, name))
        except FileNotFoundError:
            # Somebody tidied up before; nobody needs them.
            return

    # --- reading -------------------------------------------------------------

    def _path(self, tile: Tile) -> str:
        return os.path.join(self._layout.tlog, *tile.path.split("/"))

    def _read(self, tile: Tile) -> bytes:
        """A tile's bytes, at most one more than it may have; none where it can't be read."""
        data = self._cache.get(tile)
        if data is not None:
            return data
        try:
            with closing(self._files, self._files.open(self._path(tile), os.O_RDONLY)) as fd:
                data = self._files.pread(fd, _TILE_BYTES + 1, 0)
        except OSError:
            return b""
        with self._caching:
            while len(self._cache) >= _CACHED:
                # A signal handler's own read may have dropped it meanwhile.
                self._cache.pop(next(iter(self._cache)), None)
            self._cache[tile] = data
        return data

    def _are_whole(self, tiles: Iterable[Tile]) -> bool:
        for tile in tiles:
            step = HASH_SIZE + 2 * (tile.level == ENTRIES)
            try:
                if self._files.stat(self._path(tile)).st_size != step * tile.width:
                    return False
            except OSError:
                return False
        return True


# --- hashing -------------------------------------------------------------------


def _entries_in(data: bytes) -> list[bytes]:
    """The 32-byte entries that stand end to end."""
    return [entry for (entry,) in _each_entry(data)]


def _leaf_hashes(entries: Iterable[bytes]) -> list[bytes]:
    # A million of these are most of a checkpoint: no slicing, no call but the hash.
    return [sha256(b"\x00" + entry).digest() for entry in entries]


class RunningRoot:
    """The root over entries that come one after the other: the tree's right edge, no more."""

    def __init__(self) -> None:
        self.size = 0
        self._leaves: list[bytes] = []
        """Leaf hashes of the last tile, fewer than it holds."""
        self._edge: list[tuple[int, bytes]] = []
        """Height and hash of the complete subtrees before them, from left to right."""

    def add(self, entries: bytes) -> None:
        """Take in entries, 32 bytes each, end to end."""
        self.size += len(entries) // HASH_SIZE
        self._leaves += _leaf_hashes(_entries_in(entries))
        whole = len(self._leaves) - len(self._leaves) % TILE_WIDTH
        for at in range(0, whole, TILE_WIDTH):
            height, right = 8, complete_root(self._leaves[at : at + TILE_WIDTH])
            while self._edge and self._edge[-1][0] == height:
                right = node_hash(self._edge.pop()[1], right)
                height += 1
            self._edge.append((height, right))
        del self._leaves[:whole]

    @property
    def root(self) -> bytes:
        """RFC 9162 root over all entries so far, 32 bytes."""
        right = root_of(self._leaves) if self._leaves else None
        for _, left in reversed(self._edge):
            right = left if right is None else node_hash(left, right)
        return EMPTY_ROOT if right is None else right


def subtrees_of_log(reader: LogReader, tell: Callable[[int], None] | None = None) -> Subtree:
    """Complete subtrees computed from the log: for a reader that has no tiles and writes none.

    `tell` is told how many events were hashed so far, those that were hashed again included.
    """
    hashed = 0
    known: dict[tuple[int, int], bytes] = {}
    """Hashes of large subtrees, as a tree keeps them: a bundle has many proofs of one tree."""

    def subtree(level: int, index: int) -> bytes:
        nonlocal hashed
        root = known.get((level, index))
        if root is not None:
            return root
        if level > 8:
            root = node_hash(subtree(level - 1, 2 * index), subtree(level - 1, 2 * index + 1))
        else:
            low, high = index << level, (index + 1) << level
            entries = _entries_in(b"".join(event_hashes(reader, low, high)))
            root = complete_root(_leaf_hashes(entries))
            hashed += high - low
            if tell is not None:
                tell(hashed)
        if level >= _LARGE:
            if len(known) >= _LARGE_KEPT:
                known.clear()
            known[level, index] = root
        return root

    return subtree


# --- the entries -----------------------------------------------------------------


def event_hashes(reader: LogReader, low: int, high: int) -> Iterator[bytes]:
    """Event hashes of sequences [low, high), end to end, in pieces of many.

    Raises JournalCorrupt where index and segment disagree, or where the events end before `high`.
    """
    at = low
    while at < high:
        # Looked for anew each time: a compaction may have put another pair in its place.
        slot = reader.index.slot_of(at)
        segment = None
        if isinstance(slot.part, MappedPart):
            slot, segment = reader.pair(at)
        stop = min(at + _STEP, high, slot.part.end)
        if stop <= at:
            raise _too_few(reader, at, high)
        hashes, _ = slot.part.located(at - slot.first, stop - slot.first)
        if segment is not None and isinstance(slot.part, MappedPart):
            _check_links(reader, segment, slot, slot.part, at - slot.first, hashes)
        yield hashes
        at = stop


def _check_links(
    reader: LogReader,
    segment: SegmentReader,
    slot: Slot,
    part: MappedPart,
    low: int,
    hashes: bytes,
) -> None:
    """Compare hashes of a sidecar, of rows from `low` on, with what the segment says of them.

    An event's hash stands in the next row of its entity; where that is not among these rows,
    it is computed.
    """
    import numpy as np

    columns, high = part.columns(), low + len(hashes) // HASH_SIZE
    offsets = columns.row_offset[low:high].astype(np.int64)
    entities = columns.entity_number[low:high]
    previous = np.empty(high - low, _ONE_HASH)
    for at in range(0, high - low, _ROW_CHUNK):
        chunk = offsets[at : at + _ROW_CHUNK]
        begin, end = int(chunk.min()), int(chunk.max()) + ROW_SIZE
        data = segment.read(begin, end - begin)
        if len(data) < end - begin:
            raise _disagrees(reader, slot, low + at)
        starts = chunk - begin
        # Seen as values that begin at every byte, each row's are copied as a whole.
        numbers = np.ndarray(len(data) - 7, "<u8", data, 0, (1,))[starts]
        wrong = np.flatnonzero(numbers != np.arange(len(chunk)) + (slot.first + low + at))
        if len(wrong):
            raise _disagrees(reader, slot, low + at + int(wrong[0]))
        links = np.ndarray(len(data) - HASH_SIZE + 1, _ONE_HASH, data, 0, (1,))
        previous[at : at + len(chunk)] = links[starts + _LINK_AT]
    order = np.argsort(entities, kind="stable")
    own = np.frombuffer(hashes, _ONE_HASH)
    linked = entities[order[1:]] == entities[order[:-1]]
    told, known = (
        each.view("<u8").reshape(-1, 4) for each in (previous[order[1:]], own[order[:-1]])
    )
    bad = np.flatnonzero(linked & (told != known).any(axis=1))
    if len(bad):
        raise _disagrees(reader, slot, low + int(order[bad[0]]))
    last = np.append(order[:-1][~linked], order[-1:])
    for row in last.tolist():
        known = hashes[HASH_SIZE * row : HASH_SIZE * row + HASH_SIZE]
        if _event_hash(segment, part, low + row) != known:
            raise _disagrees(reader, slot, low + row)


def _event_hash(segment: SegmentReader, part: MappedPart, row: int) -> bytes:
    _, row_at, metadata_at, _ = part.locate(row)
    data = segment.read(row_at, ROW_SIZE)
    lengths = data[_LENGTHS_AT]
    size = int.from_bytes(lengths[:4], "little")
    size += int.from_bytes(lengths[10:12], "little") + int.from_bytes(lengths[12:14], "little")
    return blake3(EVENT_PREFIX + data + segment.read(metadata_at, size)).digest()


def _too_few(reader: LogReader, end: int, high: int) -> JournalCorrupt:
    return JournalCorrupt(
        f"the events end at {end}: nothing is proved or signed over {high}",
        file=reader.pool.root,
        sequence=end,
        reason="end",
        first=end,
        last=high - 1,
        advice=f"run: batpak verify {reader.pool.root}",
    )


def _disagrees(reader: LogReader, slot: Slot, row: int) -> JournalCorrupt:
    sequence = slot.first + row
    return JournalCorrupt(
        f"index and segment disagree about event {sequence}: nothing is signed over it",
        file=reader.pool.path(slot.segment_base),
        sequence=sequence,
        reason="event-hash",
        first=sequence,
        last=sequence,
        advice=f"run: batpak verify {reader.pool.root}; "
        "delete the .idx file if the segment is good",
    )


def _by_tiles(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of a tile's leaves each; only the last one may be shorter."""
    left = b""
    for piece in pieces:
        data = left + piece if left else piece
        whole = len(data) - len(data) % _TILE_BYTES
        for at in range(0, whole, _TILE_BYTES):
            yield data[at : at + _TILE_BYTES]
        left = data[whole:]
    if left:
        yield left
