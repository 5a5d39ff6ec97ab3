"""Set aside what can't be accepted: moved to `quarantine/`, never deleted by us."""

from __future__ import annotations

import json
import os

from blake3 import blake3

from batpak.files import Files, closing, replace_file, wall_us
from batpak.journal.layout import Layout

__all__ = ["quarantine", "set_aside"]

_STEP = 1 << 20


def quarantine(
    files: Files,
    layout: Layout,
    *,
    base: int,
    offset: int,
    data: bytes,
    expected_sequence: int,
    durable: int,
    reason: str,
) -> str:
    """Keep `data`, found at `offset` of segment `base`, and say why. Returns its path.

    File, directory and the directory's parent are synced when this returns, so the
    caller may cut the bytes from the segment. Raises OSError; then nothing may be cut.
    """
    _make_folder(files, layout)
    stem = f"{base:020}-{offset}-{blake3(data).hexdigest()[:16]}"
    path = os.path.join(layout.quarantine, stem + ".bin")
    replace_file(files, path, data)
    note: dict[str, object] = {
        "segment": os.path.basename(layout.segment(base)),
        "offset": offset,
        "length": len(data),
        "expected_sequence": expected_sequence,
        "durable": durable,
        "reason": reason,
        "quarantined_us": wall_us(),
    }
    _write_note(files, os.path.join(layout.quarantine, stem + ".json"), note)
    files.sync_directory(layout.root)
    return path


def set_aside(files: Files, layout: Layout, path: str, reason: str) -> str | None:
    """Move a whole file of the journal away, and say why. Returns its new path; None without one.

    All is synced when this returns, so the caller may write the file anew. Raises OSError.
    """
    digest, length = blake3(), 0
    try:
        fd = files.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with closing(files, fd):
        while data := files.pread(fd, _STEP, length):
            digest.update(data)
            length += len(data)
        files.sync_file(fd)
    _make_folder(files, layout)
    stem, extension = os.path.splitext(os.path.basename(path))
    stem = os.path.join(layout.quarantine, f"{stem}-{digest.hexdigest()[:16]}")
    note: dict[str, object] = {
        "file": os.path.relpath(path, layout.root),
        "length": length,
        "reason": reason,
        "quarantined_us": wall_us(),
    }
    _write_note(files, stem + ".json", note)
    files.sync_directory(layout.root)
    # Crash before this: the file stands where it stood, and the same bytes get the same name.
    files.rename(path, stem + extension)
    files.sync_directory(layout.quarantine)
    files.sync_directory(os.path.dirname(path))
    return stem + extension


def _make_folder(files: Files, layout: Layout) -> None:
    try:
        files.mkdir(layout.quarantine)
    except FileExistsError:
        pass


def _write_note(files: Files, path: str, note: dict[str, object]) -> None:
    replace_file(files, path, (json.dumps(note, indent=2) + "\n").encode())
