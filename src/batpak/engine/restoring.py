"""Make a journal from a snapshot, after every byte of it was compared with its manifest.

Nothing is ever restored over something, and nothing is shared with the snapshot but by
copy-on-write: the only copy of a journal must not change with it. The result is a fork,
unless the caller says that the original is gone. Source: docs/format.md, "Snapshot".
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from batpak.config import StoreConfig
from batpak.engine.building import building, is_folder, publish, sync_tree
from batpak.engine.forking import begin_fork, check_origin, sign_in
from batpak.engine.history import FOLDERS
from batpak.engine.manifest import MANIFEST, MANIFEST_MAX_BYTES, FileEntry, Manifest
from batpak.engine.progress import Progress
from batpak.engine.sharing import Sharer, digest_of
from batpak.engine.survey import read_identity
from batpak.errors import InvalidInput, NotASnapshot, SnapshotDamaged
from batpak.files import Files, read_small, refusal
from batpak.journal.hint import Hint
from batpak.journal.identity import Identity
from batpak.journal.layout import Layout

__all__ = ["RestoreReport", "restore_snapshot"]

_FOLDERS = ("segments", *FOLDERS)
_MOST_FINDINGS = 100


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """A journal that was made from a snapshot."""

    destination: str
    journal_id: UUID
    origin: str
    from_journal: UUID
    """The journal that the snapshot is of; the same where it was resumed."""
    events: int
    """Exclusive bound: the events 0 to `events` − 1 come from the snapshot."""
    resumed: bool
    files: int
    bytes: int
    seconds: float


class _Steps:
    """Bytes that are read, twice each: to compare, and to copy."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self._total, self._progress = 0, total, progress

    def __call__(self, number: int) -> None:
        self.done += number
        if self._progress is not None:
            # A file may be longer than its manifest says.
            self._progress(min(self.done, self._total), self._total)


def restore_snapshot(
    files: Files,
    snapshot: str,
    destination: str,
    *,
    resume: bool = False,
    origin: str | None = None,
    progress: Progress | None = None,
) -> RestoreReport:
    """Make the journal of a snapshot at `destination`, an empty directory or nothing.

    With `resume` it is the same journal, whose original must be gone for ever; otherwise
    a fork with a new id. Raises NotASnapshot, SnapshotDamaged, DestinationTaken,
    JournalLocked (somebody else builds there), InvalidInput, also for an ancestor's origin,
    JournalCorrupt, Unavailable.
    """
    began = time.perf_counter()
    if resume and origin is not None:
        raise InvalidInput(
            "a resumed journal keeps its origin", field="origin", value=origin,
            advice="leave origin out, or restore without resume",
        )  # fmt: skip
    config = StoreConfig(origin=origin)
    snapshot, destination = os.path.abspath(snapshot), os.path.abspath(destination)
    manifest = _read_manifest(files, snapshot)
    steps = _Steps(2 * _bytes_of(manifest), progress)
    source = _compare(files, snapshot, manifest, steps)
    identity = _identity_of(files, source, manifest)
    check_origin(files, source, identity, config.origin)
    with building(files, destination, snapshot) as whole:
        target = Layout(whole)
        _copy_all(files, source, target, manifest, resume=resume, steps=steps)
        if resume:
            named = identity
        else:
            hint = Hint.decode(read_small(files, source.hint))
            if hint is None or hint.journal_id != identity.journal_id.bytes:
                raise _damaged(source.hint, "tail.hint", "it is not of this journal")
            named = begin_fork(
                files, target, identity, config.origin, manifest.events,
                bytes.fromhex(manifest.last_hash), hint.epoch,
            )  # fmt: skip
        last_hash = bytes.fromhex(manifest.last_hash)
        sign_in(files, source, target, "restored", identity.journal_id, manifest.events, last_hash)
        sync_tree(files, whole)
        publish(files, whole, destination)
    return RestoreReport(
        destination,
        named.journal_id,
        named.origin,
        identity.journal_id,
        manifest.events,
        resume,
        len(manifest.files),
        _bytes_of(manifest),
        time.perf_counter() - began,
    )


def _bytes_of(manifest: Manifest) -> int:
    return sum(entry.size for entry in manifest.files)


def _read_manifest(files: Files, snapshot: str) -> Manifest:
    path = os.path.join(snapshot, MANIFEST)
    try:
        data = read_small(files, path, MANIFEST_MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotASnapshot(
            "there is no finished snapshot here: it would have a manifest.json",
            file=snapshot,
            advice="check the path; a snapshot is made by: batpak snapshot JOURNAL DEST",
        ) from error
    except OSError as error:
        raise refusal(error, "can't read the manifest", path) from error
    return Manifest.decode(data, path)


def _compare(files: Files, snapshot: str, manifest: Manifest, steps: _Steps) -> Layout:
    """Raises SnapshotDamaged, naming everything that differs from the manifest."""
    wanted = {entry.path: entry for entry in manifest.files}
    findings: list[str] = []
    try:
        found = set(_listed(files, snapshot))
        findings += [f"{path}: it is not in the manifest" for path in sorted(found - {*wanted})]
        for path, entry in wanted.items():
            if path not in found:
                findings.append(f"{path}: it is missing")
                continue
            problem = _differs(files, os.path.join(snapshot, path), entry, steps)
            if problem:
                findings.append(f"{path}: {problem}")
    except OSError as error:
        raise refusal(error, "can't read the snapshot", snapshot) from error
    if findings:
        shown = findings[:_MOST_FINDINGS]
        more = len(findings) - len(shown)
        raise SnapshotDamaged(
            f"the snapshot is not what its manifest says: {'; '.join(shown)}"
            + (f"; and {more} more" if more else ""),
            file=snapshot,
            reason="files",
            findings=tuple(shown),
            advice="restore from another snapshot",
        )
    return Layout(snapshot)


def _listed(files: Files, snapshot: str) -> Iterator[str]:
    """Every name in the snapshot but the manifest's, folders that it may have looked into."""
    for name in files.listdir(snapshot):
        path = os.path.join(snapshot, name)
        if name in _FOLDERS and is_folder(files, path) and not os.path.islink(path):
            for inner in files.listdir(path):
                yield f"{name}/{inner}"
        elif name != MANIFEST:
            yield name


def _differs(files: Files, path: str, entry: FileEntry, steps: _Steps) -> str:
    """What is wrong with a file; empty where nothing is."""
    if os.path.islink(path) or is_folder(files, path):
        return "it is no plain file"
    size = files.stat(path).st_size
    if size != entry.size:
        return f"it has {size} bytes, and should have {entry.size}"
    size, digest = digest_of(files, path, steps)
    if (size, digest.hex()) != (entry.size, entry.blake3):
        return "its bytes are not those that were written"
    return ""


def _identity_of(files: Files, source: Layout, manifest: Manifest) -> Identity:
    identity = read_identity(files, source)
    if identity is None or identity.journal_id != manifest.journal_id:
        raise _damaged(source.identity, "journal.json", "it is of another journal")
    if identity.origin != manifest.origin:
        raise _damaged(source.identity, "journal.json", "its origin is not that of the manifest")
    return identity


def _copy_all(
    files: Files, source: Layout, target: Layout, manifest: Manifest, *, resume: bool, steps: _Steps
) -> None:
    """Copy what the new journal keeps, and compare once more what was copied."""
    sharer = Sharer(files, may_link=False, progress=steps)
    files.mkdir(target.segments)
    made: set[str] = {"segments"}
    for entry in manifest.files:
        folder = entry.path.rpartition("/")[0]
        # Who the journal is and how far it goes a fork says itself; cursors are the ancestor's.
        if not resume and folder in ("", "cursors"):
            continue
        if folder and folder not in made:
            files.mkdir(os.path.join(target.root, folder))
            made.add(folder)
        new = os.path.join(target.root, entry.path)
        kept = sharer.share(os.path.join(source.root, entry.path), new)
        if (kept.size, kept.digest.hex()) != (entry.size, entry.blake3):
            raise _damaged(source.root, entry.path, "it changed while it was copied")


def _damaged(file: str, path: str, what: str) -> SnapshotDamaged:
    finding = f"{path}: {what}"
    return SnapshotDamaged(
        f"the snapshot is not what its manifest says: {finding}",
        file=file,
        reason="files",
        findings=(finding,),
        advice="restore from another snapshot",
    )
