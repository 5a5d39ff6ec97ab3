"""Take the durable part of a journal elsewhere, as files, while others write to it.

Needs no lock: sealed segments and sidecars are replaced by rename only, so they may be
shared; of the segment that grows, the bytes below the bound are copied.

A compaction may put another file in a segment's place at any time: one whose offsets are
others, and which lacks payloads whose erasure may lie beyond the bound. So the generations of
all segments are noted first, then the bound is taken, and a file that was rewritten since is
no part of its copy: a new bound is taken, which knows the reason of that rewrite, and what is
still lacking is copied for that one. A file of an earlier generation stays: every later bound
covers what it lacks. Used by snapshots and forks. Source: docs/format.md, "Snapshot".
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from blake3 import blake3

from batpak.engine.building import is_folder
from batpak.engine.manifest import FileEntry, may_hold
from batpak.engine.progress import Progress
from batpak.engine.reading import LogReader
from batpak.engine.sharing import Kept, Sharer, Way
from batpak.engine.survey import segment_bases
from batpak.errors import InvalidInput, JournalCorrupt, StorageFailed
from batpak.files import Files, closing, write_all
from batpak.journal.header import HEADER_SIZE, SegmentHeader
from batpak.journal.layout import Layout, segment_name, sidecar_name
from batpak.journal.record import RECORD_HEADER_SIZE
from batpak.journal.sidecar import SIDECAR_PREFIX_SIZE, decode_sidecar_header

__all__ = ["FOLDERS", "Copies", "Place", "copy_folder", "copy_history", "place_of", "write_new"]

FOLDERS: Final = ("checkpoints", "cursors")
"""Folders of small files that are authority."""
_ATTEMPTS: Final = 8
"""So many bounds are taken where segments are rewritten before they are copied."""


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
    # A segment that came meanwhile is named only when all before it is durable.
    bound = max(bound, bases[-1])
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

    Raises StorageFailed for a folder in it, or a name that is no UTF-8, neither of which a
    journal has there; OSError.
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
        if not _is_unicode(name):
            raise StorageFailed(
                f"a file in {folder}/ has a name that is no UTF-8, as no file of a journal has",
                file=path,
                advice="it is not the journal's: move it elsewhere, then try again",
            )
        # A link stays for the copy to refuse, wherever it leads.
        if not os.path.islink(path) and is_folder(files, path):
            raise StorageFailed(
                f"a directory stands in {folder}/, where a journal has files only",
                file=path,
                advice="it is not the journal's: move it elsewhere, then try again",
            )
        copies.add(f"{folder}/{name}", sharer.copy(path, f"{made}/{name}"))


def _is_unicode(name: str) -> bool:
    """Whether a name can stand in a manifest; others come with surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def copy_history(
    files: Files,
    layout: Layout,
    target: Layout,
    settle: Callable[[], Place],
    compacting: AbstractContextManager[object],
    copies: Copies,
    progress: Progress | None = None,
) -> Place:
    """Put the segments below a bound, and their sidecars, into `target`; the bound.

    `settle` takes a bound, once, or again for each time that a segment was rewritten before it
    was copied; from the second on, `compacting` is held, which keeps this process from that.
    `progress` is told bytes. Raises what `settle` raises, JournalCorrupt, StorageFailed, OSError.
    """
    files.mkdir(target.segments)
    copying = _Copying(files, layout, target, copies, progress)
    late = -1
    for attempt in range(_ATTEMPTS):
        with compacting if attempt else nullcontext():
            generations = dict(_generations(files, layout))
            place = settle()
            try:
                copying.run(place, generations)
            except _Rewritten as rewritten:
                late = rewritten.base
                continue
            return place
    raise StorageFailed(
        f"segments are rewritten faster than they can be copied, {_ATTEMPTS} times in a row",
        file=layout.segment(late),
        advice="try again when the compactions of this journal are over",
    )


class _Rewritten(Exception):  # no failure: how a copy says that it needs a later bound
    """A segment is of a later generation than when the bound was taken."""

    def __init__(self, base: int) -> None:
        super().__init__(base)
        self.base = base


class _Copying:
    """The copy of one journal's history, for as many bounds as that takes."""

    def __init__(
        self,
        files: Files,
        layout: Layout,
        target: Layout,
        copies: Copies,
        progress: Progress | None,
    ) -> None:
        self._files = files
        self._layout = layout
        self._target = target
        self._copies = copies
        self._progress = progress
        self._sharer = Sharer(files, may_link=True, progress=self._tell)
        self._kept: set[int] = set()
        """Bases of the sealed segments that are copied."""
        self._done = self._total = 0

    def _tell(self, number: int) -> None:
        self._done += number
        if self._progress is not None:
            # A sidecar may have come since they were counted.
            self._progress(min(self._done, self._total), self._total)

    def run(self, place: Place, generations: Mapping[int, int]) -> None:
        """Copy what is lacking for this bound. Raises _Rewritten, JournalCorrupt, OSError."""
        lacking = [base for base in place.bases if base not in self._kept]
        # What was copied for a bound before, in vain or not, was told.
        self._total = self._done + sum(self._sizes(place, lacking))
        for base in lacking:
            end = place.end if base == place.bases[-1] else None
            kept, salt = self._copy(base, end, generations.get(base, 0))
            self._copies.add(f"segments/{segment_name(base)}", kept)
            self._share_sidecar(base, salt, place.bound)
            self._kept.add(base)

    def _sizes(self, place: Place, bases: Sequence[int]) -> Iterator[int]:
        files, layout = self._files, self._layout
        for base in bases:
            if base == place.bases[-1] and place.end is not None:
                yield place.end
            else:
                yield files.stat(layout.segment(base)).st_size
            try:
                yield files.stat(layout.sidecar(base)).st_size
            except FileNotFoundError:
                pass

    def _copy(self, base: int, end: int | None, generation: int) -> tuple[Kept, bytes]:
        """A segment, whole or up to `end`, and its salt; _Rewritten beyond this generation."""
        source, new = self._layout.segment(base), self._target.segment(base)
        if end is None:
            kept = self._sharer.share(source, new)
        else:
            kept = self._sharer.copy(source, new, end)
        # Read under its new name: the old one may hold another file by now.
        header = _header(self._files, new, source)
        if header.generation > generation:
            self._files.unlink(new)
            raise _Rewritten(base)
        if end is not None and kept.size < end:
            raise JournalCorrupt(
                f"the segment ends after {kept.size} bytes, before what is durable",
                file=source,
                offset=kept.size,
                reason="short-segment",
                advice=f"run: batpak repair {self._layout.root}",
            )
        return kept, header.salt

    def _share_sidecar(self, base: int, salt: bytes, bound: int) -> None:
        """The sidecar of this very segment that knows of nothing beyond the bound, if any.

        It is a witness: one that was written meanwhile would say that events are missing.
        """
        files, new = self._files, self._target.sidecar(base)
        try:
            kept = self._sharer.share(self._layout.sidecar(base), new)
        except FileNotFoundError:
            return
        with closing(files, files.open(new, os.O_RDONLY)) as fd:
            header = decode_sidecar_header(files.pread(fd, SIDECAR_PREFIX_SIZE, 0))
        # Judged under its new name: the old one may hold another file by now.
        if (
            header is None
            or header.salt != salt
            or max(header.durable, header.next_sequence) > bound
        ):
            files.unlink(new)
            return
        self._copies.add(f"segments/{sidecar_name(base)}", kept)


def _generations(files: Files, layout: Layout) -> Iterator[tuple[int, int]]:
    """How often each segment was rewritten so far, of those that were."""
    for base in segment_bases(files, layout):
        path = layout.segment(base)
        generation = _header(files, path, path).generation
        if generation:
            yield base, generation


def _header(files: Files, path: str, name: str) -> SegmentHeader:
    """A segment's header; `name` is what an error calls the file."""
    with closing(files, files.open(path, os.O_RDONLY)) as fd:
        return SegmentHeader.decode(files.pread(fd, HEADER_SIZE, 0), name)


def write_new(files: Files, path: str, data: bytes) -> Kept:
    """Make a small file, synced. Raises OSError."""
    with closing(files, files.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)) as fd:
        write_all(files, fd, data, 0)
        files.sync_file(fd)
    return Kept(len(data), blake3(data).digest(), Way.COPIED)
