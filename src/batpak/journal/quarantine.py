"""Set bytes aside that recovery can't accept: moved to `quarantine/`, never deleted by us."""

from __future__ import annotations

import json
import os

from blake3 import blake3

from batpak.files import Files, replace_file, wall_us
from batpak.journal.layout import Layout

__all__ = ["quarantine"]


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
    try:
        files.mkdir(layout.quarantine)
    except FileExistsError:
        pass
    stem = f"{base:020}-{offset}-{blake3(data).hexdigest()[:16]}"
    path = os.path.join(layout.quarantine, stem + ".bin")
    replace_file(files, path, data)
    note = {
        "segment": os.path.basename(layout.segment(base)),
        "offset": offset,
        "length": len(data),
        "expected_sequence": expected_sequence,
        "durable": durable,
        "reason": reason,
        "quarantined_us": wall_us(),
    }
    text = json.dumps(note, indent=2) + "\n"
    replace_file(files, os.path.join(layout.quarantine, stem + ".json"), text.encode())
    files.sync_directory(layout.root)
    return path
