"""Take the durable part of a journal elsewhere, as files, while others write to it.

Needs no lock: sealed segments and sidecars are replaced by rename only, so they may be
shared; of the segment that grows, the bytes below the bound are copied. Used by
snapshots and forks. Source: docs/format.md, "Snapshot".
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from blake3 import blake3

from batpak.engine.building import is_folder
from batpak.engine.manifest import FileEntry, may_hold
from batpak.engine.progress import Progress
from batpak.engine.reading import LogReader
from batpak.engine.sharing import Kept, Sharer, Way
from batpak.errors import InvalidInput, StorageFailed
from batpak.files import Files, closing, write_all
from batpak.journal.layout import Layout, segment_name, sidecar_name
from batpak.journal.record import RECORD_HEADER_SIZE
from batpak.journal.sidecar import SIDECAR_PREFIX_SIZE, decode_sidecar_header

__all__ = ["FOLDERS", "Copies", "Place", "copy_folder", "copy_history", "place_of", "write_new"]

FOLDERS: Final = ("checkpoints", "cursors")
"""Folders of small files that are authority."""


class Place(NamedTuple):
    """A bound that is durable, and where the log stands there."""

    bound: int
    last_hash: bytes
    epoch: int
    bases: Sequence[int]
    """Of the segments that hold events below the bound."""
    end: int | None
    """Where the last of them is to end; None when it is sealed and may be shared."""


@dataclass(slots=True)
class Copies:
    """What was put into a new directory so far."""

    entries: list[FileEntry] = field(default_factory=list[FileEntry])
    ways: dict[Way, int] = field(default_factory=lambda: dict.fromkeys(Way, 0))
    """Bytes by the way that they came."""

    def add(self, path: str, kept: Kept) -> None:
        """Note a file; its path is that from the root."""
        self.entries.append(FileEntry(path, kept.size, kept.digest.hex()))
        self.ways[kept.way] += kept.size

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(entry.size for entry in self.entries)


def place_of(reader: LogReader, bound: int, *, written: int, written_end: int, epoch: int) -> Place:
    """Where the log stands at a durable bound, which is always the end of a commit.

    `written` and `written_end` are the sequence and the offset behind the last record that
    the index knows, of one moment. Raises InvalidInput, JournalCorrupt.
    """
    if bound <= 0:
        raise InvalidInput(
            "nothing in this journal is durable yet", field="journal", advice="sync it first"
        )
    index = reader.index
    bases = sorted({slot.segment_base for slot in index.slots})
    last_hash = reader.summary(bound - 1).event_hash
    end: int | None = None
    if bases[-1] < bound:
        # The segment that grows. The next record, if there is one, begins at the bound.
        end = written_end
        if written > bound:
            slot = index.slot_of(bound)
            end = slot.part.locate(bound - slot.first)[1] - RECORD_HEADER_SIZE
    return Place(bound, last_hash, epoch, [base for base in bases if base < bound], end)


def copy_folder(
    files: Files, sharer: Sharer, layout: Layout, target: Layout, folder: str, copies: Copies
) -> None:
    """Copy a folder of small files, if there is one.

    Raises StorageFailed for a folder in it, which no journal has there; OSError.
    """
    source = os.path.join(layout.root, folder)
    if os.path.islink(source):
        # It could lead to anything, a key for instance.
        raise OSError(errno.ELOOP, "a link stands where a journal has a folder", source)
    try:
        names = sorted(files.listdir(source))
    except FileNotFoundError:
        return
    made = os.path.join(target.root, folder)
    files.mkdir(made)
    for name in names:
        if name.endswith(".tmp") or not may_hold(f"{folder}/{name}"):
            continue
        path = os.path.join(source, name)
        # A link stays for the copy to refuse, wherever it leads.
        if not os.path.islink(path) and is_folder(files, path):
            raise StorageFailed(
                f"a directory stands in {folder}/, where a journal has files only",
                file=path,
                advice="it is not the journal's: move it elsewhere, then try again",
            )
        copies.add(f"{folder}/{name}", sharer.copy(path, f"{made}/{name}"))


def copy_history(
    files: Files,
    layout: Layout,
    target: Layout,
    place: Place,
    copies: Copies,
    progress: Progress | None = None,
) -> None:
    """Put the segments below the bound, and their sidecars, into `target`. Raises OSError.

    `progress` is told bytes.
    """
    sizes = _sizes(files, layout, place)
    done, total = 0, sum(sizes)

    def tell(number: int) -> None:
        nonlocal done
        done += number
        if progress is not None:
            # A sidecar may have come since they were counted.
            progress(min(done, total), total)

    sharer = Sharer(files, may_link=True, progress=tell)
    files.mkdir(target.segments)
    for base in place.bases:
        source, new = layout.segment(base), target.segment(base)
        is_sealed = base != place.bases[-1] or place.end is None
        kept = sharer.share(source, new) if is_sealed else sharer.copy(source, new, place.end)
        copies.add(f"segments/{segment_name(base)}", kept)
        _share_sidecar(files, sharer, layout, target, base, place.bound, copies)


def _sizes(files: Files, layout: Layout, place: Place) -> Iterator[int]:
    for base in place.bases:
        if base == place.bases[-1] and place.end is not None:
            yield place.end
        else:
            yield files.stat(layout.segment(base)).st_size
        try:
            yield files.stat(layout.sidecar(base)).st_size
        except FileNotFoundError:
            pass


def _share_sidecar(
    files: Files,
    sharer: Sharer,
    layout: Layout,
    target: Layout,
    base: int,
    bound: int,
    copies: Copies,
) -> None:
    """A sidecar that knows of nothing beyond the bound; any other is left out.

    It is a witness: one that was written meanwhile would say that events are missing.
    """
    new = target.sidecar(base)
    try:
        kept = sharer.share(layout.sidecar(base), new)
    except FileNotFoundError:
        return
    with closing(files, files.open(new, os.O_RDONLY)) as fd:
        header = decode_sidecar_header(files.pread(fd, SIDECAR_PREFIX_SIZE, 0))
    # Judged under its new name: the old one may hold another file by now.
    if header is None or max(header.durable, header.next_sequence) > bound:
        files.unlink(new)
        return
    copies.add(f"segments/{sidecar_name(base)}", kept)


def write_new(files: Files, path: str, data: bytes) -> Kept:
    """Make a small file, synced. Raises OSError."""
    with closing(files, files.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)) as fd:
        write_all(files, fd, data, 0)
        files.sync_file(fd)
    return Kept(len(data), blake3(data).digest(), Way.COPIED)
