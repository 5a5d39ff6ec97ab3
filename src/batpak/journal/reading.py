"""Read segment files at offsets: mapped where that is safe, positional elsewhere.

A sealed segment is replaced by rename only, so it can be mapped. The newest one may
be cut by its writer, so only the writer's own process maps it, up to its own end.
"""

from __future__ import annotations

import mmap
import os
import threading

from batpak.errors import Damaged, StoreClosed
from batpak.files import Files, let_go, refusal
from batpak.journal.layout import Layout

__all__ = ["Positional", "SegmentPool", "SegmentReader", "SegmentReplaced"]

_REMAP_STEP = 1 << 20
_SALT = slice(64, 80)


class SegmentReplaced(Exception):  # no failure: how a pool says that there is a new pair
    """The file of a segment is another one than its part of the index was made from."""

    def __init__(self, base: int) -> None:
        super().__init__(base)
        self.base = base


class SegmentReader:
    """One open segment. `read` gives fewer bytes at the end of the file."""

    def __init__(self, files: Files, path: str, *, may_map: bool) -> None:
        self._files = files
        self.path = path
        self.used = True
        self._may_map = may_map
        self._fd = files.open(path, os.O_RDONLY)
        self._map: mmap.mmap | bytes = b""
        self._mapped = 0
        self._closed = False
        self.salt: bytes | None = None
        """What the file's header says; a pool that is asked for a salt fills it in."""

    def read(self, offset: int, length: int) -> bytes:
        """Bytes [offset, offset + length). Raises StorageFailed."""
        end = offset + length
        if end <= self._mapped:
            return self._map[offset:end]
        return self._read_beyond(offset, length)

    def view(self, end: int) -> mmap.mmap | Positional:
        """Something whose slices [a:b], b ≤ `end`, are the file's bytes: the map, or reads.

        Slicing a map is several times faster than a call of `read`.
        """
        if end > self._mapped and not self._remap(end):
            return Positional(self)
        mapped = self._map
        assert not isinstance(mapped, bytes), "something was mapped"
        return mapped

    def _remap(self, end: int) -> bool:
        """Map the file as it is now; whether the map reaches to `end`."""
        if not self._may_map:
            return False
        size = self.size()
        # A file that grows by little is read positionally until the step is worth a map.
        if size < end or (self._mapped and size - self._mapped < _REMAP_STEP):
            return False
        try:
            mapped = self._files.map(self._fd, size)
        except (OSError, ValueError):
            self._may_map = False
            return False
        # Readers of the old map keep it alive; its bytes never change.
        self._map, self._mapped = mapped, size
        return True

    def _read_beyond(self, offset: int, length: int) -> bytes:
        if self._remap(offset + length):
            return self._map[offset : offset + length]
        if length > _REMAP_STEP:
            # The length may be what a damaged row says: nothing is allocated for more than is.
            length = max(min(length, self.size() - offset), 0)
        try:
            data = self._files.pread(self._fd, length, offset)
            while data and len(data) < length:
                more = self._files.pread(self._fd, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise refusal(error, "can't read a segment", self.path) from error
        return data

    def _status(self) -> os.stat_result:
        try:
            return self._files.fstat(self._fd)
        except OSError as error:
            raise refusal(error, "can't read a segment", self.path) from error

    def size(self) -> int:
        """Length of the file in bytes. Raises StorageFailed."""
        return self._status().st_size

    def identity(self) -> tuple[int, int]:
        """Device and inode: which file this is, whatever its name now holds."""
        status = self._status()
        return status.st_dev, status.st_ino

    def close(self) -> None:
        """Give the descriptor back; maps live until their last reader lets go."""
        if not self._closed:
            self._closed = True
            self._mapped, self._map = 0, b""
            let_go(self._files, self._fd)

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()


class Positional:
    """Slices of a segment that is not mapped."""

    __slots__ = ("_reader",)

    def __init__(self, reader: SegmentReader) -> None:
        self._reader = reader

    def __getitem__(self, place: slice, /) -> bytes:
        start: int = place.start
        return self._reader.read(start, place.stop - start)


class SegmentPool:
    """Open readers by base sequence; at most `most` stay open beside those in use."""

    def __init__(self, files: Files, layout: Layout, most: int) -> None:
        self._files = files
        self._layout = layout
        self._most = most
        self._readers: dict[int, SegmentReader] = {}
        # A signal handler may read in the middle of a read of its own thread.
        self._lock = threading.RLock()
        self._closed = False
        self._growing_base: int | None = None
        self._map_growing = False

    def set_growing(self, base: int | None, *, may_map: bool) -> None:
        """Say which segment still grows, and whether this process may map it."""
        with self._lock:
            self._growing_base = base
            self._map_growing = may_map
            if not may_map and base is not None:
                self._readers.pop(base, None)

    def forget(self, base: int) -> None:
        """Open this segment anew next time: its file was replaced."""
        with self._lock:
            self._readers.pop(base, None)

    @property
    def root(self) -> str:
        """The journal's directory, for errors."""
        return self._layout.root

    def path(self, base: int) -> str:
        """The file name of a segment, for errors."""
        return self._layout.segment(base)

    def get(self, base: int, salt: bytes | None = None) -> SegmentReader:
        """The reader of a segment; with `salt`, of the very file that has it.

        Whoever brings offsets names the salt of the file that they are of: a rewrite
        moves everything behind the first payload that it leaves out. Raises Damaged when
        the file is gone, SegmentReplaced when another one stands in its place, StoreClosed.
        """
        reader = self._readers.get(base)
        if reader is not None and (salt is None or reader.salt == salt):
            reader.used = True
            return reader
        with self._lock:
            self.check_open()
            if reader is None or self._salt_of(reader) != salt:
                reader = self._open(base)
                if salt is not None and self._salt_of(reader) != salt:
                    reader.close()
                    raise SegmentReplaced(base)
                self._evict()
            self._readers[base] = reader
            return reader

    def check_open(self) -> None:
        """Raises StoreClosed once no segment may be opened any more."""
        if self._closed:
            raise StoreClosed("the store is closed", advice="open the journal anew")

    def _open(self, base: int) -> SegmentReader:
        path = self._layout.segment(base)
        may_map = base != self._growing_base or self._map_growing
        try:
            return SegmentReader(self._files, path, may_map=may_map)
        except FileNotFoundError as error:
            raise Damaged(
                "a segment is gone",
                file=path,
                offset=0,
                advice=f"restore it from a snapshot; run: batpak verify {self.root}",
            ) from error
        except OSError as error:
            raise refusal(error, "can't open a segment", path) from error

    @staticmethod
    def _salt_of(reader: SegmentReader) -> bytes:
        if reader.salt is None:
            reader.salt = reader.read(_SALT.start, _SALT.stop - _SALT.start)
        return reader.salt

    def _evict(self) -> None:
        # Second chance: whoever was used since the last round stays one round longer.
        while len(self._readers) >= self._most:
            for base, reader in list(self._readers.items()):
                if base == self._growing_base or reader.used:
                    reader.used = False
                    continue
                self._readers.pop(base, None)
                break

    def close(self) -> None:
        """Let go of every reader."""
        with self._lock:
            self._closed = True
            readers, self._readers = list(self._readers.values()), {}
        for reader in readers:
            reader.close()
