"""Take a snapshot: the durable prefix of a journal as a directory that proves itself whole.

Order: cursors and checkpoints, then the bound, then the log, then the manifest, then the
name. What consumers have done is never ahead of the events that a snapshot has. Holds no
keys: only files of a journal's own names are taken. Source: docs/format.md, "Snapshot".
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from uuid import UUID

from blake3 import blake3

from batpak.engine.building import building, publish, sync_tree
from batpak.engine.history import (
    FOLDERS,
    Copies,
    Place,
    copy_folder,
    copy_history,
    write_new,
)
from batpak.engine.manifest import MANIFEST, Manifest
from batpak.engine.progress import Progress
from batpak.engine.sharing import Sharer, Way
from batpak.files import Files, read_small, wall_us
from batpak.journal.header import HEADER_SIZE
from batpak.journal.hint import Hint
from batpak.journal.identity import Identity
from batpak.journal.layout import Layout

__all__ = ["SnapshotReport", "take_snapshot"]


@dataclass(frozen=True, slots=True)
class SnapshotReport:
    """What a snapshot holds and how it was made."""

    destination: str
    journal_id: UUID
    events: int
    """Exclusive bound: the events 0 to `events` − 1 are in it."""
    last_hash: bytes
    """Event hash of the last of them."""
    files: int
    bytes: int
    cloned: int
    """Bytes that share their blocks with the journal until one side is written to."""
    linked: int
    """Bytes in files that the journal has under another name."""
    copied: int
    """Bytes that were written anew."""
    digest: bytes
    """BLAKE3 of manifest.json: whoever notes it elsewhere recognises the snapshot."""
    seconds: float


def take_snapshot(
    files: Files,
    layout: Layout,
    identity: Identity,
    destination: str,
    settle: Callable[[], Place],
    compacting: AbstractContextManager[object],
    progress: Progress | None = None,
) -> SnapshotReport:
    """Make a snapshot at `destination`, which may be an empty directory or nothing.

    `settle` gives a bound, once it is asked; `compacting` is held where compactions have to wait
    (see `copy_history`). Raises DestinationTaken, JournalLocked
    (somebody else builds there), InvalidInput, JournalCorrupt, Unavailable.
    """
    began = time.perf_counter()
    destination = os.path.abspath(destination)
    copies = Copies()
    with building(files, destination, layout.root) as whole:
        target = Layout(whole)
        for folder in FOLDERS:
            copy_folder(files, Sharer(files, may_link=False), layout, target, folder, copies)
        place = copy_history(files, layout, target, settle, compacting, copies, progress)
        copies.add("journal.json", write_new(files, target.identity, _identity(files, layout)))
        # The copy has a witness of its own, for whoever opens it without the manifest.
        copies.add(
            "tail.hint", write_new(files, target.hint, _hint(files, identity, target, place))
        )
        manifest = Manifest.of(
            identity.journal_id, identity.origin, wall_us(), place.bound, place.last_hash,
            copies.entries,
        ).encode()  # fmt: skip
        write_new(files, os.path.join(whole, MANIFEST), manifest)
        sync_tree(files, whole)
        publish(files, whole, destination)
    return SnapshotReport(
        destination,
        identity.journal_id,
        place.bound,
        place.last_hash,
        len(copies.entries),
        copies.bytes,
        copies.ways[Way.CLONED],
        copies.ways[Way.LINKED],
        copies.ways[Way.COPIED],
        blake3(manifest).digest(),
        time.perf_counter() - began,
    )


def _identity(files: Files, layout: Layout) -> bytes:
    """The journal's own bytes: what a later version may have put there stays."""
    return read_small(files, layout.identity)


def _hint(files: Files, identity: Identity, target: Layout, place: Place) -> bytes:
    newest = place.bases[-1]
    end = place.end
    if end is None:
        end = files.stat(target.segment(newest)).st_size
    assert end >= HEADER_SIZE, "a segment has a header"
    return Hint(identity.journal_id.bytes, place.epoch, newest, end, place.bound).encode()
